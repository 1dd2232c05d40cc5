"""Between the network's device and the host: how numbers cross, and how many samples are on the device at once.

Some devices have no float64, and a large set does not fit on one. So tensors on the device keep the precision of the states; what is
summed in float64 crosses first, in float32 (in float64 for a float64 network); and sets stay on the host, whose parts cross
when they are worked on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

# Bytes of one state of a part of a set. A run holds one to two such tensors a row, beside what the network needs: enough samples to keep
# a device busy, and few beside any network.
PART_BYTES = 2**24


def to_host(tensor: Tensor) -> npt.NDArray[np.floating]:
    """Its numbers, float64 for float64 and else float32; the only way from the device into float64."""
    tensor = tensor.detach().cpu()
    result: npt.NDArray[np.floating] = tensor.to(torch.promote_types(tensor.dtype, torch.float32)).numpy()
    return result


def to_device(numbers: Tensor | npt.NDArray[np.float64], like: Tensor) -> Tensor:
    """On the device of a tensor and in its precision, which it is brought to before it crosses."""
    if isinstance(numbers, np.ndarray):
        numbers = torch.from_numpy(numbers.astype(np.float64 if like.dtype == torch.float64 else np.float32))
    return numbers.to(like.dtype).to(like.device)


def samples_at_once(sample_bytes: int, unit: int | None = None, limit: int | None = None) -> int:
    """How many samples a part may have.

    Args:
        sample_bytes: of all that is held of one sample.
        unit: samples in a call of the network, where these are limited: a part is at least one such call, and a whole number of them.
        limit: bytes of a part; those of a state if None.
    """
    size = max(1, (PART_BYTES if limit is None else limit) // sample_bytes)
    return size if unit is None else max(unit, size - size % unit)


def parts(noise: Tensor, unit: int | None = None) -> Iterator[slice]:
    """The rows of a set (n, *shape) in parts that may be on the device at once; `unit` as in `samples_at_once`."""
    size = samples_at_once(bytes_of(noise[:1]), unit)
    for first in range(0, len(noise), size):
        yield slice(first, min(first + size, len(noise)))


def bytes_of(tensor: Tensor) -> int:
    """Bytes of its numbers."""
    return tensor.numel() * tensor.element_size()


class Rows:
    """A tensor (n, *shape) in pieces along its first dimension, each mapped from a file of its own; a slice gives a tensor."""

    def __init__(self, pieces: Sequence[Tensor]) -> None:
        self._pieces = tuple(pieces)

    def __len__(self) -> int:
        return sum(len(piece) for piece in self._pieces)

    def __getitem__(self, rows: slice) -> Tensor:
        """Some neighbouring rows: a view where one piece has them all, else a copy."""
        pieces = self.part(rows)._pieces
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def part(self, rows: slice) -> Rows:
        """Some neighbouring rows, mapped as they are."""
        first, end, _ = rows.indices(len(self))
        found, before = [], 0
        for piece in self._pieces:
            part = piece[max(first - before, 0) : max(end - before, 0)]
            if len(part):
                found.append(part)
            before += len(piece)
        return Rows(found or [self._pieces[0][:0]])
