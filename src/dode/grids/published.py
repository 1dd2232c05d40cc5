"""Published grids, each found for one kind of network and its noise schedule.

*Align Your Steps* (Sabour, Fidler, Kreis 2024, arXiv 2404.14507): ten steps that its authors optimised for Stable Diffusion 1.5, for
SDXL and for Stable Video Diffusion. For other numbers of steps sigma is interpolated log-linearly over the number of the step, as they say
to. The numbers are those of diffusers' `AysSchedules`, and the last one, which diffusers replaces by the clean sample's 0, those of
the authors' guide. diffusers' lists of whole times are the times of these sigmas, to one step of the table.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from dode.grids.even import LogSNR
from dode.grids.spacings import Spacing
from dode.schedules import Array, NoiseSchedule

# How far the schedule's largest sigma / alpha may be from the published one, which is rounded.
_SAME = 0.005


@dataclass(frozen=True)
class _AlignYourSteps(Spacing):
    """Only on a schedule that begins at the published sigma / alpha; `strength` as for diffusers' spacings."""

    SIGMAS: ClassVar[tuple[float, ...]]
    OF: ClassVar[str]
    papers = ("sabour2024ays",)

    def _evaluated(self, schedule: NoiseSchedule, steps: int, train_steps: int | None) -> Array:
        first = float(schedule.rho(schedule.t_max))
        if not abs(first / self.SIGMAS[0] - 1) < _SAME:
            raise ValueError(
                f"the {self.name} grid is for {self.OF}, whose sigma / alpha begins at {self.SIGMAS[0]:g}, and this schedule begins at "
                f'{first:.4g}: take another grid, such as "karras"'
            )
        sigmas = interpolated(self.SIGMAS, steps)[:-1]
        times = schedule.time(-2 * np.log(sigmas))
        times[0] = schedule.t_max
        return times

    def coordinate(self, schedule: NoiseSchedule, t: npt.ArrayLike) -> Array:
        return LogSNR().coordinate(schedule, t)

    def time(self, schedule: NoiseSchedule, coordinate: npt.ArrayLike) -> Array:
        return LogSNR().time(schedule, coordinate)


@dataclass(frozen=True)
class AYSSD15(_AlignYourSteps):
    """Align Your Steps for Stable Diffusion 1.5: scaled-linear betas 0.00085 .. 0.012."""

    name = "ays-sd15"
    OF = "Stable Diffusion"
    SIGMAS = (14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029)


@dataclass(frozen=True)
class AYSSDXL(_AlignYourSteps):
    """Align Your Steps for SDXL, whose schedule is that of Stable Diffusion."""

    name = "ays-sdxl"
    OF = "SDXL"
    SIGMAS = (14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029)


@dataclass(frozen=True)
class AYSSVD(_AlignYourSteps):
    """Align Your Steps for Stable Video Diffusion: sigma from 700 to 0.002."""

    name = "ays-svd"
    OF = "Stable Video Diffusion"
    SIGMAS = (700.0, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002)


def interpolated(sigmas: tuple[float, ...], steps: int) -> Array:
    """steps + 1 values, log-linear in the share of the steps that are done."""
    known = np.linspace(0, 1, len(sigmas))
    return np.asarray(np.exp(np.interp(np.linspace(0, 1, steps + 1), known, np.log(sigmas))))
