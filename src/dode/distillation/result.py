"""What a distillation gives: the tableau, its numbers, and how far base and distilled are from the teacher."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dode.distillation.choice import Candidate
from dode.distillation.end_to_end import Refined
from dode.distillation.search import Trial
from dode.schedules import Array
from dode.tableau import Tableau


@dataclass(frozen=True)
class Errors:
    """Mean square distance to the teacher's states, over a sample's elements: (K, n), row k at time t_{k+1}."""

    base: Array
    distilled: Array

    @property
    def samples(self) -> int:
        """Number of samples n."""
        return int(self.base.shape[1])

    @property
    def end(self) -> tuple[float, float]:
        """Mean error of base and distilled at the end."""
        return float(self.base[-1].mean()), float(self.distilled[-1].mean())

    @property
    def ratio(self) -> float:
        """Distilled over base at the end; nan where the base has no error."""
        base, distilled = self.end
        return distilled / base if base else float("nan")

    @property
    def difference(self) -> tuple[float, float]:
        """Mean of distilled minus base at the end over the samples, and its standard error (nan for a single sample)."""
        paired = self.distilled[-1] - self.base[-1]
        error = paired.std(ddof=1) / np.sqrt(len(paired)) if len(paired) > 1 else float("nan")
        return float(paired.mean()), float(error)

    def to_json(self) -> dict[str, Any]:
        """Means a row, and the paired difference at the end."""
        mean, error = self.difference
        return {
            "samples": self.samples,
            "base": [_finite(v) for v in self.base.mean(1)],
            "distilled": [_finite(v) for v in self.distilled.mean(1)],
            "end_difference": _finite(mean),
            "end_difference_standard_error": _finite(error),
        }


@dataclass(frozen=True)
class TeacherError:
    """The teacher's own error: mean square distance of its end point to that of a run twice as fine, on a few samples."""

    error: float
    samples: int
    nfe: int


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
        teacher_error: how good the teacher is; None for given targets.
        fitting: errors on the noise that was fitted.
        held_out: errors on noise that neither fitted nor chose; None where targets were given or held_out=0.
        notes: what went wrong on the way and was mended.
        seconds: wall time in all.
        evaluations: network evaluations of one sample by purpose; all but "measurement" made the result.
        settings: what it was made with: model, effort, teacher, samples, seed.
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
    teacher_error: TeacherError | None
    fitting: Errors
    held_out: Errors | None
    notes: tuple[str, ...]
    seconds: float
    evaluations: Mapping[str, int]
    settings: Mapping[str, Any]

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
        """Network evaluations that made the result, its measurement left out."""
        return sum(n for what, n in self.evaluations.items() if what != "measurement")

    @property
    def warnings(self) -> tuple[str, ...]:
        """What a user should know before using the result."""
        return tuple(self.tableau.meta["distillation"]["warnings"])

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the tableau as JSON, statistics included; `Tableau.load` reads it. Errors as `Tableau.save`."""
        self.tableau.save(path, overwrite=overwrite)

    def summary(self) -> RenderableType:
        """A rich table of the rows with the errors of base and distilled, and what was chosen."""
        return summary(self.tableau)

    def __str__(self) -> str:
        return render(self.summary())


def with_statistics(result: Distilled) -> Distilled:
    """The result with its statistics in the tableau's meta, so that a saved file can tell them."""
    refined = result.refined
    statistics = {
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
        "teacher_error": result.teacher_error and vars(result.teacher_error).copy(),
        "fitting": result.fitting.to_json(),
        "held_out": result.held_out and result.held_out.to_json(),
        "seconds": round(result.seconds, 3),
        "evaluations": dict(result.evaluations),
        "warnings": _warnings(result),
        **result.settings,
    }
    return replace(result, tableau=result.tableau.with_meta(distillation=statistics))


def _warnings(result: Distilled) -> list[str]:
    found = list(result.notes)
    base = (result.held_out or result.fitting).end[0]
    poor = result.teacher_error
    if poor is not None and poor.error > base / 10:
        found.append(
            f"the teacher itself is poor: its error {poor.error:.1e} is above a tenth of the base's {base:.1e}; take a finer one "
            '(teacher_scale, teacher_nfe) or a better solver (teacher="deis")'
        )
    mean, error = (result.held_out or result.fitting).difference
    if mean > 2 * error:
        found.append(f"the result is worse than its base on {'held-out' if result.held_out else 'fitting'} noise")
    if result.refined is not None and not result.refined.iterations:
        found.append(f"the end-to-end fit made no step ({result.refined.stopped}): this is the closed form")
    return found


def summary(tableau: Tableau) -> RenderableType:
    """What a distilled tableau remembers of its making, as a rich renderable; of a plain tableau, its numbers."""
    made = tableau.meta.get("distillation")
    if not made:
        return Text(str(tableau))
    shown = made["held_out"] or made["fitting"]
    where = "held-out" if made["held_out"] else "fitting"
    lines = [
        f"errors: mean square distance to the teacher's states, {shown['samples']} {where} samples; last row: the result",
        _verdict(shown, where),
        _choice(made),
        _kept(made),
        _refinement(made["refined"]),
        f"teacher: {made['teacher']}{_teacher_error(made['teacher_error'])}",
        f"{made['samples']} fitting and {made['validation']} validation samples, seed {made['seed']}, effort {made['effort']}",
        "evaluations: "
        + ", ".join(f"{n:,} {what}" for what, n in made["evaluations"].items() if n)
        + f"; {made['seconds']:.1f} s",
        *(f"warning: {text}" for text in made["warnings"]),
    ]
    parts: list[RenderableType] = [_rows(tableau, made, shown), Text("\n".join(line for line in lines if line))]
    if made["trials"]:
        parts.append(_trials(made["trials"]))
    return Group(*parts)


def _rows(tableau: Tableau, made: Mapping[str, Any], shown: Mapping[str, Any]) -> Table:
    table = Table(title=f"{tableau.title}, {made['model']}")
    # lambda is what a row of the result has only where nothing was done after the paper's fit.
    single = len(made["directions"]) == 1 and made["chosen"] == "the fit as it is"
    comparable = made["base_times"] == tableau.times.tolist()
    names = ["step", "t", *(["lambda", "s.e."] if single else []), *(["error base"] if comparable else []), "distilled"]
    for name in [*names, *(["ratio"] if comparable else [])]:
        table.add_column(name, justify="right")
    for k in range(tableau.rows):
        cells = [str(k + 1), f"{tableau.times[k]:.4g} -> {tableau.times[k + 1]:.4g}"]
        if single:
            deviation = made["standard_errors"][k][0]
            cells += [f"{made['coefficients'][k][0]:+.4f}", "" if deviation is None else f"{deviation:.4f}"]
        distilled = shown["distilled"][k]
        if comparable:
            base = shown["base"][k]
            ratio = "" if not base or distilled is None else f"{distilled / base:.3f}"
            cells += [_number(base), _number(distilled), ratio]
        else:
            cells.append(_number(distilled))
        table.add_row(*cells)
    return table


def _trials(trials: Sequence[Mapping[str, Any]], most: int = 12) -> Table:
    with_base = any(trial["base_error"] is not None for trial in trials)
    table = Table(title=f"tried, by validation error of the closed form ({min(most, len(trials))} of {len(trials)})")
    counted = all("samples" in trial for trial in trials)  # older files do not say it
    ends = ["closed form", *(["samples"] if counted else [])]
    for name in ("solver, grid, first output", *(["as it is"] if with_base else []), *ends):
        table.add_column(name, justify="left" if name.startswith("solver") else "right")
    for trial in trials[:most]:
        numbers = ([trial["base_error"]] if with_base else []) + [trial["error"]]
        cells = ["diverged" if n is None else f"{n:.3e}" for n in numbers]
        table.add_row(trial["name"], *cells, *([str(trial["samples"])] if counted else []))
    return table


def _verdict(shown: Mapping[str, Any], where: str) -> str:
    base, distilled = shown["base"][-1], shown["distilled"][-1]
    error = shown["end_difference_standard_error"]
    if not base or distilled is None or error is None:
        return f"end point on {where} noise: {_number(distilled)}, the base {_number(base)}"
    difference = shown["end_difference"]
    if difference == 0:
        return f"end point on {where} noise: {distilled:.3e}, that of the base"
    doubt = "" if abs(difference) > 2 * error else " (within two standard errors: no clear difference)"
    word = "better" if difference < 0 else "WORSE"
    return f"end point on {where} noise: {distilled:.3e}, {distilled / base:.3f} of the base's {base:.3e}, {word}{doubt}"


def _choice(made: Mapping[str, Any]) -> str:
    candidates = made["candidates"]
    if not candidates:
        return f"given out: {made['chosen']}"
    diverged = sum(candidate["error"] is None for candidate in candidates)
    return f"given out: {made['chosen']}, of {len(candidates)} candidates" + (f"; {diverged} diverged" if diverged else "")


def _kept(made: Mapping[str, Any]) -> str:
    count, unused = len(made["directions"]), made.get("unused")
    if count == 1:
        return ""
    text = f"directions kept in each row, of {count}: {', '.join(str(kept) for kept in made['kept'])}"
    return text + (f"; in no row, being zero or in the span of the others: {', '.join(unused)}" if unused else "")


def _refinement(refined: Mapping[str, Any] | None) -> str:
    if refined is None:
        return ""
    first, last = refined["validation"]
    return (
        f"end-to-end fit: {refined['unknowns']} unknowns, {refined['iterations']} steps, validation error {first:.3e} -> {last:.3e}; "
        f"stopped: {refined['stopped']}"
        + (f"; {refined['diverged']} steps diverged and were taken back" if refined["diverged"] else "")
    )


def _teacher_error(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    return f", its own error {found['error']:.1e} (against one twice as fine, {found['samples']} samples)"


def _number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.3e}"


def _finite(value: float) -> float | None:
    """JSON has no nan and no infinity."""
    return float(value) if np.isfinite(value) else None


def render(renderable: RenderableType, width: int = 110) -> str:
    """A rich renderable as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(renderable)
    return buffer.getvalue().rstrip()
