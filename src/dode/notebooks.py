"""What notebooks show: plain HTML that needs no library, readable on light and dark backgrounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from dode.foreign import printable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from dode.schedules import Array
    from dode.tableau import Tableau

# Rows of a tableau that are shown with their coefficients: more are too many to look at.
_SHOWN = 24
# Columns of the terminal that a table is laid out for.
_WIDTH = 140
_TITLE = 400
# Blue and red, under words of any colour.
_ADDS, _TAKES = "30, 120, 200", "220, 90, 30"


def tableau_html(tableau: Tableau) -> str:
    """A tableau: a line an evaluation, with its time, its log-SNR, and the coefficients of the states and denoised samples that it
    combines, coloured by size and sign."""
    title = printable(f"{tableau.title}, schedule {printable(tableau.schedule)}", _TITLE)
    columns = [] if tableau.rows > _SHOWN else _columns(tableau)
    head = ["row", "t", "log-SNR", "to t", *(f"{symbol}<sub>{j}</sub>" for symbol, j, _ in columns)]
    places = log_snr(tableau)
    lines = []
    for k in range(tableau.rows):
        cells = [str(k), *(f"{value:.4g}" for value in (tableau.times[k], places[k], tableau.times[k + 1]))]
        numbers = "".join(_coefficient(matrix[k, j]) for _, j, matrix in columns)
        lines.append(f"<tr>{''.join(map(_right, cells))}{numbers}</tr>")
    return _table(title, head, lines)


def log_snr(tableau: Tableau) -> Array:
    """(K + 1,) log(alpha^2 / sigma^2) at the tableau's times; infinite where alpha or sigma is 0."""
    with np.errstate(divide="ignore"):
        places: Array = 2 * (np.log(tableau.alphas) - np.log(tableau.sigmas))
    return places


def rich_html(shown: RenderableType) -> str:
    """What a terminal shows, as preformatted text."""
    import io

    from rich.console import Console

    console = Console(record=True, file=io.StringIO(), width=_WIDTH, force_jupyter=False)
    console.print(shown)
    form = '<pre style="white-space: pre; overflow-x: auto; line-height: 1.25; font-size: 0.85em">{code}</pre>'
    return console.export_html(inline_styles=True, code_format=form)


def folded(summary: str, content: str) -> str:
    """Content that is seen on demand."""
    return f"<details><summary>{escape(summary)}</summary>{content}</details>"


def _columns(tableau: Tableau) -> list[tuple[str, int, Any]]:
    """Symbol, index and matrix of each state and denoised sample that a row uses."""
    pairs: Sequence[tuple[str, Any]] = (("x", tableau.a), ("D", tableau.b))
    return [(symbol, j, matrix) for symbol, matrix in pairs for j in range(tableau.rows) if matrix[:, j].any()]


def _coefficient(value: float) -> str:
    if value == 0:
        return "<td></td>"
    strength = min(0.6, 0.1 + 0.2 * math.asinh(3 * abs(value)))
    colour = f"rgba({_ADDS if value > 0 else _TAKES}, {strength:.2f})"
    return f'<td style="text-align: right; background: {colour}" title="{float(value)!r}">{value:+.4g}</td>'


def _right(text: str) -> str:
    return f'<td style="text-align: right">{escape(text)}</td>'


def _table(title: str, head: Sequence[str], lines: Sequence[str]) -> str:
    top = "".join(f'<th scope="col" style="text-align: right">{name}</th>' for name in head)
    caption = f'<caption style="text-align: left">{escape(title)}</caption>'
    body = "\n".join(lines)
    return (
        f'<div style="overflow-x: auto"><table style="font-variant-numeric: tabular-nums">{caption}\n'
        f"<thead><tr>{top}</tr></thead>\n<tbody>\n{body}\n</tbody></table></div>"
    )
