"""What was measured as a table and as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from measuring import BEST, DISTILLED, MANY, USUAL, Measured
from reaching import Array

from dode.charts import LIGHT, config, require_altair

_ORDER = (USUAL, BEST, DISTILLED)


def rows_of(all_measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row a way. Plus and minus are standard errors over the episodes; "against" is the mean of the differences in the same episodes.

    Args:
        all_measured: many calls first, then in any order, each number of calls with all ways.
    """
    many = all_measured[0]
    usual = {each.way.calls: each for each in all_measured if each.way.name == USUAL}
    rows = []
    for each in all_measured:
        row: dict[str, Any] = {"calls": each.way.calls, "way": each.way.name}
        for name, values in {
            "return": each.returns,
            "against_many_calls": each.returns - many.returns,
            "against_ddim": each.returns - usual[each.way.calls].returns,
        }.items():
            row[name], row[f"{name}_se"] = float(values.mean()), standard_error(values)
        row |= {
            "end_median_mm": 1000 * float(np.median(each.ends)),
            "chunk_error_mrad": 1000 * math.sqrt(each.errors.mean()),
            "chunk_error_median_mrad": 1000 * math.sqrt(np.median(each.errors)),
            "decisions_per_second": each.rate,
            "tableau": f"{each.way.tableau.solver}, {each.way.tableau.grid}, D0 {each.way.tableau.first}",
        }
        rows.append(row)
    return rows


def standard_error(values: Array) -> float:
    """Of the mean of values (n,); nan for a single one."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def as_csv(rows: Sequence[dict[str, Any]]) -> str:
    """All columns, with all digits."""
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def as_markdown(rows: Sequence[dict[str, Any]], expert: Array) -> str:
    """The table for people."""
    lines = [
        f"| calls | way | return | against {MANY} calls | against DDIM | end, mm | chunk error, mrad | decisions a second |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        same = row["way"] == USUAL
        many = row["calls"] == MANY
        cells = [
            str(row["calls"]),
            row["way"],
            _plus_minus(row, "return"),
            "" if many else _plus_minus(row, "against_many_calls"),
            "" if same else _plus_minus(row, "against_ddim"),
            f"{row['end_median_mm']:.1f}",
            f"{row['chunk_error_mrad']:.1f} ({row['chunk_error_median_mrad']:.1f})",
            f"{row['decisions_per_second']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| | the expert | {expert.mean():.2f} ± {standard_error(expert):.2f} | | | | | |")
    return "\n".join(lines) + "\n"


def _plus_minus(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f} ± {row[f'{name}_se']:.2f}"


def picture(rows: Sequence[dict[str, Any]]) -> Any:
    """An altair chart: return and error of chunks against calls, with the return of many calls as a line."""
    alt = require_altair()
    few = [
        {**row, "low": row["return"] - row["return_se"], "high": row["return"] + row["return_se"]}
        for row in rows
        if row["calls"] != MANY
    ]
    many = next(row for row in rows if row["calls"] == MANY)
    calls = alt.X("calls:O", title="network calls a decision", axis=alt.Axis(labelAngle=0))
    colour = alt.Color(
        "way:N", sort=_ORDER, scale=alt.Scale(domain=_ORDER, range=[LIGHT.methods[0], LIGHT.solvers[0], LIGHT.solvers[1]])
    )
    side = alt.XOffset("way:N", sort=_ORDER, scale=alt.Scale(domain=_ORDER))
    base = alt.Chart(alt.Data(values=few)).encode(x=calls, color=colour, xOffset=side)
    returns = alt.Y("return:Q", title="return (higher is better)", scale=alt.Scale(zero=False))
    points = base.mark_point(filled=True, size=70).encode(y=returns)
    bars = base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title="return (higher is better)"), y2="high:Q")
    line = alt.Chart(alt.Data(values=[many])).mark_rule(strokeDash=[5, 4], color=LIGHT.ink).encode(y="return:Q")
    word = (
        alt.Chart(alt.Data(values=[{**many, "word": f"{MANY} calls"}]))
        .mark_text(align="left", baseline="bottom", dx=4, dy=-3, color=LIGHT.ink)
        .encode(y="return:Q", x=alt.value(0), text="word:N")
    )
    error = alt.Y("chunk_error_mrad:Q", title="error of a chunk, mrad", scale=alt.Scale(type="log", nice=False, padding=12))
    errors = base.mark_point(filled=True, size=70).encode(y=error)
    left, right = (alt.layer(*layers).properties(width=300, height=260) for layers in ((line, word, bars, points), (errors,)))
    return alt.hconcat(left, right, spacing=30).configure(**config(LIGHT), padding=12)
