"""What a solver is written in: linear combinations of states x_j and denoised samples D_j.

`Combination` does the algebra, so that a solver's source reads as the formula of its paper and ends as a row of numbers.
epsilon is no basis of its own: eps_j = (x_j - alpha_j D_j) / sigma_j.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from dode.grids import Point


@dataclass(frozen=True)
class Combination:
    """sum_j x[j] x_j + D[j] D_j, with float64 coefficients. Supports +, -, and * and / by a number."""

    x: Mapping[int, float] = field(default_factory=dict)
    D: Mapping[int, float] = field(default_factory=dict)

    def __add__(self, other: Combination) -> Combination:
        return Combination(_sum(self.x, other.x), _sum(self.D, other.D))

    def __mul__(self, number: float) -> Combination:
        return Combination(
            {j: c * number for j, c in self.x.items()},
            {j: c * number for j, c in self.D.items()},
        )

    __rmul__ = __mul__

    def __neg__(self) -> Combination:
        return self * -1.0

    def __sub__(self, other: Combination) -> Combination:
        return self + -other

    def __truediv__(self, number: float) -> Combination:
        return self * (1.0 / number)


def _sum(left: Mapping[int, float], right: Mapping[int, float]) -> dict[int, float]:
    total = dict(left)
    for j, c in right.items():
        total[j] = total.get(j, 0.0) + c
    return total


@dataclass(frozen=True)
class Evaluation:
    """The k-th evaluation of the network: at state x_k, which lives at `point`."""

    k: int
    point: Point

    @property
    def x(self) -> Combination:
        return Combination(x={self.k: 1.0})

    @property
    def D(self) -> Combination:
        return Combination(D={self.k: 1.0})

    @property
    def eps(self) -> Combination:
        return (self.x - self.point.alpha * self.D) / self.point.sigma

    def output(self, kind: str) -> Combination:
        """`eps` for kind "epsilon", `D` for "sample"."""
        return self.eps if kind == "epsilon" else self.D


@dataclass(frozen=True)
class Row:
    """One row of a solver: the state after an evaluation.

    Attributes:
        point: where the state lives.
        base: the state.
        integrand: O_k, the estimate that the row integrates.
        factor: c_k, what the row multiplies O_k by; 0 where the row cannot extrapolate (from a pure-noise state).
        kind: "epsilon" or "sample": what O_k is an estimate of.
    """

    point: Point
    base: Combination
    integrand: Combination
    factor: float
    kind: str


def step_factor(kind: str, start: Point, end: Point) -> float:
    """What a step from `start` to `end` multiplies a constant prediction by.

    c = alpha' (rho' - rho) for epsilon, alpha' - sigma' alpha / sigma for D. For epsilon it is infinite at alpha = 0, where
    epsilon is the state itself and there is nothing to correct: 0.
    """
    if kind == "epsilon":
        return end.sigma - end.alpha * start.rho if start.alpha else 0.0
    return end.alpha - end.sigma * start.alpha / start.sigma


def transfer(evaluation: Evaluation, end: Point) -> Combination:
    """The exact step for a constant prediction (DDIM): alpha' D + sigma' eps. Finite at alpha = 0 and at sigma' = 0."""
    return end.alpha * evaluation.D + end.sigma * evaluation.eps


def multistep_row(evaluation: Evaluation, end: Point, kind: str, older: Mapping[Evaluation, float]) -> Row:
    """The row of a multistep method: DDIM's step plus sum_j older[j] (O_j - O_k), where O_k is the newest output.

    Written in differences, the newest coefficient never has to be formed, which is infinite for epsilon at alpha = 0.
    """
    newest = evaluation.output(kind)
    change = Combination()
    for past, weight in older.items():
        change = change + weight * (past.output(kind) - newest)
    factor = step_factor(kind, evaluation.point, end)
    # Without a factor, a step that goes nowhere, any integrand will do.
    integrand = newest + change / factor if older and factor else newest
    return Row(end, transfer(evaluation, end) + change, integrand, factor, kind)
