"""What a set of errors says: mean, median and a high quantile, each with an interval that chance leaves it.

Errors of samples have heavy tails: a few samples may carry most of the mean, and the standard error of the mean is then too small.
So an interval of a mean, or of a ratio of means, is a bootstrap of the studentised logarithm (bootstrap-t; Efron and Tibshirani 1993,
chapter 12.5), which covers what it says where a plain percentile bootstrap or two standard errors fall short; that of a quantile is a
percentile bootstrap.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from dode.schedules import Array

# The share of intervals that are to cover the truth, and how many draws of the samples an interval is made of.
LEVEL, _DRAWS = 0.9, 999
# The high quantile.
HIGH = 0.95
# The logarithm of an interval's end over the figure, at the most: a few samples may say nothing at all.
_WIDEST = 100.0
# Numbers of a block of draws: some megabytes, however many samples there are.
_BLOCK = 2**19


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


def ratios(errors: Array, pairs: Sequence[tuple[int, int]]) -> list[Figure]:
    """`ratio` for many pairs of rows of errors (m, n), (above, below): each draw of the samples is summed once for all of them."""
    n = errors.shape[1]
    known: Array = np.isfinite(errors).all(axis=1) & (errors != 0).any(axis=1)
    values = [_of_means(errors[i], errors[j]) for i, j in pairs]
    found = [Figure(value, *[0.0 if value == 0 and n > 1 else math.nan] * 2) for value in values]
    places = [p for p, (i, j) in enumerate(pairs) if known[i] and known[j]]
    if n < 2 or not places:
        return found
    above, below = (np.array([pairs[p][side] for p in places]) for side in (0, 1))
    scaled = errors / np.where(known, errors.mean(1, where=np.isfinite(errors)), 1.0)[:, None]
    scaled = np.where(np.isfinite(scaled), scaled, 0.0)
    products = scaled[above] * scaled[below]
    squares, parts = scaled**2, []
    for rows in (np.full((1, n), 1 / n), *(_counts(rows) / n for rows in _draws(n))):
        means, own, cross = rows @ scaled.T, rows @ squares.T, rows @ products.T
        variance = own[:, above] / means[:, above] ** 2 + own[:, below] / means[:, below] ** 2
        variance -= 2 * cross / (means[:, above] * means[:, below])
        with np.errstate(divide="ignore"):
            log = np.log(means[:, above] / means[:, below])
        parts.append((log, np.sqrt(np.maximum(variance, 0.0) / (n - 1))))
    (_, (deviation,)), drawn = parts[0], [np.concatenate(part) for part in zip(*parts[1:], strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        studentised = drawn[0] / drawn[1]
    for p, place in enumerate(places):
        usual = studentised[np.isfinite(studentised[:, p]), p]
        found[place] = _studentised(found[place].value, usual, float(deviation[p]))
    return found


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
    return _studentised(value, studentised[np.isfinite(studentised)], float(deviation))


def _studentised(value: float, studentised: Array, deviation: float) -> Figure:
    """The interval of a value whose logarithm has this standard error, by draws of what is off over it."""
    if not deviation or not len(studentised):
        return Figure(value, value, value)
    low, high = np.quantile(studentised, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    bounds = np.clip(np.array([-high, -low]) * deviation, -_WIDEST, _WIDEST)
    return Figure(value, *(value * math.exp(bound) for bound in bounds))


def _of_means(above: Array, below: Array) -> float:
    """Mean over mean; nan where there is none below."""
    bottom = float(below.mean())
    return float(above.mean()) / bottom if bottom > 0 and math.isfinite(bottom) else math.nan


def _counts(rows: Any) -> Array:
    """How often each of n samples is in each of the draws (draws, n)."""
    n = rows.shape[1]
    return np.stack([np.bincount(row, minlength=n) for row in rows]).astype(np.float64)


def _draws(n: int) -> Iterator[Any]:
    """Rows of samples drawn with replacement, (draws, n) in blocks; the same for the same n."""
    generator = np.random.default_rng(n)
    block = max(1, _BLOCK // n)
    return (generator.integers(0, n, (min(block, _DRAWS - i), n)) for i in range(0, _DRAWS, block))
