"""DPM-Solver (Lu et al. 2022, arXiv 2206.00927) and DPM-Solver++ (arXiv 2211.01095).

Exponential integrators in lambda = log(alpha / sigma). With h the step in lambda, z = h and s = sigma' for the epsilon form,
z = -h and s = alpha' for the denoised form (++), every row is

    x' = DDIM's step - s (g_1 D1 + g_2 D2),     D1, D2: the first and second differences of the outputs over h
    g_1 = z phi_2(z), or (e^z - 1) / 2 ("midpoint");    g_2 = z phi_3(z);    see `phi`

`solver_type`, as in diffusers: "midpoint" or "heun" (above); "dpmsolver" is the papers' own single-step form: the midpoint's
weight at second order, g_1 with the last output alone at third.

Where h is infinite (from alpha = 0, to sigma = 0) only first order is defined, and is taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from dode.grids import Point
from dode.rows import Combination, Evaluation, Row, multistep_row, step_factor, transfer
from dode.solvers.base import Family, Path, check_choice
from dode.solvers.phi import z_phi


def dpm_solver_rows(
    path: Path,
    order: int = 2,
    method: str = "singlestep",
    solver_type: str = "dpmsolver",
    stages: str = "grid",
    lower_order_final: bool = True,
) -> Iterator[Row]:
    """The epsilon form.

    order: 1 .. 3. method: "singlestep" (a step of order p covers p grid steps) or "multistep". stages: where single-step stages
    lie: "grid", at the grid's own points, or "log-snr", at equal parts of the step in log-SNR (the papers').
    lower_order_final: the last steps have lower orders (as the papers' rule for the budget does).
    """
    return _rows(path, "epsilon", order, method, solver_type, stages, lower_order_final)


def dpm_solver_pp_rows(
    path: Path,
    order: int = 2,
    method: str = "multistep",
    solver_type: str = "midpoint",
    stages: str = "grid",
    lower_order_final: bool = True,
) -> Iterator[Row]:
    """The denoised form; options as for `dpm-solver`."""
    return _rows(path, "sample", order, method, solver_type, stages, lower_order_final)


def _rows(
    path: Path, kind: str, order: int, method: str, solver_type: str, stages: str, lower_order_final: bool
) -> Iterator[Row]:
    check_choice("order of DPM-Solver", order, (1, 2, 3))
    check_choice("method of DPM-Solver", method, ("singlestep", "multistep"))
    check_choice("solver_type of DPM-Solver", solver_type, ("dpmsolver", "midpoint", "heun"))
    check_choice("stages of DPM-Solver", stages, ("grid", "log-snr"))
    if method == "multistep":
        return _multistep(path, kind, order, solver_type, lower_order_final)
    return _singlestep(path, kind, order, solver_type, stages, lower_order_final)


def _multistep(path: Path, kind: str, order: int, solver_type: str, lower_order_final: bool) -> Iterator[Row]:
    past: list[Evaluation] = []
    for k in range(path.steps):
        # A pure-noise evaluation is infinitely far in lambda: its differences vanish.
        past = [e for e in past if e.point.alpha]
        past = [Evaluation(k, path.points[k]), *past][:order]
        end = path.points[k + 1]
        p = min(len(past), path.steps - k) if lower_order_final else len(past)
        if math.isinf(end.lam) or math.isinf(past[0].point.lam):
            p = 1
        yield _multistep_row(past[:p], end, kind, solver_type)


def _multistep_row(past: list[Evaluation], end: Point, kind: str, solver_type: str) -> Row:
    newest = past[0]
    if len(past) == 1:
        return multistep_row(newest, end, kind, {})
    h, z, scale = _step(newest.point, end, kind)
    r0 = (newest.point.lam - past[1].point.lam) / h
    if len(past) == 2:
        w1, w2 = _first_weight(z, solver_type) / r0, 0.0
    else:
        # D1 = D1_0 + r0 / (r0 + r1) (D1_0 - D1_1), D2 = (D1_0 - D1_1) / (r0 + r1), D1_i the divided differences.
        r1 = (past[1].point.lam - past[2].point.lam) / h
        g1, g2 = z_phi(1, z), z_phi(2, z)
        second = (g1 * r0 + g2) / (r0 + r1)
        w1, w2 = (g1 + second) / r0, -second / r1
    # w1 (O_0 - O_1) + w2 (O_1 - O_2), as weights of O_j - O_0.
    older = {past[1]: -scale * (w2 - w1)}
    if len(past) > 2:
        older[past[2]] = scale * w2
    return multistep_row(newest, end, kind, older)


def _singlestep(path: Path, kind: str, order: int, solver_type: str, stages: str, lower_order_final: bool) -> Iterator[Row]:
    k = 0
    for p in step_orders(path, kind, order, lower_order_final):
        points = path.points[k : k + p + 1]
        if stages == "log-snr":
            points = _even_in_log_snr(path, points)
        evaluations = [Evaluation(k + i, point) for i, point in enumerate(points[:-1])]
        for i, end in enumerate(points[1:]):
            yield _singlestep_row(evaluations[: i + 1], end, kind, solver_type, stage_of_third=p == 3 and i == 1)
        k += p


def step_orders(path: Path, kind: str, order: int, lower_order_final: bool) -> list[int]:
    """The orders of the single steps; they sum to the number of grid steps.

    The papers' rule: as many steps of full order as fit, then one of what is left; to sigma = 0 the last one has order 1.
    With `lower_order_final` an order-3 budget that three divides ends in 2, 1 (DPM-Solver-fast). From alpha = 0 the epsilon
    form takes first-order steps over the first group.
    """
    first = min(order, path.steps) if kind == "epsilon" and path.points[0].alpha == 0 else 0
    last = 1 if path.points[-1].sigma == 0 and first < path.steps else 0
    full, rest = divmod(path.steps - first - last, order)
    tail = [rest] if rest else []
    if lower_order_final and order == 3 and full and not rest and not last:
        full, tail = full - 1, [2, 1]
    return [1] * first + [order] * full + tail + [1] * last


def _even_in_log_snr(path: Path, points: tuple[Point, ...]) -> tuple[Point, ...]:
    p = len(points) - 1
    start, end = points[0].lam, points[-1].lam
    if p == 1 or math.isinf(start) or math.isinf(end):
        return points
    times = [float(path.schedule.time(2 * (start + (end - start) * i / p))) for i in range(1, p)]
    return (points[0], *path.between(points[0], points[-1], times), points[-1])


def _singlestep_row(evaluations: list[Evaluation], end: Point, kind: str, solver_type: str, stage_of_third: bool) -> Row:
    """The row from the group's first evaluation to `end`, with the outputs at the stages so far."""
    first, newest = evaluations[0], evaluations[-1]
    base, output = transfer(first, end), newest.output(kind)
    if len(evaluations) == 1:
        return Row(end, base, output, step_factor(kind, first.point, end), kind)
    h, z, scale = _step(first.point, end, kind)
    if math.isinf(h):
        return _row_from_noise(evaluations, end)

    def difference(e: Evaluation) -> Combination:
        return (e.output(kind) - first.output(kind)) / _share(e, first, h)

    if len(evaluations) == 2:
        # The papers' third-order step has its second stage with g_1 = z phi_2; the midpoint's weight is for second order.
        weight = z_phi(1, z) if stage_of_third and solver_type == "dpmsolver" else _first_weight(z, solver_type)
        change, newest_weight = weight * difference(newest), weight / _share(newest, first, h)
    elif solver_type == "heun":
        r1, r2 = _share(evaluations[1], first, h), _share(newest, first, h)
        d1, d2 = difference(evaluations[1]), difference(newest)
        curvature = 2 * (d2 - d1) / (r2 - r1)
        change = z_phi(1, z) * (r2 * d1 - r1 * d2) / (r2 - r1) + z_phi(2, z) * curvature
        newest_weight = (2 * z_phi(2, z) - z_phi(1, z) * r1) / (r2 - r1) / r2
    else:
        change, newest_weight = z_phi(1, z) * difference(newest), z_phi(1, z) / _share(newest, first, h)
    return Row(end, base - scale * change, output, -scale * newest_weight, kind)


def _row_from_noise(evaluations: list[Evaluation], end: Point) -> Row:
    first, newest = evaluations[0], evaluations[-1]
    factor = step_factor("sample", first.point, end)
    # D is taken as linear in u = 1 / rho, from u = 0 through the newest stage; no further than the newest output itself.
    weight = factor * min(newest.point.rho / (2 * end.rho), 1.0)
    return Row(end, transfer(first, end) + weight * (newest.D - first.D), newest.D, weight, "sample")


def _step(start: Point, end: Point, kind: str) -> tuple[float, float, float]:
    """h, z and the scale of a step."""
    h = end.lam - start.lam
    return (h, h, end.sigma) if kind == "epsilon" else (h, -h, end.alpha)


def _share(evaluation: Evaluation, first: Evaluation, h: float) -> float:
    return (evaluation.point.lam - first.point.lam) / h


def _first_weight(z: float, solver_type: str) -> float:
    return z_phi(1, z) if solver_type == "heun" else 0.5 * math.expm1(z)


def _group(order: int, method: str, **_: object) -> int:
    return order if method == "singlestep" else 1


def _between(method: str, stages: str, **_: object) -> bool:
    return method == "singlestep" and stages == "log-snr"


DPM_SOLVER = Family(
    "dpm-solver",
    dpm_solver_rows,
    "DPM-Solver: exponential integrator in epsilon, single-step or multistep",
    ("lu2022dpmsolver",),
    group=_group,
    between=_between,
)
DPM_SOLVER_PP = Family(
    "dpm-solver++",
    dpm_solver_pp_rows,
    "DPM-Solver++: exponential integrator in D, multistep 2M/3M or single-step",
    ("lu2022dpmsolverpp",),
    group=_group,
    between=_between,
)
