"""What a distillation is to do: its arguments, checked and with the defaults filled in, as one frozen plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dode.cache import Cache
from dode.conditions import Condition, checked_condition
from dode.denoisers import Denoiser
from dode.distillation.data import CHOICE, FIT, UNSEEN, NoiseSource
from dode.distillation.directions import DirectionsLike, make_directions
from dode.distillation.effort import Effort, effort_of
from dode.files import check_folder
from dode.grids import Explicit, Grid, GridFamily, GridLike, make_grid
from dode.names import unknown_name
from dode.schedules import NoiseSchedule
from dode.solvers import Path as SolverPath
from dode.solvers import Solver
from dode.solvers import solver as make_solver
from dode.solvers.base import check_nfe
from dode.tableau import FIRST, Tableau

# The paper's numbers: fitting samples, and parts of a step of its teacher.
_PAPERS_SAMPLES, _PAPERS_SCALE = 100, 10
# What may be learned.
LEARNABLE = ("coefficients", "times")
# The solver whose base is asked for where all are tried, and that of a teacher of which only the scale is given.
_ANY = _FINE = "deis"


@dataclass(frozen=True)
class TeacherPlan:
    """What the caller says of the teacher; the rest is found by measurement.

    Attributes:
        solver, grid, nfe: None for what is to be chosen.
        students_grid: it runs on the student's own grid with every step cut, as in the paper.
        scale: into how many parts, there, unless `nfe` says so.
    """

    solver: Solver | None
    grid: Grid | None
    nfe: int | None
    students_grid: bool
    scale: int


@dataclass(frozen=True, eq=False)
class Plan:
    """Everything that is decided before the network is asked.

    Attributes:
        denoiser, cond: the network and the condition.
        base: the solver that was asked for, at its budget on its grid: what the result is compared with.
        start: the time that it begins at, from states of a fine run there; None for pure noise.
        solver: of the base.
        path: the points that it walks.
        automatic: all solvers are tried, and the base is the best undistilled tableau of these.
        search: the grid and the first output are chosen too.
        learn: "coefficients", or "times" where the solver keeps its own rule.
        move_start: with times alone, the first one is learned too.
        directions: of the closed form.
        shrink: choose among the base, the fit and weaker forms of it.
        effort: its name; "paper" for the paper's method as published.
        spending: what it does.
        refine: accepted steps of the end-to-end fit at the most.
        samples, validation, held_out: how many of each set.
        seed: of the noise.
        noise: the fitting noise, or a source for all sets, in place of the seed's.
        targets: states in place of a teacher.
        teacher: what is said of the teacher; None with `targets`.
        budget: network evaluations for all but the measurement.
        cache: of what an interrupted run goes on from.
        progress: show a bar.
    """

    denoiser: Denoiser
    cond: Condition
    base: Tableau
    start: float | None
    solver: Solver
    path: SolverPath
    automatic: bool
    search: bool
    learn: str
    move_start: bool
    directions: DirectionsLike
    shrink: bool
    effort: str
    spending: Effort
    refine: int
    samples: int
    validation: int
    held_out: int
    seed: int
    noise: NoiseSource | None
    targets: Tensor | Sequence[Tensor] | None
    teacher: TeacherPlan | None
    budget: int
    cache: Cache | None
    progress: bool

    @property
    def paper(self) -> bool:
        """The paper's one direction a row is fitted, with its teacher."""
        return self.directions == "paper"

    @property
    def nfe(self) -> int:
        """The student's number of evaluations."""
        return self.base.nfe

    @property
    def span(self) -> tuple[float, float]:
        """The student's first and last time."""
        return float(self.base.times[0]), float(self.base.times[-1])

    @property
    def counts(self) -> dict[str, int]:
        """Samples of each set."""
        return {FIT: self.samples, CHOICE: self.validation, UNSEEN: self.held_out}

    @property
    def name(self) -> str:
        """What is distilled, for people."""
        return "auto" if self.automatic else str(self.solver)


def make_plan(
    denoiser: Denoiser,
    solver: str | Solver,
    nfe: int | None = None,
    *,
    effort: str = "balanced",
    learn: str = "coefficients",
    move_start: bool = True,
    directions: DirectionsLike = "multistep",
    shrink: bool = True,
    refine: int | None = None,
    samples: int | None = None,
    validation: int | None = None,
    held_out: int = 64,
    seed: int = 0,
    grid: GridLike | None = None,
    times: Sequence[float] | None = None,
    start: float | None = None,
    teacher: str | Solver | None = None,
    teacher_grid: GridLike | None = None,
    teacher_scale: int | None = None,
    teacher_nfe: int | None = None,
    noise: Tensor | Callable[[int], Tensor] | None = None,
    targets: Tensor | Sequence[Tensor] | None = None,
    budget: int | None = None,
    cache: str | Path | None = None,
    firsts: Sequence[str] | None = None,
    progress: bool = False,
    **cond: Any,
) -> Plan:
    """The plan of `distill`; arguments and errors as there."""
    if denoiser.guidance_by_step:
        raise ValueError(
            "guidance_scale is a list, one number an evaluation, which says nothing of a teacher's run: give a number or a function of t"
        )
    spending = effort_of(effort)
    if start is not None:  # a first output that is shared is for pure noise
        firsts = ("network",)
    if firsts is not None:
        spending = replace(spending, firsts=_checked_firsts(firsts))
    if learn not in LEARNABLE:
        raise unknown_name("learn", str(learn), LEARNABLE)
    only_times = learn == "times"
    if only_times:
        _check_times_alone(solver, directions, targets, firsts)
        spending = spending.for_times
    paper = directions == "paper"
    published = paper and not shrink and refine == 0
    automatic = solver == "auto"
    if grid is not None and times is not None:
        raise ValueError("give a grid or times, not both")
    where = grid if times is None else times
    if automatic and (where is not None or targets is not None or paper):
        raise ValueError(
            'solver="auto" chooses solver and grid itself: leave out grid, times and targets, and the paper\'s directions'
        )
    chosen = make_solver(_ANY if automatic else solver) if isinstance(solver, str) else solver
    if only_times and chosen.between:
        raise ValueError(
            f"{chosen} asks the network between the times that it stops at, which a list of times does not say: take a multistep solver, "
            "such as dpm-solver++ or unipc"
        )
    free = where is None
    if start is not None:
        if times is not None or noise is not None:
            raise ValueError("start is where a grid begins, from states of a fine run there: leave out times and noise")
        where = _beginning(denoiser.schedule, grid or chosen.family.default_grid, start)
    path = chosen.path(denoiser.schedule, nfe, where)
    base = chosen.tableau(denoiser.schedule, nfe, where)

    if targets is not None and not isinstance(noise, Tensor):
        raise ValueError("targets need the noise that they belong to: give noise too")
    iterations = spending.refine if refine is None else refine
    if samples is None:
        samples = _PAPERS_SAMPLES if published else spending.samples
    choose = shrink or iterations > 0
    choosing = 0 if not choose or targets is not None else spending.validation if validation is None else validation
    _check_counts(samples, choosing, held_out, choose=choose and targets is None)
    along = () if only_times else make_directions(directions, base)
    fitting = len(noise) if isinstance(noise, Tensor) else samples
    if fitting < len(along):
        raise ValueError(f"{len(along)} directions need at least {len(along)} fitting samples, got {fitting}")
    if targets is None and isinstance(path.grid, Explicit) and path.grid.alphas is not None:
        raise ValueError("a grid with alphas and sigmas of its own has no times between for a teacher: hand over targets")
    said = _teacher(denoiser, base, chosen, paper, teacher, teacher_grid, teacher_scale, teacher_nfe)
    return Plan(
        denoiser=denoiser,
        cond=checked_condition(cond),
        base=base,
        start=start,
        solver=chosen,
        path=path,
        automatic=automatic,
        search=automatic or (free and targets is None and choose and isinstance(directions, str) and not paper),
        learn=learn,
        move_start=move_start and start is None,
        directions=directions,
        shrink=shrink,
        effort="paper" if published else effort,
        spending=spending,
        refine=iterations,
        samples=fitting,
        validation=choosing,
        held_out=0 if targets is not None else held_out,
        seed=seed,
        noise=noise,
        targets=targets,
        teacher=said if targets is None else None,
        budget=spending.evaluations(base.nfe) if budget is None else budget,
        cache=None if cache is None else _cache(Path(cache)),
        progress=progress,
    )


def _check_times_alone(solver: str | Solver, directions: DirectionsLike, targets: Any, firsts: Sequence[str] | None) -> None:
    """Raise ValueError for what has no place where a solver keeps its own rule."""
    given = {
        'solver="auto", which chooses the solver': solver == "auto",
        "directions": directions != "multistep",
        "targets": targets is not None,
        "firsts": firsts is not None and list(firsts) != ["network"],
    }
    for name, there in given.items():
        if there:
            raise ValueError(f'learn="times" keeps the solver\'s own rule, and finds where it stops alone: leave out {name}')


def _checked_firsts(firsts: Sequence[str]) -> tuple[str, ...]:
    for first in firsts:
        if first not in FIRST:
            raise unknown_name("first output", str(first), FIRST)
    if isinstance(firsts, str) or "network" not in firsts:
        raise ValueError(f'firsts lists the first outputs that are tried, "network" among them, got {firsts!r}')
    return tuple(firsts)


def _beginning(schedule: NoiseSchedule, grid: GridLike | None, start: float) -> Grid:
    """A grid that begins at a time; the schedule's own where none is named."""
    chosen = make_grid(grid, schedule)
    if not isinstance(chosen, GridFamily) or chosen.strength is not None:
        raise ValueError(f"start needs a grid by its name, got {chosen}: leave out the one or the other")
    if not schedule.t_min < start < schedule.t_max:
        raise ValueError(
            f"start must lie between {schedule.t_min:g} and {schedule.t_max:g}, the schedule's times, got {start:g}"
        )
    return replace(chosen, start=float(start))


def _cache(folder: Path) -> Cache:
    """A cache in a folder; OSError where it cannot be written."""
    check_folder(folder)
    return Cache(folder)


def _check_counts(samples: int, validation: int, held_out: int, *, choose: bool) -> None:
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if held_out < 0:
        raise ValueError(f"held_out must be at least 0, got {held_out}")
    if choose and validation < 2:
        raise ValueError(f"validation must be at least 2 samples, got {validation}: or shrink=False and refine=0 for none")


def _teacher(
    denoiser: Denoiser,
    base: Tableau,
    chosen: Solver,
    paper: bool,
    solver: str | Solver | None,
    grid: GridLike | None,
    scale: int | None,
    nfe: int | None,
) -> TeacherPlan:
    """What the caller says of the teacher; the paper's, where nothing is said, is the student's own solver on its own grid."""
    if scale is not None and (grid is not None or nfe is not None):
        raise ValueError("teacher_scale cuts the student's own grid: leave out teacher_grid and teacher_nfe with it")
    if scale is not None and scale < 1:
        raise ValueError(f"teacher_scale must be at least 1, got {scale}")
    named = make_solver(solver) if isinstance(solver, str) else solver
    if nfe is not None:
        check_nfe(nfe)
        if nfe < base.nfe:
            raise ValueError(f"the teacher takes {nfe} evaluations, the student {base.nfe}: take a finer teacher")
    students_grid = scale is not None or (paper and grid is None)
    if students_grid and named is None:
        named = chosen if paper else make_solver(_FINE)
    return TeacherPlan(
        solver=named,
        grid=None if grid is None else make_grid(grid, denoiser.schedule),
        nfe=nfe,
        students_grid=students_grid,
        scale=_PAPERS_SCALE if scale is None else scale,
    )
