"""Metric against budget: a panel a solver, or all solvers in one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from dode.charts import require_altair
from dode.report.page.drawing import Chart, Rows, chart
from dode.report.results import BASE, METRICS, Cell, Comparison

ROWS = "cells"
_WIDTH, _HEIGHT = 250, 180


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


def curves(comparison: Comparison, captions: Mapping[str, str]) -> dict[str, tuple[Chart, Chart]]:
    """By metric: a panel a solver with a line a method, and one panel with a line for each of both.

    Args:
        captions: a sentence a metric, of what the chart says.
    """
    rows = cell_rows(comparison)
    return {
        name: (
            chart(f"curves-{_dashed(name)}", _panels(comparison, name), captions[name], rows={ROWS: rows}, follows="shown"),
            chart(
                f"overlay-{_dashed(name)}",
                _overlay(comparison, name),
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


def _panels(comparison: Comparison, metric: str) -> Any:
    alt = require_altair()
    colour = alt.Color("method:N", scale=alt.Scale(domain=methods(comparison), range="ordinal"))
    layers = _layers(comparison, metric, colour, alt.Undefined)
    return layers.properties(width=_WIDTH, height=_HEIGHT).facet(
        facet=alt.Facet("solver:N", sort=comparison.solvers, title=None), columns=3
    )


def _overlay(comparison: Comparison, metric: str) -> Any:
    alt = require_altair()
    colour = alt.Color("solver:N", scale=alt.Scale(domain=comparison.solvers, range="category"))
    shape = alt.Shape("method:N", scale=alt.Scale(domain=methods(comparison)))
    return _layers(comparison, metric, colour, shape).properties(width="container", height=380)


def _layers(comparison: Comparison, metric: str, colour: Any, shape: Any) -> Any:
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
    axis = alt.Axis(format="~g" if log else "~r", tickCount=5)
    y = alt.Y(f"{metric}:Q", title=about.label, scale=scale, axis=axis)
    bases, all_methods = undistilled(comparison), methods(comparison)
    dashes = [[5, 4] if name in bases else [1, 0] for name in all_methods]
    dash = alt.StrokeDash("method:N", scale=alt.Scale(domain=all_methods, range=dashes), legend=alt.Legend(symbolType="stroke"))
    chart_of = alt.Chart(alt.NamedData(name=ROWS)).transform_filter(f"isValid(datum.{metric})")
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
    return alt.layer(bars, lines, points, data=alt.NamedData(name=ROWS))


def spread(rows: Rows, metric: str) -> tuple[float, float]:
    """The least and the largest value of a metric."""
    values = [row[metric] for row in rows if math.isfinite(row.get(metric, math.nan))]
    return min(values, default=math.nan), max(values, default=math.nan)
