"""The Frechet distance of two Gaussians with the means and covariances of features (Heusel et al. 2017, arXiv 1706.08500):

    |m - n|^2 + tr(A + B - 2 (A B)^(1/2))

The trace of the root is the sum of the singular values of P^T Q with A = P P^T, B = Q Q^T. That takes no root of what rounding makes
negative or complex, and it is as accurate where the covariances are singular as where they are not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dode.metrics.intervals import GROUPS
from dode.schedules import Array

Features = npt.NDArray[np.floating]


@dataclass(frozen=True, eq=False)
class Moments:
    """What the mean and the covariance of any number of features are made of, in float64.

    Attributes:
        count: n.
        mean: (d,).
        scatter: (d, d) sum of the products of the features' distances to their mean.
    """

    count: int
    mean: Array
    scatter: Array

    @classmethod
    def of(cls, features: Features) -> Moments:
        """Those of features (n, d), n >= 1."""
        wide = np.asarray(features, np.float64)
        mean = wide.mean(0)
        return cls(len(wide), mean, (wide - mean).T @ (wide - mean))

    @property
    def covariance(self) -> Array:
        """(d, d), unbiased.

        Raises:
            ValueError: fewer than 2 samples.
        """
        if self.count < 2:
            raise ValueError(f"a covariance needs 2 samples or more, got {self.count}")
        return self.scatter / (self.count - 1)

    def merged(self, other: Moments) -> Moments:
        """Those of both sets (Chan, Golub and LeVeque 1983)."""
        count = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(step, step) * (self.count * other.count / count)
        return Moments(count, self.mean + step * (other.count / count), scatter)

    def without(self, part: Moments) -> Moments:
        """Those of the rest of a set, of which `part` is some."""
        count = self.count - part.count
        mean = (self.count * self.mean - part.count * part.mean) / count
        step = part.mean - mean
        return Moments(count, mean, self.scatter - part.scatter - np.outer(step, step) * (count * part.count / self.count))

    def without_groups(self, features: Features) -> Iterator[Moments]:
        """Those of the rest without each group of features (m, d) that are among the set's, one after the other."""
        for group in range(GROUPS):
            yield self.without(Moments.of(features[group::GROUPS]))


def frechet_distance(mean: Array, covariance: Array, other_mean: Array, other_covariance: Array) -> float:
    """The distance, in float64; 0 or more.

    Args:
        mean, other_mean: (d,).
        covariance, other_covariance: (d, d), symmetric and positive semi-definite up to rounding.
    """
    root = np.linalg.svd(factor(covariance).T @ factor(other_covariance), compute_uv=False).sum()
    apart = float(((mean - other_mean) ** 2).sum())
    return max(0.0, apart + float(np.trace(covariance) + np.trace(other_covariance) - 2 * root))


def factor(covariance: Array) -> Array:
    """P (d, r) with P P^T the covariance, r its rank up to rounding."""
    values, vectors = np.linalg.eigh(covariance)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]), np.float64)
