"""Where to start: many grids, solvers and first outputs, each judged by its closed form on one dense teacher run.

Steps between grid families matter more than any coefficient, so this comes before the end-to-end fit, which then moves every time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.choice import Candidate, judge
from dode.distillation.directions import DirectionsLike, make_directions
from dode.distillation.gram import RIDGES
from dode.distillation.greedy import corrected, fit
from dode.grids import Grid, Karras, LogSNR, Power, Quadratic, Shifted, Uniform
from dode.schedules import NoiseSchedule
from dode.solvers import REGISTRY, Solver
from dode.solvers import solver as make_solver
from dode.tableau import Tableau

# One-parameter families of grids.
POWERS = (0.8, 1.0, 1.2, 1.5, 2.0, 3.0)
SHIFTS = (0.5, 0.7, 1.5, 2.5, 4.0, 6.0)
RHOS = (3.0, 7.0)
# How many of the best grids with one first output that is no evaluation are tried with the other one: these two like the same grids.
_WITH_OTHER = 3
# How many of those tried with few samples are tried again: the best closed forms, and the best bases.
_FINALISTS, _FINAL_BASES = 4, 2


@dataclass(frozen=True, eq=False)
class Trial:
    """A tableau that was tried.

    Attributes:
        name: solver, grid and first output.
        base: the solver as it is.
        candidate: its closed form, judged on validation.
        base_error: the validation error of the base; nan where it was not measured.
        samples: of the validation, that it was judged with.
    """

    name: str
    base: Tableau
    candidate: Candidate
    base_error: float
    samples: int


def grid_families() -> list[Grid]:
    """The grids that a thorough search tries."""
    return [
        *(Power(exponent=p) for p in POWERS),
        *(Shifted(shift=s) for s in SHIFTS),
        LogSNR(),
        *(Karras(rho=r) for r in RHOS),
    ]


def search(
    denoiser: Denoiser,
    solvers: Sequence[Solver],
    nfe: int,
    grids: Sequence[Grid],
    directions: DirectionsLike,
    batch: Batch,
    validation: Batch,
    *,
    firsts: Sequence[str] = ("network",),
    with_base: bool = False,
) -> list[Trial]:
    """Try every solver on every grid, also with other first outputs; the best trial first.

    Args:
        denoiser: the network.
        solvers: to try.
        nfe: number of evaluations that every sample pays.
        grids: to try.
        directions: of the closed form.
        batch, validation: with dense teacher states.
        firsts: first outputs to try, "network" among them: the first of the others on every grid, the next on its best ones.
        with_base: measure the bases too.
    """
    trials = [
        _trial(denoiser, tableau, directions, batch, validation, with_base)
        for tableau in _tableaux(denoiser.schedule, solvers, nfe, grids)
    ]
    # Where the first output costs no call, other grids are good than where it does.
    wanted = [(s, grid) for s in solvers for grid in grids]
    for first in firsts:
        if first == "network":
            continue
        found = [
            _trial(denoiser, replace(tableau, first=first), directions, batch, validation, with_base)
            for s, grid in wanted
            for tableau in _tableaux(denoiser.schedule, [s], nfe + 1, [grid])
        ]
        trials += found
        best = {(t.base.solver, t.base.grid) for t in sorted(found, key=lambda t: t.candidate.error)[:_WITH_OTHER]}
        wanted = [(s, grid) for s, grid in wanted if (str(s), str(grid)) in best]
    return sorted(trials, key=lambda trial: trial.candidate.error)


def finals(
    denoiser: Denoiser,
    trials: Sequence[Trial],
    directions: DirectionsLike,
    batch: Batch,
    validation: Batch,
    *,
    with_base: bool = False,
) -> list[Trial]:
    """The trials with the best ones made again from more samples; these come first.

    Args:
        trials: the best one first.
        denoiser, directions, batch, validation, with_base: as `search`.
    """
    best = list(trials[:_FINALISTS])
    if with_base:
        by_base = sorted(trials, key=lambda trial: trial.base_error)
        best += [trial for trial in by_base[:_FINAL_BASES] if trial not in best]
    again = [_trial(denoiser, trial.base, directions, batch, validation, with_base) for trial in best]
    return sorted(again, key=lambda trial: trial.candidate.error) + [trial for trial in trials if trial not in best]


def everything() -> tuple[list[Solver], list[Grid]]:
    """All solvers of the registry with the options that people use, and the grids that have names."""
    solvers = [make_solver(name) for name in REGISTRY]
    return solvers, [Uniform(), Quadratic(), LogSNR(), Karras()]


def _tableaux(schedule: NoiseSchedule, solvers: Iterable[Solver], nfe: int, grids: Iterable[Grid]) -> Iterator[Tableau]:
    grids = list(grids)
    for s in solvers:
        for grid in grids:
            try:
                yield s.tableau(schedule, nfe, grid)
            except ValueError:  # a budget or a grid that this solver does not have here
                continue


def _trial(
    denoiser: Denoiser, base: Tableau, directions: DirectionsLike, batch: Batch, validation: Batch, with_base: bool
) -> Trial:
    along = make_directions(directions, base)
    try:
        found = corrected(base, along, fit(denoiser, base, along, batch, RIDGES).coefficients)
    except FloatingPointError:  # the base is the only one to judge, and may diverge too
        found = base
    shared = {"network": "", "zero": ", D0 = 0", "mean": ", D0 = mean"}[base.first]
    name = f"{base.solver}, {base.grid}{shared}"
    error = judge(denoiser, name, base, validation).error if with_base else float("nan")
    return Trial(name, base, judge(denoiser, name, found, validation), error, len(validation))
