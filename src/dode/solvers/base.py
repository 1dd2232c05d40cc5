"""What is common to all solvers: the path they walk, a family of them, and one of a family with its options set."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count, pairwise
from typing import Any

import numpy as np

from dode.citations import bibtex, of_solver
from dode.grids import Explicit, Grid, GridFamily, GridLike, Point, checked_times, make_grid, nearest_whole
from dode.names import unknown_name
from dode.rows import Row
from dode.schedules import NoiseSchedule
from dode.tableau import Tableau


@dataclass(frozen=True)
class Path:
    """The points from the first state to the last, and how many evaluations the walk may take.

    The last point may be the clean sample (sigma = 0). For inversion the points run upwards.
    """

    points: tuple[Point, ...]
    nfe: int
    schedule: NoiseSchedule
    grid: Grid

    @property
    def steps(self) -> int:
        return len(self.points) - 1

    def at(self, t: float) -> Point:
        """The schedule's point at a time within a step, or at the nearest whole time within it; see `between`."""
        start, end = next((a, b) for a, b in pairwise(self.points) if min(a.t, b.t) < t < max(a.t, b.t))
        return self.between(start, end, [t])[0]

    def between(self, start: Point, end: Point, times: Sequence[float]) -> list[Point]:
        """The schedule's points at times between two of the path's, in the path's order: where a solver has stages of its own.

        Where the schedule has `integer_times` they are at the nearest whole times that all differ.

        Raises:
            ValueError: there are not so many whole times between.
        """
        inner = np.array(times, np.float64)
        if self.schedule.integer_times:
            low, high = sorted((start.t, end.t))
            lowest, highest = max(math.floor(low) + 1, self.schedule.t_min), math.ceil(high) - 1
            if len(inner) > highest - lowest + 1:
                raise ValueError(
                    f"there is no whole time for a stage between t = {start.t:g} and {end.t:g}: take fewer steps or another grid"
                )
            way = 1 if start.t > end.t else -1
            inner = nearest_whole(inner[::way], lowest, highest)[::way]
        return [Point(float(t), float(self.schedule.alpha(t)), float(self.schedule.sigma(t))) for t in inner]

    def denoises(self, start: Point, end: Point) -> bool:
        """Whether a step goes from the lowest time at which the network may be asked to the clean sample. The network says nothing of
        what lies below, so that D at `start` is all that such a step can take; solvers that take more have no common limit."""
        return end.sigma == 0 and start.t <= self.schedule.t_min


@dataclass(frozen=True)
class Family:
    """An entry of the registry.

    Attributes:
        name: what `dode.solver` takes.
        rows: function from a path (and keyword options with defaults) to the solver's rows.
        summary: one line for people.
        papers: keys of `dode.citations.PAPERS`: where it comes from.
        default_grid: the grid where the user names none; the schedule's own if None, or if that starts at alpha = 0.
        steps: (nfe, ends clean, **options) to the number of steps of the path; nfe itself by default.
        nfe: (steps, ends clean, **options) to the natural number of evaluations on that many steps; steps by default.
        group: (**options) to the number of path steps that one step of the method takes (its stages on the path).
        between: (**options) to whether the network is asked between the points of the path.
    """

    name: str
    rows: Callable[..., Iterator[Row]]
    summary: str
    papers: tuple[str, ...] = ()
    default_grid: str | None = None
    steps: Callable[..., int] = lambda nfe, clean, **options: nfe
    nfe: Callable[..., int] = lambda steps, clean, **options: steps
    group: Callable[..., int] = lambda **options: 1
    between: Callable[..., bool] = lambda **options: False

    @property
    def options(self) -> dict[str, Any]:
        """The options and their defaults."""
        parameters = list(inspect.signature(self.rows).parameters.values())[1:]
        return {p.name: p.default for p in parameters}


@dataclass(frozen=True)
class Solver:
    """A solver with its options: a function from (schedule, budget, grid) to a `Tableau`."""

    family: Family
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.options:
            if name not in self.family.options:
                raise unknown_name(f"option of {self.family.name}", name, self.family.options)

    @property
    def name(self) -> str:
        return self.family.name

    @property
    def settings(self) -> dict[str, Any]:
        """All options, defaults included."""
        return {**self.family.options, **self.options}

    @property
    def between(self) -> bool:
        """Whether the network is asked at times of the solver's own, between those of the grid."""
        return self.family.between(**self.settings)

    def __str__(self) -> str:
        changed = ", ".join(f"{name}={value!r}" for name, value in self.options.items())
        return f"{self.name}({changed})" if changed else self.name

    def cite(self) -> str:
        """BibTeX of the papers that it comes from."""
        return bibtex(of_solver(self.name))

    def tableau(
        self,
        schedule: NoiseSchedule,
        nfe: int | None = None,
        grid: GridLike | None = None,
        *,
        reverse: bool = False,
    ) -> Tableau:
        """The solver's numbers on a schedule.

        Args:
            schedule: the network's noise schedule.
            nfe: number of network evaluations, >= 1. May be left out when `grid` is a list of times.
            grid: a name ("uniform", "karras", ...; see `dode.grids`), a `Grid`, or explicit times, decreasing; by default the
                solver's or the schedule's own. The last of explicit times is that of the result, `schedule.t_clean` for a clean
                sample. K times of which none is that, with nfe=K, are the times of the K calls, as others write them: the clean
                sample follows.
            reverse: walk the grid upwards: deterministic inversion, from an image to noise. A clean end is replaced by the
                lowest time at which the network may be asked.

        Raises:
            ValueError: a budget that the solver or the grid cannot meet; times that are out of range or not decreasing; an
                option out of range.
        """
        path = self.path(schedule, nfe, grid, reverse=reverse)
        start = path.points[0]
        tableau = Tableau.from_rows(
            start,
            self.rows(path),
            noise_scale=schedule.noise_scale(start.t) if start.sigma else 1.0,
            schedule=schedule.fingerprint,
            solver=str(self),
            grid=str(path.grid),
        )
        if tableau.nfe != path.nfe:
            raise ValueError(self._mismatch(path, tableau.nfe))
        return tableau

    def _mismatch(self, path: Path, taken: int) -> str:
        """The message where explicit times and a number of evaluations disagree."""
        text = f"{self} takes {taken} evaluations on {path.steps} steps, not {path.nfe}: leave nfe out"
        last = path.points[-1]
        if last.sigma == 0 or path.points[0].t < last.t:
            return text
        clean = f"for a clean sample end the times with {path.schedule.t_clean:g} too"
        return f"{text} for a result at the last time, t = {last.t:g} (sigma {last.sigma:.3g}); {clean}"

    def path(
        self,
        schedule: NoiseSchedule,
        nfe: int | None = None,
        grid: GridLike | None = None,
        *,
        reverse: bool = False,
    ) -> Path:
        """The points that `tableau` walks; arguments and errors as there."""
        if grid is None and schedule.alpha(schedule.t_max):  # else the schedule's own: from pure noise no other is safe
            grid = self.family.default_grid
        chosen = make_grid(grid, schedule)
        if nfe is not None:
            check_nfe(nfe)
        if isinstance(chosen, Explicit):
            clean = chosen.ends_clean(schedule)
            if nfe == len(chosen.values) and not clean and not reverse:
                chosen = chosen.to_clean(schedule)
            if reverse and clean and len(chosen.values) > 2 and chosen.values[-2] == schedule.t_min == _lowest(schedule):
                chosen = chosen.without_clean()  # as below
            steps = len(chosen.values) - 1
        elif nfe is None:
            raise ValueError("nfe is needed: a grid that is no list of times does not say how many steps it has")
        else:
            clean = not reverse and getattr(chosen, "final", "zero") == "zero"
            steps = self.family.steps(nfe, clean, **self.settings)
        times = chosen.times(schedule, steps)
        if reverse and isinstance(chosen, GridFamily) and times[-1] < schedule.t_min and times[-2] <= _lowest(schedule):
            # Its lowest evaluation is where inversion starts: the clean end is left out, not moved.
            chosen = replace(chosen, final="sigma_min")
            times = chosen.times(schedule, steps)
        points = chosen.points(schedule, times)
        if reverse:
            points = _upwards(points, schedule)
        if nfe is None:
            nfe = self.family.nfe(steps, points[-1].sigma == 0, **self.settings)
        return Path(points, nfe, schedule, chosen)

    def rows(self, path: Path) -> Iterator[Row]:
        """The solver's rows on a path.

        Raises:
            ValueError: a row whose equations have no solution in floating point; the message names it.
        """
        rows = iter(self.family.rows(path, **self.options))
        last = path.points[0]
        for k in count(1):
            try:
                row = next(rows, None)
                if row is not None and not all(map(math.isfinite, (*row.base.x.values(), *row.base.D.values()))):
                    raise OverflowError("a coefficient is infinite")
            except (ArithmeticError, np.linalg.LinAlgError) as error:
                what = f"{self} has no coefficients for row {k}, from t = {last.t:g} on"
                raise ValueError(f"{what} ({error}): take fewer steps or another grid") from None
            if row is None:
                return
            yield row
            last = row.point


def check_nfe(nfe: int) -> None:
    """Raise unless nfe is an integer of at least 1."""
    if isinstance(nfe, bool) or not isinstance(nfe, int | np.integer):
        raise TypeError(f"nfe must be an integer, got {nfe!r}")
    if nfe < 1:
        raise ValueError(f"nfe must be at least 1, got {nfe}")


def check_choice(name: str, value: Any, choices: Iterable[Any]) -> None:
    """Raise ValueError unless an option has one of its values."""
    choices = list(choices)
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, choices))}, got {value!r}")


def _upwards(points: tuple[Point, ...], schedule: NoiseSchedule) -> tuple[Point, ...]:
    """The points from the sample to the noise, the clean end moved to where the network may be asked and sigma > 0."""
    if points[-1].sigma == 0:
        t = _lowest(schedule)
        if t >= points[-2].t:
            raise ValueError(
                f"this grid has no room to start an inversion: its lowest evaluation, t = {points[-2].t:g}, is already where "
                'inversion starts; take another grid, such as "uniform"'
            )
        points = (*points[:-1], Point(float(t), float(schedule.alpha(t)), float(schedule.sigma(t))))
        checked_times(np.array([point.t for point in points]), schedule, "the grid of an inversion")
    return points[::-1]


def _lowest(schedule: NoiseSchedule) -> float:
    """Where inversion starts: the lowest time at which the network may be asked and sigma > 0."""
    t = schedule.t_min
    return t if schedule.sigma(t) else t + 1e-3 * (schedule.t_max - schedule.t_min)
