"""The kernel distance (kernel inception distance; Binkowski et al. 2018, arXiv 1801.01401): the squared maximum mean discrepancy of
features x (n, d) and y (m, d) under the kernel k(x, y) = (x y / d + 1)^3, by its unbiased estimate

    sum_{i != j} k(x_i, x_j) / (n (n - 1)) + sum_{i != j} k(y_i, y_j) / (m (m - 1)) - 2 mean k(x_i, y_j)

of all pairs, where the field averages over subsets of 1,000: that has the same mean, more chance in it, and a seed. Unbiased means that it
may be below 0.

Where x_i and y_i come from the same noise they are no independent pair, and k(x_i, y_i), above what independent ones have, would pull
the distance down: those pairs are then left out (the U-statistic of Gretton et al. 2012, lemma 6), and equal sets are at distance 0.
"""

from __future__ import annotations

import numpy as np

from dode.metrics.intervals import GROUPS, Features, Places, by_group, enough_for_groups, group_sizes, group_slices, jackknife
from dode.schedules import Array
from dode.statistics import Figure

# Numbers of a block of the kernel's matrix.
_BLOCK = 2**21


def kernel_distance(x: Features, y: Features, *, paired: bool = False) -> Figure:
    """The distance, in float64; its interval by leaving out groups of samples, none with fewer than 20 of either.

    Args:
        x, y: features (n, d), (m, d), with 2 samples or more.
        paired: x_i and y_i come from the same noise; n = m.
    """
    return distance_of(x, y, own_sums(x), own_sums(y), paired=paired)


def own_sums(x: Features) -> Array:
    """What the distance needs of a set alone: sums of the kernel over the pairs of two samples, by their groups (GROUPS, GROUPS)."""
    ordered = by_group(x)
    return _sums(ordered, ordered, apart=True)


def distance_of(x: Features, y: Features, own_x: Array, own_y: Array, *, paired: bool) -> Figure:
    """The distance of sets with these `own_sums`."""
    cross = _sums(by_group(x), by_group(y), apart=paired)
    n, m = np.array(group_sizes(len(x))), np.array(group_sizes(len(y)))

    def distance(kept: Places) -> float:
        i, j, rows = int(n[kept].sum()), int(m[kept].sum()), np.ix_(kept, kept)
        pairs = i * (i - 1) if paired else i * j
        own = own_x[rows].sum() / (i * (i - 1)) + own_y[rows].sum() / (j * (j - 1))
        return float(own - 2 * cross[rows].sum() / pairs)

    groups = np.arange(GROUPS)
    possible = enough_for_groups(min(len(x), len(y)))
    left_out = [distance(groups[groups != g]) for g in groups] if possible else []
    return jackknife(distance(groups), left_out)


def _sums(x: Array, y: Array, apart: bool) -> Array:
    """Sums of the kernel over pairs of features that are by group; `apart`: pairs of the same place are left out."""
    found = np.zeros((GROUPS, GROUPS))
    parts = group_slices(len(y))
    step = max(1, _BLOCK // len(y))
    for group, part in enumerate(group_slices(len(x))):
        for first in range(part.start, part.stop, step):
            rows = slice(first, min(first + step, part.stop))
            root = x[rows] @ y.T / x.shape[1] + 1
            kernel = root * root * root  # many times as fast as a power
            if apart:
                places = np.arange(rows.start, rows.stop)
                kernel[places - first, places] = 0.0
            columns = kernel.sum(0)
            found[group] += [columns[other].sum() for other in parts]
    return found
