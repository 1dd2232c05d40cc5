"""Where the solver stops: strictly decreasing times from the noise to the sample.

A grid is even in some *coordinate* of the schedule (time, log-SNR, a power of sigma / alpha ...). The coordinate also says how
a step is cut into parts, so that a refined grid belongs to the same family.

By default a grid ends at the clean sample (`final="zero"`, diffusers' name): the last evaluation is above `t_clean`, and the
last step goes to sigma = 0. With `final="sigma_min"` the last state is at the schedule's `t_min`.

Where the schedule has `integer_times` every time at which the network may be asked is whole: the whole times nearest to the grid's
own that are all different.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass, replace
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from dode.names import unknown_name
from dode.schedules import VP, Array, NoiseSchedule

# log-SNR of diffusers' stand-in for a zero terminal SNR, alpha-bar = 2^-24: coordinates in log-SNR or sigma stop there.
_LOWEST_LOG_SNR = -24 * math.log(2)
# Of an interval of times, to float64's last digits.
_BISECTIONS = 60
_ROUNDING = 1e-12
# Neighbouring times are apart by this share of the schedule's whole range at least, and their log-SNR by as much: solvers divide by both.
_CLOSEST = 1e-8


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
            _check_room(steps + (self.final != "zero"), schedule.t_min, schedule.t_max, what)
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


@dataclass(frozen=True)
class Uniform(GridFamily):
    """Evenly in network time (for a flow: in its unshifted time), from `t_max` to the clean sample, without rounding."""

    name = "uniform"


@dataclass(frozen=True)
class Power(GridFamily):
    """Evenly in t^(1 / exponent), measured from the clean time: an exponent above 1 puts more steps near the sample."""

    exponent: float = 2.0
    name = "power"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.exponent > 0:
            raise ValueError(f"the exponent of a power grid must be above 0, got {self.exponent}")

    def coordinate(self, schedule: NoiseSchedule, t: npt.ArrayLike) -> Array:
        return np.asarray(schedule.uniform_share(t) ** (1 / self.exponent))

    def time(self, schedule: NoiseSchedule, coordinate: npt.ArrayLike) -> Array:
        return schedule.uniform_time(np.asarray(coordinate, np.float64) ** self.exponent)


@dataclass(frozen=True)
class Quadratic(Power):
    """The power grid of exponent 2 (Song et al. 2021, DDIM; DEIS)."""

    name = "quadratic"
    papers = ("song2021ddim",)


@dataclass(frozen=True)
class Shifted(GridFamily):
    """The uniform grid moved towards the noise (shift above 1) or the sample: u -> shift u / (1 + (shift - 1) u) (Esser et al. 2024)."""

    shift: float = 3.0
    name = "shifted"
    papers = ("esser2024rectified",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.shift > 0:
            raise ValueError(f"the shift of a grid must be above 0, got {self.shift}")

    def coordinate(self, schedule: NoiseSchedule, t: npt.ArrayLike) -> Array:
        u = schedule.uniform_share(t)
        return np.asarray(u / (self.shift - (self.shift - 1) * u))

    def time(self, schedule: NoiseSchedule, coordinate: npt.ArrayLike) -> Array:
        c = np.asarray(coordinate, np.float64)
        return schedule.uniform_time(self.shift * c / (1 + (self.shift - 1) * c))


@dataclass(frozen=True)
class _SignalToNoise(GridFamily):
    """Grids in a coordinate that is infinite or unused at the ends: `t_max` .. `t_min`, then the clean sample."""

    def _times(self, schedule: NoiseSchedule, steps: int) -> Array:
        if schedule.sigma(schedule.t_min) == 0:
            raise ValueError(
                f"the {self.name} grid ends at the schedule's t_min, and sigma = 0 at {schedule.t_min:g}: make the schedule with a "
                'higher t_min, or take another grid, such as "uniform"'
            )
        first = self._first(schedule)
        evaluated = steps if self.final == "zero" else steps + 1
        top, bottom = self.coordinate(schedule, [first, schedule.t_min])
        times = self.time(schedule, np.linspace(top, bottom, evaluated))
        times[0] = first
        if evaluated > 1:
            times[-1] = schedule.t_min
        return np.append(times, schedule.t_clean) if self.final == "zero" else times

    def _last(self, schedule: NoiseSchedule) -> float:
        return schedule.t_min


@dataclass(frozen=True)
class LogSNR(_SignalToNoise):
    """Evenly in log-SNR (DPM-Solver, Lu et al. 2022)."""

    name = "log-snr"
    papers = ("lu2022dpmsolver",)

    def coordinate(self, schedule: NoiseSchedule, t: npt.ArrayLike) -> Array:
        return np.maximum(schedule.log_snr(t), _LOWEST_LOG_SNR)

    def time(self, schedule: NoiseSchedule, coordinate: npt.ArrayLike) -> Array:
        return schedule.time(coordinate)


@dataclass(frozen=True)
class Karras(_SignalToNoise):
    """Evenly in (sigma / alpha)^(1 / rho) (Karras et al. 2022, eq. 5)."""

    rho: float = 7.0
    name = "karras"
    papers = ("karras2022edm",)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.rho > 0:
            raise ValueError(f"rho of a Karras grid must be above 0, got {self.rho}")

    def coordinate(self, schedule: NoiseSchedule, t: npt.ArrayLike) -> Array:
        return np.asarray(np.minimum(schedule.rho(t), math.exp(-0.5 * _LOWEST_LOG_SNR)) ** (1 / self.rho))

    def time(self, schedule: NoiseSchedule, coordinate: npt.ArrayLike) -> Array:
        with np.errstate(divide="ignore"):
            return schedule.time(-2 * self.rho * np.log(np.asarray(coordinate, np.float64)))


@dataclass(frozen=True)
class Mixed(_SignalToNoise):
    """Between the log-SNR grid and the uniform one: this share of the points stand as dense as in the one, the others as in the other.

    The one is best where the network is smooth, the other where it is rough at small noise; this one is never far behind the better.
    """

    share: float = 0.7
    name = "mixed"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.share < 1:
            raise ValueError(f"the share of a mixed grid must lie in (0, 1), got {self.share}")

    def coordinate(self, schedule: NoiseSchedule, t: npt.ArrayLike) -> Array:
        t = np.asarray(t, np.float64)
        ends = [schedule.t_min, schedule.t_max]

        def along(coordinate: Callable[[npt.ArrayLike], Array]) -> Array:
            low, high = coordinate(ends)
            return np.asarray((coordinate(t) - low) / (high - low))

        log_snr = along(lambda t: LogSNR().coordinate(schedule, t))
        return np.asarray(self.share * log_snr + (1 - self.share) * along(schedule.uniform_share))

    def time(self, schedule: NoiseSchedule, coordinate: npt.ArrayLike) -> Array:
        wanted = np.asarray(coordinate, np.float64)
        low, high = np.full(wanted.shape, schedule.t_min), np.full(wanted.shape, schedule.t_max)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            above = self.coordinate(schedule, middle) > wanted
            low, high = np.where(above, low, middle), np.where(above, middle, high)
        return np.asarray((low + high) / 2)


@dataclass(frozen=True)
class _Spacing(GridFamily):
    """diffusers' spacings (Lin et al. 2023, table 2); on discrete schedules rounded to integers as diffusers rounds.

    A `strength` is that of diffusers' image-to-image: the last `steps` steps of a longer grid. N of its steps at strength s are
    int(N s) evaluations at the same times; where several N come to as many, `strength=nfe / N` names one.
    """

    def _times(self, schedule: NoiseSchedule, steps: int) -> Array:
        if self.start is not None:
            raise ValueError(
                f'the {self.name} grid has no other start than the schedule\'s: use strength=, or another grid, such as "uniform"'
            )
        # The fewest steps of which diffusers takes as many.
        whole = steps if self.strength is None else math.ceil(steps / self.strength * (1 - _ROUNDING))
        return self._whole_grid(schedule, whole)[-(steps + 1) :]

    def _whole_grid(self, schedule: NoiseSchedule, steps: int) -> Array:
        train_steps = int(schedule.t_max) + 1 if isinstance(schedule, VP) else None
        times = self._evaluated(schedule, steps, train_steps)
        if self.final == "sigma_min" and times[-1] <= schedule.t_min:
            # As diffusers' multistep schedulers have it: one time more, and the lowest is the result's.
            times = self._evaluated(schedule, steps + 1, train_steps)
        else:
            times = np.append(times, schedule.t_clean if self.final == "zero" else schedule.t_min)
        return times

    @abstractmethod
    def _evaluated(self, schedule: NoiseSchedule, steps: int, train_steps: int | None) -> Array:
        """The `steps` times at which the network is asked; `train_steps` is None for a continuous schedule."""


@dataclass(frozen=True)
class Leading(_Spacing):
    """0, T // N, 2 (T // N) ... plus `steps_offset`, downwards: never visits the last training time."""

    steps_offset: int = 0
    name = "leading"
    papers = ("lin2024flawed",)

    def _evaluated(self, schedule: NoiseSchedule, steps: int, train_steps: int | None) -> Array:
        if train_steps is None:
            u_min = schedule.uniform_share(schedule.t_min)
            times = schedule.uniform_time(u_min + (1 - u_min) * np.arange(steps)[::-1] / steps)
            times[-1] = schedule.t_min
            return times
        return np.arange(steps, dtype=np.float64)[::-1] * (train_steps // steps) + self.steps_offset


@dataclass(frozen=True)
class Trailing(_Spacing):
    """T - 1, T - 1 - T / N ...: the last training time is the first one."""

    name = "trailing"
    papers = ("lin2024flawed",)

    def _evaluated(self, schedule: NoiseSchedule, steps: int, train_steps: int | None) -> Array:
        if train_steps is None:
            return self._between(schedule, np.array([schedule.t_max, schedule.t_clean]), steps)
        return np.round(np.arange(train_steps, 0, -train_steps / steps))[:steps] - 1


@dataclass(frozen=True)
class Linspace(_Spacing):
    """T - 1 .. 0 with both ends."""

    name = "linspace"
    papers = ("lin2024flawed",)

    def _evaluated(self, schedule: NoiseSchedule, steps: int, train_steps: int | None) -> Array:
        if train_steps is None:
            first, last = schedule.uniform_share([schedule.t_max, schedule.t_min])
            times = schedule.uniform_time(np.linspace(first, last, steps))
            times[-1], times[0] = schedule.t_min, schedule.t_max
            return times
        if steps == 1:
            return np.array([schedule.t_max])
        return np.round(np.linspace(0, train_steps - 1, steps))[::-1]


@dataclass(frozen=True)
class Explicit(Grid):
    """The user's own times, strictly decreasing, the last one that of the result.

    Args:
        values: steps + 1 network times; the nearest whole ones are taken where the schedule has `integer_times`.
        alphas, sigmas: the scales at these times, to take the place of the schedule's (for instance diffusers' Karras grid,
            whose times are rounded and whose sigmas are not); sigma / alpha falls.
    """

    values: tuple[float, ...]
    alphas: tuple[float, ...] | None = None
    sigmas: tuple[float, ...] | None = None
    name = "explicit"

    def __post_init__(self) -> None:
        if (self.alphas is None) != (self.sigmas is None):
            raise ValueError("alphas and sigmas come together, or neither")
        if self.alphas is not None and not len(self.alphas) == len(self.sigmas or ()) == len(self.values):
            raise ValueError(f"alphas and sigmas need one value for each of the {len(self.values)} times")
        if self.alphas is not None:
            scales = np.array([self.alphas, self.sigmas], np.float64)
            if not (np.isfinite(scales).all() and (scales >= 0).all()):
                raise ValueError("alphas and sigmas must be finite and not negative")
            alphas, sigmas = scales
            left, right = alphas[1:] * sigmas[:-1], alphas[:-1] * sigmas[1:]
            # A last step that goes nowhere divides nothing by its length; diffusers has one on its Karras grid.
            if not ((left > right)[:-1].all() and (left >= right).all()):
                raise ValueError("sigma / alpha must fall from each time to the next")
            close = (left <= right * (1 + _CLOSEST)) & (left > right)
            if close.any():
                k = int(np.argmax(close))
                raise ValueError(
                    f"alphas and sigmas are too close to tell apart at {self.values[k]:.12g} and {self.values[k + 1]:.12g}: leave one out"
                )

    def ends_clean(self, schedule: NoiseSchedule) -> bool:
        """Whether the last time is that of a clean sample."""
        return bool(self.values) and (self.sigmas or self.values)[-1] == (0.0 if self.sigmas else schedule.t_clean)

    def to_clean(self, schedule: NoiseSchedule) -> Explicit:
        """The same times and then that of the clean sample."""
        scales = (
            {} if self.alphas is None or self.sigmas is None else {"alphas": (*self.alphas, 1.0), "sigmas": (*self.sigmas, 0.0)}
        )
        return replace(self, values=(*self.values, schedule.t_clean), **scales)

    def without_clean(self) -> Explicit:
        """The times without the last one."""
        if self.alphas is None or self.sigmas is None:
            return replace(self, values=self.values[:-1])
        return replace(self, values=self.values[:-1], alphas=self.alphas[:-1], sigmas=self.sigmas[:-1])

    def times(self, schedule: NoiseSchedule, steps: int) -> Array:
        if len(self.values) != steps + 1:
            raise ValueError(f"{steps} steps need {steps + 1} times, got {len(self.values)}")
        times = checked_times(np.array(self.values, np.float64), schedule)
        return self._whole(times, schedule) if schedule.integer_times else times

    def _whole(self, times: Array, schedule: NoiseSchedule) -> Array:
        whole = np.where(times < schedule.t_min, times, _rounded(times))
        if self.alphas is not None and (whole != times).any():
            raise ValueError(
                f"the network takes whole times only, got t = {times[whole != times][0]:g}: round the times that have alphas and "
                "sigmas of their own"
            )
        if (np.diff(whole) == 0).any():
            k = int(np.argmax(np.diff(whole) == 0))
            raise ValueError(
                f"the network takes whole times only, and {times[k]:g} and {times[k + 1]:g} are both {whole[k]:g} then: leave one out"
            )
        return whole

    def points(self, schedule: NoiseSchedule, times: npt.ArrayLike) -> tuple[Point, ...]:
        if self.alphas is None or self.sigmas is None:
            return super().points(schedule, times)
        known = dict(zip(self.values, zip(self.alphas, self.sigmas, strict=True), strict=True))
        return tuple(Point(float(t), *known[float(t)]) for t in np.asarray(times, np.float64))


FAMILIES: dict[str, type[GridFamily]] = {
    family.name: family for family in (Uniform, Leading, Trailing, Linspace, Quadratic, Power, Shifted, LogSNR, Karras, Mixed)
}

GridLike = str | Grid | Sequence[float] | npt.NDArray[Any]


def family(name: str) -> GridFamily:
    """A grid by name; ValueError with the nearest for an unknown one."""
    if name not in FAMILIES:
        raise unknown_name("grid", name, FAMILIES)
    return FAMILIES[name]()


def make_grid(grid: GridLike | None, schedule: NoiseSchedule) -> Grid:
    """A grid from its name, from times, or as it is; the schedule's own default for None.

    Raises:
        ValueError: an unknown name.
    """
    if grid is None:
        grid = schedule.default_grid
    if isinstance(grid, Grid):
        return grid
    if isinstance(grid, str):
        return family(grid)
    return Explicit(tuple(_exact(float(t), schedule) for t in grid))


def _exact(time: float, schedule: NoiseSchedule) -> float:
    """A time, or the schedule's own one of which it is the float32 rounding; no negative zero."""
    ends = (schedule.t_max, schedule.t_min, schedule.t_clean)
    return next((end for end in ends if np.float32(end) == np.float32(time)), time) + 0.0


def checked_times(times: Array, schedule: NoiseSchedule, what: str = "the grid") -> Array:
    """The times if they decrease strictly within the schedule's, not too close to each other; ValueError otherwise."""
    if times.ndim != 1 or len(times) < 2:
        raise ValueError(f"{what} needs at least 2 times, got {times.size}")
    if not np.isfinite(times).all():
        raise ValueError(f"{what} has times that are not finite")
    if (np.diff(times) >= 0).any():
        k = int(np.argmax(np.diff(times) >= 0))
        raise ValueError(
            f"{what} must decrease strictly, got {times[k]:g} then {times[k + 1]:g}: take fewer steps or another grid"
        )
    if times[0] > schedule.t_max or times[-1] < schedule.t_clean:
        raise ValueError(
            f"{what} leaves the schedule's times {schedule.t_max:g} .. {schedule.t_clean:g}: got {times[0]:g} .. {times[-1]:g}"
        )
    if times[-2] < schedule.t_min:
        raise ValueError(f"{what} would ask the network at t = {times[-2]:g}, below its lowest time {schedule.t_min:g}")
    with np.errstate(invalid="ignore"):
        change = np.diff(schedule.log_snr(times))
    close = (-np.diff(times) < _CLOSEST * (schedule.t_max - schedule.t_clean)) | (change < _CLOSEST)
    if close.any():
        k = int(np.argmax(close))
        raise ValueError(
            f"{what} has times too close to tell apart, {times[k]:.12g} then {times[k + 1]:.12g}: take fewer steps or another grid"
        )
    return times


def whole_times(times: Array, schedule: NoiseSchedule, what: str = "the grid") -> Array:
    """Decreasing times with those at which the network may be asked moved to the nearest whole ones that all differ.

    None is above the first time's own whole one, and none below `t_min`; a time below `t_min`, that of the result, stays.

    Raises:
        ValueError: there are more times than whole ones.
    """
    asked = len(times) - (times[-1] < schedule.t_min)
    highest = float(_rounded(times[0]))
    _check_room(asked, schedule.t_min, highest, what)
    return np.append(nearest_whole(times[:asked], schedule.t_min, highest), times[asked:])


def nearest_whole(times: Array, lowest: float, highest: float) -> Array:
    """The whole numbers in [lowest, highest], decreasing strictly, that are nearest to decreasing times; there must be enough."""
    # Where t_i falls by 1 at least, t_i + i does not rise, and rounding it keeps that: the nearest ones are those of an isotonic fit.
    index = np.arange(len(times))
    return np.clip(_rounded(_never_rising(times + index)), lowest + max(len(times) - 1, 0), highest) - index


def _rounded(values: Array) -> Array:
    """The nearest whole numbers; halves go down, where less noise is left for the last step."""
    return np.ceil(values - 0.5) + 0.0  # no negative zero


def _never_rising(values: Array) -> Array:
    """The nearest numbers, by least squares, that do not rise: neighbours out of order share their mean."""
    blocks: list[tuple[float, int]] = []
    for value in values:
        mean, count = float(value), 1
        while blocks and blocks[-1][0] < mean:
            other, many = blocks.pop()
            mean, count = (mean * count + other * many) / (count + many), count + many
        blocks.append((mean, count))
    return np.repeat([mean for mean, _ in blocks], [count for _, count in blocks]) if blocks else values


def _check_room(asked: int, lowest: float, highest: float, what: str) -> None:
    most = round(highest - lowest) + 1
    if asked > most:
        raise ValueError(
            f"{what} asks the network at {asked} times, and from {highest:g} down to {lowest:g} there are {most} whole ones: "
            "take fewer evaluations"
        )
