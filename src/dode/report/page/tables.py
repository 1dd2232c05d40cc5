"""Tables as the templates take them: words to show, and the number to sort by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from dode.report.page.curves import label
from dode.report.results import METRICS, Comparison
from dode.statistics import Figure


class Column(NamedTuple):
    """A column: its heading, what it means, and whether it has numbers."""

    title: str
    meaning: str = ""
    number: bool = True


class Entry(NamedTuple):
    """A cell of a table: words, what it is sorted by (the words where it is ""), smaller words beside, and whether it is bold."""

    text: str
    key: float | str = ""
    beside: str = ""
    strong: bool = False


class Row(NamedTuple):
    """A row, with the solver and the method that it belongs to, which the reader may hide; "" for none."""

    entries: Sequence[Entry]
    solver: str = ""
    method: str = ""


class Table(NamedTuple):
    """A sortable table."""

    name: str
    caption: str
    columns: Sequence[Column]
    rows: Sequence[Row]


def number(value: float) -> str:
    """Three digits; as a power of ten where it is small."""
    if not math.isfinite(value):
        return "diverged" if math.isinf(value) else "n/a"
    if value and abs(value) < 1e-3:
        return f"{value:.2e}".replace("e-0", "e-")
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def figure_entry(figure: Figure | None) -> Entry:
    """A figure with its interval beside."""
    if figure is None:
        return Entry("", math.inf)
    beside = f"{number(figure.low)} to {number(figure.high)}" if math.isfinite(figure.low) else ""
    return Entry(number(figure.value), figure.value, beside)


def results_table(comparison: Comparison) -> Table:
    """A row a cell, a column a metric."""
    names = comparison.metrics
    columns = [
        Column("solver", number=False),
        Column("NFE", "network evaluations of a sample"),
        Column("method", number=False),
        *(Column(METRICS[name].label, METRICS[name].meaning) for name in names),
    ]
    rows = []
    for result in comparison.measured:
        cell = result.cell
        head = [Entry(cell.solver), Entry(str(cell.nfe), cell.nfe), Entry(label(cell))]
        rows.append(Row([*head, *(figure_entry(result.figures.get(name)) for name in names)], cell.solver, label(cell)))
    return Table("results", "Every cell. Beside each figure: its 90 % interval.", columns, rows)
