"""How much of the time is the network's own."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from dode.denoisers import Denoiser


class Clock:
    """Adds up the time between `start` and `stop`, in seconds; on a GPU until it has done what it was given."""

    def __init__(self, device: torch.device | None) -> None:
        self.seconds = 0.0
        self._waits = device is not None and device.type == "cuda"
        self._began = 0.0

    def start(self, *_: Any) -> None:
        self._began = self._now()

    def stop(self, *_: Any) -> None:
        self.seconds += self._now() - self._began

    def _now(self) -> float:
        if self._waits:
            torch.cuda.synchronize()
        return time.perf_counter()


class _Timed:
    """A function that is timed; all else is its own."""

    def __init__(self, function: Any, clock: Clock) -> None:
        self._function = function
        self._clock = clock

    def __call__(self, *given: Any, **named: Any) -> Any:
        self._clock.start()
        try:
            return self._function(*given, **named)
        finally:
            self._clock.stop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


@contextmanager
def network_clock(denoiser: Denoiser) -> Iterator[Clock]:
    """Time the calls of a denoiser's network while the block runs."""
    clock, net = Clock(denoiser.device), denoiser.net
    if isinstance(net, nn.Module):
        hooks = [net.register_forward_pre_hook(clock.start), net.register_forward_hook(clock.stop)]
        try:
            yield clock
        finally:
            for hook in hooks:
                hook.remove()
        return
    denoiser.net = _Timed(net, clock)
    try:
        yield clock
    finally:
        denoiser.net = net
