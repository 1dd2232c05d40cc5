"""A small network on a GPU without the time that it takes to launch its kernels, and what arithmetic it may use."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Larger batches keep a GPU busy by themselves.
_LARGEST = 512


class Graphed(nn.Module):
    """A network whose calls on small batches are CUDA graphs; elsewhere, and on large ones, it is what it wraps.

    Args:
        net: called as net(x, t, **cond) with tensors; it must not wait for the device.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self._graphs: dict[Hashable, _Graph | None] = {}
        self._seen: set[Hashable] = set()
        self._pool: Any = None

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        given = {"x": x, "t": t, **cond}
        if not x.is_cuda or len(x) > _LARGEST or not all(isinstance(value, Tensor) for value in given.values()):
            return self.net(x, t, **cond)
        key = (torch.backends.cudnn.allow_tf32, *((name, tuple(value.shape), value.dtype) for name, value in given.items()))
        if key not in self._graphs:
            if key not in self._seen:
                self._seen.add(key)
                return self.net(x, t, **cond)
            self._graphs[key] = self._taken_down(given)
        graph = self._graphs[key]
        if graph is None:
            return self.net(x, t, **cond)
        for name, value in given.items():
            graph.inputs[name].copy_(value)
        graph.graph.replay()
        return graph.output.clone()

    @torch.no_grad()
    def _taken_down(self, given: dict[str, Tensor]) -> _Graph | None:
        """The call as a graph; None where it cannot be one."""
        # Graphs run one at a time and their outputs are copied at once, so they may share memory.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        with torch.inference_mode(False):
            inputs = {name: torch.empty(value.shape, dtype=value.dtype, device=value.device) for name, value in given.items()}
            for name, value in given.items():
                inputs[name].copy_(value)
            x, t = inputs["x"], inputs["t"]
            cond = {name: value for name, value in inputs.items() if name not in ("x", "t")}
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                for _ in range(2):
                    self.net(x, t, **cond)
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            try:
                with torch.cuda.graph(graph, pool=self._pool):
                    output = self.net(x, t, **cond)
            except RuntimeError as error:
                print(f"no graph for a batch of {len(x)}: {error}")
                return None
        return _Graph(graph, inputs, output)


class _Graph(NamedTuple):
    """A graph with the tensors that it reads and writes."""

    graph: Any
    inputs: dict[str, Tensor]
    output: Tensor


@contextmanager
def arithmetic(*, tf32: bool, search: bool = False) -> Iterator[None]:
    """Convolutions and products in full float32, or with factors of 10 bits (TF32).

    Args:
        tf32: the latter.
        search: time cuDNN's algorithms for each shape and take the fastest, which pays where few shapes come often.
    """
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark
    cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = tf32, tf32, search
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.benchmark = before


def faster_layout(net: nn.Module, x: Tensor, t: Tensor, **cond: Any) -> str:
    """Leave the network's weights in the memory layout that is faster for such a batch; its name, and how fast."""
    layouts = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
    seconds = {}
    for name, layout in layouts.items():
        net.to(memory_format=layout)
        with torch.inference_mode():
            for _ in range(2):
                net(x, t, **cond)
            torch.cuda.synchronize()
            began = time.perf_counter()
            for _ in range(3):
                net(x, t, **cond)
            torch.cuda.synchronize()
        seconds[name] = (time.perf_counter() - began) / 3
    best = min(seconds, key=seconds.__getitem__)
    net.to(memory_format=layouts[best])
    return ", ".join(f"{name} {len(x) / each:,.0f}" for name, each in seconds.items()) + " evaluations a second"
