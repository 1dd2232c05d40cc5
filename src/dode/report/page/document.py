"""The page's text: templates filled, with styles, scripts and data inside one file that may ask nobody for anything."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dode.charts import DARK, LIGHT, config, require_altair
from dode.report.page.drawing import Chart, finite, packed
from dode.report.results import Comparison

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = "templates"


def render(comparison: Comparison | None, study: Any = None) -> tuple[str, list[Chart]]:
    """The page and the charts that it shows.

    Raises:
        ImportError: the extra `report` is not installed.
    """
    require_altair()
    context: dict[str, Any] = {"comparison": None, "study": None}
    charts: list[Chart] = []
    data: dict[str, Any] = {}
    if comparison is not None:
        from dode.report.page.sections import sections

        context["comparison"], mine, data = sections(comparison)
        charts += mine
    if study is not None:
        from dode.report.page.study import section

        context["study"], its = section(study)
        charts += its
    scripts = [_bundle(), _asset("page.js")]
    page = environment().get_template("page.html")
    text = page.render(
        **context,
        charts={chart.name: chart for chart in charts},
        style=_asset("page.css"),
        scripts=scripts,
        policy=_policy(scripts),
        data=embedded({**data, **chart_data(charts)}),
    )
    return text, charts


@cache
def environment() -> Environment:
    """Of the templates; everything that is filled in is escaped.

    Raises:
        ImportError: jinja2 is not installed.
    """
    try:
        from jinja2 import Environment, PackageLoader, StrictUndefined
    except ImportError:
        raise ImportError("the page needs jinja2: pip install 'dode[report]'") from None
    return Environment(
        loader=PackageLoader("dode.report.page", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def chart_data(charts: Sequence[Chart]) -> dict[str, Any]:
    """What the page draws charts from: each set of rows once, by a name of its content."""
    rows: dict[str, Any] = {}
    names: dict[int, str] = {}
    found: dict[str, Any] = {}
    for chart in charts:
        own = {}
        for name, content in chart.rows.items():
            if id(content) not in names:
                text = packed(content)
                names[id(content)] = hashlib.sha256(json.dumps(text).encode()).hexdigest()[:12]
                rows[names[id(content)]] = text
            own[name] = names[id(content)]
        found[chart.name] = {"spec": finite(chart.spec), "rows": own, "follows": chart.follows}
    looks = {"light": config(LIGHT), "dark": config(DARK)}
    return {"charts": found, "rows": rows, "looks": looks}


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that ends no script element, whatever is in it."""
    from markupsafe import Markup

    text = json.dumps(data, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


@cache
def _bundle() -> str:
    """vega, vega-lite and vega-embed as one script.

    Raises:
        ImportError: vl-convert is not installed.
    """
    try:
        import vl_convert
    except ImportError:
        raise ImportError("the page needs vl-convert-python: pip install 'dode[report]'") from None
    from markupsafe import Markup

    # In a scope of its own: it has hundreds of names of one letter.
    text = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # the whole of it is the default
    safe = text.replace("</script", "<\\/script")
    return Markup(f"(() => {{\n{safe}\n}})();")


@cache
def _asset(name: str) -> str:
    from markupsafe import Markup

    return Markup((files("dode.report.page") / _TEMPLATES / name).read_text(encoding="utf-8"))


def _policy(scripts: Sequence[str]) -> str:
    """No request to anywhere; of scripts those that are written into the page, and no other that a name may bring along."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'" for text in scripts)
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; form-action 'none'"
