"""The sensitivity study: how the held-out error depends on samples, teacher, seed, guidance, classes and budget.

Two methods are fitted again and again, the paper's lambda alone and the end-to-end fit, each axis departing from one fit at home. Errors
are taken on the noise stream that nothing is fitted to, against one fine reference for each guidance scale and set of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.conditions import Condition, as_condition, cycle, map_tensors
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.distillation import make_plan, run
from dode.distillation.effort import effort_of
from dode.fine import PAIR, FineRun, whole_span
from dode.grids import GridLike
from dode.names import unknown_name
from dode.report.axes import ALL, AXES, FIRST, METHODS, Case, Fit, Place, Result
from dode.report.records import Records, context_of
from dode.report.reference import reference_run, reference_tableau, report_noise
from dode.report.study_page import Study
from dode.sampling import end_point
from dode.solvers import Solver
from dode.solvers import solver as make_solver
from dode.tableau import Tableau

# The teacher's cost beside which the end-to-end fit has its usual budget, in parts of a step.
_USUAL_SCALE = 10
# Noises on which the reference is compared with another run.
_REFERENCE_CHECKS = 8

OnResult = Callable[[str, Result, int, int], None]


def study(
    denoiser: Denoiser,
    solver: str | Solver = "deis",
    nfe: int = 5,
    axes: Iterable[str] = tuple(AXES),
    *,
    values: Mapping[str, Sequence[Any]] | None = None,
    samples: int = 100,
    teacher_scale: int = 10,
    repeats: int = 3,
    held_out: int = 128,
    reference_nfe: int = 100,
    grid: GridLike | None = None,
    seed: int = 0,
    records: str | Path | None = None,
    restart: bool = False,
    on_result: OnResult | None = None,
    **cond: Any,
) -> Study:
    """Fit and measure along each axis.

    Args:
        denoiser: the network; its `shape` must be known. Its guidance scale is the one that is fitted at.
        solver: a name, or a solver with options.
        nfe: number of network evaluations, but for the axis "nfe".
        axes: of `AXES`; one that the model does not have is left out, and the study says why.
        values: other values of an axis, by its name.
        samples: fitting samples, but for the axis "samples".
        teacher_scale: but for the axis "teacher-scale".
        repeats: fits with different noise at each number of samples.
        held_out: samples that errors are measured on.
        reference_nfe: evaluations of the reference; see `dode.report.reference`.
        grid: as `distill`.
        seed: of the noise.
        records: a file, JSON lines, that keeps what each fit and each measurement gave; what is there is not done again.
        restart: forget what the records hold.
        on_result: called with the axis's name, each result, how many are there and how many there will be.
        cond: the condition, as `distill`.

    Raises:
        ValueError: an unknown axis or value, a budget that the solver does not have, a reference that is no finer than what is
            measured. A budget or number of samples on an axis that cannot be only skips its case.
        FloatingPointError: the reference is not finite.
    """
    cond = as_condition(cond)
    chosen = make_solver(solver) if isinstance(solver, str) else solver
    wanted = _checked_axes(axes, values or {})
    counts = {"samples": samples, "teacher_scale": teacher_scale, "repeats": repeats, "nfe": nfe}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    noise = report_noise(denoiser, held_out, seed)
    chosen.tableau(denoiser.schedule, nfe, grid)
    if not isinstance(denoiser.guidance_scale, float):
        raise ValueError(
            "a study varies guidance_scale as one number, got a list or a function of t: give the denoiser a number"
        )
    home = Fit("lambda", nfe, samples, teacher_scale, seed, denoiser.guidance_scale)
    reasons = {name: _missing(name, denoiser, cond) for name in wanted}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    plans = {name: list(AXES[name].plan(home, v, repeats)) for name, v in wanted.items() if name not in skipped}
    if not plans:
        raise ValueError("no axis is left: " + "; ".join(f"{name}: {reason}" for name, reason in skipped.items()))
    finest = max((fit.nfe for cases in plans.values() for case in cases for fit in case.fits), default=nfe)
    if reference_nfe <= finest:
        raise ValueError(f"the reference must take more evaluations than the {finest} that are measured, got {reference_nfe}")
    bench = _Bench(
        denoiser=denoiser,
        solver=chosen,
        grid=grid,
        cond=cond,
        noise=noise,
        seed=seed,
        reference_nfe=reference_nfe,
        path=None if records is None else Path(records),
        restart=restart,
    )
    reference_error = bench.reference_error(home.place)
    results: dict[str, list[Result]] = {}
    total, done = sum(map(len, plans.values())), 0
    for name, cases in plans.items():
        results[name] = []
        for case in cases:
            result = bench.result(case)
            results[name].append(result)
            done += 1
            if on_result is not None:
                on_result(name, result, done, total)
    device = str(denoiser.device or "cpu")
    return Study(
        results=results,
        skipped=skipped,
        model=denoiser.name,
        solver=str(chosen),
        home=home,
        validation=bench.effort.validation,
        held_out=held_out,
        reference=str(reference_run(reference_nfe)),
        reference_error=reference_error,
        seed=seed,
        device=f"{device} ({torch.get_num_threads()} threads)" if device == "cpu" else device,
        evaluations=sum(r["evaluations"] for r in bench.records.used.values()),
        seconds=sum(r["seconds"] for r in bench.records.used.values()),
    )


def _checked_axes(axes: Iterable[str], values: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """The values of each axis asked for."""
    names = list(dict.fromkeys(axes))
    for name in [*names, *values]:
        if name not in AXES:
            raise unknown_name("axis", name, AXES)
    for name, given in values.items():
        if name not in names:
            raise ValueError(f"values of {name} are of no use: the axis is not among {', '.join(names) or 'none'}")
        if not given:
            raise ValueError(f"values of {name} are empty: leave them out for {', '.join(map(str, AXES[name].values))}")
    if not names:
        raise ValueError(f"no axis: name some of {', '.join(AXES)}")
    return {name: list(dict.fromkeys(_value(name, v) for v in values.get(name, AXES[name].values))) for name in names}


def _value(axis: str, value: Any) -> Any:
    """A value of an axis, checked."""
    if axis == "classes":
        if value not in AXES[axis].values:
            raise unknown_name("set of classes", str(value), AXES[axis].values)
        return value
    if axis == "guidance":
        if not math.isfinite(value):
            raise ValueError(f"values of guidance must be finite, got {value}")
        return float(value)
    least = 0 if axis == "seeds" else 1
    if int(value) != value or value < least:
        raise ValueError(f"values of {axis} must be whole numbers of at least {least}, got {value}")
    return int(value)


def _missing(axis: str, denoiser: Denoiser, cond: Condition) -> str:
    """Why a model does not have an axis; "" if it does."""
    if axis == "guidance":
        if denoiser.null_condition is None:
            return f"{denoiser.name} has no null condition to be guided away from"
        lacking = [key for key in denoiser.null_condition if key not in cond]
        return f"guidance needs the condition {', '.join(lacking)}" if lacking else ""
    if axis == "classes" and _labels(cond) is None:
        return f"{denoiser.name} was given no two class labels, one a sample"
    return ""


def _labels(cond: Condition) -> Tensor | None:
    """The condition that is a class a sample: a vector of at least two different integers."""
    for value in cond.values():
        if isinstance(value, Tensor) and value.ndim == 1 and not value.is_floating_point() and len(torch.unique(value)) > 1:
            return value
    return None


def _restricted(cond: Condition, classes: str) -> Condition:
    """The rows of the condition whose class label is in the lower or the upper half of those that occur."""
    labels = _labels(cond)
    if classes == ALL or labels is None:
        return cond
    found = torch.unique(labels)
    lower = found[: len(found) // 2]
    rows = torch.isin(labels, lower) if classes == FIRST else ~torch.isin(labels, lower)
    result: Condition = map_tensors(lambda tensor: tensor[rows] if len(tensor) == len(rows) else tensor, cond)
    return result


@dataclass(eq=False)
class _Bench:
    """Fits and measures, each only once."""

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
        self.effort = effort_of(METHODS["end-to-end"]["effort"])
        self._denoisers = {self.denoiser.guidance_scale: self.denoiser}
        self._references: dict[Place, Tensor] = {}
        settings = (str(self.solver), str(self.grid), repr(self.effort))
        reference = reference_tableau(self.denoiser.schedule, self.reference_nfe)
        # Guidance belongs to a record.
        plain = self.denoiser.replace(guidance_scale=1.0)
        context = "" if self.path is None else context_of(plain, self.cond, self.noise, reference, *settings)
        self.records = Records(self.path, context, self._evaluations, self.restart)
        self._measurement = {"seed": self.seed, "held_out": len(self.noise), "reference_nfe": self.reference_nfe}

    def result(self, case: Case) -> Result:
        """A case with its numbers."""
        base = self._measured(_base(case.fits[0]), case.place)
        fits = [self._fitted(fit) for fit in case.fits]
        errors = [self._measured(fit, case.place) for fit in case.fits]
        reason = next((found["skipped"] for found in (base, *fits, *errors) if "skipped" in found), "")
        if reason:
            return Result(case, np.empty((0, 0)), np.empty(0), None, 0.0, 0.0, reason)
        lambdas = np.array([fit["lambdas"] for fit in fits]) if fits[0]["lambdas"] is not None else None
        return Result(
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
            few = min(_REFERENCE_CHECKS, len(self.noise))
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
            return METHODS[fit.method]
        effort = self.effort
        usual = effort.samples + effort.validation
        rounds = effort.evaluations(fit.nfe) / (usual * fit.nfe) - _USUAL_SCALE
        budget = round((fit.samples + effort.validation) * fit.nfe * (fit.teacher_scale + rounds))
        return METHODS[fit.method] | {"validation": effort.validation, "budget": budget}

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
