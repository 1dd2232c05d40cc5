"""What a set of errors says: mean, median and a high quantile, each with an interval that chance leaves it.

Errors of samples have heavy tails: a few samples may carry most of the mean, and the standard error of the mean is then too small.
So an interval of a mean, or of a ratio of means, is a bootstrap of the studentised logarithm (bootstrap-t; Efron and Tibshirani 1993,
chapter 12.5), which covers what it says where a plain percentile bootstrap or two standard errors fall short; that of a quantile is a
percentile bootstrap.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from dode.schedules import Array

# The share of intervals that are to cover the truth, and how many draws of the samples an interval is made of.
LEVEL, _DRAWS = 0.9, 999
# The high quantile.
HIGH = 0.95
# The logarithm of an interval's end over the figure, at the most: a few samples may say nothing at all.
_WIDEST = 100.0
# Numbers of a block of draws.
_BLOCK = 2**22


class Figure(NamedTuple):
    """A number with the interval that it lies in with probability `LEVEL`; nan where chance cannot be told (a single sample)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        if not math.isfinite(self.low):
            return f"{self.value:.3g}"
        return f"{self.value:.3g} ({self.low:.2g} to {self.high:.2g})"

    def to_json(self) -> list[float | None]:
        """Value, low, high; None for what is not finite."""
        return [float(v) if math.isfinite(v) else None for v in self]


def mean(errors: Array) -> Figure:
    """The mean of errors (n,), >= 0."""
    return _of_log(float(np.mean(errors)), errors, np.zeros_like(errors))


def ratio(errors: Array, base: Array) -> Figure:
    """mean(errors) / mean(base), both (n,), on the same samples; nan where the base has no error."""
    below = float(np.mean(base))
    if not (below > 0 and math.isfinite(below)):
        return Figure(math.nan, math.nan, math.nan)
    return _of_log(float(np.mean(errors)) / below, errors, base)


def quantile(errors: Array, share: float) -> Figure:
    """A quantile of errors (n,)."""
    with np.errstate(invalid="ignore"):  # infinite errors have no mean between two of them
        value = float(np.quantile(errors, share))
    if len(errors) < 2 or not np.isfinite(errors).all():
        return Figure(value, math.nan, math.nan)
    drawn = np.concatenate([np.quantile(errors[rows], share, axis=1) for rows in _draws(len(errors))])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Figure(value, float(low), float(high))


def figures(errors: Array, power: Array | None = None) -> dict[str, Figure]:
    """Mean, median and high quantile of errors (n,); with `power`, each sample's own mean square (n,), the mean of error over power."""
    found = {"mean": mean(errors), "median": quantile(errors, 0.5), "high": quantile(errors, HIGH)}
    if power is not None and (power > 0).all():
        found["relative"] = mean(errors / power)
    return found


def carriers(gains: Array) -> int | None:
    """The fewest samples without which a gain of the mean is none: the largest of the gains (n,) are left out until what is left sums to
    nothing; None where there is no gain."""
    if not 0 < gains.sum() < math.inf:
        return None
    # What is left without the largest 1, 2 ... of them.
    left = np.cumsum(np.sort(gains))[::-1][1:]
    return int(np.argmax(np.append(left, 0.0) <= 0)) + 1


def doubt_factor(samples: int) -> float:
    """The standard errors that a gain must be above to be taken for one: the 84 % quantile of Student's t, 1 for many samples."""
    degrees = samples - 1
    if degrees < 1:
        return math.inf
    # Cornish and Fisher's expansion at the normal quantile 1.
    return 1 + 1 / (2 * degrees) + 1 / (4 * degrees**2) + 1 / (16 * degrees**3)


def _of_log(value: float, errors: Array, base: Array) -> Figure:
    """The interval of log mean(errors) - log mean(base), studentised; a base of zeros is no base."""
    n = len(errors)
    both = np.stack([errors, base])
    if n < 2 or not (np.isfinite(both).all() and value > 0):
        unknown = 0.0 if value == 0 and n > 1 else math.nan
        return Figure(value, unknown, unknown)
    with_base = bool(base.any())

    def log_and_error(above: Array, below: Array) -> tuple[Any, Any]:
        top = above.mean(-1, keepdims=True)
        parts = above / top
        found = np.log(top)
        if with_base:
            bottom = below.mean(-1, keepdims=True)
            parts, found = parts - below / bottom, found - np.log(bottom)
        return found[..., 0], parts.std(-1, ddof=1) / math.sqrt(n)

    with np.errstate(divide="ignore", invalid="ignore"):
        centre, deviation = log_and_error(errors, base)
        drawn = [log_and_error(errors[rows], base[rows]) for rows in _draws(n)]
        studentised = np.concatenate([(found - centre) / error for found, error in drawn])
    studentised = studentised[np.isfinite(studentised)]
    if not deviation or not len(studentised):
        return Figure(value, value, value)
    low, high = np.quantile(studentised, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    bounds = np.clip(np.array([-high, -low]) * deviation, -_WIDEST, _WIDEST)
    return Figure(value, *(value * math.exp(bound) for bound in bounds))


def _draws(n: int) -> list[Any]:
    """Rows of samples drawn with replacement, (draws, n) in blocks; the same for the same n."""
    generator = np.random.default_rng(n)
    block = max(1, _BLOCK // n)
    return [generator.integers(0, n, (min(block, _DRAWS - i), n)) for i in range(0, _DRAWS, block)]
