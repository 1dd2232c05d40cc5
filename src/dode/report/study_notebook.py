"""Sensitivity studies in notebooks: as a DataFrame, as a chart, as HTML."""

from __future__ import annotations

from typing import Any

from dode.charts import LIGHT, config, require_altair
from dode.names import unknown_name
from dode.report.study_results import Study

_WIDTH = 560


def to_frame(study: Study) -> Any:
    """See `Study.to_frame`."""
    try:
        import pandas
    except ImportError:
        raise ImportError("data frames need pandas: pip install 'dode[report]'") from None
    return pandas.DataFrame(study.rows())


def plot(study: Study, axis: str) -> Any:
    """See `Study.plot`."""
    from dode.report.page.drawing import finite
    from dode.report.page.study import charts_of

    if axis not in study.results:
        raise unknown_name("axis", axis, study.results)
    alt = require_altair()
    drawn, *_ = charts_of(study, axis)
    look = {**config(LIGHT), "background": LIGHT.paper}
    return alt.Chart.from_dict({**drawn.spec, "datasets": finite(drawn.rows), "width": _WIDTH, "config": look})


def html(study: Study) -> str:
    """See `Study._repr_html_`; without jinja2 the tables that a terminal shows."""
    try:
        from dode.report.page.document import environment

        template = environment().get_template("study-notebook.html")
    except ImportError:
        from dode.notebooks import rich_html
        from dode.report.study_tables import tables

        return "".join(map(rich_html, tables(study)))
    from dode.report.page.study import axes_of

    return template.render(title=study.title, caption=study.caption, cost=study.cost, axes=axes_of(study))
