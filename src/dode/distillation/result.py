"""What a distillation gives: the tableau, its numbers, and how far base and distilled are from the teacher."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

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
            "base": self.base.mean(1).tolist(),
            "distilled": self.distilled.mean(1).tolist(),
            "end_difference": mean,
            "end_difference_standard_error": None if np.isnan(error) else error,
        }


@dataclass(frozen=True)
class Distilled:
    """A distilled solver.

    Attributes:
        tableau: what to sample with; it carries the statistics in its `meta`.
        base: the solver that it was made from.
        lambdas: (K,) dimensionless, float64: 0 is the base.
        factors: (K,) c_k; the paper's undivided numbers are lambdas * factors.
        standard_errors: (K,) of the lambdas, by jackknife over the fitting samples, earlier rows held fixed.
        fitting: errors on the noise that was fitted.
        held_out: errors on noise that was not; None where targets were given or held_out=0.
        seconds: wall time in all.
        evaluations: network evaluations of one sample: "teacher", "fit", "measurement".
        settings: what it was made with: model, solver, teacher, samples, seed.
    """

    tableau: Tableau
    base: Tableau
    lambdas: Array
    factors: Array
    standard_errors: Array
    fitting: Errors
    held_out: Errors | None
    seconds: float
    evaluations: Mapping[str, int]
    settings: Mapping[str, Any]

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write the tableau as JSON, statistics included; `Tableau.load` reads it. Errors as `Tableau.save`."""
        self.tableau.save(path, overwrite=overwrite)

    def summary(self) -> RenderableType:
        """A rich table of the rows with the errors of base and distilled."""
        return summary(self.tableau)

    def __str__(self) -> str:
        return render(self.summary())


def with_statistics(result: Distilled) -> Distilled:
    """The result with its statistics in the tableau's meta, so that a saved file can tell them."""
    statistics = {
        "lambdas": result.lambdas.tolist(),
        "factors": result.factors.tolist(),
        "standard_errors": [None if np.isnan(v) else float(v) for v in result.standard_errors],
        "fitting": result.fitting.to_json(),
        "held_out": result.held_out and result.held_out.to_json(),
        "seconds": round(result.seconds, 3),
        "evaluations": dict(result.evaluations),
        **result.settings,
    }
    return replace(result, tableau=replace(result.tableau, meta={**result.tableau.meta, "distillation": statistics}))


def summary(tableau: Tableau) -> RenderableType:
    """What a distilled tableau remembers of its making, as a rich renderable; of a plain tableau, its numbers."""
    statistics = tableau.meta.get("distillation")
    if not statistics:
        return Text(str(tableau))
    shown = statistics["held_out"] or statistics["fitting"]
    where = "held-out" if statistics["held_out"] else "fitting"
    table = Table(title=f"{tableau.solver}, NFE {tableau.nfe}, grid {tableau.grid}, {statistics['model']}")
    for name in ("step", "t", "lambda", "s.e.", "error base", "distilled", "ratio"):
        table.add_column(name, justify="right")
    for k in range(tableau.rows):
        base, distilled = shown["base"][k], shown["distilled"][k]
        deviation = statistics["standard_errors"][k]
        table.add_row(
            str(k + 1),
            f"{tableau.times[k]:.4g} -> {tableau.times[k + 1]:.4g}",
            f"{statistics['lambdas'][k]:+.4f}",
            "" if deviation is None else f"{deviation:.4f}",
            f"{base:.3e}",
            f"{distilled:.3e}",
            f"{distilled / base:.3f}" if base else "",
        )
    lines = [
        f"errors: mean square distance to the teacher's states, {shown['samples']} {where} samples; last row: the result",
        _verdict(shown, where),
        f"teacher: {statistics['teacher']}, {statistics['samples']} fitting samples, seed {statistics['seed']}; "
        + ", ".join(f"{n:,} {what}" for what, n in statistics["evaluations"].items())
        + f" evaluations, {statistics['seconds']:.1f} s",
    ]
    return Group(table, Text("\n".join(line for line in lines if line)))


def _verdict(shown: Mapping[str, Any], where: str) -> str:
    base, distilled = shown["base"][-1], shown["distilled"][-1]
    error = shown["end_difference_standard_error"]
    if not base or error is None:
        return ""
    difference = shown["end_difference"]
    doubt = "" if abs(difference) > 2 * error else " (within two standard errors: no clear difference)"
    word = "better" if difference < 0 else "WORSE"
    return f"end point on {where} noise: {distilled / base:.3f} of the base's error, {word}{doubt}"


def render(renderable: RenderableType, width: int = 110) -> str:
    """A rich renderable as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(renderable)
    return buffer.getvalue().rstrip()
