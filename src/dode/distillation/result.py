"""What a distillation gives: the tableau, its numbers, and how far base and distilled are from the teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType

from dode import statistics
from dode.distillation.choice import Candidate
from dode.distillation.end_to_end import Refined
from dode.distillation.search import Trial
from dode.distillation.summary import render, summary
from dode.schedules import Array
from dode.statistics import Figure
from dode.tableau import Tableau


@dataclass(frozen=True)
class Errors:
    """Mean square distance to the reference's states (on the fitting set: to the teacher's), over a sample's elements.

    Attributes:
        base, distilled: (K, n), row k at time t_{k+1}; as many rows as each has.
        power: (n,) mean square of each sample's own end point, for errors relative to it; None where it is not known.
    """

    base: Array
    distilled: Array
    power: Array | None = None

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return int(self.base.shape[1])

    @property
    def end(self) -> tuple[float, float]:
        """Mean error of base and distilled at the end."""
        return float(self.base[-1].mean()), float(self.distilled[-1].mean())

    @property
    def medians(self) -> tuple[float, float]:
        """Median error of base and distilled at the end."""
        return float(np.median(self.base[-1])), float(np.median(self.distilled[-1]))

    @property
    def ratio(self) -> float:
        """Mean of distilled over mean of base at the end; nan where the base has no error."""
        base, distilled = self.end
        return distilled / base if base else float("nan")

    @property
    def gain(self) -> Figure:
        """`ratio` with the interval that chance leaves it."""
        return statistics.ratio(self.distilled[-1], self.base[-1])

    @property
    def difference(self) -> tuple[float, float]:
        """Mean of distilled minus base at the end over the samples, and its standard error (nan for a single sample)."""
        with np.errstate(invalid="ignore"):  # a run that diverges leaves nan
            paired = self.distilled[-1] - self.base[-1]
            error = paired.std(ddof=1) / np.sqrt(len(paired)) if len(paired) > 1 else float("nan")
        return float(paired.mean()), float(error)

    @property
    def clear(self) -> bool:
        """Chance does not leave it open which of the two has the smaller mean."""
        return not self.gain.low < 1 < self.gain.high

    @property
    def diverged(self) -> tuple[int, int]:
        """On how many samples base and distilled are not finite."""
        base, distilled = (int((~np.isfinite(errors)).any(0).sum()) for errors in (self.base, self.distilled))
        return base, distilled

    @property
    def of_base(self) -> Errors:
        """Those of the base where it takes the result's place."""
        return Errors(self.base, self.base, self.power)

    @property
    def carriers(self) -> int | None:
        """The fewest samples without which the gain of the mean is none; None where there is no gain."""
        return statistics.carriers(self.base[-1] - self.distilled[-1])

    def followed_by(self, more: Errors) -> Errors:
        """These and those of further samples."""
        power = None if self.power is None or more.power is None else np.concatenate([self.power, more.power])
        return Errors(np.hstack([self.base, more.base]), np.hstack([self.distilled, more.distilled]), power)

    def to_json(self) -> dict[str, Any]:
        """Means a row; of the end the mean, median, high quantile and relative error with their intervals, and the paired difference."""
        mean, error = self.difference

        def figures(errors: Array) -> dict[str, list[float | None]]:
            return {name: figure.to_json() for name, figure in statistics.figures(errors[-1], self.power).items()}

        return {
            "samples": self.samples,
            "base": [_finite(v) for v in self.base.mean(1)],
            "distilled": [_finite(v) for v in self.distilled.mean(1)],
            "base_end": figures(self.base),
            "distilled_end": figures(self.distilled),
            "ratio": self.gain.to_json(),
            "carriers": self.carriers,
            "end_difference": _finite(mean),
            "end_difference_standard_error": _finite(error),
        }


@dataclass(frozen=True)
class Reference:
    """What errors on held-out noise are distances to.

    Attributes:
        name: the run: finer than the teacher, of another solver and on another grid.
        nfe: its evaluations.
        error: the mean square distance, over an element, that its end point may be from the truth.
        teacher: the teacher's mean square distance to it, which is about the teacher's own error.
        rounding: about what rounding in the network alone leaves in the teacher's end point: no teacher is better than that.
        teacher_nfe: the teacher's evaluations.
        samples: noises that both were measured on.
    """

    name: str
    nfe: int
    error: float
    teacher: float
    rounding: float
    teacher_nfe: int
    samples: int

    def range(self, error: float) -> tuple[float, float]:
        """Between what the true error lies where the distance to the reference is `error`: roots of mean squares add at the most."""
        root, doubt = math.sqrt(max(error, 0.0)), math.sqrt(self.error)
        return max(root - doubt, 0.0) ** 2, (root + doubt) ** 2


@dataclass(frozen=True, eq=False)
class Distilled:
    """A distilled solver.

    Attributes:
        tableau: what to sample with; it carries the statistics in its `meta`.
        base: the solver that it is compared with: the one that was asked for, or the best undistilled one for "auto".
        directions: (P,) names of the closed form's directions.
        coefficients: (R, P) of these, float64; what was shrunk or fitted end to end afterwards is in the tableau only.
        factors: (R,) c_k; the paper's undivided numbers are lambdas * factors.
        standard_errors: (R, P) of the coefficients, by jackknife over the fitting samples, earlier rows held fixed.
        kept: (R,) how many directions each row kept; the others were zero or in the span of these.
        unused: the names of directions that no row kept.
        ridges: (R,) the strength of each row's ridge.
        chosen: which candidate was given out.
        candidates: all of them with their validation errors; empty for the paper's method.
        refined: what the last end-to-end fit came to; None without one.
        trials: what a search tried, best first.
        reference: what the errors on held-out noise are distances to, and how good the teacher is; None for given targets.
        fitting: errors on the noise that was fitted, against the teacher.
        held_out: errors on noise that neither fitted nor chose; None where targets were given or held_out=0.
        notes: what went wrong on the way and was mended, and what was found of the network.
        diverged: what was found, or the base that is given out in its place, is not finite on noise that it was measured on; or nothing
            could be measured. The warnings say which.
        seconds: wall time in all.
        evaluations: network evaluations of one sample by purpose, in this run; all but "measurement" made the result.
        settings: what it was made with: model, effort, teacher, samples, seed.
        saved: evaluations that a cache made unnecessary: those that made the result are `cost` and these.
        charged: evaluations that the result takes where nothing is kept, its measurement left out: what counts against the budget, the same
            with a cache and without.
    """

    tableau: Tableau
    base: Tableau
    directions: tuple[str, ...]
    coefficients: Array
    factors: Array
    standard_errors: Array
    kept: tuple[int, ...]
    unused: tuple[str, ...]
    ridges: tuple[float, ...]
    chosen: str
    candidates: tuple[Candidate, ...]
    refined: Refined | None
    trials: tuple[Trial, ...]
    reference: Reference | None
    fitting: Errors
    held_out: Errors | None
    notes: tuple[str, ...]
    diverged: bool
    seconds: float
    evaluations: Mapping[str, int]
    settings: Mapping[str, Any]
    saved: int = 0
    charged: int = 0

    @property
    def lambdas(self) -> Array:
        """(K,) the paper's lambda of each row, dimensionless: 0 is the base.

        Raises:
            ValueError: the closed form had several directions.
        """
        if len(self.directions) != 1:
            raise ValueError(
                f"lambdas belong to the paper's one direction, here there are {len(self.directions)}: see coefficients"
            )
        return self.coefficients[:, 0]

    @property
    def cost(self) -> int:
        """Network evaluations that made the result in this run, its measurement left out."""
        return sum(n for what, n in self.evaluations.items() if what != "measurement")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before using the result."""
        return tuple(self.tableau.meta["distillation"]["warnings"])

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the tableau as JSON, statistics included; `Tableau.load` reads it. Errors as `Tableau.save`."""
        self.tableau.save(path, overwrite=overwrite)

    def cite(self) -> str:
        """BibTeX of the papers of the method and of what it was applied to; see `Tableau.cite`."""
        return self.tableau.cite()

    def summary(self) -> RenderableType:
        """A rich table of the rows with the errors of base and distilled, and what was chosen."""
        return summary(self.tableau)

    def __str__(self) -> str:
        return render(self.summary())

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row a state of base and of distilled: where it is, and its errors on held-out noise.

        Raises:
            ImportError: pandas is not installed.
        """
        from dode.distillation.notebook import to_frame

        return to_frame([self])

    def plot(self) -> Any:
        """An altair chart of the errors of base and distilled along the way.

        Raises:
            ImportError: altair is not installed.
        """
        from dode.distillation.notebook import plot_way

        return plot_way(self)

    def _repr_html_(self) -> str:
        """In notebooks: the summary, with the tableau on demand."""
        from dode.distillation.notebook import html

        return html(self)


def with_statistics(result: Distilled) -> Distilled:
    """The result with its statistics in the tableau's meta, so that a saved file can tell them."""
    refined = result.refined
    made = {
        "base": result.base.solver,
        "base_grid": result.base.grid,
        "base_times": result.base.times.tolist(),
        "directions": list(result.directions),
        "coefficients": result.coefficients.tolist(),
        "factors": result.factors.tolist(),
        "standard_errors": [[_finite(v) for v in row] for row in result.standard_errors],
        "kept": list(result.kept),
        "unused": list(result.unused),
        "ridges": list(result.ridges),
        "chosen": result.chosen,
        "candidates": [{"name": c.name, "error": _finite(c.error)} for c in result.candidates],
        "refined": refined
        and {
            "fitting": list(refined.fitting),
            "validation": list(refined.validation),
            "iterations": refined.iterations,
            "diverged": refined.diverged,
            "unknowns": refined.unknowns,
            "stopped": refined.stopped,
        },
        "trials": [
            {"name": t.name, "error": _finite(t.candidate.error), "base_error": _finite(t.base_error), "samples": t.samples}
            for t in result.trials
        ],
        "reference": result.reference
        and {k: _finite(v) if isinstance(v, float) else v for k, v in vars(result.reference).items()},
        "fitting": result.fitting.to_json(),
        "held_out": result.held_out and result.held_out.to_json(),
        "seconds": round(result.seconds, 3),
        "evaluations": dict(result.evaluations),
        "saved": result.saved,
        "warnings": _warnings(result),
        **result.settings,
    }
    return replace(result, tableau=result.tableau.with_meta(distillation=made))


# Fewer fitting and validation samples than these have been seen to give results worse than their base.
_ENOUGH = (16, 8)
# A gain that hangs on fewer samples than these is said to.
_MANY = 5
# What a reference may be off matters above this share of an error: the true error may then be 1.4 times what is said.
_MATTERS = 0.03
# A teacher that is off by this share of the result's error limits it.
_LIMITS = 0.1


def _warnings(result: Distilled) -> list[str]:
    found = list(result.notes)
    shown, where = (result.held_out, "held-out") if result.held_out else (result.fitting, "fitting")
    fitted, chosen = result.settings["samples"], result.settings["validation"]
    if result.candidates and (fitted < _ENOUGH[0] or chosen < _ENOUGH[1]):
        found.append(
            f"{fitted} fitting and {chosen} validation samples are few: with fewer than {_ENOUGH[0]} and {_ENOUGH[1]} results were "
            "seen that are worse than their base"
        )
    base, distilled = shown.end
    for name, errors in (("fitting", result.fitting), *([("held-out", result.held_out)] if result.held_out else [])):
        if errors.diverged[0] and not result.diverged:
            found.append(f"the base diverges on {errors.diverged[0]} of {errors.samples} {name} samples")
    if shown.gain.low > 1:
        found.append(f"the result is worse than its base on {where} noise")
    elif shown.medians[1] > shown.medians[0] and distilled < base:
        found.append(f"the median sample is further off than the base's on {where} noise, though the mean is nearer")
    carriers = shown.carriers
    if carriers is not None and carriers < _MANY <= shown.samples // 4:
        samples = "one sample" if carriers == 1 else f"{carriers} samples"
        found.append(f"the gain of the mean hangs on {samples} of {shown.samples}")
    reference = result.reference
    if reference is not None and not math.isfinite(reference.error):
        found.append("what the reference may be off is not known: the run that it is compared with diverges")
    elif reference is not None and result.held_out is not None and reference.error > _MATTERS * distilled:
        low, high = reference.range(distilled)
        found.append(
            f"the result has come near the teacher: the reference that it is measured against may be off by {reference.error:.1e} itself, "
            f"so the true error lies between {low:.1e} and {high:.1e}"
        )
    elif reference is not None and reference.teacher > _LIMITS * distilled:
        found.append(
            f"the teacher itself is {reference.teacher:.1e} off the reference"
            + (", most of it by the network's rounding" if 2 * reference.rounding > reference.teacher else "")
            + ": that is what limits the result"
        )
    if result.refined is not None and not result.refined.iterations:
        this = "the closed form" if result.settings["learn"] == "coefficients" else "the best grid that was tried"
        found.append(f"the end-to-end fit made no step ({result.refined.stopped}): this is {this}")
    return found


def _finite(value: float) -> float | None:
    """JSON has no nan and no infinity."""
    return float(value) if np.isfinite(value) else None
