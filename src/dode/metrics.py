"""What is measured of samples: how far they are from where they should be."""

from __future__ import annotations

from torch import Tensor


def mean_square_distance(x: Tensor, target: Tensor) -> Tensor:
    """Mean square distance over a sample's elements: (batch,), float64, on the device of x.

    Args:
        x, target: (batch, *shape).
    """
    return (x.double() - target.to(x).double()).square().flatten(1).mean(1)
