"""Telling whether a network is the one that something was made with: by the content of its weights, and by what it gives.

Weights are read as whole numbers and summed over rows and columns of blocks with weights of their own, so that one changed bit or two
that changed places show. That reads every weight once, as an evaluation of the network does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from dode.conditions import Condition, hash_condition, hash_tensor, take
from dode.denoisers import Denoiser
from dode.grids import Point
from dode.guidance import scale_at

# Numbers of a weight that are summed at once, as a square block.
_SIDE = 1024
_WHOLE = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
# An odd number with irregular bits: multiples of it modulo 2^64 weigh the places.
_ODD = 0x9E3779B97F4A7C15 - 2**64
# Times, between the first and the last, and samples at which a network is probed.
_PROBED_TIMES, _PROBED_SAMPLES = 5, 3


def hash_weights(digest: hashlib._Hash, net: nn.Module, *, buffers: bool) -> bool:
    """Add the content of a network's parameters, and of its buffers, to a hash; False where it has none or they cannot be read."""
    named = [*net.named_parameters(), *(net.named_buffers() if buffers else ())]
    places: dict[torch.device, Tensor] = {}
    sums: dict[torch.device, list[Tensor]] = {}
    try:
        for name, tensor in named:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            device = tensor.device
            if device not in places:
                places[device] = torch.arange(1, _SIDE + 1, device=device) * _ODD
            sums.setdefault(device, []).extend(_block_sums(tensor.detach(), places[device]))
        for parts in sums.values():
            hash_tensor(digest, torch.stack(parts))
    except (RuntimeError, NotImplementedError, KeyError):  # weights elsewhere than here, or of a kind that has no bits to read
        return False
    return bool(named)


def _block_sums(tensor: Tensor, places: Tensor) -> list[Tensor]:
    """Two sums for each block of a tensor, () int64 each."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    whole = tensor.contiguous().view(-1).view(_WHOLE[tensor.element_size()])
    found = []
    for first in range(0, len(whole), _SIDE * _SIDE):
        block = whole[first : first + _SIDE * _SIDE]
        rows = math.ceil(len(block) / _SIDE)
        full = len(block) // _SIDE * _SIDE
        square, rest = block[:full].view(full // _SIDE, _SIDE), block[full:]
        columns = square.sum(0, dtype=torch.int64)
        if len(rest):
            columns[: len(rest)] += rest
        lines = square.sum(1, dtype=torch.int64)
        by_line = (lines * places[: len(lines)]).sum() + rest.sum(dtype=torch.int64) * places[rows - 1]
        found += [(columns * places).sum(), by_line]
    return found


def hash_switches(digest: hashlib._Hash, net: nn.Module) -> None:
    """Add to a hash what adapters are turned on, off and up by: the modules' flags, names and tables of numbers."""
    for name, module in net.named_modules():
        for attribute, value in sorted(vars(module).items()):
            table = isinstance(value, dict) and value and all(isinstance(v, bool | int | float) for v in value.values())
            names = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
            if attribute != "training" and (table or names or isinstance(value, bool | str)):
                digest.update(f"{name}.{attribute}={value!r}".encode())


def hash_settings(digest: hashlib._Hash, denoiser: Denoiser, points: Sequence[Point]) -> None:
    """Add to a hash how a denoiser uses its network at some points, the run's evaluations in turn."""
    scales = [scale_at(denoiser.guidance_scale, point.t, call) for call, point in enumerate(points)]
    settings = (
        denoiser.prediction,
        scales,
        denoiser.guidance_rescale,
        denoiser.classifier is not None,
        denoiser.classifier_scale,
        denoiser.clip,
        denoiser.dynamic_threshold,
        denoiser.integer_times,
        denoiser.dtype,
        denoiser.schedule.fingerprint,
    )
    digest.update(repr(settings).encode())
    hash_condition(digest, dict(denoiser.null_condition or {}))


def hash_probes(digest: hashlib._Hash, denoiser: Denoiser, points: Sequence[Point], noise: Tensor, cond: Condition) -> None:
    """Add to a hash what a network gives for a few samples at a few of the points that a run asks it at.

    Args:
        digest: the hash.
        denoiser: the network.
        points: those of the run's evaluations, in turn.
        noise: (batch, *shape), standard normal, on the network's device.
        cond: the condition, a row a sample.
    """
    rows = _spread(len(noise), _PROBED_SAMPLES)
    few = noise[rows]
    with denoiser.evaluator(few, take(cond, rows)) as evaluate:
        for call in _spread(len(points), _PROBED_TIMES):
            point = points[call]
            hash_tensor(digest, evaluate(few * math.hypot(point.alpha, point.sigma), point, call))


def _spread(count: int, most: int) -> list[int]:
    """Some of 0 .. count - 1, evenly, the first and the last among them."""
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
