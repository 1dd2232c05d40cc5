"""A chart once described, in three forms: drawn by vega in the page, as SVG and as PNG.

The page holds each set of rows once, by name, and not in every chart that shows it; which of them a chart shows may follow what the
reader chose.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dode.charts import LIGHT, config

Rows = Sequence[Mapping[str, Any]]

# Pixels of a PNG for one of the chart's.
_SCALE = 2.0
# Of a chart in a file that takes the page's width in the page.
_WIDTH = 640
_DIGITS = 5


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        name: its id in the page and the name of its files: letters, digits and dashes.
        spec: Vega-Lite, without its rows.
        rows: of each named set of rows that the spec uses.
        alt: a sentence for those who do not see it: what it shows, and what it says.
        caption: under it; "" for none.
        follows: which rows are shown in the page. "": all; "shown": those of the solvers and methods that are ticked; "run": those of
            the solver and budget chosen for the paths; "cell": those of the method chosen there too. A row that lacks a field, or has
            "" there, is always shown.
        example: the fields of the rows that the files show; empty for all.
        files: whether it is written as SVG and PNG too.
    """

    name: str
    spec: Mapping[str, Any]
    rows: Mapping[str, Rows]
    alt: str
    caption: str = ""
    follows: str = ""
    example: Mapping[str, Any] = field(default_factory=dict)
    files: bool = True


def chart(
    name: str,
    drawing: Any,
    alt: str,
    *,
    caption: str = "",
    rows: Mapping[str, Rows] | None = None,
    follows: str = "",
    example: Mapping[str, Any] | None = None,
    files: bool = True,
) -> Chart:
    """The chart of an altair drawing.

    Args:
        drawing: what altair made; its rows are its own (a DataFrame, `alt.Data(values=...)`) or named (`alt.NamedData`).
        rows: of the names that it uses.
        name, alt, caption, follows, example, files: as in `Chart`.
    """
    spec = drawing.to_dict(validate=False)
    own = spec.pop("datasets", {})
    spec.pop("config", None)
    return Chart(name, {**spec, "description": alt}, {**own, **(rows or {})}, alt, caption, follows, example or {}, files)


def pictures(chart: Chart) -> dict[str, bytes]:
    """SVG and PNG of a chart in light colours, by file name.

    Raises:
        ImportError: vl-convert is not installed.
    """
    import vl_convert

    look = {**config(LIGHT), "background": LIGHT.paper, "padding": 12}
    shown = {name: [row for row in rows if matches(row, chart.example)] for name, rows in chart.rows.items()}
    spec = {**chart.spec, "datasets": shown, "config": look}
    if spec.get("width") == "container":  # which is the page's
        spec["width"] = _WIDTH
    svg = vl_convert.vegalite_to_svg(json.dumps(finite(spec)))
    return {f"{chart.name}.svg": svg.encode(), f"{chart.name}.png": vl_convert.svg_to_png(svg, scale=_SCALE)}


def matches(row: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether a row has the wanted fields; what it lacks, or has as "", matches all."""
    return all(row.get(name, "") in ("", value) for name, value in wanted.items())


def packed(rows: Rows) -> dict[str, Any]:
    """Rows by column, words by their place in a list of them: what the page unpacks."""
    columns: dict[str, Any] = {}
    for name in dict.fromkeys(key for row in rows for key in row):
        values = [row.get(name) for row in rows]
        if any(isinstance(value, str) for value in values):
            words = list(dict.fromkeys(values))
            place = {word: i for i, word in enumerate(words)}
            columns[name] = {"of": words, "at": [place[value] for value in values]}
        else:
            columns[name] = [finite(value) for value in values]
    return {"length": len(rows), "columns": columns}


def finite(value: Any) -> Any:
    """What JSON has: null for what is not finite, and five digits of what is not whole."""
    if isinstance(value, float):
        return (float(f"{value:.{_DIGITS}g}") if value else 0.0) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: finite(each) for key, each in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [finite(each) for each in value]
    return value
