"""A sensitivity study as tables: of each axis for the page and the terminal, tidy rows as csv and JSON."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table as RichTable

from dode.report.axes import AXES, Axis
from dode.report.outcomes import NAMES, Outcome, lambda_rows, mean_and_deviation
from dode.report.page.tables import Column, Entry, Row, Table, number
from dode.report.study_results import Study

_ERROR = Column("", "mean square distance to the reference per element, ± one standard error over the noises")
_OF_BASE = Column("of base", "error over that of the undistilled solver on the same noise, ± one standard error")
_SPREAD = Column("sd over seeds", "standard deviation of the error between fits that differ in their noise alone")
_COST = Column("evaluations", "network evaluations of one sample that a fit took")
_EMPTY = Entry("", math.inf)


def tables(study: Study) -> Iterator[RichTable]:
    """For the terminal: a table an axis, with its answer; of the seeds also what is over all of them."""
    answers = study.answers
    for name, outcomes in study.results.items():
        yield _rich(axis_table(AXES[name], outcomes, brief=True), AXES[name].question, answers[name])
        if name == "seeds":
            table = over_seeds(outcomes)
            yield _rich(table, table.caption)


def axis_table(axis: Axis, outcomes: Sequence[Outcome], *, brief: bool = False) -> Table:
    """A row for each value and series, with both methods side by side.

    A brief one has the errors and their ratios to the base alone.
    """
    keys = list(dict.fromkeys((each.case.value, each.case.series) for each in outcomes))
    by_key = {(each.case.value, each.case.series, each.case.method): each for each in outcomes}
    several = any(series for _, series in keys)
    columns = [_ERROR, _OF_BASE] if brief else [_ERROR, _OF_BASE, _SPREAD, _COST]
    if not any(len(each.case.fits) > 1 for each in outcomes):
        columns = [column for column in columns if column is not _SPREAD]
    heads = [Column(axis.label, number=axis.name != "classes"), *([Column("fitted", number=False)] if several else [])]
    heads.append(Column("base", "error of the undistilled solver"))
    for name in NAMES.values():
        heads += [Column(column.title or name, f"{name}: {column.meaning}") for column in columns]
    rows = []
    for value, series in keys:
        mine = [by_key[value, series, method] for method in NAMES]
        base = next((_entry(float(each.base.mean())) for each in mine if not each.skipped), _EMPTY)
        entries = [Entry(f"{value:g}" if isinstance(value, float) else str(value), value)]
        entries += [*([Entry(series.removeprefix("fitted "))] if several else []), base]
        for each in mine:
            entries += _entries(each, columns)
        rows.append(Row(entries))
    return Table(f"table-{axis.name}", f"Error by {axis.label}. {axis.note}".strip(), heads, rows)


def over_seeds(outcomes: Sequence[Outcome]) -> Table:
    """Mean and standard deviation over the seeds: of each method's error and its ratio to the base's, and of each step's lambda."""
    rows = []
    for method, name in NAMES.items():
        mine = [each for each in outcomes if each.case.method == method and not each.skipped]
        if mine:
            rows.append(_over(f"error, {name}", [each.error for each in mine]))
            rows.append(_over(f"of base, {name}", [each.gain[0] for each in mine]))
    for k, (mean, deviation) in enumerate(lambda_rows(outcomes)):
        spread = Entry(f"{deviation:.4f}", deviation) if math.isfinite(deviation) else _EMPTY
        rows.append(Row([Entry(f"lambda of step {k + 1}"), Entry(f"{mean:+.4f}", mean), spread]))
    heads = [Column("what", number=False), Column("mean"), Column("standard deviation", "between fits with other noise")]
    return Table("table-over-seeds", "Over the seeds", heads, rows)


def write_csv(study: Study, path: Path) -> None:
    """The tidy rows: lambdas separated by blanks, nothing where a number is not known."""
    rows = study.rows()
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        for row in rows:
            numbers = {name: _written(row[name], form) for name, form in _FORMS.items()}
            lambdas = " ".join(f"{value:.6f}" for value in row["lambdas"] or ())
            writer.writerow({**row, **numbers, "lambdas": lambdas})


_FORMS = {
    **dict.fromkeys(("error", "standard_error", "base", "of_base", "of_base_standard_error"), ".6e"),
    "evaluations_a_fit": ".0f",
    "seconds_a_fit": ".1f",
}


def _written(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else f"{value:{form}}"


def write_json(study: Study, path: Path) -> None:
    """The tidy rows, null where a number is not known."""
    rows = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in study.rows()]
    path.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


def _entries(outcome: Outcome, columns: Sequence[Column]) -> list[Entry]:
    if outcome.skipped:
        return [Entry(outcome.skipped, math.inf), *[_EMPTY] * (len(columns) - 1)]
    gain, doubt = outcome.gain
    found = {
        _ERROR: _entry(outcome.error, outcome.standard_error),
        _OF_BASE: _entry(gain, doubt),
        _SPREAD: _entry(outcome.spread),
        _COST: Entry(f"{outcome.cost:,.0f}", outcome.cost),
    }
    return [found[column] for column in columns]


def _over(what: str, values: Sequence[float]) -> Row:
    return Row([Entry(what), *map(_entry, mean_and_deviation(values))])


def _entry(value: float, doubt: float = math.nan) -> Entry:
    """A number with its standard error beside; nothing for one that is not known."""
    if not math.isfinite(value):
        return _EMPTY
    return Entry(number(value), value, f"± {doubt:.1g}" if math.isfinite(doubt) else "")


def _rich(table: Table, title: str, caption: str = "") -> RichTable:
    shown = RichTable(title=title, caption=caption)
    for i, column in enumerate(table.columns):
        shown.add_column(column.title, justify="left" if i == 0 else "right")
    for row in table.rows:
        shown.add_row(*(entry.text for entry in row.entries))
    return shown
