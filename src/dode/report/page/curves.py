"""Metric against budget: a panel a solver, or all solvers in one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from dode.charts import require_altair
from dode.report.page.drawing import Chart, chart
from dode.report.results import BASE, METRICS, PAPERS, Cell, Comparison

ROWS = "cells"
_WIDTH, _HEIGHT = 250, 180
# Methods in the order of the palette.
_KNOWN = (BASE, PAPERS, "fast", "balanced", "thorough")


def label(cell: Cell) -> str:
    """A cell's method for people: of a base on a named grid, with the grid."""
    return f"{cell.method} on {cell.grid}" if cell.grid else cell.method


def methods(comparison: Comparison) -> list[str]:
    """Labels in order, the base first."""
    found = dict.fromkeys(label(result.cell) for result in comparison.results)
    return sorted(found, key=lambda name: (name != BASE, not name.startswith(f"{BASE} on ")))


def undistilled(comparison: Comparison) -> list[str]:
    """The labels of bases."""
    return list(dict.fromkeys(label(r.cell) for r in comparison.results if r.cell.base))


def cell_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row a cell, with each figure's value and its interval."""
    rows = []
    for result in comparison.measured:
        cell = result.cell
        row: dict[str, Any] = {"solver": cell.solver, "nfe": cell.nfe, "method": label(cell)}
        for name, figure in result.figures.items():
            row |= {name: figure.value, f"{name}_low": figure.low, f"{name}_high": figure.high}
        rows.append(row)
    return rows


def method_colour(comparison: Comparison, *, legend: bool = True) -> Any:
    """Colour by method: each known one has the same colour in every comparison."""
    alt = require_altair()
    mine = methods(comparison)
    domain = [*_KNOWN, *(name for name in mine if name not in _KNOWN)]
    shown = alt.Legend(values=mine, symbolType="stroke") if legend else None
    return alt.Color("method:N", scale=alt.Scale(domain=domain, range="ordinal"), legend=shown)


def method_dash(comparison: Comparison) -> Any:
    """Dashed lines for what is undistilled."""
    alt = require_altair()
    bases, mine = undistilled(comparison), methods(comparison)
    domain = [*_KNOWN, *(name for name in mine if name not in _KNOWN)]
    dashes = [[5, 4] if name in (BASE, *bases) else [1, 0] for name in domain]
    return alt.StrokeDash(
        "method:N", scale=alt.Scale(domain=domain, range=dashes), legend=alt.Legend(values=mine, symbolType="stroke")
    )


def curves(comparison: Comparison, captions: Mapping[str, str]) -> dict[str, tuple[Chart, Chart]]:
    """By metric: a panel a solver with a line a method, and one panel with a line for each of both.

    Args:
        captions: a sentence a metric, of what the chart says.
    """
    rows, named = cell_rows(comparison), require_altair().NamedData(name=ROWS)
    return {
        name: (
            chart(
                f"curves-{_dashed(name)}", panels(comparison, name, named), captions[name], rows={ROWS: rows}, follows="shown"
            ),
            chart(
                f"overlay-{_dashed(name)}",
                _overlay(comparison, name, named),
                captions[name],
                rows={ROWS: rows},
                follows="shown",
                files=False,
            ),
        )
        for name in comparison.metrics
    }


def _dashed(name: str) -> str:
    return name.replace("_", "-")


def panels(comparison: Comparison, metric: str, data: Any) -> Any:
    """A panel a solver with a line a method; data: the rows of `cell_rows`, or their name."""
    alt = require_altair()
    layers = _layers(comparison, metric, method_colour(comparison), alt.Undefined, data)
    return layers.properties(width=_WIDTH, height=_HEIGHT).facet(
        facet=alt.Facet("solver:N", sort=comparison.solvers, title=None), columns=3
    )


def _overlay(comparison: Comparison, metric: str, data: Any) -> Any:
    alt = require_altair()
    colour = alt.Color("solver:N", scale=alt.Scale(domain=comparison.solvers, range="category"))
    shape = alt.Shape("method:N", scale=alt.Scale(domain=methods(comparison)))
    return _layers(comparison, metric, colour, shape, data).properties(width="container", height=380)


def _layers(comparison: Comparison, metric: str, colour: Any, shape: Any, data: Any) -> Any:
    alt = require_altair()
    about, budgets = METRICS[metric], comparison.budgets
    log = about.log and all(row.get(metric, 1.0) > 0 for row in cell_rows(comparison))
    x = alt.X(
        "nfe:Q",
        title="network evaluations (NFE)",
        scale=alt.Scale(type="log", domain=[budgets[0] / 1.08, budgets[-1] * 1.08], nice=False),
        axis=alt.Axis(values=budgets, grid=False, format="d"),
    )
    scale = alt.Scale(type="log", nice=False, padding=8) if log else alt.Scale(zero=False, nice=True, padding=8)
    ends = [row[f"{metric}{end}"] for row in cell_rows(comparison) if metric in row for end in ("", "_low", "_high")]
    axis = log_axis(ends) if log else alt.Axis(format="~r", tickCount=5)
    y = alt.Y(f"{metric}:Q", title=about.label, scale=scale, axis=axis)
    dash = method_dash(comparison)
    chart_of = alt.Chart().transform_filter(f"isValid(datum.{metric})")
    lines = chart_of.mark_line(strokeWidth=2).encode(x, y, colour, dash, detail=["solver:N", "method:N"])
    bars = (
        chart_of.transform_filter(f"isValid(datum.{metric}_low)" + (f" && datum.{metric}_low > 0" if log else ""))
        .mark_rule(opacity=0.45, strokeWidth=1.5)
        .encode(x, alt.Y(f"{metric}_low:Q", title=about.label, scale=scale), alt.Y2(f"{metric}_high:Q"), colour)
    )
    tooltip = ["solver:N", "method:N", alt.Tooltip("nfe:Q", title="NFE")] + [
        alt.Tooltip(f"{metric}{end}:Q", title=f"{about.label}{words}", format=".3g")
        for end, words in (("", ""), ("_low", ", from"), ("_high", ", to"))
    ]
    points = chart_of.mark_point(filled=True, size=45, opacity=1).encode(x, y, colour, tooltip=tooltip)
    if shape is not alt.Undefined:
        points = points.encode(shape)
    return alt.layer(bars, lines, points, data=data)


def log_axis(values: Sequence[float]) -> Any:
    """An axis with a line at each power of ten; where there are few of these, at 2 and 5 too."""
    alt = require_altair()
    positive = [value for value in values if value > 0 and math.isfinite(value)]
    if not positive:
        return alt.Axis(format="~g")
    first, last = math.floor(math.log10(min(positive))), math.ceil(math.log10(max(positive)))
    steps = (1,) if math.log10(max(positive) / min(positive)) > 2 else (1, 2, 5)
    marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    return alt.Axis(format="~g", values=[float(f"{mark:.3g}") for mark in marks])
