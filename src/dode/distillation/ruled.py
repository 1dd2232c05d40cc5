"""A student that is a solver as it is: what is fitted is where it stops, and its own rule makes the rows anew from there.

For programs that bring the solver and take a list of times (see `dode.integrations.export.lists`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from dode.distillation.linearisation import Unknown
from dode.distillation.student import Student
from dode.grids import LEARNED, Explicit, Point
from dode.schedules import NoiseSchedule
from dode.solvers import Solver
from dode.tableau import Tableau

_NOISE = Point(float("inf"), 0.0, 1.0)


@dataclass(frozen=True)
class Ruled(Student):
    """A solver on some stops.

    Attributes:
        solver: whose rule it is; one that asks the network where it stops (see `Solver.between`).
        schedule: of the network.
        grid: what the stops are called once they were moved.
    """

    solver: Solver
    schedule: NoiseSchedule
    grid: str

    @classmethod
    def on(cls, tableau: Tableau, solver: Solver, schedule: NoiseSchedule, prediction: str, grid: str = LEARNED) -> Ruled:
        """The solver that a tableau is."""
        form = Student.of(tableau, prediction)
        return cls(form.points, form.p, form.q, prediction, tableau, solver, schedule, grid)

    @property
    def stops(self) -> tuple[float, ...]:
        """The times at which it stops, decreasing; the last one is that of the result. A solver may ask twice at one, as Heun's does."""
        return tuple(dict.fromkeys(point.t for point in self.points))

    def tableau(self) -> Tableau:
        """The solver's own numbers."""
        return self.base

    def moved(self, k: int, point: Point) -> Ruled:
        """The student with the stop of state k at another time; ValueError where the solver cannot walk that."""
        here = self.points[k].t
        return self._at([point.t if t == here else t for t in self.stops])

    def neighbours(self, k: int) -> tuple[Point, Point, Point]:
        """The stops before, at and after that of state k; pure noise before the first."""
        by_time = {point.t: point for point in self.points}
        around = [_NOISE, *(by_time[t] for t in self.stops)]
        i = self.stops.index(self.points[k].t)
        return around[i], around[i + 1], around[i + 2]

    @property
    def in_order(self) -> bool:
        """Whether the stops decrease."""
        return all(a > b for a, b in pairwise(self.stops))

    def to_json(self) -> dict[str, Any]:
        """The stops, from which everything follows."""
        return {"stops": list(self.stops)}

    def with_numbers(self, data: Mapping[str, Any]) -> Ruled:
        """The student on the stops that `to_json` gave."""
        return self if list(self.stops) == data["stops"] else self._at(data["stops"])

    def _at(self, stops: list[float]) -> Ruled:
        made = self.solver.tableau(self.schedule, self.base.nfe, Explicit(tuple(stops)))
        return Ruled.on(replace(made, grid=self.grid), self.solver, self.schedule, self.prediction, self.grid)


def free_stops(student: Ruled, *, first: bool) -> Iterator[Unknown]:
    """What may be fitted: every stop but the last, and but the first where that is kept, each by the first state that lives there."""
    times = [point.t for point in student.points]
    for t in student.stops[0 if first else 1 : -1]:
        yield Unknown("time", times.index(t))
