"""Grids that are even in a coordinate: time, a power of it, log-SNR, a power of sigma / alpha."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dode.grids.base import GridFamily
from dode.schedules import Array, NoiseSchedule

# log-SNR of diffusers' stand-in for a zero terminal SNR, alpha-bar = 2^-24: coordinates in log-SNR or sigma stop there.
_LOWEST_LOG_SNR = -24 * math.log(2)
# Of an interval of times, to float64's last digits.
_BISECTIONS = 60


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
