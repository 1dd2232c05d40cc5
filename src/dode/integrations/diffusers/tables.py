"""Which table a scheduler runs: for a number of calls, from a start, with whole history or none.

A table that was distilled begins at one time. Where a loop begins in its middle (image-to-image, a second model that takes over) no
output from before is there, so a row that names one cannot be run: a table that was made for that start is taken, else a classical
solver walks the times that are left, which warms itself up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from dode.foreign import printable
from dode.grids import Point
from dode.models.slots import Slot
from dode.sampling import ProgramRow, program
from dode.schedules import NoiseSchedule
from dode.solvers import Solver, solver, solver_named
from dode.tableau import Tableau

# Where a tableau's meta says what it was fitted for.
FITTED_FOR = "fitted_for"
# Two starts are one if they are nearer than this share of the schedule's times.
_SAME_START = 1e-3
# What walks the rest of a table where its own solver cannot.
_ANYWHERE = solver("dpm-solver++")


@dataclass(frozen=True, eq=False)
class Table:
    """A tableau as a loop runs it: evaluation k is the loop's k-th.

    Attributes:
        tableau: the numbers; its first row is an evaluation, or one whose output is known (`first`).
        slot: where it runs.
        works_on_D: the outputs are turned into D, which is worked on, before rows are made.
    """

    tableau: Tableau
    slot: Slot
    works_on_D: bool = False

    @property
    def offset(self) -> int:
        """Rows of the tableau before the loop's first call: 1 where the first output is shared, else 0."""
        return int(self.tableau.first != "network")

    @property
    def nfe(self) -> int:
        """The loop's calls."""
        return self.tableau.nfe

    @property
    def setting(self) -> Mapping[str, Any]:
        """What the tableau was fitted for, as far as it says so."""
        found = self.tableau.meta.get(FITTED_FOR)
        return found if isinstance(found, Mapping) else {}

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """(nfe + 1) of the loop's calls, and of the result."""
        return self.tableau.points[self.offset :]

    @cached_property
    def times(self) -> tuple[float, ...]:
        """(nfe,) what the network is given."""
        return tuple(self.slot.time(point.t) for point in self.points[:-1])

    @cached_property
    def input_scales(self) -> tuple[float, ...] | None:
        """(nfe,) what the states are multiplied by for the network; None for nothing."""
        return tuple(self.slot.input_scale(point) for point in self.points[:-1]) if self.slot.scales else None

    @cached_property
    def rows(self) -> list[ProgramRow]:
        """The rows over states and what the loop hands over: outputs as they are, or D."""
        return program(self.tableau.for_prediction("sample" if self.works_on_D else self.slot.conversion))

    @cached_property
    def conversions(self) -> list[tuple[float, float]]:
        """u and w with D = u x + w N of each call."""
        return [self.slot.conversion(point) for point in self.points[:-1]]


class Tables:
    """The tableaux that a scheduler holds.

    Args:
        tableaux: of one schedule; several numbers of calls, and several starts of each.
        slot: where they run.
        works_on_D: see `Table`.

    Attributes:
        all: the tables.

    Raises:
        ValueError: none, two for the same calls and start, one of another schedule, or one that a loop cannot run.
    """

    def __init__(self, tableaux: Sequence[Tableau], slot: Slot, *, works_on_D: bool = False) -> None:
        if not tableaux:
            raise ValueError("there are no tableaux: give at least one")
        self.all = [Table(tableau, slot, works_on_D) for tableau in tableaux]
        for table in self.all:
            _check(table)
        self._slack = _SAME_START * (slot.schedule.t_max - slot.schedule.t_clean)
        for i, table in enumerate(self.all):
            if any(other.nfe == table.nfe and self._same(other, table.tableau.times[0]) for other in self.all[:i]):
                raise ValueError(
                    f"there are two tableaux of {table.nfe} calls from t = {table.tableau.times[0]:g}: give one of them"
                )

    @property
    def held(self) -> list[int]:
        """The numbers of calls of whole runs."""
        return sorted(table.nfe for table in self.all if self._is_whole(table))

    def whole(self, calls: int) -> Table:
        """That of a run from the noise.

        Raises:
            ValueError: there is none for so many calls; the message says which are held.
        """
        for table in self.all:
            if table.nfe == calls and self._is_whole(table):
                return table
        held = ", ".join(map(str, self.held))
        raise ValueError(
            f"no tableau of {calls} calls is held, num_inference_steps may be {held}: distil one of {calls} to have it"
        )

    def from_start(self, calls: int, t: float) -> Table | None:
        """One that was made to begin at time t with so many calls; None if there is none."""
        return next((table for table in self.all if table.nfe == calls and self._same(table, t)), None)

    def _is_whole(self, table: Table) -> bool:
        return self._same(table, max(other.tableau.times[0] for other in self.all))

    def _same(self, table: Table, t: float) -> bool:
        return bool(abs(table.tableau.times[0] - t) < self._slack)


def rest_of(table: Table, first: int, base: Solver | None = None) -> Table:
    """A table's times from its call `first` on, walked by a classical solver that begins there.

    Args:
        table: whose history is missing.
        first: the call that the loop begins with.
        base: the solver; the one that the tableau was made from if None.
    """
    points, schedule = table.points[first:], table.slot.schedule
    for candidate in (base or _base_of(table.tableau), _ANYWHERE):
        made = _walked(candidate, points, schedule)
        if made is not None:
            return Table(made, table.slot, table.works_on_D)
    raise ValueError(f"no solver begins at t = {points[0].t:g}: take a higher strength or another number of steps")


def _walked(chosen: Solver, points: Sequence[Point], schedule: NoiseSchedule) -> Tableau | None:
    """A solver's tableau that asks at these points, all but the last; None where its stages ask at others."""
    times = [point.t for point in points]
    try:
        made = chosen.tableau(schedule, grid=times)
    except ValueError:
        return None
    return made if np.array_equal(made.times, times) else None


def _base_of(tableau: Tableau) -> Solver:
    """The solver that a tableau is, or was distilled from."""
    made = tableau.meta.get("distillation")
    text = made.get("base") if isinstance(made, dict) else tableau.solver
    try:
        return solver_named(str(text))
    except (TypeError, ValueError):  # of a later dode, or written by hand
        return _ANYWHERE


def _check(table: Table) -> None:
    """Raise ValueError where a loop cannot run a table."""
    tableau, slot = table.tableau, table.slot
    if np.diff(tableau.times).max() > 0:
        raise ValueError("the tableau runs upwards, to invert: a pipeline samples")
    tableau.check_schedule(slot.schedule)
    predicts = table.setting.get("prediction", slot.prediction)
    if predicts != slot.prediction:
        raise ValueError(
            f"the tableau was made for a network that predicts {printable(predicts)}, this one predicts {slot.prediction}: "
            "distil one for it"
        )
    if tableau.first == "mean" and tableau.mean is None:
        raise ValueError(
            "the tableau begins with a mean output for each condition, which a pipeline has no place for: distil with share_first=False"
        )
