"""The closed form: row by row, the student walking on its own corrected states.

    r_k = target_k - base_k,   coefficients_k = least squares of r_k by the directions g_k,   x_{k+1} = base_k + coefficients_k . g_k

With the paper's one direction the coefficient is its lambda_k = <g_k, r_k> / <g_k, g_k>.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.directions import Directions
from dode.distillation.gram import grams, jackknife, solve, squared_error
from dode.first_output import first_output
from dode.sampling import Run, non_finite, start
from dode.schedules import Array
from dode.tableau import Coefficients, Tableau


@dataclass(frozen=True, eq=False)
class Fit:
    """Row by row, for R rows, P directions and n samples.

    Attributes:
        coefficients: (R, P); 0 for a direction that was dropped.
        standard_errors: (R, P), by jackknife over the samples, earlier rows held fixed.
        kept: (R,) which directions each row kept, by index; the others were zero or in the span of those.
        ridges: (R,) the ridge's strength in each row.
        errors: (R, n) mean square distance to the row's target.
    """

    coefficients: Array
    standard_errors: Array
    kept: tuple[tuple[int, ...], ...]
    ridges: tuple[float, ...]
    errors: Array


def fit(denoiser: Denoiser, tableau: Tableau, directions: Directions, batch: Batch, ridges: Sequence[float] = (0.0,)) -> Fit:
    """Fit the coefficients of the directions, row by row.

    Args:
        denoiser: the network.
        tableau: the base solver.
        directions: of this tableau.
        batch: noise, condition and targets.
        ridges: strengths that cross-validation chooses from in each row; one is taken as it is.

    Raises:
        FloatingPointError: the network or a state is not finite; the message names the step.
    """
    x = start(denoiser, tableau, batch.noise)
    first = first_output(denoiser, tableau, x, batch.cond)
    targets = batch.targets(tableau)
    output = denoiser.output
    base = tableau.for_prediction(output)
    along = [tableau.in_outputs(a, b, output) for a, b in zip(directions.a, directions.b, strict=True)]
    outputs = np.abs(tableau.b) + np.abs(directions.b).sum(0)
    # Everything that some coefficient may need: an output in another prediction also names its state.
    used = Coefficients(np.abs(tableau.a) + np.abs(directions.a).sum(0) + outputs, outputs)
    solutions, deviations, errors = [], [], []
    with denoiser.evaluator(x, batch.cond) as evaluate, torch.no_grad():
        run = Run(denoiser, evaluate, tableau, x, first, rows=used)
        for k in range(tableau.rows):
            run.evaluate(k)
            residual = targets[k].to(x) - run.combine(base.a[k], base.b[k])
            gram = grams([*(run.combine(a[k], b[k]) for a, b in along), residual])
            if not np.isfinite(gram).all():
                raise FloatingPointError(non_finite("the fit met", residual, k, tableau.rows, run.points[k]))
            solution = solve(gram, ridges)
            solutions.append(solution)
            deviations.append(jackknife(gram, solution))
            errors.append(squared_error(gram, solution.coefficients) / residual[0].numel())
            # Formed as `corrected` forms it, so that sampling with the result walks the very states of the fit.
            row = tableau.in_outputs(*_row(tableau, directions, k, solution.coefficients), output)
            run.advance(k, run.combine(row.a[0], row.b[0]))
    return Fit(
        coefficients=np.array([s.coefficients for s in solutions]),
        standard_errors=np.array(deviations),
        kept=tuple(s.kept for s in solutions),
        ridges=tuple(s.ridge for s in solutions),
        errors=np.array(errors),
    )


def no_fit(tableau: Tableau, directions: Directions, samples: int) -> Fit:
    """No correction at all, for a fit that came to nothing; its errors are not known."""
    shape = tableau.rows, len(directions)
    errors = np.full((tableau.rows, samples), np.inf)
    return Fit(np.zeros(shape), np.full(shape, np.nan), ((),) * tableau.rows, (0.0,) * tableau.rows, errors)


def corrected(tableau: Tableau, directions: Directions, coefficients: Array) -> Tableau:
    """The tableau with each row's combination of its directions added. All zeros give the same numbers to the last bit."""
    rows = [_row(tableau, directions, k, values) for k, values in enumerate(coefficients)]
    return replace(tableau, a=np.concatenate([row.a for row in rows]), b=np.concatenate([row.b for row in rows]))


def _row(tableau: Tableau, directions: Directions, k: int, values: Array) -> Coefficients:
    """Row k of the corrected tableau: (1, R) each."""
    pick = slice(k, k + 1)
    a, b = (np.tensordot(values, part[:, pick], 1) for part in (directions.a, directions.b))
    return Coefficients(tableau.a[pick] + a, tableau.b[pick] + b)
