"""The arithmetic of a loop that is not ours: states come in and go out one at a time, in the loop's precision.

    x_{k+1} = sum_j a[k,j] x_j + n[k,j] N_j

States and outputs are kept in float32 at least, and only while a later row names them. The state that is handed out is rounded where
the loop works in half precision; if the loop hands that very tensor back, what it was rounded from is gone on with.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from dode.integrations.diffusers.tables import Table
from dode.sampling import combined

# What is done to D.
Shaping = Callable[[Tensor], Tensor]


class Stepper:
    """One run of a table.

    Args:
        table: the numbers.
        shape_D: what is done to D; None for nothing.
    """

    def __init__(self, table: Table, shape_D: Shaping | None = None) -> None:
        self._rows = table.rows
        self._offset = table.offset
        self._conversions = table.conversions if table.works_on_D else None
        self._shape_D = shape_D
        # Slot 2j holds x_j, slot 2j + 1 the output of row j, as in `dode.sampling`.
        self._values: list[Tensor | None] = [None] * (2 * len(self._rows) + 2)
        self._handed: Tensor | None = None
        self._version = 0
        self._kept: Tensor | None = None

    def begin(self, noise: Tensor, first: Tensor | None) -> Tensor:
        """x_1 from x_0, where the first output is known: 0 if None."""
        self._values[0] = noise
        self._values[1] = noise.new_zeros(()).expand(noise.shape) if first is None else first.expand(noise.shape)
        return self._advance(0)

    def step(self, k: int, output: Tensor, sample: Tensor) -> Tensor:
        """The state after the loop's call k, in the dtype of the output.

        Args:
            k: which call, from 0.
            output: (batch, *shape), what the network gave.
            sample: (batch, *shape), the state that it was asked for, as the loop has it.
        """
        row = k + self._offset
        x = self._kept if self._kept is not None and self._is_handed(sample) else sample
        wide = torch.promote_types(sample.dtype, torch.float32)
        if x.dtype != wide:
            x = x.to(wide)
        N = output if output.dtype == wide else output.to(wide)
        if self._conversions is not None:
            u, w = self._conversions[k]
            N = torch.add(x * u, N, alpha=w)
            if self._shape_D is not None:
                N = self._shape_D(N)
        released = self._rows[row].released
        # What is kept is copied: the loop may write into its states, and a compiled network into its outputs.
        self._values[2 * row] = x.clone() if x is sample and 2 * row not in released else x
        self._values[2 * row + 1] = N.clone() if N is output and 2 * row + 1 not in released else N
        result = self._advance(row)
        if result.dtype == output.dtype:
            self._handed = self._kept = None
            return result
        self._kept = result
        self._handed = result.to(output.dtype)
        self._version = self._handed._version
        return self._handed

    def _advance(self, row: int) -> Tensor:
        terms, released = self._rows[row]
        newest = self._values[2 * row + 1]
        assert newest is not None
        result = combined(terms, self._values, newest)
        for slot in released:
            self._values[slot] = None
        return result

    def _is_handed(self, sample: Tensor) -> bool:
        return sample is self._handed and sample._version == self._version
