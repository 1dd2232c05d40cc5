"""Base and distilled solvers side by side: end-point error against one fine reference, on noise that nothing was fitted to."""

from __future__ import annotations

import csv
import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from dode import statistics
from dode.conditions import Condition, as_condition, hash_condition
from dode.denoisers import Denoiser
from dode.distances import mean_square
from dode.distillation import make_plan, run
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.grids import Grid, GridLike
from dode.report.folder import check_report, records_of, require_matplotlib, save_report
from dode.report.records import Records, context_of
from dode.report.reference import reference_error, reference_run, reference_tableau, report_noise, unseen_batch
from dode.schedules import Array
from dode.solvers import Solver
from dode.solvers import solver as make_solver

PAGE = "comparison.md"
RECORDS = records_of(PAGE)
_FILES = ("comparison.csv", "comparison.png")
# Beside the mean: the figures of a table.
_FIGURES = ("median", "high", "relative")


@dataclass(frozen=True)
class Entry:
    """One solver at one budget.

    Attributes:
        solver: its name with options.
        nfe: number of network evaluations.
        base, distilled: mean square distance of the end point to the reference's, of each sample (n,), over its elements;
            infinite where the run diverged.
        skipped: why there are no numbers (a budget that the solver does not have); the errors are empty then.
        power: mean square of each sample's own end point (n,), for errors relative to it; None where it is not known.
    """

    solver: str
    nfe: int
    base: Array
    distilled: Array
    skipped: str = ""
    power: Array | None = None

    def to_json(self) -> dict[str, Any]:
        """Its fields as JSON has them."""
        arrays = {name: getattr(self, name) for name in ("base", "distilled", "power")}
        return {**vars(self), **{name: None if array is None else array.tolist() for name, array in arrays.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Entry:
        """The entry that `to_json` gave."""
        arrays = {name: None if data[name] is None else np.array(data[name]) for name in ("base", "distilled", "power")}
        return cls(**{f.name: data[f.name] for f in fields(cls)} | arrays)

    @property
    def ratio(self) -> float:
        """Distilled over base."""
        with np.errstate(invalid="ignore"):
            return float(self.distilled.mean() / self.base.mean())

    @property
    def median_ratio(self) -> float:
        """Median of distilled over median of base."""
        with np.errstate(invalid="ignore", divide="ignore"):
            return float(np.median(self.distilled) / np.median(self.base))

    @property
    def figures(self) -> dict[str, dict[str, statistics.Figure]]:
        """Mean, median, high quantile and relative error of base and distilled, with their intervals."""
        return {name: statistics.figures(getattr(self, name), self.power) for name in ("base", "distilled")}

    @property
    def difference(self) -> tuple[float, float]:
        """Mean of distilled minus base, and its standard error over the samples; 0 for a sample on which both diverged."""
        with np.errstate(invalid="ignore"):
            paired = np.where(self.distilled == self.base, 0.0, self.distilled - self.base)
            error = paired.std(ddof=1) / math.sqrt(len(paired)) if len(paired) > 1 else math.nan
            return float(paired.mean()), float(error)

    @property
    def worse(self) -> bool:
        """The mean of distilled is above its base's, or the median is."""
        return self.difference[0] > 0 or self.median_ratio > 1

    @property
    def surely_worse(self) -> bool:
        """Worse by more than two standard errors; or distilled diverges where its base does not."""
        mean, error = self.difference
        return mean > 2 * error or mean == math.inf


@dataclass(frozen=True)
class Comparison:
    """All entries, and what they were measured with; `reference_error` is how far the reference is from another run that is as fine."""

    entries: tuple[Entry, ...]
    model: str
    reference: str
    held_out: int
    how: str
    seed: int
    reference_error: float = math.nan

    def table(self) -> Table:
        """A rich table: a row a solver and budget; where distilled is worse than its base it says so."""
        table = Table(title=f"{self.model}: end-point error, {self.held_out} held-out samples", caption=self.caption)
        for name in ("solver", "NFE", "base", "distilled", "ratio", "of medians", ""):
            table.add_column(name, justify="left" if name in ("solver", "") else "right")
        for e in self.entries:
            if e.skipped:
                table.add_row(e.solver, str(e.nfe), "", "", "", "", e.skipped)
            else:
                mark = "WORSE" if e.surely_worse else "worse, within two s.e." if e.worse else ""
                numbers = (f"{e.base.mean():.3e}", f"{e.distilled.mean():.3e}", f"{e.ratio:.3f}", f"{e.median_ratio:.3f}")
                table.add_row(e.solver, str(e.nfe), *numbers, mark)
        return table

    @property
    def caption(self) -> str:
        """What the numbers are."""
        doubt = f" ({self.reference_error:.1e} off another run that is as fine)" if math.isfinite(self.reference_error) else ""
        return (
            f"mean square distance per element to {self.reference}{doubt}; distilled with {self.how}, seed {self.seed}; "
            "s.e.: standard error of the paired difference"
        )

    def markdown(self) -> str:
        """The table as Markdown, a column a budget, base -> distilled; bold where distilled is worse."""
        budgets = sorted({e.nfe for e in self.entries})
        solvers = list(dict.fromkeys(e.solver for e in self.entries))
        cells = {(e.solver, e.nfe): _cell(e) for e in self.entries}
        lines = ["| solver | " + " | ".join(f"NFE {n}" for n in budgets) + " |", "|---" * (len(budgets) + 1) + "|"]
        for name in solvers:
            lines.append(f"| {name} | " + " | ".join(cells.get((name, n), "") for n in budgets) + " |")
        return "\n".join(lines)

    def page(self) -> str:
        """A Markdown page: caption, plot, table and exceptions."""
        plot = "![base dashed, distilled solid](comparison.png)"
        entries = "Entries: base → distilled; bold where distilled is worse."
        lines = [
            f"# {self.model}",
            "",
            f"{self.caption}.",
            "",
            plot,
            "",
            entries,
            "",
            self.markdown(),
            "",
            *self.exceptions(),
            "",
        ]
        return "\n".join(lines)

    def exceptions(self) -> list[str]:
        """Where distilled is worse than its base: a headline, then a line each."""
        measured = [e for e in self.entries if not e.skipped]
        worse = [e for e in measured if e.worse]
        sure = sum(e.surely_worse for e in worse)
        lines = [
            f"Distilled is worse than its base in {len(worse)} of {len(measured)} cases, beyond two standard errors in {sure}."
        ]
        for e in worse:
            mean, error = e.difference
            doubt = "" if e.surely_worse else ", within two standard errors"
            ratios = f"ratio {e.ratio:.3f}, of the medians {e.median_ratio:.3f}"
            lines.append(f"- {e.solver}, NFE {e.nfe}: {ratios}, difference {mean:+.2e} ± {error:.1e}{doubt}")
        return lines

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write comparison.csv, comparison.png (needs `dode[report]`) and comparison.md into a folder that exists.

        Raises:
            FileExistsError: the folder has a finished comparison, or some of the files and no records, and `overwrite` is False; nothing is
                written then.
        """
        writers = dict(zip(_FILES, (self._write_csv, self._plot), strict=True))
        return save_report(Path(folder), writers, PAGE, self.page(), overwrite=overwrite)

    def _write_csv(self, path: Path) -> None:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            means = ["base", "distilled", "ratio", "difference", "standard_error"]
            others = [f"{which}_{figure}" for which in ("base", "distilled") for figure in _FIGURES]
            writer.writerow(["solver", "nfe", *means, *others, "skipped"])
            for e in self.entries:
                numbers = [""] * (len(means) + len(others))
                if not e.skipped:
                    found = e.figures
                    values = [
                        found[which][figure].value if figure in found[which] else math.nan
                        for which in found
                        for figure in _FIGURES
                    ]
                    numbers = [f"{v:.6e}" for v in (e.base.mean(), e.distilled.mean(), e.ratio, *e.difference, *values)]
                writer.writerow([e.solver, e.nfe, *numbers, e.skipped])

    def _plot(self, path: Path) -> None:
        matplotlib = require_matplotlib()
        figure, axes = matplotlib.figure.Figure(figsize=(8, 5), layout="constrained"), None
        axes = figure.add_subplot()
        for i, name in enumerate(dict.fromkeys(e.solver for e in self.entries)):
            rows = [e for e in self.entries if e.solver == name and not e.skipped]
            if rows:
                budgets = [e.nfe for e in rows]
                colour = f"C{i % 10}"
                axes.plot(budgets, [e.base.mean() for e in rows], "o--", color=colour, alpha=0.5, label=name)
                axes.plot(budgets, [e.distilled.mean() for e in rows], "o-", color=colour)
        axes.set(xscale="log", yscale="log", xlabel="NFE", ylabel="mean square distance to the reference")
        budgets = sorted({e.nfe for e in self.entries})
        axes.set_xticks(budgets, [str(n) for n in budgets])
        axes.minorticks_off()
        axes.set_title(f"{self.model}: base (dashed) and distilled (solid), {self.held_out} held-out samples")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=130)


def compare(
    denoiser: Denoiser,
    solvers: Iterable[str | Solver],
    budgets: Iterable[int],
    *,
    held_out: int = 256,
    reference_nfe: int = 500,
    grid: GridLike | None = None,
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    records: str | Path | None = None,
    restart: bool = False,
    on_entry: Callable[[Entry], None] | None = None,
    **cond: Any,
) -> Comparison:
    """Distil every solver at every budget and measure base and distilled on held-out noise.

    Args:
        denoiser: the network; its `shape` must be known.
        solvers: names, or solvers with options.
        budgets: numbers of network evaluations.
        held_out: samples that the errors are measured on, with noise that no fit saw.
        reference_nfe: evaluations of the reference; see `dode.report.reference`.
        grid: as `distill`.
        seed: of the noise.
        options: further arguments of `distill`, such as effort or samples; `PAPER` for the paper's method.
        records: a file, JSON lines, that keeps each entry as it is finished; what is there is not done again.
        restart: forget what the records hold.
        on_entry: called with each entry as it is finished.
        cond: the condition, as `distill`.

    Raises:
        ValueError: arguments as `distill`; a budget that a solver does not have only skips its entry.
        FloatingPointError: the reference is not finite.
        TypeError: a condition or an option that cannot be told from another one, where there are records.
    """
    chosen = [make_solver(s) if isinstance(s, str) else s for s in solvers]
    how = {"seed": seed, **(options or {})}
    path = None if records is None else Path(records)
    noise, cond = report_noise(denoiser, held_out, seed), as_condition(cond)
    reference = reference_tableau(denoiser.schedule, reference_nfe)
    context = (
        "" if path is None else context_of(denoiser, cond, noise, reference, str((grid, held_out, reference_nfe)), _digest(how))
    )
    kept = Records(path, context, lambda: denoiser.evaluations, restart)

    @cache
    def unseen() -> Batch:
        return unseen_batch(denoiser, cond, held_out, reference_nfe, seed=seed)

    def measured(s: Solver, nfe: int) -> Entry:
        found = kept.known(
            {"what": "entry", "solver": str(s), "nfe": nfe},
            lambda: compare_one(denoiser, s, nfe, unseen(), grid=grid, options=how, cond=cond).to_json(),
        )
        return Entry.from_json(found)

    def off() -> dict[str, Any]:
        return {"error": reference_error(denoiser, unseen(), reference_nfe)}

    doubt = kept.known({"what": "reference"}, off)["error"]
    entries = []
    for s in chosen:
        for nfe in budgets:
            entry = measured(s, nfe)
            entries.append(entry)
            if on_entry is not None:
                on_entry(entry)
    named = ", ".join(f"{name}={value!r}" for name, value in (options or {}).items()) or "defaults"
    return Comparison(tuple(entries), denoiser.name, str(reference_run(reference_nfe)), held_out, named, seed, doubt)


def compare_one(
    denoiser: Denoiser,
    solver: Solver,
    nfe: int,
    unseen: Batch,
    *,
    grid: GridLike | None = None,
    options: Mapping[str, Any] | None = None,
    cond: Condition | None = None,
) -> Entry:
    """Distil one solver and measure base and distilled on noise that was not used; infinite where a run diverges.

    Args:
        denoiser, solver, nfe, grid: as `distill`.
        unseen: noise, with its condition and the end point of a reference.
        options: further arguments of `distill`.
        cond: the condition that is fitted to, as `distill`.

    Raises:
        ValueError: arguments as `distill`; a budget that the solver does not have gives an entry that says so.
    """
    try:
        solver.tableau(denoiser.schedule, nfe, grid)
    except ValueError as error:
        return Entry(str(solver), nfe, np.empty(0), np.empty(0), str(error))
    result = run(make_plan(denoiser, solver, nfe, grid=grid, held_out=0, **(options or {}), **(cond or {})))
    base, distilled = (end_errors(denoiser, tableau, unseen) for tableau in (result.base, result.tableau))
    return Entry(str(solver), nfe, base, distilled, power=mean_square(unseen.end))


def check_output(folder: Path, *, overwrite: bool) -> None:
    """The checks of `Comparison.save`, to be made before long work."""
    check_report(folder, _FILES, PAGE, overwrite=overwrite)


def _digest(options: Mapping[str, Any]) -> str:
    """A hash of options of `distill`: solvers and grids by what they say, all else by content."""
    digest = hashlib.sha256()
    hash_condition(digest, {name: str(value) if isinstance(value, Solver | Grid) else value for name, value in options.items()})
    return digest.hexdigest()


def _cell(entry: Entry) -> str:
    if entry.skipped:
        return "-"
    text = f"{entry.base.mean():.2e} → {entry.distilled.mean():.2e}"
    return f"**{text}**" if entry.worse else text
