"""What is common to all grids: a family of them in a coordinate of the schedule, in which a step is cut too."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dode.grids.times import check_room, checked_times, nearest_whole, whole_times
from dode.schedules import Array, NoiseSchedule


@dataclass(frozen=True)
class Point:
    """A time with its alpha and sigma."""

    t: float
    alpha: float
    sigma: float

    @property
    def rho(self) -> float:
        """sigma / alpha; infinite where alpha = 0."""
        return self.sigma / self.alpha if self.alpha else math.inf

    @property
    def lam(self) -> float:
        """log(alpha / sigma), half the log-SNR: the lambda of the DPM-Solver papers; infinite at both ends."""
        if not self.alpha:
            return -math.inf
        return math.log(self.alpha / self.sigma) if self.sigma else math.inf


class Grid(ABC):
    """A family of grids.

    Attributes:
        name: what `make_grid` takes.
        papers: keys of `dode.citations.PAPERS`: where it comes from.
    """

    name: str
    papers: ClassVar[tuple[str, ...]] = ()

    def __str__(self) -> str:
        """The name, with what differs from the defaults."""
        known: tuple[Field[Any], ...] = fields(self) if is_dataclass(self) else ()
        changed = [
            f"{f.name}={getattr(self, f.name)}"
            for f in known
            if f.default is not MISSING and getattr(self, f.name) != f.default
        ]
        return f"{self.name}({', '.join(changed)})" if changed else self.name

    @abstractmethod
    def times(self, schedule: NoiseSchedule, steps: int) -> Array:
        """`steps + 1` strictly decreasing times, those at which the network may be asked whole where the schedule wants it.

        Raises:
            ValueError: `steps` is below 1, or the grid has no such number of distinct times.
        """

    def coordinate(self, schedule: NoiseSchedule, t: npt.ArrayLike) -> Array:
        """The coordinate in which the grid is even, at times t."""
        return schedule.uniform_share(t)

    def time(self, schedule: NoiseSchedule, coordinate: npt.ArrayLike) -> Array:
        """Inverse of `coordinate`."""
        return schedule.uniform_time(coordinate)

    def points(self, schedule: NoiseSchedule, times: npt.ArrayLike) -> tuple[Point, ...]:
        """The times with their alpha and sigma."""
        times = np.asarray(times, np.float64)
        return tuple(
            Point(float(t), float(alpha), float(sigma))
            for t, alpha, sigma in zip(times, schedule.alpha(times), schedule.sigma(times), strict=True)
        )

    def refine(self, schedule: NoiseSchedule, times: npt.ArrayLike, parts: Sequence[int]) -> Array:
        """The times with interval i cut into `parts[i]`, evenly in the grid's coordinate; the given times are kept exactly.

        Where the schedule has `integer_times` an interval is cut into no more parts than it has whole times for.
        """
        times = np.asarray(times, np.float64)
        cut = self._between_whole if schedule.integer_times else self._between
        pieces = [cut(schedule, times[i : i + 2], n) for i, n in enumerate(parts)]
        return checked_times(np.concatenate([*pieces, times[-1:]]), schedule)

    def _between_whole(self, schedule: NoiseSchedule, ends: Array, parts: int) -> Array:
        """As `_between`, from and to whole times or to the clean sample."""
        lowest, highest = ends[1] + 1 if ends[1] >= schedule.t_min else schedule.t_min, ends[0] - 1
        parts = min(parts, round(highest - lowest) + 2)
        inner = self._between(schedule, ends, parts)
        inner[1:] = nearest_whole(inner[1:], lowest, highest)
        return inner

    def _between(self, schedule: NoiseSchedule, ends: Array, parts: int) -> Array:
        """The times of an interval cut evenly into `parts`, its end left out. On the way to the clean sample none is below
        `t_min`, where the network may not be asked; from `t_min` that step is not cut."""
        if ends[1] < schedule.t_min and ends[0] <= schedule.t_min:
            return ends[:1]
        inner = self._evenly(schedule, ends, np.linspace(0, 1, parts + 1)[:-1])
        if ends[1] < schedule.t_min and inner[-1] < schedule.t_min:
            inner = self._evenly(schedule, np.array([ends[0], schedule.t_min]), np.linspace(0, 1, parts))
            inner[-1] = schedule.t_min
        return inner

    def _evenly(self, schedule: NoiseSchedule, ends: Array, share: Array) -> Array:
        c = self.coordinate(schedule, ends)
        if np.isfinite(c).all():
            inner = self.time(schedule, c[0] + (c[1] - c[0]) * share)
        else:  # a coordinate that does not reach the clean or the pure-noise end
            u = schedule.uniform_share(ends)
            inner = schedule.uniform_time(u[0] + (u[1] - u[0]) * share)
        inner[0] = ends[0]
        return inner


@dataclass(frozen=True)
class GridFamily(Grid):
    """Common to the grids that are made from a number of steps.

    Args:
        start: the first time; the schedule's `t_max` if None. A lower one is for image-to-image.
        final: "zero" to end at the clean sample, "sigma_min" to end at the schedule's `t_min`.
        strength: in (0, 1], in place of `start`: the share of the grid that is walked, all steps in it. The same strength is another
            noise on another grid. For diffusers' spacings see `Leading`.
    """

    start: float | None = None
    final: str = "zero"
    strength: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if self.final not in ("zero", "sigma_min"):
            raise ValueError(f'final must be "zero" or "sigma_min", got {self.final!r}')
        if self.strength is not None and not 0 < self.strength <= 1:
            raise ValueError(f"strength must lie in (0, 1], got {self.strength}")
        if self.strength is not None and self.start is not None:
            raise ValueError("give a start or a strength, not both")

    def times(self, schedule: NoiseSchedule, steps: int) -> Array:
        if steps < 1:
            raise ValueError(f"a grid needs at least 1 step, got {steps}")
        what = f"the {self} grid with {steps} steps"
        if schedule.integer_times:
            check_room(steps + (self.final != "zero"), schedule.t_min, schedule.t_max, what)
        times = checked_times(self._times(schedule, steps), schedule, what)
        return whole_times(times, schedule, what) if schedule.integer_times else times

    def _times(self, schedule: NoiseSchedule, steps: int) -> Array:
        first, last = self._first(schedule), self._last(schedule)
        return np.append(self._between(schedule, np.array([first, last]), steps), last)

    def _first(self, schedule: NoiseSchedule) -> float:
        first = schedule.t_max if self.start is None else float(self.start)
        if self.strength is not None and self.strength < 1:
            top, bottom = self.coordinate(schedule, [schedule.t_max, self._last(schedule)])
            first = float(self.time(schedule, bottom + (top - bottom) * self.strength))
        if first <= schedule.t_min:
            raise ValueError(f"{self.name} must start above the lowest time {schedule.t_min:g}, got {first:g}")
        return first

    def _last(self, schedule: NoiseSchedule) -> float:
        """Where the coordinate ends."""
        return schedule.t_clean if self.final == "zero" else schedule.t_min
