"""What a sensitivity study fits and measures, and the numbers that come of it.

An error is the mean square distance of the end point to a fine reference's, over a sample's elements. Errors of two tableaux are taken on
the same noise, so their ratio r = mean(a) / mean(b) has the standard error of mean(a - r b) / mean(b).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from dode.schedules import Array

# The methods that are studied, with words for them.
NAMES = {"lambda": "lambda alone", "end-to-end": "end to end"}

# Which rows of a condition: all of them, or those of the lower or the upper half of the class labels.
ALL, FIRST, SECOND = "all", "first half", "second half"


@dataclass(frozen=True)
class Fit:
    """One distillation; `method` is one of `NAMES`."""

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

    @property
    def curve(self) -> str:
        """Words for the curve that it is a point of."""
        return f"{NAMES[self.method]}, {self.series}" if self.series else NAMES[self.method]


@dataclass(frozen=True, eq=False)
class Outcome:
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
    lambdas: Array | None = None
    cost: float = 0.0
    seconds: float = 0.0
    skipped: str = ""

    @property
    def error(self) -> float:
        """Mean over fits and samples."""
        return float(self.errors.mean())

    @property
    def standard_error(self) -> float:
        """Of the mean over the samples."""
        return standard_error(self.errors.mean(0))

    @property
    def spread(self) -> float:
        """Standard deviation of the error between fits; nan of a single one."""
        return float(self.errors.mean(1).std(ddof=1)) if len(self.errors) > 1 else math.nan

    @property
    def gain(self) -> tuple[float, float]:
        """Error over that of the base, and its standard error."""
        return ratio(self.errors.mean(0), self.base)

    @property
    def worse_than_base(self) -> bool:
        """By more than two standard errors."""
        gain, doubt = self.gain
        return gain - 1 > 2 * doubt


def ratio(a: Array, b: Array) -> tuple[float, float]:
    """Mean of `a` (n,) over mean of `b` (n,), paired, and its standard error; nan where `b` is zero."""
    if not b.mean():
        return math.nan, math.nan
    r = float(a.mean() / b.mean())
    return r, standard_error(a - r * b) / abs(float(b.mean()))


def standard_error(values: Array) -> float:
    """Of the mean of values (n,), n >= 2."""
    return float(values.std(ddof=1) / math.sqrt(len(values)))


def mean_and_deviation(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation of a sample; the latter is nan of a single value."""
    mean = math.fsum(values) / len(values)
    return mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)) if len(values) > 1 else math.nan


def lambda_rows(outcomes: Sequence[Outcome]) -> list[tuple[float, float]]:
    """Mean and standard deviation of each step's lambda over all fits that have them."""
    fits = [row for each in outcomes if each.lambdas is not None for row in each.lambdas]
    return [mean_and_deviation(column) for column in zip(*fits, strict=True)]


def outcome_from_json(data: Mapping[str, Any]) -> Outcome:
    """The outcome that `dode.report.results.to_json` gave.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    case = data["case"]
    fits = tuple(Fit(**each) for each in case["fits"])
    arrays = {name: np.array(data[name], np.float64) for name in ("errors", "base")}
    lambdas = None if data["lambdas"] is None else np.array(data["lambdas"], np.float64)
    return Outcome(
        **{**data, "case": Case(**{**case, "fits": fits, "place": Place(**case["place"])}), **arrays, "lambdas": lambdas}
    )
