"""What trainings with added images come to: figures for each kind of addition, as a table, and a chart."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dode.charts import LIGHT, config, require_altair

# Kinds of additions: the names of the samplers are in `image_samplers`.
PHOTOGRAPHS, MORE, MANY = "photographs alone", "more photographs", "many calls"


class Trained(NamedTuple):
    """One training: what was added to the photographs, the seed, and what came of it.

    `distance` is the samples' mean square distance to those with many calls, `seen` the share of them that the bundled classifier sees as
    their class; nan where there are none.
    """

    added: str
    calls: str
    seed: int
    images: int
    accuracy: float
    distance: float = float("nan")
    seen: float = float("nan")


def write_csv(path: Path, found: Sequence[Trained]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(Trained._fields)
        writer.writerows(found)


def markdown(found: Sequence[Trained]) -> str:
    """Mean and standard deviation over the seeds, and the difference from samples with many calls, seed by seed."""
    by_kind: dict[str, list[Trained]] = {}
    for each in found:
        by_kind.setdefault(each.added, []).append(each)
    far = _column(by_kind[MANY], lambda each: each.accuracy)
    lines = [
        "| added | calls | images | accuracy, mean ± s.d. | each seed | below many calls, mean ± s.e. | distance | seen as wanted |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind, each in by_kind.items():
        scores = _column(each, lambda one: one.accuracy)
        less = "" if kind == MANY else _spread(far - scores, len(scores) ** 0.5)
        samples = [f"{_column(each, value).mean():{form}}" for value, form in _SAMPLES.values()]
        cells = [kind, each[0].calls, str(each[0].images), _spread(scores), ", ".join(f"{s:.1%}" for s in scores), less]
        cells += samples if np.isfinite(each[0].distance) else ["", ""]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


_SAMPLES: Mapping[str, tuple[Callable[[Trained], float], str]] = {
    "distance": (lambda one: one.distance, ".2g"),
    "seen": (lambda one: one.seen, ".0%"),
}


def chart(found: Sequence[Trained]) -> Any:
    """A point for each seed, a bar at the mean, a line for each kind of training."""
    alt = require_altair()
    kinds = list(dict.fromkeys(each.added for each in found))
    data = alt.Data(values=[{"added": each.added, "accuracy": each.accuracy} for each in found])
    rows = alt.Y("added:N", sort=kinds, title=None, axis=alt.Axis(labelLimit=200))
    along = alt.X(
        "accuracy:Q", title="accuracy on the test photographs", axis=alt.Axis(format="%"), scale=alt.Scale(zero=False)
    )
    points = alt.Chart(data).mark_circle(size=70, opacity=0.75, color=LIGHT.methods[3]).encode(x=along, y=rows)
    means = alt.Chart(data).mark_tick(thickness=3, size=18, color=LIGHT.methods[1]).encode(x="mean(accuracy):Q", y=rows)
    return (
        (points + means).properties(width=420, height=30 * len(kinds)).configure(**{**config(LIGHT), "background": LIGHT.paper})
    )


def _column(found: Sequence[Trained], value: Callable[[Trained], float]) -> np.ndarray:
    return np.array([value(each) for each in found])


def _spread(values: np.ndarray, parts: float = 1.0) -> str:
    """Mean and deviation in percentage points; the mean alone of a single value."""
    deviation = f" ± {100 * values.std(ddof=1) / parts:.1f}" if len(values) > 1 else ""
    return f"{100 * values.mean():.1f}{deviation} %"
