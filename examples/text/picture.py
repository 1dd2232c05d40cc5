"""Tables, and the picture: both measures against the number of calls."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dode.charts import LIGHT, config, require_altair

from .measure import Row, gains, mean_and_error

NAMES = ("plain", "best undistilled", "distilled")
COLUMNS = ("name", "sampler", "calls", "lines", "words", "words_error", "bits", "bits_error")


def records(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows as plain numbers; the share of words is None for real text."""
    found = []
    for row in rows:
        words = (None, None) if row.agreement is None else mean_and_error(row.agreement)
        found.append(
            dict(zip(COLUMNS, (row.name, row.sampler, row.nfe, len(row.lines), *words, *mean_and_error(row.bits)), strict=True))
        )
    return found


def write_csv(rows: Sequence[Row], path: Path) -> None:
    """All numbers, one row a line."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(records(rows))


def table(rows: Sequence[Row]) -> str:
    """The numbers for people, in Markdown."""
    lines = [
        "| | sampler | calls | words as the many-call run | bits a character |",
        "|---|---|---|---|---|",
    ]
    for record in records(rows):
        words = "" if record["words"] is None else f"{_percent(record['words'])} ± {_percent(record['words_error'])}"
        bits = f"{record['bits']:.3f} ± {record['bits_error']:.3f}"
        lines.append(f"| {record['name']} | {record['sampler']} | {record['calls'] or ''} | {words} | {bits} |")
    lines += [
        "",
        "| calls | words: distilled less best undistilled | bits a character: the same |",
        "|---|---|---|",
    ]
    for nfe, words, words_error, bits, bits_error in gains(rows):
        lines.append(f"| {nfe} | {_points(words)} ± {_points(words_error)[1:]} points | {bits:+.3f} ± {bits_error:.3f} |")
    return "\n".join(lines) + "\n"


def side_by_side(rows: Sequence[Row], nfe: int, count: int) -> str:
    """The first lines of every sampler with so many calls beside the many-call run's, in Markdown."""
    shown = [row for row in rows if row.nfe == nfe and row.name in NAMES]
    many = next(row for row in rows if row.name == "many calls")
    columns = [*shown, many]
    lines = [
        "| " + " | ".join(f"{row.name}, {row.nfe} calls" if row is not many else f"{row.nfe} calls" for row in columns) + " |",
        "|" + "---|" * len(columns),
    ]
    for i in range(min(count, len(many.lines))):
        lines.append("| " + " | ".join(row.lines[i] for row in columns) + " |")
    return "\n".join(lines) + "\n"


def picture(found: Sequence[Mapping[str, Any]]) -> Any:
    """The chart: on the left the share of words that are the many-call run's, on the right bits a character; bars are two standard errors.

    Args:
        found: from `records`.

    Raises:
        ImportError: altair is not there; the extra is named.
    """
    alt = require_altair()
    points = [record for record in found if record["name"] in NAMES]
    calls = alt.X(
        "calls:O", title="network calls (NFE)", axis=alt.Axis(labelAngle=0, grid=False), scale=alt.Scale(paddingInner=0.5)
    )
    # Side by side, so that one error bar does not hide another.
    beside = alt.XOffset("name:N", sort=list(NAMES), scale=alt.Scale(paddingInner=0.2))
    colour = alt.Color(
        "name:N",
        scale=alt.Scale(domain=list(NAMES), range=list(LIGHT.methods[:3])),
        legend=alt.Legend(symbolType="circle", symbolSize=80),
    )

    def panel(field: str, title: str, rules: Sequence[tuple[str, float]], side: str, form: str) -> Any:
        values = [
            {**each, "low": each[field] - 2 * each[f"{field}_error"], "high": each[field] + 2 * each[f"{field}_error"]}
            for each in points
        ]
        base = alt.Chart(alt.Data(values=values), width=290, height=260, title=title).encode(calls, beside, colour)
        height = alt.Y(f"{field}:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(format=form))
        dots = base.mark_point(filled=True, size=70, opacity=1).encode(height)
        bars = base.mark_rule(strokeWidth=1.5).encode(alt.Y("low:Q"), alt.Y2("high:Q"))
        marks = alt.Chart(alt.Data(values=[{"what": what, "at": at} for what, at in rules]))
        levels = marks.mark_rule(strokeDash=[4, 4]).encode(y="at:Q")
        words = marks.mark_text(align="left", baseline=side, dx=4, dy=4 if side == "top" else -2, color=LIGHT.ink).encode(
            y="at:Q", x=alt.value(0), text="what:N"
        )
        return levels + words + bars + dots

    by_name = {each["name"]: each for each in found}
    many, again, real = (by_name[name] for name in ("many calls", "many calls, again", "real text"))
    left = panel(
        "words", "words as the many-call run", [(f"another solver, {again['calls']} calls", again["words"])], "top", ".0%"
    )
    right = panel(
        "bits",
        "bits a character of the n-gram judge",
        [(f"{many['calls']} calls", many["bits"]), ("real text", real["bits"])],
        "bottom",
        ".2f",
    )
    return (left | right).configure(**{**config(LIGHT), "background": LIGHT.paper})


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _points(share: float) -> str:
    return f"{100 * share:+.1f}"
