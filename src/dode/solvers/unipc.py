"""UniPC (Zhao, Bai, Rao, Zhou, Lu 2023, arXiv 2302.04867): a multistep predictor UniP and a corrector UniC.

UniC costs no evaluation: it replaces the state x_k, once its output is known, by a better one, from which UniP goes on. Both
are linear and share their first-order part, so the corrected state is x_k plus a combination of outputs, and the whole is a
tableau.

With z = -h for the denoised form (h for epsilon) and s = alpha' (sigma'): increment = -s B(h) sum_i rho_i (O_i - O_0) / r_i,
where the weights solve sum_i rho_i r_i^{m-1} = m! phi_{m+1}(z) / B(h) (algorithms 5-7). B(h) is z (bh1) or e^z - 1 (bh2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from dode.grids import Point
from dode.rows import Combination, Evaluation, Row, step_factor, transfer
from dode.schedules import Array
from dode.solvers.base import Family, Path, check_choice
from dode.solvers.phi import z_phi


def rows(
    path: Path,
    order: int = 3,
    variant: str = "bh2",
    corrector: bool = True,
    prediction: str = "sample",
    lower_order_final: bool = True,
) -> Iterator[Row]:
    """order: 1 .. 3. variant: "bh1" or "bh2". corrector: with UniC. prediction: the form, "sample" (as usual) or "epsilon".
    lower_order_final: the orders of the last steps are 3, 2, 1."""
    check_choice("order of unipc", order, (1, 2, 3))
    check_choice("variant of unipc", variant, ("bh1", "bh2"))
    check_choice("prediction of unipc", prediction, ("sample", "epsilon"))
    past: list[Evaluation] = []  # newest first
    correction = Combination()
    predicted: list[Evaluation] = []  # what the last predictor used
    for k in range(path.steps):
        newest, end = Evaluation(k, path.points[k]), path.points[k + 1]
        if corrector and predicted:
            correction = _increment(predicted, newest.point, prediction, variant, newest) - _increment(
                predicted, newest.point, prediction, variant
            )
        # A pure-noise evaluation is infinitely far in log-SNR: its differences vanish.
        past = [newest, *(e for e in past if e.point.alpha)][:order]
        p = min(len(past), path.steps - k) if lower_order_final else len(past)
        predicted = past[: 1 if math.isinf(end.lam) or math.isinf(newest.point.lam) else p]
        yield _row(predicted, correction, end, prediction, variant)


def _row(used: Sequence[Evaluation], correction: Combination, end: Point, kind: str, variant: str) -> Row:
    """The predictor's row from the corrected state x_k + correction."""
    newest = used[0]
    increment = _increment(used, end, kind, variant)
    factor = step_factor(kind, newest.point, end)
    # The state enters with the weight that it has in the step for a constant output.
    share = end.sigma / newest.point.sigma if kind == "sample" else _ratio(end.alpha, newest.point.alpha)
    integrand = newest.output(kind) + (increment / factor if factor else Combination())
    return Row(end, transfer(newest, end) + share * correction + increment, integrand, factor, kind)


def _increment(
    used: Sequence[Evaluation], end: Point, kind: str, variant: str, corrected_by: Evaluation | None = None
) -> Combination:
    """What the predictor over `used` (newest first) adds to the first-order step to `end`; the corrector where the output at
    `end` is given."""
    newest = used[0]
    h = end.lam - newest.point.lam
    z, scale = (h, end.sigma) if kind == "epsilon" else (-h, end.alpha)
    if math.isinf(h) and (kind == "epsilon" or variant == "bh1"):
        return Combination()  # no finite B(h): the step stays first-order
    nodes = [(e.point.lam - newest.point.lam) / h for e in used[1:]]
    others = [e.output(kind) for e in used[1:]]
    if corrected_by is not None:
        nodes.append(1.0)
        others.append(corrected_by.output(kind))
    total = Combination()
    for r, weight, other in zip(nodes, _weights(nodes, z, variant), others, strict=True):
        total = total + weight / r * (other - newest.output(kind))
    return -scale * (z if variant == "bh1" else math.expm1(z)) * total


def _weights(nodes: Sequence[float], z: float, variant: str) -> Array:
    """rho_i at these nodes r_i; a single one is 1/2, as in the authors' code."""
    n = len(nodes)
    if n <= 1:
        return np.full(n, 0.5)
    scale = z if variant == "bh1" else math.expm1(z)
    wanted = [math.factorial(m) * z_phi(m, z) / scale for m in range(1, n + 1)]
    return np.linalg.solve(np.vander(nodes, increasing=True).T, np.array(wanted))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 0.0


FAMILY = Family("unipc", rows, "UniPC: predictor-corrector in D (or epsilon), orders 1-3, bh1 and bh2", ("zhao2023unipc",))
