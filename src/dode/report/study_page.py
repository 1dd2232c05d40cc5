"""What a sensitivity study found: as a page, a csv file, a plot for each axis, and tables for the terminal."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from dode.report.axes import AXES, METHODS, NAMES, Axis, Fit, Result, lambda_rows, mean_and_deviation, ratio, summarise
from dode.report.folder import check_report, records_of, require_matplotlib, save_report

PAGE = "study.md"
RECORDS = records_of(PAGE)

_COLOURS = {"lambda": "C0", "end-to-end": "C1"}
_ERROR = "mean square distance to the reference"


@dataclass(frozen=True, eq=False)
class Study:
    """What was found along each axis.

    Attributes:
        results: by the axis's name.
        skipped: why the model does not have an axis, by its name.
        model, solver: names.
        home: the fit that the axes depart from.
        validation: samples that choose in the end-to-end fit.
        held_out: samples that errors are measured on.
        reference: what they are measured to.
        reference_error: mean square distance of the reference to another solver's run that is as fine, on a few samples.
        seed: of the held-out noise, and of the fits unless they say otherwise.
        device: where it ran.
        evaluations: network evaluations of one sample in all, those of an interrupted run included; guidance does not count twice.
        seconds: wall time in all, likewise.
    """

    results: Mapping[str, Sequence[Result]]
    skipped: Mapping[str, str]
    model: str
    solver: str
    home: Fit
    validation: int
    held_out: int
    reference: str
    reference_error: float
    seed: int
    device: str
    evaluations: int
    seconds: float

    def answers(self) -> dict[str, str]:
        """One sentence an axis."""
        return {name: summarise(AXES[name], results) for name, results in self.results.items()}

    @property
    def caption(self) -> str:
        """What the numbers are."""
        home = self.home
        doubt = f"{self.reference_error:.1e} off another solver's run that is as fine"
        return (
            f"Error: {_ERROR} per element, {self.reference} ({doubt}), on {self.held_out} noises "
            "that no fit saw; ± one standard error over these. Of base: error over that of the undistilled solver on the same noise. "
            "Evaluations: network evaluations of one sample that a fit took. Lambda alone is the paper's method, one number a step; "
            f'end to end is `distill`\'s effort "balanced", which takes {self.validation} more samples that choose. Unless a table says '
            f"otherwise: NFE {home.nfe}, {home.samples} fitting samples, teacher scale {home.teacher_scale}, "
            f"guidance {home.guidance:g}, seed {home.seed}."
        )

    @property
    def effort(self) -> str:
        """What it took."""
        return f"{self.evaluations:,} network evaluations of one sample, {_duration(self.seconds)}, on {self.device}"

    def tables(self) -> Iterator[Table]:
        """A rich table an axis, with its answer."""
        answers = self.answers()
        for name, results in self.results.items():
            header, rows = cells(AXES[name], results, brief=True)
            table = Table(title=AXES[name].question, caption=answers[name])
            for i, column in enumerate(header):
                table.add_column(column, justify="left" if i == 0 else "right")
            for row in rows:
                table.add_row(*row)
            yield table

    def markdown(self, command: str = "") -> str:
        """The page; `command` is what made it."""
        lines = [f"# {self.model}, {self.solver}: sensitivity of distillation", ""]
        lines += [f"`{command}`", ""] if command else []
        lines += [self.caption, "", f"In all {self.effort}.", ""]
        answers = self.answers()
        for name, axis in AXES.items():
            if name in self.skipped:
                lines += [f"## {axis.question}", "", f"Skipped: {self.skipped[name]}.", ""]
            elif name in self.results:
                results = self.results[name]
                lines += [f"## {axis.question}", "", _sentence(answers[name]), "", f"![{axis.question}]({_picture(name)})", ""]
                lines += [_markdown(*cells(axis, results)), ""]
                lines += [axis.note, ""] if axis.note else []
                rows = lambda_rows(results) if name == "seeds" else []
                if rows:
                    table = [[str(k + 1), f"{mean:+.4f}", _number(sd, ".4f")] for k, (mean, sd) in enumerate(rows)]
                    lines += [_markdown(["step", "lambda, mean over seeds", "standard deviation"], table), ""]
        return "\n".join(lines)

    def save(self, folder: str | Path, *, overwrite: bool = False, command: str = "") -> list[Path]:
        """Write study.csv, a study-AXIS.png an axis (needs `dode[report]`) and study.md into a folder that exists.

        Raises:
            FileExistsError: the folder has a finished study and `overwrite` is False.
        """
        writers: dict[str, Callable[[Path], object]] = {"study.csv": self._write_csv}
        for name in self.results:
            writers[_picture(name)] = lambda path, name=name: self._plot(name, path)  # type: ignore[misc]
        return save_report(Path(folder), writers, PAGE, self.markdown(command), overwrite=overwrite)

    def _write_csv(self, path: Path) -> None:
        """A line a fit in a place."""
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            fit_fields = list(asdict(self.home))
            numbers = ["error", "standard_error", "base", "of_base", "of_base_standard_error", "lambdas"]
            cost = ["evaluations_a_fit", "seconds_a_fit"]
            where = ["axis", "value", "series", *fit_fields, "sampled_guidance", "sampled_classes"]
            writer.writerow([*where, *numbers, *cost, "skipped"])
            for name, results in self.results.items():
                for result in results:
                    for i, fit in enumerate(result.case.fits):
                        place = result.case.place
                        first = [
                            name,
                            result.case.value,
                            result.case.series,
                            *asdict(fit).values(),
                            place.guidance,
                            place.classes,
                        ]
                        writer.writerow([*first, *_csv_numbers(result, i), result.skipped])

    def _plot(self, name: str, path: Path) -> None:
        matplotlib = require_matplotlib()
        axis, results = AXES[name], [r for r in self.results[name] if not r.skipped]
        lambdas = lambda_rows(results) if name == "seeds" else []
        figure = matplotlib.figure.Figure(figsize=(10 if lambdas else 7, 4.5), layout="constrained")
        panels = figure.subplots(1, 2 if lambdas else 1, squeeze=False)[0]
        _plot_errors(panels[0], axis, results)
        if lambdas:
            steps = range(1, len(lambdas) + 1)
            means, deviations = zip(*lambdas, strict=True)
            panels[1].errorbar(steps, means, yerr=deviations, fmt="o", color=_COLOURS["lambda"], capsize=4)
            panels[1].axhline(0, color="grey", linewidth=0.8)
            panels[1].set(xlabel="step", ylabel="lambda, ± standard deviation over seeds", xticks=list(steps))
            panels[1].grid(alpha=0.3)
        figure.suptitle(f"{axis.question}  {self.model}, {self.solver}, {self.held_out} held-out samples", fontsize="medium")
        figure.savefig(path, dpi=130)


def check_output(folder: Path, axes: Iterable[str], *, overwrite: bool) -> None:
    """The checks of `Study.save`, to be made before long work."""
    check_report(folder, ["study.csv", *map(_picture, axes)], PAGE, overwrite=overwrite)


def cells(axis: Axis, results: Sequence[Result], *, brief: bool = False) -> tuple[list[str], list[list[str]]]:
    """An axis's table as text: header, and a row for each value and series with both methods side by side.

    A brief one has the errors and their ratios to the base alone.
    """
    keys = list(dict.fromkeys((r.case.value, r.case.series) for r in results))
    by_key = {(r.case.value, r.case.series, r.case.method): r for r in results}
    several = any(series for _, series in keys)
    columns = ["error", "of base"] if brief else ["error", "of base", "sd over seeds", "evaluations"]
    if not any(len(r.case.fits) > 1 for r in results):
        columns = [column for column in columns if column != "sd over seeds"]
    header = [axis.label, *([""] if several else []), "base"]
    for method in METHODS:
        header += [NAMES[method] if column == "error" else column for column in columns]
    rows = []
    for value, series in keys:
        mine = [by_key[value, series, method] for method in METHODS]
        base = next((f"{r.base.mean():.2e}" for r in mine if not r.skipped), "")
        row = [f"{value:g}" if isinstance(value, float) else str(value), *([series] if several else []), base]
        for r in mine:
            row += _method_cells(r, columns, brief)
        rows.append(row)
    if axis.name == "seeds":
        rows += _seed_summary(results, columns)
    return header, rows


def _method_cells(result: Result, columns: Sequence[str], brief: bool) -> list[str]:
    if result.skipped:
        return [result.skipped, *[""] * (len(columns) - 1)]
    gain, doubt = result.gain
    found = {
        "error": f"{result.error:.2e}" if brief else f"{result.error:.2e} ± {result.standard_error:.0e}",
        "of base": f"{gain:.3f}" if brief else f"{gain:.3f} ± {doubt:.3f}",
        "sd over seeds": _number(result.spread, ".0e"),
        "evaluations": f"{result.cost:,.0f}",
    }
    return [found[column] for column in columns]


def _seed_summary(results: Sequence[Result], columns: Sequence[str]) -> list[list[str]]:
    """Mean and standard deviation (sd) of the error over the seeds, as two more rows."""
    rows = [["mean", ""], ["sd", ""]]
    for method in METHODS:
        mine = [r for r in results if r.case.method == method and not r.skipped]
        for row, pick in zip(rows, (0, 1), strict=True):
            found = {}
            if mine:
                error = mean_and_deviation([r.error for r in mine])[pick]
                gain = mean_and_deviation([r.gain[0] for r in mine])[pick]
                found = {"error": _number(error, ".2e"), "of base": _number(gain, ".3f")}
            row += [found.get(column, "") for column in columns]
    return rows


def _plot_errors(panel: Any, axis: Axis, results: Sequence[Result]) -> None:
    values = list(dict.fromkeys(r.case.value for r in results))
    ordered = axis.scale != "points"

    def where(value: float | str) -> float:
        return float(value) if ordered else float(values.index(value))

    series = list(dict.fromkeys(r.case.series for r in results))
    for i, name in enumerate(series):
        for j, method in enumerate(METHODS):
            mine = [r for r in results if (r.case.series, r.case.method) == (name, method)]
            if not mine:
                continue
            label = f"{NAMES[method]}, {name}" if name else NAMES[method]
            line = {"linestyle": ("-", ":")[i % 2] if ordered else "none", "color": _COLOURS[method]}
            places = [where(r.case.value) + (0 if ordered else 0.1 * (j - 0.5)) for r in mine]
            panel.errorbar(
                places,
                [r.error for r in mine],
                [r.standard_error for r in mine],
                marker="os"[i % 2],
                capsize=3,
                label=label,
                **line,
            )
            for place, r in zip(places, mine, strict=True):
                if len(r.errors) > 1:
                    panel.plot([place] * len(r.errors), r.errors.mean(1), ".", color=_COLOURS[method], alpha=0.4)
    base = {r.case.value: float(r.base.mean()) for r in results}
    panel.plot([where(v) for v in base], list(base.values()), "--", color="grey", label="base")
    if axis.scale == "log":
        panel.set_xscale("log")
    panel.set(yscale="log", xlabel=axis.label, ylabel=_ERROR)
    panel.set_xticks([where(v) for v in values], [str(v) for v in values])
    panel.tick_params(axis="x", which="minor", bottom=False, labelbottom=False)
    panel.grid(alpha=0.3)
    if not ordered:
        panel.set_xlim(-0.5, len(values) - 0.5)
    if values:
        panel.legend(fontsize="small")


def _csv_numbers(result: Result, i: int) -> list[str]:
    if result.skipped:
        return [""] * 8
    errors = result.errors[i]
    deviation = errors.std(ddof=1) / math.sqrt(len(errors))
    numbers = [f"{v:.6e}" for v in (errors.mean(), deviation, result.base.mean(), *ratio(errors, result.base))]
    lambdas = "" if result.lambdas is None else " ".join(f"{v:.6f}" for v in result.lambdas[i])
    return [*numbers, lambdas, f"{result.cost:.0f}", f"{result.seconds:.1f}"]


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    return "\n".join([*lines, *("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)])


def _picture(axis: str) -> str:
    return f"study-{axis}.png"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def _number(value: float, form: str) -> str:
    return f"{value:{form}}" if math.isfinite(value) else ""


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
