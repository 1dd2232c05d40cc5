"""Precision and recall of a set of samples (Kynkaanniemi et al. 2019, arXiv 1904.06991).

The manifold of a set is the union of balls about its features, each reaching to the k-th nearest other one. Precision is the share of
samples in the manifold of what they are compared with; recall is the share of the latter in the manifold of the samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dode.metrics.frechet import Features
from dode.metrics.intervals import GROUPS, enough_for_groups, jackknife, share
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
    groups = GROUPS if enough_for_groups(fewest) else 0
    centre = np.asarray(others, np.float64).mean(0)
    x, y = (np.asarray(each - centre, np.float64) for each in (features, others))
    return _inside(x, y, neighbours, groups), _inside(y, x, neighbours, groups)


def _inside(queries: Array, set_: Array, neighbours: int, groups: int) -> Figure:
    """The share of queries in the manifold of a set."""
    radii = _radii(set_, neighbours, groups)
    place = np.arange(len(set_)) % GROUPS
    hits = np.zeros((1 + groups, len(queries)), bool)
    for rows, distances in _distances(queries, set_):
        hits[0, rows] = (distances <= radii[0]).any(1)
        for g in range(groups):
            hits[1 + g, rows] = ((distances <= radii[1 + g]) & (place != g)).any(1)
    query_place = np.arange(len(queries)) % GROUPS
    left_out = [float(hits[1 + g, query_place != g].mean()) for g in range(groups)]
    judged = share(int(hits[0].sum()), len(queries))
    found = jackknife(judged.value, left_out)
    if not groups:
        return judged
    return Figure(judged.value, max(0.0, min(found.low, judged.low)), min(1.0, max(found.high, judged.high)))


def _radii(set_: Array, neighbours: int, groups: int) -> Array:
    """Squared distances (1 + groups, n) to the k-th nearest other feature: among all, and among those of all groups but one."""
    place = np.arange(len(set_)) % GROUPS
    found = np.empty((1 + groups, len(set_)))
    for rows, distances in _distances(set_, set_):
        distances[np.arange(rows.stop - rows.start), np.arange(rows.start, rows.stop)] = np.inf
        found[0, rows] = np.partition(distances, neighbours - 1, axis=1)[:, neighbours - 1]
        for g in range(groups):
            found[1 + g, rows] = np.partition(distances[:, place != g], neighbours - 1, axis=1)[:, neighbours - 1]
    return found


def _distances(x: Array, y: Array) -> Iterator[tuple[slice, Array]]:
    """Squared distances of all pairs, in blocks of rows."""
    squares = (y**2).sum(1)
    block = max(1, _BLOCK // len(y))
    for first in range(0, len(x), block):
        rows = slice(first, min(first + block, len(x)))
        part = x[rows]
        yield rows, (part**2).sum(1)[:, None] + squares - 2 * part @ y.T
