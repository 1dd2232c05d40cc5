"""As little of a pipeline as is driven, beside the real ones of tiny_pipelines.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import diffusers
import torch
from torch import Tensor

SHAPE = (4, 8, 8)


class Toy:
    """Of a network (x, t) -> D; half the state if none is given."""

    def __init__(self, network: Callable[[Tensor, Tensor], Tensor] = lambda x, t: 0.5 * x) -> None:
        self.scheduler = diffusers.DDIMScheduler(clip_sample=False, prediction_type="sample")
        self.network = network

    def __call__(self, batch_size: int = 1, num_inference_steps: int = 50, generator: Any = None) -> Tensor:
        x = torch.randn(batch_size, *SHAPE, generator=generator)
        scheduler = self.of_loop()
        scheduler.set_timesteps(num_inference_steps)
        for t in self.times(scheduler):
            x = scheduler.step(self.network(x, t), t, x, return_dict=False)[0]
        return x

    def of_loop(self) -> Any:
        return self.scheduler

    def times(self, scheduler: Any) -> Any:
        return scheduler.timesteps
