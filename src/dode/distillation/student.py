"""A tableau in the form that is fitted end to end: a row names its own state and the network's outputs, no older state.

    x_{k+1} = p_k x_k + sum_{j<=k} q[k,j] N_j

Every tableau whose rows keep a part of the state has this form: an older state x_j is what x_{j+1} = p_j x_j + ... says it is.
N is the network's own output (of the kind `prediction`); a shared first output is taken as D.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from dode.grids import Point
from dode.schedules import Array
from dode.tableau import Tableau, output_to_sample


@dataclass(frozen=True)
class Student:
    """Rows over the state and the outputs.

    Attributes:
        points: (R + 1) where the states live.
        p: (R,) coefficients of the rows' own states.
        q: (R, R) lower triangular, coefficients of the outputs.
        prediction: what the outputs are.
        base: the tableau that it came from, for everything but the numbers.
    """

    points: tuple[Point, ...]
    p: Array
    q: Array
    prediction: str
    base: Tableau

    @classmethod
    def of(cls, tableau: Tableau, prediction: str) -> Student:
        """The form of a tableau.

        Raises:
            ValueError: a row drops the state while a later row needs an older one.
        """
        rows = tableau.for_prediction(prediction)
        size = tableau.rows
        p, q = np.zeros(size), np.zeros((size, size))
        # known[j] = (c, w): x_j = c x_k + sum_i w[i] N_i, for the k of the turn.
        known: dict[int, tuple[float, Array]] = {}
        for k in range(size):
            known[k] = (1.0, np.zeros(size))
            total, weights = 0.0, rows.b[k].copy()
            for j in np.flatnonzero(rows.a[k]).tolist():
                if j not in known:
                    raise ValueError(f"row {k} needs the state {j}, which no later state keeps a part of")
                c, w = known[j]
                total += rows.a[k, j] * c
                weights += rows.a[k, j] * w
            p[k], q[k] = total, weights
            if total == 0:
                known.clear()
            # x_k = (x_{k+1} - weights . N) / total
            known = {j: (c / total, w - c / total * weights) for j, (c, w) in known.items()}
        if tableau.first == "zero":
            q[:, 0] = 0
        return cls(tableau.points, p, q, prediction, tableau)

    def to_json(self) -> dict[str, Any]:
        """Its numbers, as they are: the tableau's are others, by rounding."""
        return {"points": [astuple(point) for point in self.points], "p": self.p.tolist(), "q": self.q.tolist()}

    def with_numbers(self, data: Mapping[str, Any]) -> Student:
        """The student with the numbers that `to_json` gave."""
        points = tuple(Point(*point) for point in data["points"])
        return replace(self, points=points, p=np.array(data["p"]), q=np.array(data["q"]))

    def tableau(self) -> Tableau:
        """As a tableau over states and denoised samples: N_j = (D_j - u_j x_j) / w_j."""
        size = len(self.p)
        pairs = [self._conversion(j) for j in range(size)]
        u, w = np.array(pairs).T
        b = self.q / w
        a = np.diag(self.p) - b * u
        times, alphas, sigmas = np.array([(p.t, p.alpha, p.sigma) for p in self.points]).T
        return replace(self.base, times=times, alphas=alphas, sigmas=sigmas, a=np.tril(a), b=np.tril(b), integrand=None)

    def direction(self, k: int, denoised: float, epsilon: float) -> tuple[float, float]:
        """denoised D_k + epsilon eps_k as coefficients of (x_k, N_k)."""
        point = self.points[k]
        u, w = self._conversion(k)
        of_d = denoised - epsilon * point.alpha / point.sigma
        if k == 0 and self.base.first == "zero":
            w = 0.0  # an output that is zero has no coefficient
        return of_d * u + epsilon / point.sigma, of_d * w

    def moved(self, k: int, point: Point) -> Student:
        """The student with state k (k >= 1) at another time: the row before it is carried there along what its own output says,
        (alpha' - alpha) D_{k-1} + (sigma' - sigma) eps_{k-1}."""
        old = self.points[k]
        x, n = self.direction(k - 1, point.alpha - old.alpha, point.sigma - old.sigma)
        p, q = self.p.copy(), self.q.copy()
        p[k - 1] += x
        q[k - 1, k - 1] += n
        points = (*self.points[:k], point, *self.points[k + 1 :])
        return replace(self, points=points, p=p, q=q)

    def neighbours(self, k: int) -> tuple[Point, Point, Point]:
        """Between what state k may move: where the states before, at and after it live."""
        before, here, after = self.points[k - 1 : k + 2]
        return before, here, after

    @property
    def in_order(self) -> bool:
        """Whether times decrease from each state to the next."""
        return all(a.t > b.t for a, b in pairwise(self.points))

    def _conversion(self, j: int) -> tuple[float, float]:
        """u and w with D_j = u x_j + w N_j."""
        shared = j == 0 and self.base.first != "network"
        return (0.0, 1.0) if shared else output_to_sample(self.prediction, self.points[j])

    def changed(self, p: Array, q: Array) -> Student:
        """The student with these added to its coefficients."""
        return replace(self, p=self.p + p, q=self.q + q)
