"""A device that is the host in disguise, without float64: its tensors say that they are elsewhere, and refuse what a real device does.

    device = FakeDevice()
    with device:                       # factories such as torch.full(..., device=device.name) know it
        x = device.put(torch.randn(4))

Tensors of the two places do not meet in one operation, none there is float64 (as on MPS), and `numpy()` needs `cpu()` first.
`live` counts the bytes of storages there, views once; `peak` is the most so far.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

NAME = torch.device("cuda", 7)


class OnDevice(Tensor):
    """A tensor there."""

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        with torch._C.DisableTorchFunctionSubclass():
            if name == "__get__":
                return NAME if function.__self__ is Tensor.device else tree_map(there, function(*tree_map(host, args)))
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
            plain = [t for t in tensors if not isinstance(t, OnDevice)]
            target = target_of(name, args, kwargs)
            if name == "cpu" or (target is not None and target != NAME):
                return function(*tree_map(host, args), **tree_map(host, kwargs)).clone()
            if name in ("numpy", "__array__"):
                raise TypeError("can't convert a tensor of the device to numpy: cpu() first")
            if target is not None:
                args, kwargs = tree_map(without_device, args), tree_map(without_device, kwargs)
            elif any(t.ndim for t in plain) and name not in ("__getitem__", "__setitem__"):
                raise RuntimeError(f"{name} of tensors of two devices")
            return tree_map(there, function(*tree_map(host, args), **tree_map(host, kwargs)))


class FakeDevice(TorchFunctionMode):
    """Factories that name it, moves to it, and the count of what is there."""

    name = NAME

    def __init__(self) -> None:
        super().__init__()
        _LIVE.clear()
        _COUNT.update(live=0, peak=0)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        of_here = args[:1] if getattr(function, "__name__", "") == "to" else args
        if any(isinstance(leaf, OnDevice) for leaf in tree_leaves((of_here, kwargs))):
            return function(*args, **kwargs)
        if target_of(getattr(function, "__name__", ""), args, kwargs) == NAME:
            return there(function(*tree_map(without_device, args), **tree_map(without_device, kwargs)).clone())
        return function(*args, **kwargs)

    def put(self, tensor: Tensor) -> Tensor:
        """The tensor there."""
        return there(tensor.clone())

    @property
    def peak(self) -> int:
        """The most bytes that were there at a time."""
        return _COUNT["peak"]

    def reset(self) -> None:
        """Count the peak from here."""
        _COUNT["peak"] = _COUNT["live"]


_LIVE: dict[int, int] = {}
_COUNT = {"live": 0, "peak": 0}


def there(value: Any) -> Any:
    """A result as it is there."""
    if not isinstance(value, Tensor) or isinstance(value, OnDevice):
        return value
    if value.dtype == torch.float64:
        raise TypeError("the device has no float64")
    moved = value.as_subclass(OnDevice)
    storage = value.untyped_storage()
    pointer, size = storage.data_ptr(), storage.nbytes()
    if size:
        if not _LIVE.get(pointer):
            _COUNT["live"] += size
            _COUNT["peak"] = max(_COUNT["peak"], _COUNT["live"])
        _LIVE[pointer] = _LIVE.get(pointer, 0) + 1
        weakref.finalize(moved, gone, pointer, size)
    return moved


def gone(pointer: int, size: int) -> None:
    """One tensor less on a storage."""
    if pointer in _LIVE:
        _LIVE[pointer] -= 1
        if not _LIVE[pointer]:
            del _LIVE[pointer]
            _COUNT["live"] -= size


def host(value: Any) -> Any:
    """What lies behind a tensor there."""
    return value.as_subclass(Tensor) if isinstance(value, OnDevice) else value


def target_of(name: str, args: Any, kwargs: Any) -> torch.device | None:
    """The device that a call of a factory or of `to` names, itself or by a tensor to be like; None if it names none."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    for value in args[1:] if name == "to" else ():
        if isinstance(value, str | torch.device):
            return torch.device(value)
        if isinstance(value, Tensor):
            return value.device
    return None


def without_device(value: Any) -> Any:
    """An argument, where it does not name the device."""
    return torch.device("cpu") if isinstance(value, torch.device) and value == NAME else host(value)
