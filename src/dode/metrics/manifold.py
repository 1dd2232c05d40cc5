"""Precision and recall of a set of samples (Kynkaanniemi et al. 2019, arXiv 1904.06991).

The manifold of a set is the union of balls about its features, each reaching to the k-th nearest other one. Precision is the share of
samples in the manifold of what they are compared with; recall is the share of the latter in the manifold of the samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dode.metrics.intervals import GROUPS, Features, by_group, enough_for_groups, group_slices, jackknife, share
from dode.schedules import Array
from dode.statistics import Figure

NEIGHBOURS = 3
# Numbers of a block of distances.
_BLOCK = 2**21


def precision_and_recall(features: Features, others: Features, neighbours: int = NEIGHBOURS) -> tuple[Figure, Figure]:
    """Precision and recall of samples.

    The intervals: by leaving out groups of both sets, balls made again; at least as wide as the binomial one of the samples judged.
    Balls shrink where there are more samples: compare both figures at equal numbers.

    Args:
        features: (n, d) of the samples.
        others: (m, d) of what they are compared with.
        neighbours: k.

    Raises:
        ValueError: no more than k samples of either.
    """
    fewest = min(len(features), len(others))
    if fewest <= neighbours:
        raise ValueError(f"precision and recall need more than {neighbours} samples of either set, got {fewest}")
    of_features, of_others = (radii(each, neighbours) for each in (features, others))
    return share_inside(features, others, of_others), share_inside(others, features, of_features)


def radii(features: Features, neighbours: int = NEIGHBOURS) -> Array:
    """Squared distances (1 + groups, n), by group, of a set's features to the k-th nearest other one: among all, and where there
    are enough for groups, among all groups but one, whose own features have no ball."""
    ordered = _about(features, features)
    parts = group_slices(len(features))
    groups = GROUPS if enough_for_groups(len(features)) else 0
    found = np.empty((1 + groups, len(features)))
    for rows, distances in _distances(ordered, ordered):
        distances[np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)] = np.inf
        nearest = [_nearest(distances[:, part], neighbours) for part in parts]
        found[0, rows] = _nearest(np.concatenate(nearest, axis=1), neighbours).max(1)
        for g in range(groups):
            others = np.concatenate(nearest[:g] + nearest[g + 1 :], axis=1)
            found[1 + g, rows] = _nearest(others, neighbours).max(1)
    for g in range(groups):
        found[1 + g, parts[g]] = -np.inf
    return found


def share_inside(queries: Features, features: Features, reach: Array) -> Figure:
    """The share of queries in the manifold of features with these `radii`."""
    parts = group_slices(len(features))
    groups = len(reach) - 1 if enough_for_groups(len(queries)) else 0
    hits = np.zeros((1 + groups, len(queries)), bool)
    for rows, distances in _distances(_about(queries, features), _about(features, features)):
        inside = distances <= reach[0]
        of_group = np.stack([inside[:, part].any(1) for part in parts])
        hits[0, rows] = of_group.any(0)
        if groups:
            # Without a group the other balls only grow: what two groups hold stays inside, what the largest balls do not hold outside.
            hits[1:, rows] = of_group.sum(0) - of_group > 0
            doubtful = np.flatnonzero(~hits[1:, rows].all(0) & (distances <= reach.max(0)).any(1))
            for g in range(groups):
                hits[1 + g, rows.start + doubtful] |= (distances[doubtful] <= reach[1 + g]).any(1)
    judged = share(int(hits[0].sum()), len(queries))
    if not groups:
        return judged
    own = group_slices(len(queries))
    found = jackknife(judged.value, [float(np.delete(hits[1 + g], own[g]).mean()) for g in range(groups)])
    return Figure(judged.value, max(0.0, min(found.low, judged.low)), min(1.0, max(found.high, judged.high)))


def _about(features: Features, others: Features) -> Array:
    """Features by group, about the mean of others, where squares of distances lose no digits."""
    centre: Array = np.asarray(others, np.float64).mean(0)
    return by_group(features) - centre


def _nearest(distances: Array, neighbours: int) -> Array:
    """The smallest k of each row, or all of them where there are fewer."""
    if distances.shape[1] <= neighbours:
        return distances
    return np.partition(distances, neighbours - 1, axis=1)[:, :neighbours]


def _distances(x: Array, y: Array) -> Iterator[tuple[slice, Array]]:
    """Squared distances of all pairs, in blocks of rows."""
    squares = (y**2).sum(1)
    block = max(1, _BLOCK // len(y))
    for first in range(0, len(x), block):
        rows = slice(first, min(first + block, len(x)))
        yield rows, (x[rows] ** 2).sum(1)[:, None] + squares - 2 * x[rows] @ y.T
