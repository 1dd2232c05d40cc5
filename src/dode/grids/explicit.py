"""Times that a user names."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from dode.grids.base import Grid, Point
from dode.grids.times import CLOSEST, checked_times, rounded
from dode.schedules import Array, NoiseSchedule


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
            close = (left <= right * (1 + CLOSEST)) & (left > right)
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
        whole = np.where(times < schedule.t_min, times, rounded(times))
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
