"""The axes of a sensitivity study: what is fitted and where its error is measured along each, and what the numbers say.

An error is the mean square distance of the end point to a fine reference's, over a sample's elements. Errors of two tableaux are taken on
the same noise, so their ratio r = mean(a) / mean(b) has the standard error of mean(a - r b) / mean(b).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from dode.distillation import PAPER
from dode.schedules import Array

# What is studied: arguments of `distill`.
METHODS: dict[str, dict[str, Any]] = {"lambda": PAPER, "end-to-end": {"effort": "balanced"}}
NAMES = {"lambda": "lambda alone", "end-to-end": "end to end"}

# Which rows of a condition: all of them, or those of the lower or the upper half of the class labels.
ALL, FIRST, SECOND = "all", "first half", "second half"

# Within this share of an error is as good.
_TOLERANCE = 0.05


@dataclass(frozen=True)
class Fit:
    """One distillation; `method` is one of `METHODS`."""

    method: str
    nfe: int
    samples: int
    teacher_scale: int
    seed: int
    guidance: float
    classes: str = ALL

    @property
    def place(self) -> Place:
        """Where it was fitted."""
        return Place(self.guidance, self.classes)


@dataclass(frozen=True)
class Place:
    """Where an error is measured: at which guidance scale, for which classes."""

    guidance: float
    classes: str = ALL


@dataclass(frozen=True)
class Case:
    """One point of an axis: fits that differ in their seed alone, all measured in one place.

    Attributes:
        value: where on the axis.
        fits: one or several.
        place: where they are measured.
        series: which of several curves of a method; "" where there is one.
    """

    value: float | str
    fits: tuple[Fit, ...]
    place: Place
    series: str = ""

    @property
    def method(self) -> str:
        """That of its fits."""
        return self.fits[0].method


@dataclass(frozen=True, eq=False)
class Result:
    """A case with its numbers.

    Attributes:
        case: it.
        errors: (S, n) of each of S fits on each of n held-out samples.
        base: (n,) of the undistilled solver at the same budget in the same place.
        lambdas: (S, K) of the paper's method; None of another.
        cost: network evaluations that one fit took, measurements left out; the mean of the fits.
        seconds: wall time of one fit; the mean of the fits.
        skipped: why there are no numbers; the arrays are empty then.
    """

    case: Case
    errors: Array
    base: Array
    lambdas: Array | None
    cost: float
    seconds: float
    skipped: str = ""

    @property
    def error(self) -> float:
        """Mean over fits and samples."""
        return float(self.errors.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean over the samples."""
        return _standard_error(self.errors.mean(0))

    @property
    def spread(self) -> float:
        """Standard deviation of the error between fits; nan of a single one."""
        return float(self.errors.mean(1).std(ddof=1)) if len(self.errors) > 1 else math.nan

    @property
    def gain(self) -> tuple[float, float]:
        """Error over that of the base, and its standard error."""
        return ratio(self.errors.mean(0), self.base)


@dataclass(frozen=True)
class Axis:
    """What a study varies.

    Attributes:
        name: in the command line.
        question: the title of its section.
        label: what its values are.
        values: by default.
        plan: the cases, from the fit at home, the values and the number of repeats.
        answer: one sentence from the results of one method, none of them skipped.
        note: how to read its table.
        scale: of the plot: "log", "linear", or "points" for values without an order.
    """

    name: str
    question: str
    label: str
    values: tuple[Any, ...]
    plan: Callable[[Fit, Sequence[Any], int], Iterator[Case]]
    answer: Callable[[Sequence[Result]], str]
    note: str = ""
    scale: str = "linear"


def ratio(a: Array, b: Array) -> tuple[float, float]:
    """Mean of `a` (n,) over mean of `b` (n,), paired, and its standard error; nan where `b` is zero."""
    if not b.mean():
        return math.nan, math.nan
    r = float(a.mean() / b.mean())
    return r, _standard_error(a - r * b) / abs(float(b.mean()))


def worse_than_base(result: Result) -> bool:
    """By more than two standard errors."""
    gain, doubt = result.gain
    return gain - 1 > 2 * doubt


def summarise(axis: Axis, results: Sequence[Result]) -> str:
    """The axis's answer for each method, one sentence in all."""
    parts = []
    for method in METHODS:
        mine = [r for r in results if r.case.method == method and not r.skipped]
        parts.append(f"{NAMES[method]}: {axis.answer(mine) if mine else 'no result'}")
    return "; ".join(parts) + "."


def _methods(home: Fit) -> list[Fit]:
    return [replace(home, method=method) for method in METHODS]


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
            yield Case(scale, (replace(fit, guidance=scale),), place, _THERE)


def _classes(home: Fit, values: Sequence[str], repeats: int) -> Iterator[Case]:
    place = Place(home.guidance, SECOND)
    for name in values:
        for fit in _methods(home):
            yield Case(name, (replace(fit, classes=_FITTED_ON[name]),), place)


def _nfe(home: Fit, values: Sequence[int], repeats: int) -> Iterator[Case]:
    for nfe in values:
        for fit in _methods(home):
            yield Case(nfe, (replace(fit, nfe=nfe),), home.place)


_THERE = "fitted there"
_FITTED_ON = {"other classes": FIRST, "the classes sampled": SECOND, "all classes": ALL}


def _settled(results: Sequence[Result], what: str) -> str:
    """From which value on the error stays within the tolerance of that at the last value."""
    *earlier, last = sorted(results, key=lambda r: float(r.case.value))
    end = what.format(last.case.value)
    if not earlier:
        return f"only {end} measured"
    excess = [r.error / last.error - 1 for r in earlier]
    first = next((i + 1 for i in reversed(range(len(earlier))) if excess[i] > _TOLERANCE), 0)
    before = f"{_percent(excess[first - 1])} above at {earlier[first - 1].case.value}" if first else ""
    if first == len(earlier):
        return f"not settled before {end} ({before})"
    text = f"from {what.format(earlier[first].case.value)} on within {_percent(_TOLERANCE)} of {end}"
    if before:
        text += f" ({before})"
    spread = earlier[first].spread
    return text if math.isnan(spread) else f"{text}, where single fits vary by {_percent(spread / earlier[first].error)}"


def _steady(results: Sequence[Result]) -> str:
    """How far error and lambda vary between seeds."""
    errors = [r.error for r in results]
    if len(errors) < 2:
        return "only one seed was measured"
    mean, sd = mean_and_deviation(errors)
    text = f"between {len(errors)} seeds the error has a standard deviation of {_percent(sd / mean)}"
    rows = lambda_rows(results)
    if rows:
        k, (value, deviation) = max(enumerate(rows), key=lambda row: row[1][1])
        text += f", lambda one of {deviation:.3f} at most (step {k + 1}, mean {value:+.3f})"
    return text


def _across_guidance(results: Sequence[Result]) -> str:
    there = {r.case.value: r for r in results if r.case.series == _THERE}
    pairs = {
        f"at guidance {r.case.value:g}": (r, there[r.case.value])
        for r in results
        if r.case.series != _THERE and r.case.value in there and r.case.fits != there[r.case.value].case.fits
    }
    return _transfer(pairs, "a fit there")


def _across_classes(results: Sequence[Result]) -> str:
    by_value = {r.case.value: r for r in results}
    if not {"other classes", "the classes sampled"} <= set(by_value):
        return "no pair to compare was measured"
    pair = by_value["other classes"], by_value["the classes sampled"]
    return _transfer({"on classes that it did not see": pair}, "a fit on these")


def _transfer(pairs: Mapping[str, tuple[Result, Result]], instead: str) -> str:
    """What it costs at worst to sample elsewhere than fitted: pairs of the fit elsewhere and the fit for this place."""
    if not pairs:
        return "no pair to compare was measured"
    verdicts = {where: _verdict(*pair) for where, pair in pairs.items()}
    where = max(verdicts, key=lambda name: verdicts[name])
    severity, penalty, doubt = verdicts[where]
    gain, gain_doubt = pairs[where][0].gain
    worst = "at worst, " if len(pairs) > 1 else ""
    return (
        f"{_SEVERITY[severity]}: {worst}{where}, {penalty:.2f} ± {doubt:.2f} times the error of {instead} "
        f"and {gain:.3f} ± {gain_doubt:.3f} of the base's"
    )


_SEVERITY = ("transfers", "transfers in part", "does not transfer")


def _verdict(elsewhere: Result, there: Result) -> tuple[int, float, float]:
    """How badly a fit does elsewhere, 0 to 2: as well as the fit there; less well; no longer clearly better than the base. Then its
    error over that of the fit there, and the standard error."""
    penalty, doubt = ratio(elsewhere.errors.mean(0), there.errors.mean(0))
    gain, gain_doubt = elsewhere.gain
    as_good = penalty <= 1 + _TOLERANCE or penalty - 1 <= 2 * doubt
    gains = gain + 2 * gain_doubt < 1
    return (0 if as_good else 1 if gains else 2), penalty, doubt


def _by_budget(results: Sequence[Result]) -> str:
    """Where it gains most and least, and where it loses."""
    gains = {r.case.value: r.gain for r in results}
    most, least = min(gains, key=lambda v: gains[v][0]), max(gains, key=lambda v: gains[v][0])
    text = f"{gains[most][0]:.3f} of the base's error at NFE {most}"
    if least != most:
        text += f" (most gained) to {gains[least][0]:.3f} at {least} (least)"
    worse = [str(r.case.value) for r in results if worse_than_base(r)]
    return text + (f", worse than the base at NFE {', '.join(worse)}" if worse else ", nowhere clearly worse than the base")


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(
            "samples",
            "How many samples?",
            "fitting samples",
            (8, 16, 32, 64, 128, 256, 512),
            _samples,
            partial(_settled, what="{} samples"),
            "The end-to-end fit has the same validation samples at each number, and a budget in proportion to all its samples.",
            "log",
        ),
        Axis(
            "teacher-scale",
            "How fine a teacher?",
            "teacher scale",
            (2, 5, 10, 20, 50),
            _teacher_scale,
            partial(_settled, what="scale {}"),
            "The end-to-end fit's budget grows by what the finer teacher takes.",
            "log",
        ),
        Axis("seeds", "How much is chance?", "seed", tuple(range(8)), _seeds, _steady, "", "points"),
        Axis(
            "guidance",
            "Does it transfer to another guidance scale?",
            "guidance sampled",
            (1.0, 1.5, 2.0, 3.0),
            _guidance,
            _across_guidance,
        ),
        Axis(
            "classes",
            "Does it transfer to other classes?",
            "fitted on",
            tuple(_FITTED_ON),
            _classes,
            _across_classes,
            "Sampled: the upper half of the class labels; other classes: the lower half.",
            "points",
        ),
        Axis("nfe", "At which budgets?", "NFE", (3, 4, 5, 6, 8, 10), _nfe, _by_budget),
    )
}


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of a sample."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan


def lambda_rows(results: Sequence[Result]) -> list[tuple[float, float]]:
    """Mean and standard deviation of each step's lambda over all fits that have them."""
    fits = [row for r in results if r.lambdas is not None for row in r.lambdas]
    return [mean_and_deviation(column) for column in zip(*fits, strict=True)]


def _standard_error(values: Array) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
