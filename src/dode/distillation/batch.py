"""A batch of noise with its condition and the teacher's word on it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dode.conditions import Condition, hash_condition, hash_tensor, take
from dode.tableau import Tableau
from dode.teacher import States


@dataclass(frozen=True, eq=False)
class Batch:
    """Samples to fit, to choose by, or to measure on.

    Attributes:
        noise: (n, *shape), standard normal.
        cond: the condition, a row a sample.
        states: the teacher's states, or for each row of one certain tableau the state to reach.
    """

    noise: Tensor
    cond: Condition
    states: States | Sequence[Tensor]

    def __len__(self) -> int:
        return len(self.noise)

    def targets(self, tableau: Tableau) -> list[Tensor]:
        """For each row the state to reach, (n, *shape)."""
        if isinstance(self.states, States):
            return [self.states.at(point) for point in tableau.points[1:]]
        return list(self.states)

    @property
    def end(self) -> Tensor:
        """The end point to reach."""
        return self.states.values[-1] if isinstance(self.states, States) else self.states[-1]

    @property
    def digest(self) -> str:
        """A hash of noise, condition and end point."""
        found = hashlib.sha256()
        hash_tensor(found, self.noise)
        hash_tensor(found, self.end)
        hash_condition(found, self.cond)
        return found.hexdigest()

    def part(self, rows: slice) -> Batch:
        """Some of the samples."""
        states = self.states.part(rows) if isinstance(self.states, States) else [state[rows] for state in self.states]
        return Batch(self.noise[rows], take(self.cond, rows), states)
