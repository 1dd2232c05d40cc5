"""Standard normal noise by seed and purpose."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

# Streams of one seed, disjoint: what is fitted, what is shown beside a result, what a comparison reports, what chooses; and the
# noise of a first output that samples share.
FITTING, HELD_OUT, REPORT, VALIDATION, SHARED = range(5)

# Numbers that are drawn at once, so that the float64 ones never lie beside the whole.
_CHUNK = 1 << 20


def standard_noise(
    seed: int,
    batch: int,
    shape: tuple[int, ...],
    *,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise (batch, *shape) on the host: the same on every machine for the same seed and stream.

    Sample i is the same however many are made, and in every dtype up to its rounding. Streams of one seed are independent: fitting,
    validation and report noise are three.
    """
    noise = torch.empty((batch, *shape), dtype=dtype, device="cpu")
    _draw(_source(seed, stream), noise)
    return noise


def noise_parts(
    seed: int,
    batch: int,
    shape: tuple[int, ...],
    size: int,
    *,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Iterator[Tensor]:
    """The same noise in parts of `size` samples, the last one of what is left: for sets that do not fit into memory."""
    source = _source(seed, stream)
    for first in range(0, batch, size):
        noise = torch.empty((min(size, batch - first), *shape), dtype=dtype, device="cpu")
        _draw(source, noise)
        yield noise


def _source(seed: int, stream: int) -> np.random.RandomState:
    # numpy promises that this generator's numbers never change; torch's depend on how many are asked for.
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed, spawn_key=(stream,))))


def _draw(source: np.random.RandomState, noise: Tensor) -> None:
    """Fill with the next numbers."""
    rows = max(1, _CHUNK // max(1, math.prod(noise.shape[1:])))
    for first in range(0, len(noise), rows):
        part = noise[first : first + rows]
        numbers = source.standard_normal(tuple(part.shape))
        part.copy_(torch.from_numpy(numbers if noise.dtype == torch.float64 else numbers.astype(np.float32)))
