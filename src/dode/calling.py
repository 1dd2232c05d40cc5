"""Calling a network so that it shares no memory with whoever asks.

A network may hand back one buffer again and again, a view of its input or of something inside, and it may write into what it is
given; states, outputs and conditions live on while it is called again. So what it returns is for the caller to copy at once, unless a
conversion makes another tensor of it anyway: no check of pointers is right for compiled graphs and engines, whose buffers have no
owner to ask. What it is given is copied for networks that write into it, which the version counters of the first call's copies tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dode.conditions import Condition, map_tensors
from dode.outputs import tensor_of


class Caller:
    """net(x, t, **condition) on its own device and in its own dtype, again and again.

    Args:
        net: the network.
        name: for messages.
        device, dtype: what it takes.
        integer_times: it is asked at whole times, given as int64.
    """

    def __init__(
        self, net: Callable[..., Any], name: str, device: torch.device, dtype: torch.dtype, *, integer_times: bool
    ) -> None:
        self._net = net
        self._name = name
        self._device, self._dtype = device, dtype
        self._integer_times = integer_times
        # Half-precision times could not tell 998 from 999.
        self._time_dtype = torch.int64 if integer_times else torch.promote_types(dtype, torch.float32)
        # Whether the network writes into what it is given; None while that is not known.
        self._writes: bool | None = None
        # Of each condition its tensors, and whether there are containers in it.
        self._found: dict[int, tuple[list[Tensor], bool]] = {}

    def ask(self, x: Tensor, t: float, condition: Condition, *, own: bool = False) -> Tensor:
        """What the network returns, (batch, *shape), as it is: its memory may be the network's.

        Args:
            x: (batch, *shape), states; `own` if nobody needs them any more.
            t: the network's time.
            condition: on the network's device; the same few dictionaries, again and again.

        Raises:
            TypeError, ValueError: it returned anything but floating-point numbers of the shape of x where x is, or wrote into what it
                shares with others.
        """
        if x.device != self._device or x.dtype != self._dtype:
            x, own = x.to(device=self._device, dtype=self._dtype), True
        if torch.compiler.is_compiling():
            return self._traced(x, t, condition)
        watched, nested = self._parts_of(condition)
        copied = self._writes is not False or (x.is_inference() and not own) or any(part.is_inference() for part in watched)
        if copied:
            x = x if own else x.clone()
            condition = map_tensors(torch.clone, condition, shared=True)
            watched = _tensors(condition)
        elif nested:  # what a network takes out of a dictionary is there again at the next call
            condition = map_tensors(lambda tensor: tensor, condition)
        if copied or not own:
            watched = [x, *watched]
        before = _written(watched)
        times = self._times(x, t)
        try:
            with torch.inference_mode():
                output = self._net(x, times, **condition)
        except (RuntimeError, IndexError) as error:
            if not self._integer_times and _takes_whole_times(self._net, x, times, condition, error):
                raise ValueError("the network looks its times up in a table: give integer_times=True") from error
            raise
        if before is None:
            pass  # nothing to be learned: it goes on getting copies
        elif _written(watched) == before:
            self._writes = bool(self._writes)
        elif copied:
            self._writes = True
        else:
            raise ValueError(
                f"the network ({self._name}) wrote into its input or condition at t = {t:g}, and had not at its first call: let it "
                "work on a copy, as in lambda x, t: net(x.clone(), t)"
            )
        return self._checked(output, x)

    def _traced(self, x: Tensor, t: float, condition: Condition) -> Tensor:
        """As part of a compiled graph, which knows neither version counters nor inference mode; a copy that nobody writes into costs
        nothing there."""
        condition = map_tensors(torch.clone, condition, shared=True)
        return self._checked(self._net(x.clone(), self._times(x, t), **condition), x)

    def _times(self, x: Tensor, t: float) -> Tensor:
        return torch.full((len(x),), round(t) if self._integer_times else t, dtype=self._time_dtype, device=self._device)

    def _checked(self, returned: Any, x: Tensor) -> Tensor:
        """The tensor in what the network returned for x. Nothing is converted that a network cannot have meant: an integer, a number of
        another device or one without a value is taken in silence by a copy, and gives wrong samples."""
        output = tensor_of(returned, self._name)
        if output.shape != x.shape:
            raise ValueError(
                f"the network ({self._name}) must return the shape of its input {tuple(x.shape)}, got {tuple(output.shape)}: one "
                "prediction for each number of the sample"
            )
        if not output.is_floating_point():
            raise TypeError(
                f"the network ({self._name}) must return floating-point numbers, got {output.dtype}: convert its output, as in "
                "lambda x, t: net(x, t).float()"
            )
        if output.device != x.device:
            raise ValueError(
                f"the network ({self._name}) was asked on {x.device} and returned a tensor on {output.device}: bring its output back, "
                "as in lambda x, t: net(x, t).to(x.device)"
            )
        return output

    def _parts_of(self, condition: Condition) -> tuple[list[Tensor], bool]:
        if id(condition) not in self._found:
            nested = any(isinstance(value, Mapping | list | tuple) for value in condition.values())
            self._found[id(condition)] = _tensors(condition), nested
        return self._found[id(condition)]


def _tensors(condition: Condition) -> list[Tensor]:
    found: list[Tensor] = []
    map_tensors(found.append, condition, shared=True)
    return found


def _written(tensors: list[Tensor]) -> int | None:
    """How often they have been written into; None where that is not counted, for tensors made in inference mode."""
    count = 0
    for tensor in tensors:
        if tensor.is_inference():
            return None
        count += tensor._version
    return count


def _takes_whole_times(net: Callable[..., Any], x: Tensor, times: Tensor, condition: Condition, error: Exception) -> bool:
    """Whether a network that failed over some index works where the time is a whole number: it looks its time up in a table."""
    if not any(word in str(error) for word in ("indic", "index")):
        return False
    try:
        net(x, times.round().long(), **condition)
    except Exception:
        return False
    return True


@contextmanager
def evaluation_mode(function: object) -> Iterator[None]:
    """A module in evaluation mode while the block runs, and its training flags back at the end; other functions as they are."""
    training = [module for module in function.modules() if module.training] if isinstance(function, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
