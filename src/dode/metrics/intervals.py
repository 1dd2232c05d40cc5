"""Intervals of figures that are no means: of what a whole set of samples gives at once, and of shares.

The samples are divided into `GROUPS` groups by their place, i mod `GROUPS`, and a figure is made again without each group in turn
(delete-a-group jackknife; Shao and Tu 1995, chapter 2.3). With G groups of d samples each, out of n,

    se^2 = (n - d) / (d G) sum_g (F_(g) - mean F)^2

which is (G - 1) / G times the sum where the groups make up the whole. The interval is F -+ t se, t of Student's distribution with G - 1
degrees of freedom. Two sets that are compared lose the group at once: so two sets from the same noise are compared as the pairs that
they are, and the formula is as right for two sets that have nothing to do with each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from dode.schedules import Array
from dode.statistics import LEVEL, Figure

GROUPS = 10
Features = npt.NDArray[np.floating]
Places = npt.NDArray[np.int64]
# Quantiles at (1 + LEVEL) / 2 of Student's distribution with GROUPS - 1 degrees of freedom, and of the normal one.
_STUDENT, _NORMAL = 1.8331129, 1.6448536
assert LEVEL == 0.9
# Of the logarithm of an interval's end over the figure, at the most.
_WIDEST = 100.0
# Samples of a group, at the least: with fewer there is no interval.
_LEAST = 2


def group_sizes(n: int) -> list[int]:
    """How many of n samples each group has."""
    return [len(range(g, n, GROUPS)) for g in range(GROUPS)]


def group_slices(n: int) -> list[slice]:
    """Where the groups of n samples are after `by_group`."""
    ends = np.cumsum([0, *group_sizes(n)]).tolist()
    return [slice(first, end) for first, end in pairwise(ends)]


def by_group(features: Features) -> Array:
    """Features (n, d) in float64, those of a group one after the other."""
    return np.concatenate([np.asarray(features[group::GROUPS], np.float64) for group in range(GROUPS)])


def enough_for_groups(n: int) -> bool:
    """Whether n samples have an interval."""
    return n >= _LEAST * GROUPS


def jackknife(value: float, *left_out: Sequence[float], shares: Sequence[float] = (1.0,), log: bool = False) -> Figure:
    """A figure with its interval.

    Args:
        value: of all samples.
        left_out: of all samples without each of the groups; of sets that lose their groups one set at a time, a sequence a set. Empty
            where there are too few samples: then there is no interval.
        shares: of a set's samples that are in any group.
        log: the interval is that of the logarithm, as for what is above 0 and may be near it.
    """
    found = [np.asarray(each, np.float64) for each in left_out]
    if any(len(each) < GROUPS for each in found) or not np.isfinite([value, *np.concatenate(found)]).all():
        return Figure(value, math.nan, math.nan)
    log = log and value > 0 and all((each > 0).all() for each in found)
    variance = sum((GROUPS / share - 1) * float(np.var(np.log(each) if log else each)) for each, share in zip(found, shares))
    half = _STUDENT * math.sqrt(variance)
    if log:
        return Figure(value, value * math.exp(-half), value * math.exp(min(half, _WIDEST)))
    return Figure(value, value - half, value + half)


def share(hits: float, n: int) -> Figure:
    """A share of n samples with Wilson's interval (1927), which is right at 0 and 1 too; nan of no samples."""
    if n < 1:
        return Figure(math.nan, math.nan, math.nan)
    found, z2 = hits / n, _NORMAL**2 / n
    centre = (found + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * found * (1 - found) + z2**2 / 4) / (1 + z2)
    return Figure(found, max(0.0, min(found, centre - half)), min(1.0, max(found, centre + half)))  # rounding
