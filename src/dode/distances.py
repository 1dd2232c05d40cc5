"""What is measured of samples: how far they are from where they should be."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dode.host import to_device, to_host


def mean_square_distance(x: Tensor, target: Tensor) -> npt.NDArray[np.float64]:
    """Mean square distance over a sample's elements: (batch,), float64, on the host.

    Args:
        x, target: (batch, *shape), on any device; the difference is formed where x is, in its precision but at least float32.
    """
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    difference = to_host((wide - to_device(target, wide)).flatten(1))
    squares = np.einsum("ij,ij->i", difference, difference, dtype=np.float64)
    return np.asarray(squares / difference.shape[1], np.float64)


def mean_square(x: Tensor) -> npt.NDArray[np.float64]:
    """Mean square of a sample's elements: (batch,), float64, on the host.

    Args:
        x: (batch, *shape), on any device.
    """
    numbers = to_host(x.flatten(1))
    return np.asarray(np.einsum("ij,ij->i", numbers, numbers, dtype=np.float64) / numbers.shape[1], np.float64)
