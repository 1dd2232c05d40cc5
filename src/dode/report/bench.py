"""The bench of a sensitivity study: each fit, each measurement and each reference is made once, and kept in records."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.conditions import Condition, cycle, map_tensors
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.distillation import PAPER, make_plan, run
from dode.distillation.effort import effort_of
from dode.fine import PAIR, FineRun, whole_span
from dode.grids import GridLike
from dode.report.outcomes import ALL, FIRST, Case, Fit, Outcome, Place
from dode.report.records import Records, context_of
from dode.report.reference import CHECKS, reference_tableau
from dode.sampling import end_point
from dode.solvers import Solver
from dode.tableau import Tableau

# What is studied: arguments of `distill`.
_METHODS: dict[str, dict[str, Any]] = {"lambda": PAPER, "end-to-end": {"effort": "balanced"}}
# The teacher's cost beside which the end-to-end fit has its usual budget, in parts of a step.
_USUAL_SCALE = 10


@dataclass(eq=False)
class Bench:
    """Fits and measures, each only once.

    Attributes:
        denoiser, solver, grid, cond, seed, reference_nfe: as `dode.report.study`.
        noise: (n, *shape) that errors are measured on.
        path: of the records; None to keep them for this run alone.
        restart: forget what the records hold.
        context: a hash of what all of them depend on; "" without a path.
    """

    denoiser: Denoiser
    solver: Solver
    grid: GridLike | None
    cond: Condition
    noise: Tensor
    seed: int
    reference_nfe: int
    path: Path | None
    restart: bool

    def __post_init__(self) -> None:
        self.effort = effort_of(_METHODS["end-to-end"]["effort"])
        self._denoisers = {self.denoiser.guidance_scale: self.denoiser}
        self._references: dict[Place, Tensor] = {}
        settings = (str(self.solver), str(self.grid), repr(self.effort))
        reference = reference_tableau(self.denoiser.schedule, self.reference_nfe)
        # Guidance belongs to a record.
        plain = self.denoiser.replace(guidance_scale=1.0)
        self.context = "" if self.path is None else context_of(plain, self.cond, self.noise, reference, *settings)
        self.records = Records(self.path, self.context, self._evaluations, self.restart, strict=True)
        self._measurement = {"seed": self.seed, "held_out": len(self.noise), "reference_nfe": self.reference_nfe}

    def outcome(self, case: Case) -> Outcome:
        """A case with its numbers."""
        base = self._measured(_base(case.fits[0]), case.place)
        fits = [self._fitted(fit) for fit in case.fits]
        errors = [self._measured(fit, case.place) for fit in case.fits]
        reason = next((found["skipped"] for found in (base, *fits, *errors) if "skipped" in found), "")
        if reason:
            return Outcome(case, np.empty(0), np.empty(0), skipped=reason)
        lambdas = np.array([fit["lambdas"] for fit in fits]) if fits[0]["lambdas"] is not None else None
        return Outcome(
            case,
            np.array([found["errors"] for found in errors]),
            np.array(base["errors"]),
            lambdas,
            float(np.mean([fit["cost"] for fit in fits])),
            float(np.mean([fit["fit_seconds"] for fit in fits])),
        )

    def reference_error(self, place: Place) -> float:
        """Mean square distance of the reference to another solver's run that is as fine, on the first few noises."""

        def compute() -> dict[str, Any]:
            few = min(CHECKS, len(self.noise))
            other = FineRun(*PAIR[0], self.reference_nfe).tableau(self.denoiser.schedule, whole_span(self.denoiser.schedule))
            end = self._sampled(other, place, few)
            return {"error": float(mean_square_distance(self._reference(place)[:few], end).mean())}

        error: float = self.records.known({"what": "reference", "place": asdict(place), **self._measurement}, compute)["error"]
        return error

    def _fitted(self, fit: Fit) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            try:
                plan = make_plan(
                    self._at(fit.guidance),
                    self.solver,
                    fit.nfe,
                    **self._options(fit),
                    samples=fit.samples,
                    teacher_scale=fit.teacher_scale,
                    seed=fit.seed,
                    held_out=0,
                    grid=self.grid,
                    **_restricted(self.cond, fit.classes),
                )
                result = run(plan)
            except (ValueError, FloatingPointError) as error:
                return {"skipped": str(error)}
            lambdas = result.lambdas.tolist() if fit.method == "lambda" else None
            made = {"cost": result.cost, "fit_seconds": round(result.seconds, 3)}
            return {"tableau": result.tableau.to_json(), "lambdas": lambdas, **made}

        return self.records.known({"what": "fit", "fit": asdict(fit)}, compute)

    def _options(self, fit: Fit) -> dict[str, Any]:
        """Arguments of `distill`. The end-to-end fit's budget grows with samples and teacher, so that neither eats up the other."""
        if fit.method == "lambda":
            return _METHODS[fit.method]
        effort = self.effort
        usual = effort.samples + effort.validation
        rounds = effort.evaluations(fit.nfe) / (usual * fit.nfe) - _USUAL_SCALE
        budget = round((fit.samples + effort.validation) * fit.nfe * (fit.teacher_scale + rounds))
        return _METHODS[fit.method] | {"validation": effort.validation, "budget": budget}

    def _measured(self, fit: Fit, place: Place) -> dict[str, Any]:
        def compute() -> dict[str, Any]:
            reference = self._reference(place)
            try:
                if fit.method == "base":
                    tableau = self.solver.tableau(self.denoiser.schedule, fit.nfe, self.grid)
                else:
                    found = self._fitted(fit)
                    if "skipped" in found:
                        return {"skipped": found["skipped"]}
                    tableau = Tableau.from_json(found["tableau"])
                return {"errors": mean_square_distance(self._sampled(tableau, place), reference).tolist()}
            except (ValueError, FloatingPointError) as error:
                return {"skipped": str(error)}

        what = {"what": "errors", "fit": asdict(fit), "place": asdict(place), **self._measurement}
        return self.records.known(what, compute)

    def _reference(self, place: Place) -> Tensor:
        if place not in self._references:
            tableau = reference_tableau(self.denoiser.schedule, self.reference_nfe)
            self._references[place] = self._sampled(tableau, place)
        return self._references[place]

    def _sampled(self, tableau: Tableau, place: Place, count: int | None = None) -> Tensor:
        noise = self.noise[:count]
        cond = cycle(_restricted(self.cond, place.classes), 0, len(noise))
        return end_point(self._at(place.guidance), tableau, noise, cond)

    def _at(self, guidance: float) -> Denoiser:
        if guidance not in self._denoisers:
            self._denoisers[guidance] = self.denoiser.replace(guidance_scale=guidance)
        return self._denoisers[guidance]

    def _evaluations(self) -> int:
        return sum(denoiser.evaluations for denoiser in self._denoisers.values())


def _base(fit: Fit) -> Fit:
    """The undistilled solver at the budget of a fit: nothing else matters to it."""
    return replace(fit, method="base", samples=0, teacher_scale=0, seed=0, guidance=1.0, classes=ALL)


def class_labels(cond: Condition) -> Tensor | None:
    """The condition that is a class a sample: a vector of at least two different integers; None where there is none."""
    for value in cond.values():
        if isinstance(value, Tensor) and value.ndim == 1 and not value.is_floating_point() and len(torch.unique(value)) > 1:
            return value
    return None


def _restricted(cond: Condition, classes: str) -> Condition:
    """The rows of the condition whose class label is in the lower or the upper half of those that occur."""
    labels = class_labels(cond)
    if classes == ALL or labels is None:
        return cond
    found = torch.unique(labels)
    lower = found[: len(found) // 2]
    rows = torch.isin(labels, lower) if classes == FIRST else ~torch.isin(labels, lower)
    result: Condition = map_tensors(lambda tensor: tensor[rows] if len(tensor) == len(rows) else tensor, cond)
    return result
