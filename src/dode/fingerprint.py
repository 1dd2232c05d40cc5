"""Telling whether a network is the one that something was made with: by the content of its weights, and by what it gives.

Weights are read as whole numbers and summed over rows and columns of blocks with weights of their own, so that one changed bit or two
that changed places show. That reads every weight once, as an evaluation of the network does.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

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


def hash_network(digest: hashlib._Hash, denoiser: Denoiser, points: Sequence[Point], noise: Tensor, cond: Condition) -> None:
    """Add to a hash what a run's numbers depend on beside its tableau and noise: how the network is used, its parameters, and what it
    gives for a few samples at a few of the points. That takes some evaluations.

    Args:
        digest: the hash.
        denoiser: the network.
        points: those of the run's evaluations, in turn.
        noise: (batch, *shape), standard normal.
        cond: the condition, a row a sample.

    Raises:
        TypeError: a condition that cannot be told from another one.
    """
    hash_condition(digest, cond)
    hash_settings(digest, denoiser, points)
    for net in (denoiser.net, denoiser.classifier):
        if isinstance(net, nn.Module):
            hash_weights(digest, net, buffers=False)  # a buffer may be what a call leaves behind
    rows = _spread(len(noise), _PROBED_SAMPLES)
    few = noise[rows].to(denoiser.device)
    with denoiser.evaluator(few, take(cond, rows)) as evaluate:
        for call in _spread(len(points), _PROBED_TIMES):
            point = points[call]
            hash_tensor(digest, evaluate(few * math.hypot(point.alpha, point.sigma), point, call))


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


def weights_hash(net: object) -> str | None:
    """A hash of a network's parameters and buffers as they are loaded, names and precision included; None for what has none."""
    digest = hashlib.sha256()
    return digest.hexdigest()[:16] if isinstance(net, nn.Module) and hash_weights(digest, net, buffers=True) else None


def hash_weights(digest: hashlib._Hash, net: nn.Module, *, buffers: bool) -> bool:
    """Add the content of a network's parameters, and of its buffers, to a hash; False where it has none or they cannot be read."""
    named = [*net.named_parameters(), *(net.named_buffers() if buffers else ())]
    whole: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    try:
        for name, tensor in named:
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            real = torch.view_as_real(tensor) if tensor.is_complex() else tensor
            bits = real.detach().contiguous().view(-1).view(_WHOLE[real.element_size()])
            whole.setdefault((bits.device, bits.dtype), []).append(bits)
        for numbers in whole.values():
            hash_tensor(digest, torch.cat([_sums(block) for block in _blocks(numbers)]))
    except (RuntimeError, NotImplementedError, KeyError):  # weights elsewhere than here, or of a kind that has no bits to read
        return False
    return bool(named)


def _blocks(vectors: list[Tensor]) -> Iterator[Tensor]:
    """Vectors one after the other, in pieces of a block at the most; long ones are not copied."""
    size = _SIDE * _SIDE
    short: list[Tensor] = []
    count = 0
    for vector in vectors:
        rest = vector.numel() % size
        whole = vector.numel() - rest
        yield from (vector[first : first + size] for first in range(0, whole, size))
        if count + rest > size:
            yield torch.cat(short)
            short, count = [], 0
        if rest:
            short.append(vector[whole:])
            count += rest
    if short:
        yield torch.cat(short)


def _sums(block: Tensor) -> Tensor:
    """Sums over a block, laid out as a square, that weigh its columns and its rows: (2,) int64."""
    places = torch.arange(1, _SIDE + 1, device=block.device) * _ODD
    missing = -len(block) % _SIDE
    square = (functional.pad(block, (0, missing)) if missing else block).view(-1, _SIDE)
    columns, rows = square.sum(0, dtype=torch.int64), square.sum(1, dtype=torch.int64)
    return torch.stack([(columns * places).sum(), (rows * places[: len(rows)]).sum()])


def hash_switches(digest: hashlib._Hash, net: nn.Module) -> None:
    """Add to a hash what adapters are turned on, off and up by: the modules' flags, names and tables of numbers."""
    for name, module in net.named_modules():
        for attribute, value in sorted(vars(module).items()):
            table = isinstance(value, dict) and value and all(isinstance(v, bool | int | float) for v in value.values())
            names = isinstance(value, list) and value and all(isinstance(v, str) for v in value)
            if attribute != "training" and (table or names or isinstance(value, bool | str)):
                digest.update(f"{name}.{attribute}={value!r}".encode())


def _spread(count: int, most: int) -> list[int]:
    """Some of 0 .. count - 1, evenly, the first and the last among them."""
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
