"""Where runs go, and the numbers that take them there: charts of one solver and budget, or of one cell, which the reader chooses."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from dode.charts import require_altair
from dode.report.page.curves import label, log_axis, method_colour, method_dash, methods
from dode.report.page.drawing import Chart, chart
from dode.report.results import Comparison, Course, Result

# The method's name of the reference in rows.
REFERENCE = "reference"
_TIME = "log-SNR (noise left, image right)"
# A grey that is seen on light and dark.
_MIDDLE = "#8b929c"


def path_charts(comparison: Comparison, example: Result) -> list[Chart]:
    """Error along the path, paths in a plane, times, lambdas and coefficients: those that there is something to draw of.

    Args:
        comparison: what they are of.
        example: the cell that the files show, and the page first.
    """
    run = {"solver": example.cell.solver, "nfe": example.cell.nfe}
    cell = {**run, "method": label(example.cell)}
    along, plane, numbers = _along(comparison), _plane(comparison), _coefficients(comparison)
    lambdas = _lambdas(comparison)
    found = []
    if along:
        found += [_path_error(comparison, along, run), _times(comparison, along, run)]
    if plane:
        found.append(_paths(comparison, plane, run))
    if lambdas:
        found.append(_lambda_chart(comparison, lambdas, {"solver": lambdas[0]["solver"], "nfe": lambdas[0]["nfe"]}))
    if numbers:
        found.append(_heat_map(numbers, cell))
    return found


def _along(comparison: Comparison) -> list[dict[str, Any]]:
    """A row a state: where it is, and how far off."""
    return [
        {**_key(result), "step": k, "log_snr": float(place), "t": float(t), "error": float(error)}
        for result in comparison.measured
        if result.course is not None
        for k, (t, place, error) in enumerate(zip(result.course.t, result.course.log_snr, result.course.errors, strict=True))
    ]


def _plane(comparison: Comparison) -> list[dict[str, Any]]:
    """A row a state of each noise that is followed, those of the reference included."""
    courses: list[tuple[Mapping[str, Any], Course]] = [(_key(r), r.course) for r in comparison.measured if r.course is not None]
    if comparison.reference.course is not None:
        courses.insert(0, ({"solver": "", "nfe": "", "method": REFERENCE}, comparison.reference.course))
    return [
        {**key, "noise": f"noise {m + 1}", "step": k, "x": float(x), "y": float(y)}
        for key, course in courses
        for m, path in enumerate(course.plane)
        for k, (x, y) in enumerate(path)
    ]


def _coefficients(comparison: Comparison) -> list[dict[str, Any]]:
    """A row a coefficient that is not 0."""
    rows = []
    for result in comparison.measured:
        if result.tableau is None:
            continue
        for symbol, matrix in (("x", result.tableau.a), ("D", result.tableau.b)):
            for k, j in zip(*np.nonzero(matrix), strict=True):
                place = int(j) + (0 if symbol == "x" else len(matrix))
                rows.append({**_key(result), "row": int(k), "of": f"{symbol}{j}", "place": place, "value": float(matrix[k, j])})
    return rows


def _lambdas(comparison: Comparison) -> list[dict[str, Any]]:
    """A row a lambda, with two standard errors to both sides."""
    rows = []
    for result in comparison.measured:
        if result.lambdas is None:
            continue
        for k, (value, error) in enumerate(np.asarray(result.lambdas).T):
            low, high = (value - 2 * error, value + 2 * error) if math.isfinite(error) else (value, value)
            rows.append({**_key(result), "step": k + 1, "value": float(value), "low": float(low), "high": float(high)})
    return rows


def _key(result: Result) -> dict[str, Any]:
    return {"solver": result.cell.solver, "nfe": result.cell.nfe, "method": label(result.cell)}


def _path_error(comparison: Comparison, rows: list[dict[str, Any]], example: Mapping[str, Any]) -> Chart:
    alt = require_altair()
    chart_of = alt.Chart(alt.NamedData(name="along")).transform_filter("datum.error > 0")
    x = alt.X("log_snr:Q", title=_TIME, scale=alt.Scale(zero=False, padding=8))
    y = alt.Y(
        "error:Q",
        title="mean square distance",
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=log_axis([row["error"] for row in rows]),
    )
    colour, dash = method_colour(comparison), method_dash(comparison)
    tip = [
        "method:N",
        "step:Q",
        alt.Tooltip("log_snr:Q", format=".3g"),
        alt.Tooltip("t:Q", format=".4g"),
        alt.Tooltip("error:Q", format=".3g"),
    ]
    lines = chart_of.mark_line(strokeWidth=2).encode(x, y, colour, dash, detail="method:N", order="step:Q")
    points = chart_of.mark_point(filled=True, size=45, opacity=1).encode(x, y, colour, tooltip=tip)
    drawing = alt.layer(lines, points).properties(width="container", height=260)
    return chart(
        "path-error",
        drawing,
        "Mean square distance of the states to the reference's along the path, against the log-SNR, of each method at the chosen solver "
        "and budget.",
        caption="How far the states are from the reference's at the same time, the mean of the first noises.",
        rows={"along": rows},
        follows="run",
        example=example,
    )


def _times(comparison: Comparison, rows: list[dict[str, Any]], example: Mapping[str, Any]) -> Chart:
    alt = require_altair()
    x = alt.X("log_snr:Q", title=_TIME, scale=alt.Scale(zero=False, padding=8))
    y = alt.Y(
        "method:N", title=None, sort=methods(comparison), axis=alt.Axis(grid=True, domain=False, ticks=False, labelLimit=130)
    )
    tip = ["method:N", "step:Q", alt.Tooltip("log_snr:Q", format=".4g"), alt.Tooltip("t:Q", format=".5g")]
    points = (
        alt.Chart(alt.NamedData(name="along"))
        .mark_tick(thickness=3, size=22, opacity=1)
        .encode(x, y, method_colour(comparison, legend=False), tooltip=tip)
        .properties(width="container", height=alt.Step(34))
    )
    return chart(
        "times",
        points,
        "The times at which each method stops, on the axis of the log-SNR, at the chosen solver and budget.",
        caption="The times of the states. A distilled tableau may stop elsewhere than its base.",
        rows={"along": rows},
        follows="run",
        example=example,
    )


def _paths(comparison: Comparison, rows: list[dict[str, Any]], example: Mapping[str, Any]) -> Chart:
    alt = require_altair()
    plain = alt.Axis(labels=False, ticks=False, grid=False, domain=False)
    scale = alt.Scale(zero=False, padding=10, nice=False)
    x, y = (
        alt.X("x:Q", title="first direction", axis=plain, scale=scale),
        alt.Y("y:Q", title="second direction", axis=plain, scale=scale),
    )
    every = alt.Chart()
    reference = (
        every.transform_filter(f"datum.method == '{REFERENCE}'")
        .mark_line(strokeWidth=7, opacity=0.4, strokeCap="round", color=_MIDDLE)
        .encode(x, y, order="step:Q")
    )
    others = every.transform_filter(f"datum.method != '{REFERENCE}'")
    lines = others.mark_line(strokeWidth=2).encode(
        x, y, method_colour(comparison), method_dash(comparison), detail="method:N", order="step:Q"
    )
    points = others.mark_point(filled=True, size=36, opacity=1).encode(
        x, y, method_colour(comparison), tooltip=["method:N", "step:Q", "noise:Q"]
    )
    drawing = (
        alt.layer(reference, lines, points, data=alt.NamedData(name="plane"))
        .properties(width=250, height=250)
        .facet(facet=alt.Facet("noise:N", title=None), columns=3)
        .resolve_scale(x="independent", y="independent")
    )
    return chart(
        "paths",
        drawing,
        "The paths of the reference, the base and the distilled solvers from the first noises, each in the plane of the two principal "
        "directions of that noise's reference path.",
        caption=(
            "Wide and grey: the reference. Each panel is one noise, seen in the plane in which the reference's own path varies most; what "
            "leaves that plane is not seen."
        ),
        rows={"plane": rows},
        follows="run",
        example=example,
    )


def _lambda_chart(comparison: Comparison, rows: list[dict[str, Any]], example: Mapping[str, Any]) -> Chart:
    alt = require_altair()
    data = alt.Chart(alt.NamedData(name="lambdas"))
    x = alt.X("step:O", title="step", axis=alt.Axis(labelAngle=0))
    colour = method_colour(comparison, legend=False)
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[2, 3]).encode(y=alt.Y("zero:Q"))
    bars = data.mark_rule(strokeWidth=2).encode(x, alt.Y("low:Q", title="lambda"), alt.Y2("high:Q"), colour)
    points = data.mark_point(filled=True, size=70, opacity=1).encode(
        x, alt.Y("value:Q", title="lambda"), colour, tooltip=["method:N", "step:O", alt.Tooltip("value:Q", format="+.4f")]
    )
    return chart(
        "lambdas",
        alt.layer(zero, bars, points).properties(width="container", height=220),
        "Lambda of each step of the paper's method, with two standard errors to both sides; 0 is the base.",
        caption="The paper's one number a step, with two standard errors to both sides. 0 is the base.",
        rows={"lambdas": rows},
        follows="run",
        example=example,
    )


def _heat_map(rows: list[dict[str, Any]], example: Mapping[str, Any]) -> Chart:
    alt = require_altair()
    # One scale for all cells, so that colours can be compared.
    most = max(abs(row["value"]) for row in rows)
    scale = alt.Scale(type="symlog", constant=0.1, domain=[-most, most], domainMid=0, range="diverging", interpolate="lab")
    marks = [mark for mark in (-10, -1, -0.1, 0, 0.1, 1, 10) if abs(mark) <= most]
    drawing = (
        alt.Chart(alt.NamedData(name="coefficients"))
        .mark_rect()
        .encode(
            alt.X(
                "of:N",
                title="of the states x and the denoised D",
                sort=alt.EncodingSortField("place", op="min"),
                axis=alt.Axis(labelAngle=0, orient="top", domain=False, ticks=False),
            ),
            alt.Y("row:O", title="row", axis=alt.Axis(domain=False, ticks=False)),
            alt.Color(
                "value:Q",
                title="coefficient",
                scale=scale,
                legend=alt.Legend(orient="right", title="coefficient", gradientLength=140, values=marks, format="~g"),
            ),
            tooltip=["row:O", "of:N", alt.Tooltip("value:Q", format="+.5g")],
        )
        .properties(width="container", height=alt.Step(26))
    )
    return chart(
        "coefficients",
        drawing,
        "The coefficients of the chosen cell: a row a network evaluation, a column a state or a denoised sample that it combines.",
        caption="Each row makes the next state from states x and denoised samples D: orange takes away, blue adds.",
        rows={"coefficients": rows},
        follows="cell",
        example=example,
    )
