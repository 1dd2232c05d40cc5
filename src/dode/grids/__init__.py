"""Where the solver stops: strictly decreasing times from the noise to the sample.

A grid is even in some *coordinate* of the schedule (time, log-SNR, a power of sigma / alpha ...). The coordinate also says how
a step is cut into parts, so that a refined grid belongs to the same family.

By default a grid ends at the clean sample (`final="zero"`, diffusers' name): the last evaluation is above `t_clean`, and the
last step goes to sigma = 0. With `final="sigma_min"` the last state is at the schedule's `t_min`.

Where the schedule has `integer_times` every time at which the network may be asked is whole: the whole times nearest to the grid's
own that are all different.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from dode.grids.base import Grid, GridFamily, Point
from dode.grids.even import Karras, LogSNR, Mixed, Power, Quadratic, Shifted, Uniform
from dode.grids.explicit import Explicit
from dode.grids.published import AYSSD15, AYSSDXL, AYSSVD
from dode.grids.spacings import Leading, Linspace, Trailing
from dode.grids.times import checked_times, nearest_whole, whole_times
from dode.names import unknown_name
from dode.schedules import NoiseSchedule

FAMILIES: dict[str, type[GridFamily]] = {
    family.name: family for family in (Uniform, Leading, Trailing, Linspace, Quadratic, Power, Shifted, LogSNR, Karras, Mixed)
}

# What a tableau calls stops that were learned.
LEARNED = "learned"

GridLike = str | Grid | Sequence[float] | npt.NDArray[Any]
# Made for the schedule of one kind of network; ValueError on others.
PUBLISHED: dict[str, type[GridFamily]] = {family.name: family for family in (AYSSD15, AYSSDXL, AYSSVD)}


def family(name: str) -> GridFamily:
    """A grid by name; ValueError with the nearest for an unknown one."""
    known = FAMILIES | PUBLISHED
    if name not in known:
        raise unknown_name("grid", name, known)
    return known[name]()


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


__all__ = [
    "AYSSD15",
    "AYSSDXL",
    "AYSSVD",
    "FAMILIES",
    "LEARNED",
    "PUBLISHED",
    "Explicit",
    "Grid",
    "GridFamily",
    "GridLike",
    "Karras",
    "Leading",
    "Linspace",
    "LogSNR",
    "Mixed",
    "Point",
    "Power",
    "Quadratic",
    "Shifted",
    "Trailing",
    "Uniform",
    "checked_times",
    "family",
    "make_grid",
    "nearest_whole",
    "whole_times",
]
