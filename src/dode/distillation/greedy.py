"""The closed form: row by row, the student walking on its own corrected states.

    r_k = target_k - base_k,   coefficients_k = least squares of r_k by the directions g_k,   x_{k+1} = base_k + coefficients_k . g_k

With the paper's one direction the coefficient is its lambda_k = <g_k, r_k> / <g_k, g_k>.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dode.conditions import take
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.directions import Directions
from dode.distillation.gram import grams, jackknife, solve, squared_error
from dode.first_output import first_output
from dode.grids import Point
from dode.host import parts, to_device
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
    output = denoiser.output
    base = tableau.for_prediction(output)
    along = [tableau.in_outputs(a, b, output) for a, b in zip(directions.a, directions.b, strict=True)]
    outputs = np.abs(tableau.b) + np.abs(directions.b).sum(0)
    # Everything that some coefficient may need: an output in another prediction also names its state.
    used = Coefficients(np.abs(tableau.a) + np.abs(directions.a).sum(0) + outputs, outputs)
    every = [*parts(batch.noise, denoiser.batch_size)]
    walkers = [_Walker(denoiser, tableau, used, batch, rows, alone=len(every) == 1) for rows in every]
    solutions, deviations, errors = [], [], []
    with torch.no_grad():
        for k in range(tableau.rows):
            found = []
            for walker in walkers:
                with walker.at_work() as run:
                    run.evaluate(k)
                    here = run.combine(base.a[k], base.b[k])
                    residual = to_device(batch.target(tableau, k, walker.rows), here) - here
                    gram = grams([*(run.combine(a[k], b[k]) for a, b in along), residual])
                    if not np.isfinite(gram).all():
                        raise FloatingPointError(non_finite("the fit met", residual, k, tableau.rows, run.points[k]))
                    found.append(gram)
            gram = np.concatenate(found)
            solution = solve(gram, ridges)
            solutions.append(solution)
            deviations.append(jackknife(gram, solution))
            errors.append(squared_error(gram, solution.coefficients) / batch.noise[0].numel())
            # Formed as `corrected` forms it, so that sampling with the result walks the very states of the fit.
            row = tableau.in_outputs(*_row(tableau, directions, k, solution.coefficients), output)
            for walker in walkers if k + 1 < tableau.rows else ():
                with walker.at_work() as run:
                    run.advance(k, run.combine(row.a[0], row.b[0]))
    return Fit(
        coefficients=np.array([s.coefficients for s in solutions]),
        standard_errors=np.array(deviations),
        kept=tuple(s.kept for s in solutions),
        ridges=tuple(s.ridge for s in solutions),
        errors=np.array(errors),
    )


class _Walker:
    """The student on a part of the batch. Its row is known only when every part has had its say, so all parts are under way together:
    on the device while they are at work, else on the host, unless there is only one."""

    def __init__(
        self, denoiser: Denoiser, tableau: Tableau, used: Coefficients, batch: Batch, rows: slice, *, alone: bool
    ) -> None:
        self.rows, self._alone = rows, alone
        cond = take(batch.cond, rows)
        x = start(denoiser, tableau, batch.noise[rows])
        self._device = x.device

        def evaluate(x: Tensor, point: Point, call: int | None = None) -> Tensor:
            with denoiser.evaluator(x, cond) as ask:
                return ask(x, point, call)

        self._run = Run(denoiser, evaluate, tableau, x, first_output(denoiser, tableau, x, cond), rows=used)
        self._rest()

    @contextmanager
    def at_work(self) -> Iterator[Run]:
        """The run, on the device."""
        self._run.move(self._device)
        yield self._run
        self._rest()

    def _rest(self) -> None:
        if not self._alone:
            self._run.move(torch.device("cpu"))


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
