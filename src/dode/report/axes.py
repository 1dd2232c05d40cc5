"""The axes of a sensitivity study: what is fitted and where its error is measured along each, and what is said of the numbers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dode.report import study_words as words
from dode.report.outcomes import ALL, FIRST, NAMES, SECOND, Case, Fit, Outcome, Place
from dode.report.study_words import BOTH, OTHERS, SAMPLED, THERE

_FITTED_ON = {OTHERS: FIRST, SAMPLED: SECOND, BOTH: ALL}


@dataclass(frozen=True)
class Axis:
    """What a study varies.

    Attributes:
        name: in the command line.
        question: the title of its section.
        label: what its values are.
        values: by default.
        plan: the cases, from the fit at home, the values and the number of repeats.
        answer: one clause from the outcomes of one method, none of them skipped.
        note: how to read its table.
        scale: of the plot: "log", "linear", or "points" for values without an order.
    """

    name: str
    question: str
    label: str
    values: tuple[Any, ...]
    plan: Callable[[Fit, Sequence[Any], int], Iterator[Case]]
    answer: Callable[[Sequence[Outcome]], str]
    note: str = ""
    scale: str = "linear"

    def summary(self, outcomes: Sequence[Outcome]) -> str:
        """The answer for each method, one sentence in all."""
        parts = []
        for method, name in NAMES.items():
            mine = [each for each in outcomes if each.case.method == method and not each.skipped]
            parts.append(f"{name}: {self.answer(mine) if mine else 'no result'}")
        return "; ".join(parts) + "."


def _methods(home: Fit) -> list[Fit]:
    return [replace(home, method=method) for method in NAMES]


def _samples(home: Fit, values: Sequence[int], repeats: int) -> Iterator[Case]:
    for n in values:
        for fit in _methods(home):
            fits = tuple(replace(fit, samples=n, seed=home.seed + i) for i in range(repeats))
            yield Case(n, fits, home.place)


def _teacher_scale(home: Fit, values: Sequence[int], repeats: int) -> Iterator[Case]:
    for scale in values:
        for fit in _methods(home):
            yield Case(scale, (replace(fit, teacher_scale=scale),), home.place)


def _seeds(home: Fit, values: Sequence[int], repeats: int) -> Iterator[Case]:
    for seed in values:
        for fit in _methods(home):
            yield Case(seed, (replace(fit, seed=seed),), home.place)


def _guidance(home: Fit, values: Sequence[float], repeats: int) -> Iterator[Case]:
    for scale in values:
        place = Place(scale)
        for fit in _methods(home):
            yield Case(scale, (fit,), place, f"fitted at {home.guidance:g}")
            yield Case(scale, (replace(fit, guidance=scale),), place, THERE)


def _classes(home: Fit, values: Sequence[str], repeats: int) -> Iterator[Case]:
    place = Place(home.guidance, SECOND)
    for name in values:
        for fit in _methods(home):
            yield Case(name, (replace(fit, classes=_FITTED_ON[name]),), place)


def _nfe(home: Fit, values: Sequence[int], repeats: int) -> Iterator[Case]:
    for nfe in values:
        for fit in _methods(home):
            yield Case(nfe, (replace(fit, nfe=nfe),), home.place)


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(
            "samples",
            "How many samples?",
            "fitting samples",
            (8, 16, 32, 64, 128, 256, 512),
            _samples,
            partial(words.settled, what="{} samples"),
            "The end-to-end fit has the same validation samples at each number, and a budget in proportion to all its samples.",
            "log",
        ),
        Axis(
            "teacher-scale",
            "How fine a teacher?",
            "teacher scale",
            (2, 5, 10, 20, 50),
            _teacher_scale,
            partial(words.settled, what="scale {}"),
            "The end-to-end fit's budget grows by what the finer teacher takes.",
            "log",
        ),
        Axis("seeds", "How much is chance?", "seed", tuple(range(8)), _seeds, words.steady, "", "points"),
        Axis(
            "guidance",
            "Does it transfer to another guidance scale?",
            "guidance sampled",
            (1.0, 1.5, 2.0, 3.0),
            _guidance,
            words.across_guidance,
        ),
        Axis(
            "classes",
            "Does it transfer to other classes?",
            "fitted on",
            tuple(_FITTED_ON),
            _classes,
            words.across_classes,
            "Sampled: the upper half of the class labels; other classes: the lower half.",
            "points",
        ),
        Axis("nfe", "At which budgets?", "NFE", (3, 4, 5, 6, 8, 10), _nfe, words.by_budget),
    )
}
