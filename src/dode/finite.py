"""Numbers that the caller hands over: NaN among them is named as the caller's own, before a network is blamed for it.

While a run is compiled (`torch.compile`) no number is looked at: whoever does leaves the graph.
"""

from __future__ import annotations

import torch
from torch import Tensor


def check_finite(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless every number of a tensor is finite; `name` and the first sample that is not are in the message."""
    _check(name, tensor, torch.isfinite(tensor))


def check_no_nan(name: str, tensor: Tensor) -> None:
    """Raise ValueError where NaN is in a tensor; infinity may be meant, as in a mask of attention."""
    if tensor.is_floating_point() or tensor.is_complex():
        _check(name, tensor, ~torch.isnan(tensor))


def check_values(name: str, tensor: Tensor) -> None:
    """Raise ValueError for a tensor on meta."""
    if tensor.is_meta:
        raise ValueError(f"{name} is a tensor on meta, which has no numbers: give one with values")


def holds(condition: Tensor) -> bool:
    """Whether a condition is true of all numbers, as far as they can be looked at."""
    return torch.compiler.is_compiling() or bool(condition.all())


def _check(name: str, tensor: Tensor, good: Tensor) -> None:
    check_values(name, tensor)
    if holds(good):
        return
    kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite"
    rows = (~good.reshape(len(good), -1).all(1)).nonzero().flatten().tolist() if good.ndim else []
    where = f" in {len(rows)} of {len(good)} rows, first in row {rows[0]}" if rows else ""
    raise ValueError(f"{name} has {kind} values{where}: give finite numbers")
