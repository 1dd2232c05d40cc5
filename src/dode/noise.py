"""Standard normal noise by seed and purpose."""

from __future__ import annotations

import math

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
    # numpy promises that this generator's numbers never change; torch's depend on how many are asked for.
    source = np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed, spawn_key=(stream,))))
    noise = torch.empty((batch, *shape), dtype=dtype, device="cpu")
    rows = max(1, _CHUNK // max(1, math.prod(shape)))
    for first in range(0, batch, rows):
        part = noise[first : first + rows]
        numbers = source.standard_normal(tuple(part.shape))
        part.copy_(torch.from_numpy(numbers if dtype == torch.float64 else numbers.astype(np.float32)))
    return noise
