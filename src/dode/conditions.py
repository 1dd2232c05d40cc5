"""What a network is given besides x and t: keyword arguments, some of them with a value for each sample.

A tensor with at least one dimension is per sample: its first dimension is the batch. Everything else (numbers, 0-dim tensors,
strings, None) is shared. Dictionaries, lists and tuples are walked. Arrays, ranges and lists of numbers, nested ones too, are tensors
from the door on (`as_condition`); tuples of numbers stay what they are, as networks take sizes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from enum import Enum
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.finite import check_no_nan

Condition = dict[str, Any]


def as_condition(given: Mapping[str, Any]) -> Condition:
    """The condition as it is used: arrays, ranges and lists of numbers as tensors, floating ones float32, whatever torch's default is.

    Raises:
        ValueError: lists of numbers whose rows have different lengths.
        TypeError: an iterator, which the network's first call would use up.
    """
    return {name: _as_value(name, value) for name, value in given.items()}


def checked_condition(given: Mapping[str, Any]) -> Condition:
    """As `as_condition`, of what a caller hands over.

    Raises:
        ValueError: NaN in it, or as there.
    """
    condition = as_condition(given)
    for name, value in condition.items():
        map_tensors(partial(check_no_nan, f"the condition {name}"), value, shared=True)
    return condition


def _as_value(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _as_value(f"{name}[{key!r}]", item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return _as_tensor(value) if value.dtype.kind in "biufc" else _as_value(name, value.tolist())
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, range):
        return torch.arange(value.start, value.stop, value.step, device="cpu")
    if isinstance(value, list) and value and _only_numbers(value):
        try:
            return _as_tensor(np.array(value))
        except ValueError:
            raise ValueError(
                f"the condition {name} has rows of different lengths: pad them to a tensor, a row a sample"
            ) from None
    if isinstance(value, list | tuple):
        return _rebuilt(value, (_as_value(f"{name}[{i}]", item) for i, item in enumerate(value)))
    if isinstance(value, Iterator):
        raise TypeError(f"the condition {name} is an iterator, which one call uses up: give a list or a tensor")
    return value


def _only_numbers(values: list[Any]) -> bool:
    """Whether a list holds numbers alone, or such lists."""
    return all(_only_numbers(v) if isinstance(v, list) and v else isinstance(v, bool | int | float | np.number) for v in values)


def _as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    if array.dtype.kind == "f":
        return torch.tensor(array, dtype=torch.float32, device="cpu")
    # torch knows few of the unsigned integers.
    return torch.tensor(array.astype(np.int64) if array.dtype.kind == "u" and array.itemsize > 1 else array, device="cpu")


def _rebuilt(like: Any, items: Iterator[Any]) -> Any:
    """A list or tuple of the same kind with other items."""
    return type(like)(*items) if hasattr(like, "_fields") else type(like)(items)


def map_tensors(function: Callable[[Tensor], Any], value: Any, *, shared: bool = False) -> Any:
    """The same structure with `function` applied to every per-sample tensor, and to 0-dim ones too if `shared`."""
    if isinstance(value, Tensor):
        return function(value) if value.ndim or shared else value
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item, shared=shared) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return _rebuilt(value, (map_tensors(function, item, shared=shared) for item in value))
    return value


def cycle(condition: Condition, start: int, stop: int) -> Condition:
    """The condition of samples start .. stop-1, where sample i has row i modulo the number of rows given."""

    def rows(tensor: Tensor) -> Tensor:
        return tensor[torch.arange(start, stop, device=tensor.device) % len(tensor)]

    result: Condition = map_tensors(rows, as_condition(condition))
    return result


def take(condition: Condition, rows: slice | list[int]) -> Condition:
    """The condition of some samples of a batch; single rows serve all and stay."""
    result: Condition = map_tensors(lambda tensor: tensor[rows] if len(tensor) > 1 else tensor, condition)
    return result


def hash_tensor(digest: hashlib._Hash, tensor: Tensor) -> None:
    """Add a tensor to a hash: dtype, shape and numbers."""
    digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
    digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)


def hash_condition(digest: hashlib._Hash, condition: Condition) -> None:
    """Add a condition to a hash, all of it by content.

    Raises:
        TypeError: a value whose content is not known, or that gives something else each time.
    """
    for name, value in sorted(as_condition(condition).items()):
        digest.update(f"{name}=".encode())
        _hash_value(digest, name, value)


def _hash_value(digest: hashlib._Hash, name: str, value: Any) -> None:
    """Types, lengths and contents in turn, so that no two structures run together."""
    digest.update(f"{type(value).__name__}:".encode())
    if isinstance(value, Tensor):
        hash_tensor(digest, value)
    elif isinstance(value, Mapping):
        digest.update(f"{len(value)}:".encode())
        for key, item in sorted(value.items(), key=lambda pair: repr(pair[0])):
            digest.update(f"{key!r}=".encode())
            _hash_value(digest, f"{name}[{key!r}]", item)
    elif isinstance(value, list | tuple):
        digest.update(f"{len(value)}:".encode())
        for i, item in enumerate(value):
            _hash_value(digest, f"{name}[{i}]", item)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes | torch.dtype | torch.device | Enum):
        text = repr(value)
        digest.update(f"{len(text)}:{text}".encode())
    else:
        raise TypeError(
            f"the condition {name} is a {type(value).__name__}, whose content cannot be told from another's: give tensors, "
            "numbers or strings, or leave out the cache"
        )


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

    Keys that the null condition lacks are repeated. Where the two differ, a number in either becomes a row a sample.
    """
    joined: Condition = {}
    for key, value in condition.items():
        if key in null:
            joined[key] = _join(key, value, null[key], batch, device)
        else:
            joined[key] = map_tensors(lambda tensor: torch.cat([tensor, tensor]), value)
    missing = [key for key in null if key not in condition]
    if missing:
        raise ValueError(f"guidance needs the condition {', '.join(missing)}: give it beside the noise")
    return joined


def _join(name: str, value: Any, null: Any, batch: int, device: torch.device | None) -> Any:
    if isinstance(value, Mapping) and isinstance(null, Mapping):
        missing = [key for key in (*value, *null) if key not in value or key not in null]
        if missing:
            raise ValueError(
                f"the condition {name} and its null condition must have the same keys: {missing[0]!r} is in one alone"
            )
        return {key: _join(f"{name}[{key!r}]", item, null[key], batch, device) for key, item in value.items()}
    if isinstance(value, list | tuple) and isinstance(null, list | tuple) and len(value) == len(null):
        return _rebuilt(
            value, (_join(f"{name}[{i}]", *pair, batch, device) for i, pair in enumerate(zip(value, null, strict=True)))
        )
    if not isinstance(value, Tensor) and not isinstance(null, Tensor) and value == null:
        return value
    if not all(isinstance(part, Tensor | bool | int | float) for part in (value, null)):
        kinds = f"{type(value).__name__} and {type(null).__name__}"
        raise ValueError(
            f"the condition {name} and its null condition must be tensors or numbers to go into one batch, got {kinds}"
        )
    given, other = _rows(value, batch, device), _rows(null, batch, device)
    if other.shape[1:] != given.shape[1:]:
        raise ValueError(
            f"the condition {name} has rows of shape {tuple(given.shape[1:])}, its null condition {tuple(other.shape[1:])}: "
            "they go into one batch"
        )
    dtype = given.dtype if isinstance(value, Tensor) else torch.promote_types(given.dtype, other.dtype)
    return torch.cat([given.to(dtype), other.to(dtype)])


def _rows(value: Any, batch: int, device: torch.device | None) -> Tensor:
    # A number is float32 or int64 whatever torch's default is.
    tensor = torch.as_tensor(value, device=device, dtype=torch.float32 if isinstance(value, float) else None)
    if tensor.ndim == 0:
        return tensor.expand(batch)
    return tensor if len(tensor) == batch else tensor.expand(batch, *tensor.shape[1:])
