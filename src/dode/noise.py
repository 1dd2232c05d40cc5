"""Standard normal noise by seed and purpose."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# Streams of one seed, disjoint: what is fitted, what is shown beside a result, what a comparison reports, what chooses; and the
# noise of a first output that samples share.
FITTING, HELD_OUT, REPORT, VALIDATION, SHARED = range(5)


def standard_noise(
    seed: int,
    batch: int,
    shape: tuple[int, ...],
    *,
    stream: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal noise (batch, *shape) on the host: the same on every machine for the same seed and stream.

    Streams of one seed are independent: fitting, validation and report noise are three.
    """
    state = int(np.random.SeedSequence([seed, stream]).generate_state(1, np.uint64)[0])
    generator = torch.Generator().manual_seed(state % 2**63)
    return torch.randn((batch, *shape), generator=generator, dtype=dtype)
