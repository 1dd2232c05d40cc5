"""Pictures of states that are at the end of their way: a pipeline's own decoding of them, whatever it is."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from torch import Tensor

from dode.integrations.diffusers.configs import of_network
from dode.integrations.diffusers.pictures import pictures
from dode.integrations.diffusers.session import Answer, Driving
from dode.models.slots import Slot, slot_of


def decoded(pipe: Any, states: Tensor, *, batch_size: int | None = None, **call: Any) -> Tensor:
    """What a pipeline makes of final states, as it decodes those of its own loop.

    The pipeline is called with a scheduler of one step, which gives it these states: one call of the network for each batch, whose output
    is let go.

    Args:
        pipe: the pipeline; it is not changed.
        states: (n, *shape), as its scheduler sees them.
        batch_size: samples in one call at the most; 4 if None.
        call: prompts or calls, one for each state, and further arguments, as `dode.integrations.diffusers.drive`.

    Returns:
        as `pictures`: (n, channels, height, width) in [-1, 1] of images.

    Raises:
        ValueError: the pipeline makes another number of pictures than there are states.
        Exception: what the pipeline raises, with a note of the call.
    """
    handing = _Handing(pipe.scheduler, slot_of(of_network(pipe.scheduler)), states)
    made = pictures(pipe, handing, 1, len(states), batch_size=batch_size, **call)
    if len(made) != len(states):
        raise ValueError(f"the pipeline makes {len(made)} pictures of {len(states)} states: ask for one picture in a call")
    return made


class _Handing(Driving):
    """A scheduler of one step, to the next of the given states."""

    def __init__(self, scheduler: Any, slot: Slot, states: Tensor) -> None:
        super().__init__(scheduler, slot, slot.time(slot.schedule.t_max), _no_exchange, alike=False)
        self._states = states
        self._handed = 0

    def set_timesteps(self, *args: Any, device: Any = None, **kwargs: Any) -> None:
        self.timesteps = torch.full((1,), self._start, dtype=torch.float32, device=device)
        self.sigmas = self.sigmas[:2]
        self.num_inference_steps = 1

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any
    ) -> Any:
        rows = self._states[self._handed : self._handed + len(sample)]
        self._handed += len(sample)
        x = rows.to(device=sample.device, dtype=sample.dtype)
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)


def _no_exchange(answer: Answer) -> tuple[Tensor, float]:
    raise AssertionError("a step is answered at once")
