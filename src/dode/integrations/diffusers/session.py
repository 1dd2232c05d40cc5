"""One call of a pipeline that is asked again and again for what its network gives, at any state and time.

A pipeline's loop reads a time from its scheduler's list, asks its network with its own guidance, prompts and controls, hands the output
to `step`, and goes on from the state that it gets back. Here the list is one tensor whose next entry is written just before the loop
reads it, and `step` hands the output to whoever asked and waits for the next state and time. The call runs in a thread of its own,
which works only while the other one waits: there is one at work at any moment. It ends by an exception that nothing in between
catches.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin, SchedulerOutput
from torch import Tensor

from dode.models.slots import Slot

# Evaluations that one call serves: pipelines make lists of so many times.
LENGTH = 1024
# How far a time may be rounded on its way through the loop, of its size: in float32, and in half precision.
_ROUNDED, _ROUNDED_SHORT = 1e-5, 1e-2


class Answer(NamedTuple):
    """What `step` was given.

    Attributes:
        output: the network's output as the loop has it.
        sample: the state that it belongs to, as the loop has it.
    """

    output: Tensor
    sample: Tensor


class Finished(BaseException):
    """Ends a pipeline's call from within; no `except Exception` of its stops it."""


class Session:
    """A call of a pipeline, open from its first evaluation to `close`.

    Args:
        run: calls the pipeline with a scheduler in its slot.
        scheduler: the pipeline's own, whose configuration is shown.
        slot: what the loop makes of times and states.
        t: the network's time to begin at.
        alike: whether the noise that the loop puts into its states is the same for all samples, as each of them has it alone.

    Attributes:
        first: the first evaluation, at a state of the pipeline's own.
        mu: the shift that the pipeline computed for its scheduler; None if it computes none.

    Raises:
        Exception: what the pipeline raises before its first evaluation.
    """

    def __init__(self, run: Callable[[Any], Any], scheduler: Any, slot: Slot, t: float, *, alike: bool = False) -> None:
        self._asked: queue.SimpleQueue[tuple[Tensor, float] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer | BaseException] = queue.SimpleQueue()
        with torch.inference_mode(False):  # its times are written to in the pipeline's thread, which is in no such mode
            self._driving = _Driving(scheduler, slot, t, self._exchange, alike)
        self._run = run
        context, ambient = contextvars.copy_context(), _Ambient.of_this_thread()
        self._thread = threading.Thread(target=lambda: context.run(self._work, ambient), name="dode pipeline", daemon=True)
        self._thread.start()
        try:
            self.first = self._answer()
            self.mu: float | None = self._driving.mu
        except BaseException:  # Ctrl-C that comes when the answer has: nobody else could close it
            self.close()
            raise

    @property
    def left(self) -> int:
        """Evaluations that it still serves."""
        return LENGTH - 1 - self._driving.index

    @property
    def scales_input(self) -> bool:
        """Whether the loop passes its states through `scale_model_input`."""
        return self._driving.asked_to_scale

    def ask(self, x: Tensor, t: float) -> Answer:
        """The network's output for states x, shaped and placed as the loop has them, at the network's time t."""
        self._asked.put((x, t))
        return self._answer()

    def close(self) -> None:
        """End the call, and wait until it has ended."""
        self._asked.put(None)
        self._thread.join()

    def _answer(self) -> Answer:
        try:
            answer = self._answers.get()
        except BaseException:  # Ctrl-C while the network works
            self.close()
            raise
        if isinstance(answer, BaseException):
            self._thread.join()
            raise answer
        return answer

    # In the pipeline's thread.

    def _work(self, ambient: _Ambient) -> None:
        try:
            with ambient.entered():
                self._run(self._driving)
            message = "the pipeline ended its loop by itself: it does not run over the times of its scheduler as others do"
            self._answers.put(ValueError(message))
        except Finished:
            pass
        except BaseException as error:
            self._answers.put(error)

    def _exchange(self, answer: Answer) -> tuple[Tensor, float]:
        self._answers.put(answer)
        request = self._asked.get()
        if request is None:
            raise Finished
        return request


class _Driving(SchedulerMixin, ConfigMixin):
    """A scheduler that hands outputs over and is told the next state and time."""

    order = 1
    init_noise_sigma = 1.0

    def __init__(
        self, scheduler: Any, slot: Slot, t: float, exchange: Callable[[Answer], tuple[Tensor, float]], alike: bool
    ) -> None:
        self._internal_dict = scheduler.config
        self._alike = alike
        self._slot = slot
        self._exchange = exchange
        self._start = t
        self._next = t
        self._state: Tensor | None = None  # that was handed out last
        self.index = -1  # of the entry of `timesteps` that the loop is at
        self.mu: float | None = None
        self.asked_to_scale = False
        self.timesteps = torch.full((LENGTH,), t, dtype=torch.float32)
        self.sigmas = torch.full((LENGTH + 1,), slot.noise_level(slot.point(slot.time_of(t))))
        self.num_inference_steps = LENGTH
        for name in ("betas", "alphas_cumprod"):
            if hasattr(scheduler, name):
                setattr(self, name, getattr(scheduler, name))

    def __len__(self) -> int:
        return int(self.config.get("num_train_timesteps", LENGTH))

    def __deepcopy__(self, memo: Any) -> Any:
        raise ValueError(
            "the pipeline copies its scheduler for a second stream, whose states are not seen: it cannot be driven"
        )

    @property
    def step_index(self) -> int | None:
        return None if self.index < 0 else self.index

    @property
    def begin_index(self) -> int:
        return 0

    def set_begin_index(self, begin_index: int = 0) -> None:
        pass

    def set_timesteps(
        self,
        num_inference_steps: int | None = None,
        device: Any = None,
        timesteps: Any = None,
        sigmas: Any = None,
        mu: float | None = None,
    ) -> None:
        self.mu = mu
        self.timesteps = torch.full((LENGTH,), self._start, dtype=torch.float32, device=device)

    def scale_model_input(self, sample: Tensor, timestep: Any = None) -> Tensor:
        self.asked_to_scale = True
        if not self._slot.scales:
            return sample
        return sample * self._slot.input_scale(self._slot.point(self._slot.time_of(self._next)))

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Any = None) -> Tensor:
        """At the time that the loop is at, or is about to read. At the first time a loop leaves its states as they are: they are noise."""
        state = self._state
        if state is not None and self._next == self._start and state.shape == original_samples.shape:
            return state
        if (
            self._alike
        ):  # a loop that draws for an image before it repeats it leaves the first sample's generator ahead of the others'
            noise = noise[:1].expand_as(noise)
        point = self._slot.point(self._slot.time_of(self._next))
        return original_samples * point.alpha + noise * point.sigma

    def scale_noise(self, sample: Tensor, timestep: Any, noise: Tensor) -> Tensor:
        return self.add_noise(sample, noise)

    def step(
        self, model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, return_dict: bool = True, **kwargs: Any
    ) -> Any:
        self._enter(timestep)
        x, t = self._exchange(Answer(model_output, sample))
        self._next, self._state = t, x
        if self.index + 1 < LENGTH:
            self.timesteps[self.index + 1] = t
            self.sigmas[self.index + 1] = self._slot.noise_level(self._slot.point(self._slot.time_of(t)))
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)

    def _enter(self, timestep: Any) -> None:
        """Find the loop's place, and see that it reads what is written."""
        self.index += 1
        if self.index == 0 and isinstance(timestep, Tensor):
            if timestep.untyped_storage().data_ptr() != self.timesteps.untyped_storage().data_ptr():
                raise ValueError(
                    "the pipeline copies its scheduler's times before its loop, so that it cannot be asked at others"
                )
            self.index = int(timestep.storage_offset())
        short = isinstance(timestep, Tensor) and timestep.is_floating_point() and timestep.element_size() < 4
        if abs(float(timestep) - self._next) > (_ROUNDED_SHORT if short else _ROUNDED) * max(abs(self._next), 1.0):
            raise ValueError(
                f"the pipeline was asked at t = {self._next:g} and ran at {float(timestep):g}: it cannot be driven"
            )


class _Ambient(NamedTuple):
    """What PyTorch keeps for each thread. Gradients are never wanted."""

    stream: Any
    device: torch.device | None
    autocast: tuple[str, torch.dtype] | None

    @classmethod
    def of_this_thread(cls) -> _Ambient:
        stream = torch.cuda.current_stream() if torch.cuda.is_available() else None
        default = torch.empty(0).device
        place = None if default.type == "cpu" else default
        for device in ("cuda", "cpu"):
            if torch.is_autocast_enabled(device):
                return cls(stream, place, (device, torch.get_autocast_dtype(device)))
        return cls(stream, place, None)

    @contextmanager
    def entered(self) -> Iterator[None]:
        with ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            if self.device is not None:
                stack.enter_context(self.device)
            if self.stream is not None:
                stack.enter_context(torch.cuda.device(self.stream.device))
                stack.enter_context(torch.cuda.stream(self.stream))
            if self.autocast is not None:
                device, dtype = self.autocast
                stack.enter_context(torch.autocast(device, dtype=dtype))
            yield
