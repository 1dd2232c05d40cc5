"""A classical solver's table for what a pipeline asks of its scheduler: a number of calls, times of its own, or noise levels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from dode.integrations.diffusers.tables import Table
from dode.models.slots import Slot
from dode.schedules import Flow
from dode.solvers import Solver

# What is left of a number after a little arithmetic in float32.
_FLOAT32 = 1e-5


def solver_table(
    chosen: Solver,
    slot: Slot,
    *,
    calls: int,
    timesteps: Sequence[float] | None = None,
    sigmas: Sequence[float] | None = None,
    grid: Any = None,
    works_on_D: bool = False,
) -> Table:
    """The table of a solver.

    Args:
        chosen: the solver.
        slot: where it runs.
        calls: how many calls; the number of `timesteps` or `sigmas` where they are given.
        timesteps: the network's times at which it stops, or those of all its calls.
        sigmas: noise levels as a pipeline has them, one for each call, without the last 0.
        grid: where it stops if neither is given, and in place of `sigmas`.
        works_on_D: see `Table`.

    Raises:
        ValueError: times, a number of calls or a grid that the solver cannot meet.
    """
    schedule = slot.schedule
    if timesteps is not None:
        given = [_near(slot.time_of(t), slot) for t in timesteps]
        stops = list(dict.fromkeys(given))
        grid = [*stops, schedule.t_clean]
        if len(stops) == len(given):  # else times come again, which are those of stages: all calls are given
            return Table(chosen.tableau(schedule, None, grid), slot, works_on_D)
    elif sigmas is not None and grid is None:
        steps = chosen.family.steps(calls, True, **chosen.settings)
        grid = [*_times(_resampled(sigmas, steps), slot), schedule.t_clean]
    return Table(chosen.tableau(schedule, calls, grid), slot, works_on_D)


def _resampled(sigmas: Sequence[float], steps: int) -> list[float]:
    """As many noise levels as the solver has steps: some call twice a step, and a pipeline has one level for each call."""
    if steps == len(sigmas):
        return list(sigmas)
    places = np.linspace(0, len(sigmas), steps + 1)[:-1]
    return [float(sigma) for sigma in np.interp(places, range(len(sigmas) + 1), [*sigmas, 0.0])]


def _times(sigmas: Sequence[float], slot: Slot) -> list[float]:
    """The schedule's times at noise levels: of a flow before its shift."""
    levels = np.array(sigmas)
    with np.errstate(divide="ignore"):
        times = (
            slot.schedule.uniform_time(levels) if isinstance(slot.schedule, Flow) else slot.schedule.time(-2 * np.log(levels))
        )
    return [_near(float(t), slot) for t in times]


def _near(t: float, slot: Slot) -> float:
    """A time, or the end of the schedule's that float32 arithmetic has moved it beyond."""
    inner = min(max(t, slot.schedule.t_min), slot.schedule.t_max)
    return inner if math.isclose(t, inner, rel_tol=_FLOAT32) else t
