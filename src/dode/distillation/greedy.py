"""The paper's fit: row by row, the student walking on its own corrected states.

r_k = target_k - base_k,   lambda_k = <g_k, r_k> / <g_k, g_k>,   x_{k+1} = base_k + lambda_k g_k
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distillation.gram import grams, jackknife, least_squares, squared_error
from dode.sampling import Run, non_finite, start
from dode.schedules import Array
from dode.tableau import Coefficients, Tableau


@dataclass(frozen=True)
class Fit:
    """Row by row: lambda, its standard error, and the mean square error of each fitting sample (K, n)."""

    lambdas: Array
    standard_errors: Array
    errors: Array


def fit(
    denoiser: Denoiser,
    tableau: Tableau,
    directions: Coefficients,
    noise: Tensor,
    targets: Sequence[Tensor],
    cond: Condition,
) -> Fit:
    """Fit one number a row.

    Args:
        denoiser: the network.
        tableau: the base solver.
        directions: one a row, coefficients over (x_j, D_j), (K, K) each.
        noise: (n, *shape), standard normal.
        targets: for each row (n, *shape), the state to reach.
        cond: the condition.

    Raises:
        FloatingPointError: the network or a state is not finite; the message names the step.
    """
    x = start(denoiser, tableau, noise)
    output = denoiser.output
    base = tableau.for_prediction(output)
    along = tableau.in_outputs(*directions, output)
    outputs = np.abs(tableau.b) + np.abs(directions.b)
    # Everything that some lambda may need: an output in another prediction also names its state.
    used = Coefficients(np.abs(tableau.a) + np.abs(directions.a) + outputs, outputs)
    lambdas, deviations, errors = [], [], []
    with denoiser.evaluator(x, cond) as evaluate, torch.no_grad():
        run = Run(denoiser, evaluate, tableau, x, rows=used)
        for k in range(tableau.rows):
            run.evaluate(k)
            residual = targets[k].to(x) - run.combine(base.a[k], base.b[k])
            gram = grams([run.combine(along.a[k], along.b[k]), residual])
            if not np.isfinite(gram).all():
                raise FloatingPointError(non_finite("the fit met", residual, k, tableau.rows, run.points[k]))
            (value,) = least_squares(gram)
            lambdas.append(value)
            deviations.append(float(jackknife(gram)[0]))
            errors.append(squared_error(gram, np.array([value])) / residual[0].numel())
            # Formed as `corrected` forms it, so that sampling with the result walks the very states of the fit.
            row = tableau.in_outputs(*_row(tableau, directions, k, value), output)
            run.advance(k, run.combine(row.a[0], row.b[0]))
    return Fit(np.array(lambdas), np.array(deviations), np.array(errors))


def corrected(tableau: Tableau, directions: Coefficients, lambdas: Array) -> Tableau:
    """The tableau with lambda_k times its direction added to each row. All zeros give the same numbers to the last bit."""
    rows = [_row(tableau, directions, k, value) for k, value in enumerate(lambdas)]
    return replace(tableau, a=np.concatenate([row.a for row in rows]), b=np.concatenate([row.b for row in rows]))


def _row(tableau: Tableau, directions: Coefficients, k: int, value: float) -> Coefficients:
    """Row k of the corrected tableau: (1, K) each."""
    pick = slice(k, k + 1)
    return Coefficients(tableau.a[pick] + value * directions.a[pick], tableau.b[pick] + value * directions.b[pick])
