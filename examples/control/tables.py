"""What was measured as a table and as a picture."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dode.charts import LIGHT, config, require_altair
from examples.control.measuring import BEST, DISTILLED, MANY, USUAL, Measured
from examples.control.reaching import Array

_ORDER = (USUAL, BEST, DISTILLED)


def rows_of(all_measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """A row a way. Plus and minus are standard errors over the episodes; "against" is the mean of the differences in the same episodes.

    Args:
        all_measured: many calls first, then in any order, each number of calls with all ways.
    """
    many = all_measured[0]
    at = {(each.way.calls, each.way.name): each for each in all_measured}
    rows = []
    for each in all_measured:
        row: dict[str, Any] = {"calls": each.way.calls, "way": each.way.name}
        for name, values in {
            "return": each.returns,
            "against_many_calls": each.returns - many.returns,
            "against_ddim": each.returns - at[each.way.calls, USUAL].returns,
            "against_best": each.returns - at.get((each.way.calls, BEST), each).returns,
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
    columns = ["calls", "way", "return", f"against {MANY} calls", "against DDIM", "against the best undistilled"]
    columns += ["end, mm", "chunk error, mrad", "decisions a second"]
    lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
    for row in rows:
        way = row["way"]
        cells = [
            str(row["calls"]),
            way,
            _plus_minus(row, "return"),
            "" if row["calls"] == MANY else _plus_minus(row, "against_many_calls"),
            "" if way == USUAL else _plus_minus(row, "against_ddim"),
            _plus_minus(row, "against_best") if way == DISTILLED else "",
            f"{row['end_median_mm']:.1f}",
            f"{row['chunk_error_mrad']:.1f} ({row['chunk_error_median_mrad']:.1f})",
            f"{row['decisions_per_second']:.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append(f"| | the expert | {expert.mean():.2f} ± {standard_error(expert):.2f} | | | | | | |")
    return "\n".join(lines) + "\n"


def _plus_minus(row: dict[str, Any], name: str) -> str:
    return f"{row[name]:.2f} ± {row[f'{name}_se']:.2f}"


def picture(rows: Sequence[dict[str, Any]]) -> Any:
    """An altair chart of the table: what the return loses against many calls, one standard error each way, and the error of chunks."""
    alt = require_altair()
    few = [{**row, "low": _lost(row, -1), "high": _lost(row, 1)} for row in rows if row["calls"] != MANY]
    ways = alt.Scale(domain=_ORDER, range=[LIGHT.methods[0], LIGHT.solvers[0], LIGHT.solvers[1]])
    base = alt.Chart(alt.Data(values=few)).encode(
        x=alt.X("calls:O", title="network calls a decision", axis=alt.Axis(labelAngle=0)),
        xOffset=alt.XOffset("way:N", sort=_ORDER, scale=alt.Scale(domain=_ORDER)),
        color=alt.Color("way:N", sort=_ORDER, scale=ways),
    )
    dots = base.mark_point(filled=True, size=70, opacity=1)
    title = f"return minus that of {MANY} calls"
    returns = alt.layer(
        alt.Chart(alt.Data(values=[{"level": 0}])).mark_rule(strokeDash=[5, 4], color=LIGHT.ink).encode(y="level:Q"),
        base.mark_rule(strokeWidth=2).encode(y=alt.Y("low:Q", title=title), y2="high:Q"),
        dots.encode(y=alt.Y("against_many_calls:Q", title=title)),
    )
    scale = alt.Scale(type="log", nice=False, padding=12)
    errors = dots.encode(y=alt.Y("chunk_error_mrad:Q", title="error of a chunk, mrad", scale=scale))
    return alt.hconcat(*(part.properties(width=300, height=260) for part in (returns, errors)), spacing=30).configure(
        **config(LIGHT) | {"background": LIGHT.paper}, padding=12
    )


def _lost(row: dict[str, Any], side: int) -> float:
    """An end of the bar of one standard error."""
    return row["against_many_calls"] + side * row["against_many_calls_se"]
