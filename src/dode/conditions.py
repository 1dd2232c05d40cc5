"""What a network is given besides x and t: keyword arguments, some of them with a value for each sample.

A tensor with at least one dimension is per sample: its first dimension is the batch. Everything else (numbers, strings, None)
is shared. Dictionaries, lists and tuples are walked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Condition = dict[str, Any]


def map_tensors(function: Callable[[Tensor], Any], value: Any) -> Any:
    """The same structure with `function` applied to every per-sample tensor."""
    if isinstance(value, Tensor):
        return function(value) if value.ndim else value
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map_tensors(function, item) for item in value)
    return value


def cycle(condition: Condition, start: int, stop: int) -> Condition:
    """The condition of samples start .. stop-1, where sample i has row i modulo the number of rows given."""

    def rows(tensor: Tensor) -> Tensor:
        return tensor[torch.arange(start, stop, device=tensor.device) % len(tensor)]

    result: Condition = map_tensors(rows, condition)
    return result


def take(condition: Condition, rows: slice) -> Condition:
    """The condition of some samples of a batch; single rows serve all and stay."""
    result: Condition = map_tensors(lambda tensor: tensor[rows] if len(tensor) > 1 else tensor, condition)
    return result


def hash_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add a tensor to a hash: dtype, shape and numbers."""
    digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())


def hash_condition(digest: hashlib._Hash, condition: Condition) -> None:
    """Add a condition to a hash: what is per sample, then what is shared."""
    map_tensors(lambda tensor: hash_tensor(digest, tensor), condition)
    shared = sorted((name, value) for name, value in condition.items() if not isinstance(value, Tensor))
    digest.update(repr(shared).encode())


def check_batch(condition: Condition, batch: int) -> None:
    """Raise ValueError where a per-sample tensor has another number of rows than the batch (one row serves all)."""

    def check(tensor: Tensor) -> None:
        if len(tensor) not in (1, batch):
            raise ValueError(f"a condition has {len(tensor)} rows for {batch} samples: give one row a sample, or one for all")

    map_tensors(check, condition)


def slice_rows(condition: Condition, rows: slice, device: torch.device | None) -> Condition:
    """The condition of some samples of a batch, on the device; single rows are repeated."""
    count = rows.stop - rows.start

    def part(tensor: Tensor) -> Tensor:
        tensor = tensor.to(device) if device is not None else tensor
        return tensor[rows] if len(tensor) > 1 else tensor.expand(count, *tensor.shape[1:])

    result: Condition = map_tensors(part, condition)
    return result


def join_null(condition: Condition, null: Mapping[str, Any], batch: int, device: torch.device | None) -> Condition:
    """The condition of one call for 2 x batch samples: given ones, then those of the null condition.

    Keys that the null condition lacks are repeated. A number in either becomes a row a sample.
    """
    joined: Condition = {}
    for key, value in condition.items():
        if key in null:
            joined[key] = _join(value, null[key], batch, device)
        else:
            joined[key] = map_tensors(lambda tensor: torch.cat([tensor, tensor]), value)
    missing = [key for key in null if key not in condition]
    if missing:
        raise ValueError(f"guidance needs the condition {', '.join(missing)}: give it beside the noise")
    return joined


def _join(value: Any, null: Any, batch: int, device: torch.device | None) -> Any:
    if isinstance(value, Mapping) and isinstance(null, Mapping):
        return {key: _join(item, null[key], batch, device) for key, item in value.items()}
    if value is None and null is None:
        return None
    given = _rows(value, batch, device)
    return torch.cat([given, _rows(null, batch, device).to(given.dtype)])


def _rows(value: Any, batch: int, device: torch.device | None) -> Tensor:
    tensor = torch.as_tensor(value, device=device)
    if tensor.ndim == 0:
        return tensor.expand(batch)
    return tensor if len(tensor) == batch else tensor.expand(batch, *tensor.shape[1:])
