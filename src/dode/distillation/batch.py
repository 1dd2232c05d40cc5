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

    def target(self, tableau: Tableau, k: int, rows: slice = slice(None)) -> Tensor:
        """The state that row k is to reach, for some samples: (n, *shape), where the states are, that is on the host."""
        return self.states.at(tableau.points[k + 1], rows) if isinstance(self.states, States) else self.states[k][rows]

    def targets(self, tableau: Tableau) -> list[Tensor]:
        """For each row the state to reach, (n, *shape)."""
        return [self.target(tableau, k) for k in range(tableau.rows if isinstance(self.states, States) else len(self.states))]

    def end_of(self, rows: slice) -> Tensor:
        """The end point to reach, for some samples."""
        return (self.states.values if isinstance(self.states, States) else self.states)[-1][rows]

    @property
    def end(self) -> Tensor:
        """The end point to reach."""
        return self.end_of(slice(None))

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
