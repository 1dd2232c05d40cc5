"""Least squares and its statistics from per-sample Gram matrices.

For one row of a solver and sample n let V_n hold the p directions and, last, the residual, as vectors over its elements.
Only G_n = V_n V_n^T, (p+1) x (p+1) in float64, is kept. From these follow the fit, its error and its jackknife; over many
processes their sum would be the only thing to exchange.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dode.schedules import Array

# Elements that are turned to float64 at once.
_CHUNK = 2**22


def grams(rows: Sequence[Tensor]) -> Array:
    """Per-sample Gram matrices (n, m, m), float64, of m tensors (n, *shape)."""
    flat = [row.flatten(1) for row in rows]
    n, size = flat[0].shape
    step = max(1, _CHUNK // (len(rows) * size))
    parts = []
    for i in range(0, n, step):
        v = torch.stack([row[i : i + step].double() for row in flat], dim=1)
        parts.append(v @ v.transpose(1, 2))
    result: Array = torch.cat(parts).cpu().numpy()
    return result


def least_squares(gram: Array) -> Array:
    """The coefficients (p,) that minimise the sum over samples of |residual - coefficients . directions|^2.

    A direction that is zero, or that the others span, gets what the minimum-norm solution gives it: 0 for zero.
    """
    return _solve(gram.sum(0))


def jackknife(gram: Array) -> Array:
    """Standard errors (p,) of `least_squares`, by leaving out one sample at a time; nan for a single sample."""
    n = len(gram)
    if n < 2:
        return np.full(gram.shape[1] - 1, np.nan)
    total = gram.sum(0)
    without = np.stack([_solve(total - g) for g in gram])
    return np.asarray(np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0)))


def squared_error(gram: Array, coefficients: Array) -> Array:
    """|residual - coefficients . directions|^2 of each sample: (n,)."""
    v = np.append(-np.asarray(coefficients, np.float64), 1.0)
    return np.asarray(np.maximum(np.einsum("i,nij,j->n", v, gram, v), 0.0))


def _solve(total: Array) -> Array:
    normal, right = total[:-1, :-1], total[:-1, -1]
    # Scaled to unit diagonal, so that the rank does not depend on the units of a direction.
    scale = np.sqrt(np.diag(normal))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    solution, *_ = np.linalg.lstsq(normal * np.outer(inverse, inverse), right * inverse, rcond=1e-12)
    return np.asarray(solution * inverse)
