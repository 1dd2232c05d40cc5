"""The arithmetic of a loop that is not ours: states come in and go out one at a time, in the loop's precision.

    x_{k+1} = sum_j a[k,j] x_j + e[k,j] E_j,   E_j = p_j x_j + q_j N_j, or N_j itself

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
        shape_D: what is done to D; None for nothing. The table's form is then over D.
    """

    def __init__(self, table: Table, shape_D: Shaping | None = None) -> None:
        self._rows, self._conversions = table.form.rows, table.form.conversions
        self._offset = table.offset
        self._shape_D = shape_D
        # Slot 2j holds x_j, slot 2j + 1 the output of row j, as in `dode.sampling`.
        self._values: list[Tensor | None] = [None] * (2 * len(self._rows) + 2)
        # The state that was handed out, rounded, and how often it had been written to then; and what it was rounded from.
        self._handed: Tensor | None = None
        self._version = -1
        self._kept: Tensor | None = None

    @property
    def held(self) -> list[Tensor]:
        """What is kept for later rows, and the unrounded state."""
        return [value for value in (*self._values, self._kept) if value is not None]

    def begin(self, noise: Tensor, first: Tensor | None) -> Tensor:
        """x_1 from the noise, where the first output is known: 0 if None. In float32 at least."""
        wide = torch.promote_types(noise.dtype, torch.float32)
        self._values[0] = noise.to(wide, copy=True)
        self._values[1] = noise.new_zeros((), dtype=wide).expand(noise.shape) if first is None else first.expand(noise.shape)
        return self._advance(0)

    def step(self, k: int, output: Tensor, sample: Tensor) -> Tensor:
        """The state after the loop's call k, in the dtype of the output.

        Args:
            k: which call, from 0.
            output: (batch, *shape), what the network gave.
            sample: (batch, *shape), the state that it was asked for, as the loop has it.
        """
        row = k + self._offset
        released = self._rows[row].released
        wide = torch.promote_types(sample.dtype, torch.float32)
        x = self._unrounded(sample)
        # What is kept is copied: the loop may write into its states, and a compiled network into its outputs.
        if x.dtype != wide:
            x = x.to(wide)
        elif x is sample and 2 * row not in released:
            x = x.clone()
        if self._conversions is not None:
            p, q = self._conversions[k]
            N = (x * p).add_(output, alpha=q) if p else output.to(wide) * q
            if self._shape_D is not None:
                N = self._shape_D(N)
        elif output.dtype != wide:
            N = output.to(wide)
        else:
            N = output if 2 * row + 1 in released else output.clone()
        self._values[2 * row], self._values[2 * row + 1] = x, N
        result = self._advance(row)
        if result.dtype == output.dtype:
            self._handed = self._kept = None
            return result
        handed = result.to(output.dtype)
        last = row + 1 == len(self._rows)
        self._handed, self._kept = (None, None) if last else (handed, result)
        if not _without_versions():
            self._version = handed._version
        return handed

    def _advance(self, row: int) -> Tensor:
        terms, released = self._rows[row]
        newest = self._values[2 * row + 1]
        assert newest is not None
        result = combined(terms, self._values, newest)
        for slot in released:
            self._values[slot] = None
        return result

    def _unrounded(self, sample: Tensor) -> Tensor:
        """What a state was rounded from, if it is the one that was handed out and nothing was written into it; else itself."""
        kept = self._kept
        if kept is None or kept.shape != sample.shape:
            return sample
        if _without_versions():
            return torch.where(kept.to(sample.dtype) == sample, kept, sample.to(kept.dtype))
        return kept if sample is self._handed and sample._version == self._version else sample


def _without_versions() -> bool:
    """Where tensors do not count what is written into them: numbers are then compared, which needs no branch."""
    return torch.compiler.is_compiling() or torch.is_inference_mode_enabled()
