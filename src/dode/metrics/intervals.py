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

import numpy as np
import numpy.typing as npt

from dode.schedules import Array
from dode.statistics import LEVEL, Figure

GROUPS = 10
Places = npt.NDArray[np.int64]
# Quantiles at (1 + LEVEL) / 2 of Student's distribution with GROUPS - 1 degrees of freedom, and of the normal one.
_STUDENT, _NORMAL = 1.8331129, 1.6448536
assert LEVEL == 0.9
# Samples of a group, at the least: with fewer there is no interval.
_LEAST = 2


def group_sizes(n: int) -> list[int]:
    """How many of n samples each group has."""
    return [len(range(g, n, GROUPS)) for g in range(GROUPS)]


def enough_for_groups(n: int) -> bool:
    """Whether n samples have an interval."""
    return n >= _LEAST * GROUPS


def jackknife(value: float, left_out: Sequence[float] | Array, share: float = 1.0, *, log: bool = False) -> Figure:
    """A figure with its interval.

    Args:
        value: of all samples.
        left_out: of all samples without each of the groups; empty where there are too few, and then there is no interval.
        share: of the samples that are in any group.
        log: the interval is of the logarithm, as for what is positive and may be near 0.
    """
    others = np.asarray(left_out, np.float64)
    if len(others) < GROUPS or not (np.isfinite(others).all() and math.isfinite(value)):
        return Figure(value, math.nan, math.nan)
    if log and not (value > 0 and (others > 0).all()):
        log = False
    if log:
        others = np.log(others)
    part = share / GROUPS
    deviation = _STUDENT * math.sqrt((1 - part) / part * float(np.var(others)))
    if log:
        return Figure(value, value * math.exp(-deviation), value * math.exp(min(deviation, 100.0)))
    return Figure(value, value - deviation, value + deviation)


def share(hits: float, n: int) -> Figure:
    """A share of n samples with Wilson's interval (1927), which is right at 0 and 1 too; nan of no samples."""
    if n < 1:
        return Figure(math.nan, math.nan, math.nan)
    found, z2 = hits / n, _NORMAL**2 / n
    centre = (found + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * found * (1 - found) + z2**2 / 4) / (1 + z2)
    return Figure(found, max(0.0, centre - half), min(1.0, centre + half))
