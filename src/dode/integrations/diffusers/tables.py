"""Which table a scheduler runs: for a number of calls, from a start, with whole history or none.

A table that was distilled begins at one time. Where a loop begins in its middle (image-to-image, a second model that takes over) no
output from before is there, so a row that names one cannot be run: a table that was made for that start is taken, else a classical
solver walks the times that are left, which warms itself up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from dode.fitted_for import setting_of
from dode.foreign import printable
from dode.grids import Explicit, Point
from dode.held import is_whole
from dode.models.slots import Slot
from dode.sampling import ProgramRow, program
from dode.schedules import NoiseSchedule
from dode.solvers import Solver, solver, solver_named
from dode.tableau import Tableau, output_to_sample

# Two starts are one if they are nearer than this share of the schedule's times.
_SAME_START = 1e-3
# What walks the rest of a table where its own solver cannot: it asks once a step.
_ANYWHERE = solver("dpm-solver++")
# What a loop may keep of an output: itself, D or epsilon. Solvers are sums of old D or of old epsilon; of another network's outputs each
# of these is two terms.
_FORMS = (None, "sample", "epsilon")
# Coefficients that cancel lose digits: a form of fewer terms is not taken where its coefficients are this much larger.
_LARGER = 4.0


@dataclass(frozen=True, eq=False)
class Form:
    """The rows of a table over the states and what is kept of the outputs.

    Attributes:
        rows: the program.
        conversions: (nfe,) p and q of each call: p x + q N is kept; None where N itself is.
    """

    rows: list[ProgramRow]
    conversions: list[tuple[float, float]] | None

    @property
    def cost(self) -> int:
        """Passes over a state in the whole run."""
        terms = sum(len(row.terms) for row in self.rows)
        if self.conversions is None:
            return terms + sum(slot not in row.released for k, row in enumerate(self.rows) for slot in (2 * k, 2 * k + 1))
        return terms + 2 * len(self.conversions) + sum(2 * k not in row.released for k, row in enumerate(self.rows))

    @property
    def size(self) -> float:
        """The largest coefficient."""
        return max((abs(c) for row in self.rows for _, c in row.terms), default=0.0)


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
        """What the tableau was fitted for in a pipeline, as far as it says so; what a network alone was asked with is not seen here."""
        setting = setting_of(self.tableau)
        return setting if "pipeline" in setting else {}

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
    def rests(self) -> dict[int, Table]:
        """What walks the calls from the n-th on, as far as it was asked for; see `rest_of`."""
        return {}

    @cached_property
    def form(self) -> Form:
        """The rows as they are run: over what takes the fewest passes, or over D where that is worked on."""
        if self.works_on_D:
            return self._over("sample")
        forms = []
        for kind in _FORMS:
            try:
                forms.append(self._over(kind))
            except ValueError:  # epsilon says nothing at alpha = 0
                continue
        smallest = min(form.size for form in forms)
        return min((form for form in forms if form.size <= _LARGER * smallest), key=lambda form: form.cost)

    def _over(self, kind: str | None) -> Form:
        if kind is None:
            return Form(program(self.tableau.for_prediction(self.slot.conversion)), None)
        conversions = []
        for point in self.points[:-1]:
            # D = u x + w N = v x + y E
            (u, w), (v, y) = self.slot.conversion(point), output_to_sample(kind, point)
            conversions.append(((u - v) / y, w / y))
        return Form(program(self.tableau.for_prediction(kind)), conversions)


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
            if any(other.nfe == table.nfe and self._meet(other, table) for other in self.all[:i]):
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
        return is_whole(table.tableau, max(other.tableau.times[0] for other in self.all), self._slack)

    def _meet(self, one: Table, other: Table) -> bool:
        return self._same(one, other.tableau.times[0]) or (self._is_whole(one) and self._is_whole(other))

    def _same(self, table: Table, t: float) -> bool:
        return bool(abs(table.tableau.times[0] - t) < self._slack)


def rest_of(table: Table, first: int) -> Table:
    """A table's times from its call `first` on, walked by the classical solver that it was made from, which begins there. Made once.

    Raises:
        ValueError: no solver begins there.
    """
    if first not in table.rests:
        table.rests[first] = _rest_of(table, first)
    return table.rests[first]


def _rest_of(table: Table, first: int) -> Table:
    points, schedule, own = table.points[first:], table.slot.schedule, _base_of(table.tableau)
    # PNDM's first step takes a call that is not left; iPNDM is PNDM without it.
    related = [solver("ipndm", bounded=own.settings["bounded"])] if own.name == "pndm" else []
    for candidate in (own, *related, _ANYWHERE):
        for calls in (len(points) - 1, None):
            made = _walked(candidate, calls, points, schedule)
            if made is not None:
                return Table(made, table.slot, table.works_on_D)
    raise ValueError(f"no solver begins at t = {points[0].t:g}: take a higher strength or another number of steps")


def _walked(chosen: Solver, calls: int | None, points: Sequence[Point], schedule: NoiseSchedule) -> Tableau | None:
    """A solver's tableau over the calls of a loop, which are at these points but for the last; None where it asks at others."""
    times = [point.t for point in points]
    stops = [point for point, after in zip(points, [*times[1:], None], strict=True) if point.t != after]
    grid = Explicit(*(tuple(getattr(point, name) for point in stops) for name in ("t", "alpha", "sigma")))
    try:
        made = chosen.tableau(schedule, calls, grid)
    except ValueError:
        return None
    return _waiting(made, points)


def _waiting(made: Tableau, points: Sequence[Point]) -> Tableau | None:
    """A tableau in a loop of more calls: one whose time comes again may pass, and leave the state as it is. None where that does not do.

    A loop that begins at the second stage of a step has such a call: the step is begun anew, one call later.
    """
    times = [point.t for point in points]
    if made.times[-1] != times[-1]:
        return None
    place: list[int] = []
    left = list(range(len(times) - 1))
    for t in made.times[-2::-1]:
        while left and times[left[-1]] != t:
            left.pop()
        if not left:
            return None
        place.insert(0, left.pop())
    skipped = set(range(len(times) - 1)) - set(place)
    if any(times[k] != times[k + 1] for k in skipped):
        return None
    a, b = np.zeros((2, len(times) - 1, len(times) - 1))
    a[np.ix_(place, place)], b[np.ix_(place, place)] = made.a, made.b
    for k in skipped:
        a[k, k] = 1.0
    return replace(
        made,
        times=np.array(times),
        alphas=np.array([point.alpha for point in points]),
        sigmas=np.array([point.sigma for point in points]),
        a=a,
        b=b,
        integrand=None,
    )


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
    try:
        tableau.check_schedule(slot.schedule)
    except ValueError as error:
        what = str(error).rpartition(": make ")[0] or str(error)
        raise ValueError(
            f"{what}: distil one for this pipeline, or give the config of the scheduler that it was made with"
        ) from None
    predicts = table.setting.get("prediction", slot.prediction)
    if predicts != slot.prediction:
        raise ValueError(
            f"the tableau was made for a network that predicts {printable(predicts)}, this one predicts {slot.prediction}: "
            "distil one for it"
        )
    if tableau.first == "mean" and tableau.mean is None:
        raise ValueError(
            "the tableau begins with a mean output for each condition, which a pipeline has no place for: distil with firsts=['network']"
        )
