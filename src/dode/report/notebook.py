"""Comparisons in notebooks: as a DataFrame, as a chart, as HTML."""

from __future__ import annotations

from typing import Any

from dode.charts import LIGHT, config
from dode.names import unknown_name
from dode.report.files import rows
from dode.report.results import Comparison


def to_frame(comparison: Comparison) -> Any:
    """See `Comparison.to_frame`."""
    try:
        import pandas
    except ImportError:
        raise ImportError("data frames need pandas: pip install 'dode[report]'") from None
    return pandas.DataFrame(rows(comparison))


def plot(comparison: Comparison, metric: str) -> Any:
    """See `Comparison.plot`."""
    from dode.charts import require_altair
    from dode.report.page.curves import cell_rows, panels
    from dode.report.page.drawing import finite

    if metric not in comparison.metrics:
        raise unknown_name("metric", metric, comparison.metrics)
    alt = require_altair()
    data = alt.Data(values=finite(cell_rows(comparison)))
    return panels(comparison, metric, data).configure(**config(LIGHT))


def html(comparison: Comparison) -> str:
    """See `Comparison._repr_html_`; without jinja2 the table that a terminal shows."""
    from dode.notebooks import rich_html
    from dode.report.files import tables

    try:
        from dode.report.page.document import environment

        template = environment().get_template("notebook.html")
    except ImportError:
        return "".join(map(rich_html, tables(comparison)))
    from dode.report.page.evidence import Evidence
    from dode.report.page.tables import results_table
    from dode.report.page.words import summary

    return template.render(setting=comparison.setting, summary=summary(Evidence(comparison)), results=results_table(comparison))
