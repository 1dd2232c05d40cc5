"""Never worse: of several tableaux the one to give out, chosen on noise that nothing was fitted to.

The base is always a candidate, and it takes a clear gain to leave it: in the mean more than one standard error of the paired difference,
more of them where samples are few, and no loss in the median, since a few samples may carry a mean.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from dode.conditions import take
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.distillation.batch import Batch
from dode.distillation.directions import Directions
from dode.distillation.greedy import Fit, corrected
from dode.first_output import first_output
from dode.host import parts
from dode.sampling import Run, end_point, start
from dode.schedules import Array
from dode.statistics import doubt_factor
from dode.tableau import Tableau

# Factors by which all corrections are shrunk; the first is the fit as it is.
FACTORS = (1.0, 0.75, 0.5, 0.25)
# Corrections may also be left out of so many last rows.
DROPPED_ROWS = 2


@dataclass(frozen=True, eq=False)
class Candidate:
    """A tableau that may be given out.

    Attributes:
        name: what it is, for people.
        tableau: it.
        errors: (n,) mean square distance of the end point to the teacher's on the validation samples; infinite where it diverges.
        superseded: an end-to-end fit that began with it, or with one like it, is better on fitting and validation samples together;
            so it is no longer given out.
    """

    name: str
    tableau: Tableau
    errors: Array
    superseded: bool = False

    @property
    def error(self) -> float:
        """Mean over the samples."""
        return float(self.errors.mean())

    @property
    def median(self) -> float:
        """Median over the samples."""
        return float(np.median(self.errors))


def judge(denoiser: Denoiser, name: str, tableau: Tableau, validation: Batch) -> Candidate:
    """A candidate with its errors on the validation samples."""
    return Candidate(name, tableau, end_errors(denoiser, tableau, validation))


def end_errors(denoiser: Denoiser, tableau: Tableau, batch: Batch) -> Array:
    """Mean square distance of the end point to the teacher's: (n,), over a sample's elements; infinite if the run diverges."""
    errors = []
    for rows in parts(batch.noise, denoiser.batch_size):
        try:
            x = end_point(denoiser, tableau, batch.noise[rows], take(batch.cond, rows))
        except FloatingPointError:
            return np.full(len(batch), math.inf)
        errors.append(mean_square_distance(x, batch.end_of(rows)))
    return np.concatenate(errors)


def best(candidates: Sequence[Candidate]) -> Candidate:
    """The candidate to give out; the first one is the base.

    Of those whose median error is no larger than the base's, the one with the smallest mean; it must be smaller by more than chance.
    """
    base, leader = candidates[0], leader_of(candidates)
    if leader is None:
        return base
    if not math.isfinite(base.error):
        return leader
    gain = base.errors - leader.errors
    doubt = gain.std(ddof=1) / math.sqrt(len(gain)) * doubt_factor(len(gain)) if len(gain) > 1 else 0.0
    return leader if gain.mean() > doubt else base


def leader_of(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate that comes first among those that do no worse than the base, which is the first one, in the middle, and are not
    superseded; None if there is none that is finite."""
    base, *others = candidates
    # A base that diverges now and then has no mean to lose.
    least = base.median if math.isfinite(base.error) else math.inf
    able = [c for c in others if math.isfinite(c.error) and c.median <= least and not c.superseded]
    return min(able, key=lambda candidate: candidate.error, default=None)


def hopeful(candidates: Sequence[Candidate]) -> Candidate | None:
    """The candidate whose gain more noise may bear out: the leader, or where that has none the one with the smallest mean, whose loss in
    the middle may be chance too; None where no mean is smaller than the base's."""
    base, *others = candidates
    gaining = [c for c in others if c.error < base.error and not c.superseded]
    leader = leader_of(candidates)
    return leader if leader in gaining else min(gaining, key=lambda candidate: candidate.error, default=None)


def shrunk(
    base: Tableau, directions: Directions, fit: Fit, factors: Sequence[float] = FACTORS, dropped_rows: int = DROPPED_ROWS
) -> list[tuple[str, Tableau]]:
    """What may be made of a fit without fitting again: all corrections times a factor, or none in the last rows."""
    found = [
        (
            "the fit as it is" if factor == 1 else f"corrections x {factor:g}",
            corrected(base, directions, factor * fit.coefficients),
        )
        for factor in factors
    ]
    for rows in range(1, min(dropped_rows, base.rows - 1) + 1):
        kept = fit.coefficients.copy()
        kept[-rows:] = 0
        found.append((f"no correction in the last {'row' if rows == 1 else f'{rows} rows'}", corrected(base, directions, kept)))
    return found


def measure(denoiser: Denoiser, tableau: Tableau, batch: Batch) -> Array:
    """Mean square distance of every row's state to the teacher's: (R, n), over a sample's elements; infinite where it diverges."""
    errors = np.empty((tableau.rows, len(batch)))
    for rows in parts(batch.noise, denoiser.batch_size):
        x, cond = start(denoiser, tableau, batch.noise[rows]), take(batch.cond, rows)
        first = first_output(denoiser, tableau, x, cond)
        with denoiser.evaluator(x, cond) as evaluate, torch.no_grad():
            run = Run(denoiser, evaluate, tableau, x, first)
            for k in range(tableau.rows):
                run.evaluate(k)
                errors[k, rows] = mean_square_distance(run.advance(k), batch.target(tableau, k, rows))
    return np.nan_to_num(errors, nan=math.inf, posinf=math.inf)
