"""Fine runs for teachers and references: which solver, on which grid, with how many evaluations, by measurement.

With the clean sample defined as D at the lowest time (see `Path.denoises`) all good solvers tend to one limit, so two *different*
solvers on *different* grids that agree are both right: their mean square distance is about the larger of their errors. Two that only
share a grid agree on what both miss between its times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.grids import Grid, GridFamily, LogSNR, Mixed, Uniform, make_grid
from dode.sampling import end_point
from dode.schedules import NoiseSchedule
from dode.solvers import Solver, solver
from dode.tableau import Tableau

# The first and the last time of a run.
Span = tuple[float, float]


def whole_span(schedule: NoiseSchedule) -> Span:
    """From pure noise to the clean sample."""
    return schedule.t_max, schedule.t_clean


@dataclass(frozen=True)
class FineRun:
    """A solver on a grid with many evaluations."""

    solver: Solver
    grid: Grid
    nfe: int

    def tableau(self, schedule: NoiseSchedule, span: Span) -> Tableau:
        """Its numbers from one time to another; with as many evaluations as there is room for, where these are fewer."""
        first, last = span
        most = schedule.most_evaluations
        nfe = (
            self.nfe if most is None else min(self.nfe, round(most - (schedule.t_max - first) - max(last - schedule.t_min, 0)))
        )
        if isinstance(self.grid, GridFamily) and last < schedule.t_min:
            return self.solver.tableau(schedule, nfe, replace(self.grid, start=None if first == schedule.t_max else first))
        if isinstance(self.grid, GridFamily):
            return self.solver.tableau(schedule, grid=self.grid.refine(schedule, [first, last], [nfe]))
        return self.solver.tableau(schedule, grid=self.grid)

    def times_as_fine(self, factor: float) -> FineRun:
        """The same with more evaluations."""
        return replace(self, nfe=math.ceil(self.nfe * factor))

    def __str__(self) -> str:
        return f"{self.solver}, {self.grid} grid, {self.nfe} NFE"


# Of all pairs that were tried these come nearest to the truth with few evaluations, on exactly known data under many schedules
# (tests/test_fine.py) and on networks, which are rough at small noise. They share neither formula nor grid.
PAIR = ((solver("unipc", order=2), LogSNR()), (solver("deis", order=3), Mixed()))
# What reports measure against: neither of the pair.
REFERENCE = (solver("dpm-solver++", order=3), Mixed(share=0.5))


@dataclass(frozen=True)
class Agreement:
    """How far a fine run is from another one.

    Attributes:
        run: the one.
        against: the other: another solver, on another grid where there is a choice, at least as fine.
        error: mean square distance of the end points over an element.
        samples: noises that it was measured on.
        tolerance: what it was to be below; nan where nothing was asked.
    """

    run: FineRun
    against: FineRun
    error: float
    samples: int
    tolerance: float = math.nan

    @property
    def enough(self) -> bool:
        """It is no further than was tolerated."""
        return not self.error > self.tolerance


def agreed(
    denoiser: Denoiser,
    noise: Tensor,
    cond: Condition,
    pair: Sequence[tuple[Solver, Grid]],
    tolerance: Callable[[Tensor], float],
    *,
    span: Span,
    least: int,
    most: int,
    either: bool = True,
) -> Agreement:
    """The cheapest run of a pair that agrees with the other one.

    Both are made twice as fine until a run is within the tolerance of the finest run of the other solver, or `most` is reached.

    Args:
        denoiser: the network.
        noise: (n, *shape), standard normal: a few.
        cond: their condition.
        pair: two solvers, each on its grid.
        tolerance: from the finest end points so far, (n, *shape), to the mean square distance that is small enough.
        span: the first and the last time.
        least, most: evaluations to begin and to end with.
        either: take whichever of the two is cheaper; False takes the first.

    Raises:
        FloatingPointError: no run of either solver is finite; the message names the step.
    """
    room = denoiser.schedule.most_evaluations
    most = most if room is None else min(most, room)
    nfe = min(least, most)
    ends: list[tuple[FineRun, Tensor]] = []
    while True:
        finest, failures = _run(denoiser, [FineRun(s, grid, nfe) for s, grid in pair], span, noise, cond)
        if not ends and not finest:
            raise failures[0]
        ends += finest
        goal = min((max(tolerance(end), _floor(end)) for _, end in finest), default=math.nan)
        found = [
            Agreement(run, other, float(mean_square_distance(end, far).mean()), len(noise), goal)
            for run, end in ends
            for other, far in finest
            if other.solver != run.solver and (either or run.solver == pair[0][0])
        ]
        enough = [agreement for agreement in found if agreement.enough]
        if enough:
            return min(enough, key=lambda agreement: (agreement.run.nfe, agreement.error))
        if 2 * nfe > most:
            break
        nfe *= 2
    last = [agreement for agreement in found if agreement.run.nfe == nfe]
    if not last:  # the other solver diverges
        alone, _ = ends[-1]
        return Agreement(alone, alone, math.inf, len(noise), goal)
    return min(last, key=lambda agreement: agreement.error)


def _run(
    denoiser: Denoiser, runs: Sequence[FineRun], span: Span, noise: Tensor, cond: Condition
) -> tuple[list[tuple[FineRun, Tensor]], list[FloatingPointError]]:
    """The end points of runs, and why others have none."""
    ends, failures = [], []
    for run in runs:
        try:
            ends.append((run, end_point(denoiser, run.tableau(denoiser.schedule, span), noise, cond)))
        except FloatingPointError as error:
            failures.append(error)
    return ends, failures


def _floor(end: Tensor) -> float:
    """The mean square distance below which two runs in the precision of these states do not agree."""
    wide = end.float()
    return float(wide.square().mean()) * (8 * torch.finfo(wide.dtype if end.dtype != torch.float64 else end.dtype).eps) ** 2


def undistilled_errors(denoiser: Denoiser, nfe: int, span: Span, noise: Tensor, cond: Condition) -> Callable[[Tensor], float]:
    """From a fine end point to the least error that a few good undistilled solvers have with so many evaluations."""
    ends = []
    for s, grid in (*PAIR, (solver("dpm-solver++"), Uniform()), (solver("deis"), Uniform())):
        try:
            ends.append(end_point(denoiser, FineRun(s, grid, nfe).tableau(denoiser.schedule, span), noise, cond))
        except (ValueError, FloatingPointError):  # a budget that the grid has no room for, or a run that diverges
            continue

    def least(end: Tensor) -> float:
        return min((float(mean_square_distance(x, end).mean()) for x in ends), default=math.inf)

    return least


def other_than(run: FineRun, schedule: NoiseSchedule) -> tuple[Solver, Grid]:
    """Of the pair the one that shares neither solver nor grid with a run, if there is one; else one of another solver."""
    others = [(s, grid) for s, grid in PAIR if s.name != run.solver.name]
    apart = [(s, grid) for s, grid in others if make_grid(grid, schedule) != make_grid(run.grid, schedule)]
    return (apart or others)[0]
