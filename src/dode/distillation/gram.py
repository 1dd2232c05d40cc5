"""Least squares and its statistics from per-sample Gram matrices.

For one row of a solver and sample n let V_n hold the p directions and, last, the residual, as vectors over its elements.
Only G_n = V_n V_n^T, (p+1) x (p+1) in float64, is kept. From these follow the fit, the strength of its ridge by cross-validation,
its error and its jackknife; over many processes their sum would be the only thing to exchange.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from dode.host import to_host
from dode.schedules import Array

# Elements that cross to the host, and are turned to float64, at once.
_CHUNK = 2**22
# A direction whose part outside the span of those kept is shorter than this share of it is dropped: float32 states are good to
# about 1e-6, so what is left below is rounding.
_COLLINEAR = 1e-4
# An eigenvalue below this share of the largest is rounding.
_RANK = 1e-13
# Ridge strengths that cross-validation chooses from, relative to a direction's own square norm.
RIDGES = (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)


@dataclass(frozen=True)
class Solution:
    """Coefficients (p,) of the directions, which of these were kept, and the strength of the ridge."""

    coefficients: Array
    kept: tuple[int, ...]
    ridge: float


def grams(rows: Sequence[Tensor]) -> Array:
    """Per-sample Gram matrices (n, m, m), float64, of m tensors (n, *shape)."""
    flat = [row.flatten(1) for row in rows]
    (n, size), m = flat[0].shape, len(flat)
    samples, elements = max(1, _CHUNK // (m * size)), max(1, _CHUNK // m)
    result = np.zeros((n, m, m))
    for i in range(0, n, samples):
        for j in range(0, size, elements):
            stack = torch.stack([row[i : i + samples, j : j + elements] for row in flat], dim=1)
            v = to_host(stack).astype(np.float64)
            result[i : i + samples] += v @ v.transpose(0, 2, 1)
    return result


def solve(gram: Array, ridges: Sequence[float] = (0.0,), folds: int = 5) -> Solution:
    """Fit the residual by the directions.

    Args:
        gram: (n, p+1, p+1) per-sample Gram matrices.
        ridges: strengths to choose from by cross-validation over the samples, relative to a direction's own square norm; a single
            one is taken as it is.
        folds: parts of the cross-validation.
    """
    total = gram.sum(0)
    kept = independent(total)
    ridge = float(ridges[0]) if len(ridges) == 1 or len(gram) < 2 else _cross_validated(gram, kept, ridges, folds)
    return Solution(_solve(total, kept, ridge), kept, ridge)


def least_squares(gram: Array) -> Array:
    """The coefficients (p,) that minimise the sum over samples of |residual - coefficients . directions|^2.

    A direction that is zero, or that the others before it span, gets 0.
    """
    return solve(gram).coefficients


def jackknife(gram: Array, solution: Solution | None = None) -> Array:
    """Standard errors (p,) of the fit, by leaving out one sample at a time; nan for a single sample."""
    n = len(gram)
    if n < 2:
        return np.full(gram.shape[1] - 1, np.nan)
    total = gram.sum(0)
    kept, ridge = (independent(total), 0.0) if solution is None else (solution.kept, solution.ridge)
    without = _solve(total - gram, kept, ridge)
    return np.asarray(np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0)))


def squared_error(gram: Array, coefficients: Array) -> Array:
    """|residual - coefficients . directions|^2 of each sample: (n,). Coefficients (..., n, p) are each sample's own."""
    v = np.concatenate([-np.asarray(coefficients, np.float64), np.ones((*np.shape(coefficients)[:-1], 1))], axis=-1)
    return np.asarray(np.maximum(np.einsum("...i,...ij,...j->...", v, gram, v), 0.0))


def independent(total: Array) -> tuple[int, ...]:
    """The directions to keep, in order: those that are not zero and not in the span of the ones kept before (Cholesky)."""
    normal = total[:-1, :-1]
    kept: list[int] = []
    basis = np.zeros((0, len(normal)))
    for i, square in enumerate(np.diag(normal)):
        if square <= 0:
            continue
        # Row i of the Cholesky factor over the kept directions; what is left of it is its part outside their span.
        row = normal[i] - (basis[:, i] @ basis if len(basis) else 0.0)
        if row[i] > _COLLINEAR**2 * square:
            kept.append(i)
            basis = np.vstack([basis, row / np.sqrt(row[i])])
    return tuple(kept)


def damped(normal: Array, right: Array, strength: float | Array) -> Array:
    """The solutions (..., p) of (normal + strength diag(normal)) c = right, for normal (..., p, p), right (..., p) and strength (...).

    These broadcast: all strengths share the decomposition of a matrix. Scaled to a unit diagonal, so that neither rank nor strength
    depends on the units of an unknown; 0 for one whose diagonal is 0.
    """
    scale = np.sqrt(np.maximum(np.diagonal(normal, axis1=-2, axis2=-1), 0))
    inverse = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale > 0)
    values, vectors = np.linalg.eigh(normal * inverse[..., :, None] * inverse[..., None, :])
    values = values + np.asarray(strength)[..., None]
    counts = values > _RANK * values.max(-1, keepdims=True)
    along = np.einsum("...ij,...i->...j", vectors, right * inverse)
    divided = np.divide(along, values, out=np.zeros(np.broadcast_shapes(along.shape, values.shape)), where=counts)
    return np.asarray(np.einsum("...ij,...j->...i", vectors, divided) * inverse)


def _solve(total: Array, kept: Sequence[int], ridge: float | Array) -> Array:
    """(..., p) for total (..., p+1, p+1) and ridge (...)."""
    index = np.array(kept, int)
    result = np.zeros((*np.broadcast_shapes(total.shape[:-2], np.shape(ridge)), total.shape[-1] - 1))
    if len(index):
        result[..., index] = damped(total[..., index[:, None], index], total[..., index, -1], ridge)
    return result


def _cross_validated(gram: Array, kept: Sequence[int], ridges: Sequence[float], folds: int) -> float:
    """The strength with the smallest error on the samples left out."""
    parts = np.stack([gram[i::folds].sum(0) for i in range(min(folds, len(gram)))])
    coefficients = _solve(gram.sum(0) - parts, kept, np.asarray(ridges)[:, None])
    return float(ridges[int(np.argmin(squared_error(parts, coefficients).sum(1)))])
