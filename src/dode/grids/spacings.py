"""diffusers' spacings."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from dode.grids.base import GridFamily
from dode.schedules import VP, Array, NoiseSchedule

_ROUNDING = 1e-12


@dataclass(frozen=True)
class Spacing(GridFamily):
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
class Leading(Spacing):
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
class Trailing(Spacing):
    """T - 1, T - 1 - T / N ...: the last training time is the first one."""

    name = "trailing"
    papers = ("lin2024flawed",)

    def _evaluated(self, schedule: NoiseSchedule, steps: int, train_steps: int | None) -> Array:
        if train_steps is None:
            return self._between(schedule, np.array([schedule.t_max, schedule.t_clean]), steps)
        return np.round(np.arange(train_steps, 0, -train_steps / steps))[:steps] - 1


@dataclass(frozen=True)
class Linspace(Spacing):
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
