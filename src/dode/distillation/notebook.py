"""Distilled solvers in notebooks: as a table of their rows, as a plot of the way, as HTML."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np

from dode import statistics
from dode.charts import LIGHT, config, require_altair
from dode.notebooks import folded, log_snr, rich_html, tableau_html

if TYPE_CHECKING:
    from dode.distillation.result import Distilled


def to_frame(results: Iterable[Distilled]) -> Any:
    """A pandas DataFrame with a row a state of base and of distilled: solver, nfe, method, step, t, log_snr, and over the samples the mean
    error, its median, and the ends of the mean's 90 % interval at the end point (nan elsewhere).

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas
    except ImportError:
        raise ImportError("data frames need pandas: pip install 'dode[report]'") from None
    return pandas.DataFrame(_rows(results))


def plot_way(result: Distilled) -> Any:
    """An altair chart: mean error along the way of base and distilled against the log-SNR."""
    alt = require_altair()
    rows = [row for row in _rows([result]) if row["error"] > 0]
    x = alt.X("log_snr:Q", title="log-SNR (noise left, image right)", scale=alt.Scale(zero=False, padding=8))
    return _drawn(rows, x, f"{result.tableau.solver}, NFE {result.tableau.nfe}", "step:Q")


def plot_budgets(results: Iterable[Distilled]) -> Any:
    """An altair chart: mean error of the end point of base and distilled against NFE, with 90 % intervals."""
    alt = require_altair()
    rows = [row for row in _rows(results) if row["last"] and row["error"] > 0]
    budgets = sorted({row["nfe"] for row in rows})
    x = alt.X(
        "nfe:Q",
        title="network evaluations (NFE)",
        scale=alt.Scale(type="log", nice=False, padding=12),
        axis=alt.Axis(values=budgets),
    )
    return _drawn(rows, x, rows[0]["solver"] if rows else "", "nfe:Q")


def html(result: Distilled) -> str:
    """Its summary, with the tableau on demand."""
    return rich_html(result.summary()) + folded("the tableau", tableau_html(result.tableau))


def _rows(results: Iterable[Distilled]) -> list[dict[str, Any]]:
    rows = []
    for result in results:
        shown = result.held_out or result.fitting
        for method, tableau, errors in (("base", result.base, shown.base), ("distilled", result.tableau, shown.distilled)):
            places = np.clip(log_snr(tableau)[1:], -50, 50)
            for k, (t, place, row) in enumerate(zip(tableau.times[1:], places, errors, strict=True)):
                last = k == len(errors) - 1
                mean = statistics.mean(row) if last else statistics.Figure(float(row.mean()), np.nan, np.nan)
                rows.append(
                    {
                        "solver": tableau.solver,
                        "nfe": result.tableau.nfe,
                        "method": method,
                        "step": k + 1,
                        "t": float(t),
                        "log_snr": float(place),
                        "error": mean.value,
                        "low": mean.low,
                        "high": mean.high,
                        "median": float(np.median(row)),
                        "last": last,
                    }
                )
    return rows


def _drawn(rows: list[dict[str, Any]], x: Any, title: str, order: str) -> Any:
    alt = require_altair()
    scale = alt.Scale(type="log", nice=False, padding=8)
    y = alt.Y("error:Q", title="mean square distance to the reference", scale=scale, axis=alt.Axis(format="~g"))
    colours = alt.Scale(domain=["base", "distilled"], range=[LIGHT.methods[0], LIGHT.solvers[0]])
    colour = alt.Color("method:N", scale=colours)
    dash = alt.StrokeDash("method:N", scale=alt.Scale(domain=["base", "distilled"], range=[[5, 4], [1, 0]]))
    tip = ["method:N", "nfe:Q", "step:Q", alt.Tooltip("t:Q", format=".5g"), alt.Tooltip("error:Q", format=".3g")]
    data = alt.Chart()
    lines = data.mark_line(strokeWidth=2).encode(x, y, colour, dash, order=order)
    points = data.mark_point(filled=True, size=45, opacity=1).encode(x, y, colour, tooltip=tip)
    bars = (
        data.transform_filter("isValid(datum.low)")
        .mark_rule(opacity=0.45)
        .encode(x, alt.Y("low:Q", scale=scale), alt.Y2("high:Q"), colour)
    )
    drawing = alt.layer(bars, lines, points, data=alt.Data(values=_known(rows))).properties(width=480, height=280, title=title)
    return drawing.configure(**config(LIGHT))


def _known(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """None in place of what is not finite, which JSON does not have."""
    return [{key: None if isinstance(v, float) and not np.isfinite(v) else v for key, v in row.items()} for row in rows]
