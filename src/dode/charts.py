"""What all charts have in common: the library that draws them, colours that colour-blind readers can tell apart, light and dark.

Colours have a contrast of 3 to 1 at least with their background. The place in a palette carries the meaning: the first of the methods'
is grey, for what is undistilled.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class Look(NamedTuple):
    """Colours of a theme.

    Attributes:
        paper, ink, faint: of the background, of words, of lines behind the data.
        solvers, methods: palettes, in the order in which solvers and methods come; the first of the methods is the base.
        diverging: of a heat map, from negative to positive.
    """

    paper: str
    ink: str
    faint: str
    solvers: tuple[str, ...]
    methods: tuple[str, ...]
    diverging: tuple[str, str, str]


LIGHT = Look(
    paper="#ffffff",
    ink="#3d434b",
    faint="#e4e6ea",
    solvers=("#0b6fb8", "#c8500a", "#00805f", "#b0489a", "#7a6a00", "#5a4fcf", "#a3293b", "#4a6572", "#2d8a9a", "#8a5a2b"),
    methods=("#6f7782", "#c8500a", "#2a93c9", "#1565c0", "#5b2ca0", "#00805f", "#a3293b", "#7a6a00", "#b0489a", "#4a6572"),
    diverging=("#b4470d", "#f6f6f4", "#0b5fa5"),
)
DARK = Look(
    paper="#16191d",
    ink="#c9ced6",
    faint="#30363d",
    solvers=("#5cb3f2", "#ff9a5c", "#3fc9a2", "#ec96d6", "#d8c64a", "#a9a2ff", "#ff8b98", "#a3bdc9", "#66cfe0", "#d9aa77"),
    methods=("#9aa3ae", "#ff9a5c", "#7fd0f5", "#5aa2ff", "#c39bff", "#3fc9a2", "#ff8b98", "#d8c64a", "#ec96d6", "#a3bdc9"),
    diverging=("#ff9a5c", "#22272d", "#5cb3f2"),
)


def require_altair() -> Any:
    """The altair module.

    Raises:
        ImportError: it is not installed; the extra is named.
    """
    try:
        import altair
    except ImportError:
        raise ImportError("plots need altair: pip install 'dode[report]'") from None
    return altair


def config(look: Look) -> Mapping[str, Any]:
    """The configuration of Vega-Lite for a theme. Its range "category" has the solvers' colours, "ordinal" the methods'."""
    words = {"labelColor": look.ink, "titleColor": look.ink}
    fonts = {"labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "background": "transparent",
        "font": "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
        "view": {"stroke": None},
        "axis": {**words, **fonts, "gridColor": look.faint, "domainColor": look.faint, "tickColor": look.faint},
        "legend": {
            **words,
            **fonts,
            "orient": "top",
            "title": None,
            "symbolStrokeWidth": 2,
            "symbolSize": 300,
            "symbolOpacity": 1,
        },
        "header": {**words, "labelFontSize": 13, "labelFontWeight": "bold", "titleFontSize": 12},
        "title": {"color": look.ink, "fontSize": 14, "anchor": "start"},
        "text": {"color": look.ink},
        "rule": {"color": look.ink},
        "range": {
            "category": list(look.solvers),
            "ordinal": list(look.methods),
            "diverging": list(look.diverging),
            "heatmap": list(look.diverging),
        },
    }
