"""DEIS, exponential Adams-Bashforth (Zhang, Chen 2023, arXiv 2204.13902, eq. 15).

x' / alpha' = x / alpha + sum_j eps_j integral of L_j(v) d rho, where L_j are the Lagrange polynomials through the last
`order` + 1 evaluations in the variable v: t (tAB), rho (rhoAB) or log rho.

`order` is the polynomial's degree, as in the paper (tAB-3 uses four outputs); diffusers' `solver_order` is one more.
"""

from collections.abc import Iterator

import numpy as np
from numpy.polynomial import Polynomial

from dode.grids import Point
from dode.rows import Evaluation, Row, multistep_row
from dode.solvers.base import Family, Path, check_choice

# Composite Gauss-Legendre for the integrals in t: the panels make the kinks of an interpolated schedule harmless.
_PANELS, _NODES = 64, 8
# A polynomial is not extrapolated over more than this many times the distance of its newest nodes: of degree 3 it would multiply what
# is wrong with an output by hundreds (grids in log-SNR on cosine and flow schedules are that uneven at ten steps).
_LONGEST = 3.0


def rows(
    path: Path, order: int = 3, variable: str = "t", lower_order_final: bool = False, bounded: bool = True
) -> Iterator[Row]:
    """tAB-`order` by default.

    order: degree 0 .. 3 of the polynomial. variable: "t", "rho" or "log-rho". lower_order_final: the last step has degree
    0 and the one before it at most 1 (diffusers, below 15 steps). bounded: the degree is lowered where a step is far longer than the
    distance of its nodes, and is 0 from t_min to the clean sample, of which the network says nothing more; False: as in the paper and in
    diffusers.
    """
    check_choice("order of deis", order, range(4))
    check_choice("variable of deis", variable, ("t", "rho", "log-rho"))
    past: list[Evaluation] = []
    for k in range(path.steps):
        degree = min(order, path.steps - 1 - k) if lower_order_final else order
        # A pure-noise evaluation (alpha = 0) has no finite rho: its polynomial weight tends to zero.
        past = [e for e in past if variable == "t" or e.point.alpha]
        past = [Evaluation(k, path.points[k]), *past][: order + 1]
        end = path.points[k + 1]
        # Inversion to pure noise: no polynomial in rho or log rho has a finite integral there.
        degree = degree if end.alpha or variable == "t" else 0
        if bounded:
            degree = min(degree, _supported(past, end, path))
        used = past[: degree + 1]
        older = {e: _weight(j, used, end, variable, path) for j, e in enumerate(used) if j > 0}
        yield multistep_row(used[0], end, "epsilon", older)


def _supported(past: list[Evaluation], end: Point, path: Path) -> int:
    """The highest degree whose nodes lie far enough apart for the step to `end`."""
    newest = past[0].point
    if path.denoises(newest, end):
        return 0
    step, spacing = abs(end.t - newest.t), [abs(e.point.t - newest.t) for e in past[1:]]
    return next((degree for degree in range(len(spacing), 0, -1) if step <= _LONGEST * min(spacing[:degree])), 0)


def _weight(j: int, used: list[Evaluation], end: Point, variable: str, path: Path) -> float:
    """alpha' times the integral of the j-th Lagrange polynomial over d rho from the newest point to `end`."""
    start = used[0].point
    nodes = [_variable(e.point, variable) for e in used]
    origin = nodes[0]
    # In the distance from the newest node, so that small steps lose no digits.
    lagrange = Polynomial([1.0])
    for i, node in enumerate(nodes):
        if i != j:
            lagrange *= Polynomial([-(node - origin), 1.0]) / (nodes[j] - node)
    match variable:
        case "rho":
            return end.alpha * float(lagrange.integ()(end.rho - origin))
        case "log-rho":
            return end.alpha * _integral_of_exponential(lagrange, start.rho, end.rho)
        case _:
            return _integral_in_t(lagrange, start, end, path)


def _variable(point: Point, variable: str) -> float:
    return {"t": point.t, "rho": point.rho, "log-rho": -point.lam}[variable]


def _integral_of_exponential(polynomial: Polynomial, start: float, end: float) -> float:
    """Integral of p(s) d rho, rho = start e^s, from rho = start to `end`: e^s (p - p' + p'' - ...)."""
    antiderivative = polynomial
    derivative, sign = polynomial.deriv(), -1.0
    for _ in range(polynomial.degree()):
        antiderivative = antiderivative + sign * derivative
        derivative, sign = derivative.deriv(), -sign
    upper = end * antiderivative(np.log(end / start)) if end else 0.0
    return float(upper - start * antiderivative(0.0))


def _integral_in_t(polynomial: Polynomial, start: Point, end: Point, path: Path) -> float:
    """alpha' times the integral of p(t - t_start) d rho, by parts: [p rho] - integral of p' rho dt.

    It needs no derivative of the schedule. alpha' rho' = sigma' also where alpha' = 0.
    """
    span = end.t - start.t
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    share = (np.arange(_PANELS)[:, None] + (nodes + 1) / 2) / _PANELS
    rho = path.schedule.rho(start.t + span * share)
    inner = (weights * polynomial.deriv()(span * share) * rho).sum() * span / (2 * _PANELS)
    return float(polynomial(span) * end.sigma - end.alpha * (polynomial(0.0) * start.rho + inner))


FAMILY = Family("deis", rows, "DEIS: exponential Adams-Bashforth in t, rho or log rho, degrees 0-3", ("zhang2023deis",))
