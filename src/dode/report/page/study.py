"""The section of a sensitivity study: for each axis a question, its answer, a chart of the error along it, and a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dode.charts import require_altair
from dode.report.axes import AXES, Axis
from dode.report.outcomes import NAMES, Outcome, lambda_rows
from dode.report.page.drawing import Chart, chart
from dode.report.page.tables import Table
from dode.report.study_results import Study
from dode.report.study_tables import axis_table, over_seeds

BASE = "base"
# An error bar ends there at the latest, as a share of the error: a logarithmic axis has no zero.
_LOWEST = 0.1
_HEIGHT = 300
_ERROR = "mean square distance to the reference"


def section(study: Study) -> tuple[dict[str, Any], list[Chart]]:
    """What `study.html` is filled with, and the charts that it shows."""
    axes = axes_of(study)
    charts = {name: charts_of(study, name) for name in study.results}
    context = {
        "setting": study.setting,
        "solver": study.solver,
        "caption": study.caption,
        "reference": study.reference,
        "reference_error": f"{study.reference_error:.1e}",
        "cost": study.cost,
        "axes": [{**axis, "charts": charts.get(axis["name"], [])} for axis in axes],
    }
    return context, [chart for own in charts.values() for chart in own]


def axes_of(study: Study) -> list[dict[str, Any]]:
    """Of each axis its question with the answer and the tables, or why it was skipped."""
    answers = study.answers
    found: list[dict[str, Any]] = []
    for name, axis in AXES.items():
        about = {"name": name, "question": axis.question, "label": axis.label, "skipped": study.skipped.get(name, "")}
        if name in study.results:
            found.append({**about, "answer": _sentence(answers[name]), "tables": tables_of(study, name)})
        elif about["skipped"]:
            found.append(about)
    return found


def tables_of(study: Study, name: str) -> list[Table]:
    """The table of an axis; of the seeds also what is over all of them."""
    found = [axis_table(AXES[name], study.results[name])]
    return [*found, over_seeds(study.results[name])] if name == "seeds" else found


def charts_of(study: Study, name: str) -> list[Chart]:
    """The chart of an axis; of the seeds also that of the lambdas."""
    axis, outcomes = AXES[name], study.results[name]
    found = [error_chart(axis, points(outcomes), study.title, study.answers[name])]
    rows = lambda_rows(outcomes) if name == "seeds" else []
    return [*found, lambda_chart(rows, study.title)] if rows else found


def points(outcomes: Iterable[Outcome]) -> list[dict[str, Any]]:
    """What is drawn, a row a mark: of each case its error with its standard error, of several fits each one's error, and the base's."""
    rows: list[dict[str, Any]] = []
    bases: dict[float | str, float] = {}
    for each in outcomes:
        if each.skipped:
            continue
        where = {"value": each.case.value, "method": NAMES[each.case.method], "series": each.case.series}
        gain, doubt = each.gain
        numbers = {"error": each.error, "standard_error": each.standard_error, "of_base": gain, "of_base_error": doubt}
        rows.append({"kind": "mean", **where, **numbers})
        if len(each.errors) > 1:
            seeds = [fit.seed for fit in each.case.fits]
            rows += [{"kind": "fit", **where, "error": float(e.mean()), "seed": seed} for e, seed in zip(each.errors, seeds)]
        bases[each.case.value] = float(each.base.mean())
    return rows + [{"kind": BASE, "value": at, "method": BASE, "series": "", "error": error} for at, error in bases.items()]


def error_chart(axis: Axis, rows: Sequence[Mapping[str, Any]], title: str, answer: str) -> Chart:
    """The error against the axis's value: both methods with standard errors, single fits as faint points, the base dashed.

    Args:
        axis: what is varied.
        rows: as `points`.
        title: what was studied.
        answer: what the chart says.
    """
    name = f"study-{axis.name}"
    alt = require_altair()
    own = [{**row, **_bar(row)} for row in rows]
    draw = _draw_ordered if axis.scale != "points" else _draw_points
    drawing = draw(axis, own, alt.Chart(alt.NamedData(name=name))).properties(width="container", height=_HEIGHT)
    words = f"Error of both methods and of the base against {axis.label}. {_sentence(answer)}"
    return chart(name, drawing, words, caption=f"{title}. A click on a method in the legend shows it alone.", rows={name: own})


def lambda_chart(rows: Sequence[tuple[float, float]], title: str) -> Chart:
    """Each step's lambda, mean and standard deviation (K rows) over seeds."""
    alt = require_altair()
    name = "study-seeds-lambda"
    own = [
        {"step": k + 1, "lambda": mean, "deviation": sd, "low": mean - sd, "high": mean + sd}
        for k, (mean, sd) in enumerate(rows)
    ]
    scale = alt.Scale(domain=[BASE, *NAMES.values()], range="ordinal")
    encoded = (
        alt.Chart(alt.NamedData(name=name))
        .transform_calculate(method=f"'{NAMES['lambda']}'")
        .encode(alt.X("step:O", axis=alt.Axis(labelAngle=0)), alt.Color("method:N", scale=scale, legend=None))
    )
    label = "lambda, ± standard deviation"
    told = [_told("step:O"), _told("lambda:Q", "", "+.4f"), _told("deviation:Q", "standard deviation", ".4f")]
    drawing = alt.layer(
        encoded.mark_rule(strokeWidth=2).encode(alt.Y("low:Q", title=label), alt.Y2("high:Q")),
        encoded.mark_point(size=60, filled=True, opacity=1).encode(alt.Y("lambda:Q", title=label), tooltip=told),
    ).properties(width="container", height=_HEIGHT)
    most = max(range(len(rows)), key=lambda k: rows[k][1])
    words = f"Lambda of each step, mean and standard deviation over seeds, the largest {rows[most][1]:.3f} at step {most + 1}."
    return chart(name, drawing, words, caption=f"{title}. Lambda alone: each step's number over the seeds.", rows={name: own})


def _draw_ordered(axis: Axis, rows: Sequence[Mapping[str, Any]], data: Any) -> Any:
    """Lines over numbers."""
    alt = require_altair()
    values = sorted({row["value"] for row in rows})
    scale = alt.Scale(type=axis.scale, nice=False, domain=_domain(axis, values))
    x = alt.X("value:Q", title=axis.label, scale=scale, axis=alt.Axis(values=values, grid=False, format="~g"))
    series = list(dict.fromkeys(row["series"] for row in rows if row["kind"] != BASE))
    dashes = alt.Scale(domain=series, range=[[1, 0], [2, 4]])
    legend = alt.Legend(symbolType="stroke", orient="bottom") if len(series) > 1 else None
    dash = alt.StrokeDash("series:N", scale=dashes, legend=legend)
    picked, encoded, told = _encoded(axis, data.encode(x))
    means, fits, bases = _kinds(encoded)
    return alt.layer(
        means.mark_rule(strokeWidth=1.5).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        bases.mark_line(strokeWidth=1.5, strokeDash=[6, 4]),
        means.mark_line(strokeWidth=2).encode(dash, detail="series:N"),
        *([fits.mark_point(size=18, filled=True).encode(tooltip=told["fit"])] if _several(rows) else []),
        bases.mark_point(size=24, filled=True).encode(tooltip=told[BASE]),
        means.mark_point(size=60, filled=True).encode(tooltip=told["mean"]),
    ).add_params(picked)


def _draw_points(axis: Axis, rows: Sequence[Mapping[str, Any]], data: Any) -> Any:
    """Points side by side over values without an order."""
    alt = require_altair()
    values = list(dict.fromkeys(row["value"] for row in rows))
    words = alt.Axis(labelAngle=0, labelExpr="split(datum.label, ' ')")  # a line a word
    picked, encoded, told = _encoded(axis, data.encode(alt.X("value:O", title=axis.label, sort=values, axis=words)))
    means, fits, bases = _kinds(encoded)
    beside = alt.XOffset("method:N", sort=list(NAMES.values()))
    means, fits = means.encode(beside), fits.encode(beside)
    return alt.layer(
        means.mark_rule(strokeWidth=1.5).encode(alt.Y("low:Q"), alt.Y2("high:Q")),
        *([fits.mark_point(size=18, filled=True).encode(tooltip=told["fit"])] if _several(rows) else []),
        bases.mark_tick(thickness=2).encode(tooltip=told[BASE]),
        means.mark_point(size=60, filled=True).encode(tooltip=told["mean"]),
    ).add_params(picked)


def _encoded(axis: Axis, data: Any) -> tuple[Any, Any, dict[str, list[Any]]]:
    """The choice of a method in the legend, what all marks have in common, and what each kind tells."""
    alt = require_altair()
    methods = [BASE, *NAMES.values()]
    picked = alt.selection_point(fields=["method"], bind="legend")
    encoded = data.encode(
        alt.Y(
            "error:Q",
            title=_ERROR,
            scale=alt.Scale(type="log", nice=False, padding=12),
            axis=alt.Axis(format="~g", tickCount=5),
        ),
        alt.Color("method:N", scale=alt.Scale(domain=methods, range="ordinal"), legend=alt.Legend(symbolSize=80)),
        opacity=alt.condition(picked, alt.value(1.0), alt.value(0.12)),
    )
    where = [_told("method:N"), _told("series:N"), _told("value:N", axis.label)]
    error = _told("error:Q", "", ".3e")
    mean = [error, _told("standard_error:Q", "standard error", ".1e"), _told("of_base:Q", "of base", ".3f")]
    return (
        picked,
        encoded,
        {"mean": [*where, *mean], "fit": [*where, _told("seed:N"), error], BASE: [where[0], where[2], error]},
    )


def _several(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether any case has several fits."""
    return any(row["kind"] == "fit" for row in rows)


def _kinds(encoded: Any) -> Iterable[Any]:
    return (encoded.transform_filter(f"datum.kind == '{kind}'") for kind in ("mean", "fit", BASE))


def _told(field: str, title: str = "", form: str = "") -> Any:
    alt = require_altair()
    return alt.Tooltip(field, title=title or field.split(":")[0], format=form or alt.Undefined)


def _domain(axis: Axis, values: Sequence[float]) -> list[float]:
    """The values with some room at both ends."""
    if not values:
        return [1.0, 2.0]
    low, high = values[0], values[-1]
    if axis.scale == "log":
        return [low / 1.15, high * 1.15]
    room = 0.04 * (high - low) or 1.0
    return [low - room, high + room]


def _bar(row: Mapping[str, Any]) -> dict[str, float]:
    if "standard_error" not in row:
        return {}
    error, doubt = row["error"], row["standard_error"]
    return {"low": max(error - doubt, _LOWEST * error), "high": error + doubt}


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
