"""What is sampled: a network of pictures with its classes, or a pipeline with its prompts, asked in one way."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.foreign import printable
from dode.names import unknown_name
from dode.schedules import NoiseSchedule

# The choice by which sample i has the i-th class or prompt, over and over.
IN_TURN = "each in turn"
# Denoisers by guidance scale that are kept, with the first outputs that they have made.
_KEPT = 8


class Subject(ABC):
    """What is asked for samples.

    Attributes:
        name: of the network or the pipeline.
        kind: what a sample is asked for, "Class" or "Prompt"; "" where there is nothing to choose.
        choices: of them, `IN_TURN` first where there are several; ("",) where there is nothing to choose.
        free: any other text is a choice as well.
        guidance: the scale to begin with; None where it cannot be changed.
        schedule: the network's.
        shape: of a state.
    """

    name: str
    kind: str
    choices: tuple[str, ...]
    free: bool = False
    guidance: float | None
    schedule: NoiseSchedule
    shape: tuple[int, ...]

    def names(self, choice: str, count: int) -> list[str]:
        """What each of the samples is asked for.

        Raises:
            ValueError: no choice.
        """
        if choice not in self.choices and not (self.free and choice.strip()):
            if self.free:
                raise ValueError(f"the {self.kind.lower()} is empty: write one")
            raise unknown_name(self.kind.lower() or "choice", printable(choice), self.choices)
        if choice != IN_TURN:
            return [choice] * count
        each = [name for name in self.choices if name != IN_TURN]
        return [each[i % len(each)] for i in range(count)]

    @abstractmethod
    def ask(self, guidance: float | None, names: Sequence[str]) -> tuple[Denoiser, Condition]:
        """A denoiser, and its condition with a row for each name."""

    @abstractmethod
    def pictures(self, states: Tensor) -> Tensor:
        """Final states as pictures: (n, 1 or 3, height, width) in [-1, 1], on the host."""

    def close(self) -> None:
        """Let go of what is open."""
        return


class Network(Subject):
    """A network whose samples are pictures.

    Args:
        denoiser: it; it is not changed.
        labels: by the names of the classes that are offered; none for a network without classes.

    Raises:
        ValueError: samples that are no pictures, or guidance by evaluation, which says nothing of runs of another length.
    """

    def __init__(self, denoiser: Denoiser, labels: Mapping[str, int] | None = None) -> None:
        if denoiser.shape is None or len(denoiser.shape) != 3 or denoiser.shape[0] not in (1, 3):
            raise ValueError(
                f"{denoiser.name} makes samples of shape {denoiser.shape}, and here they are looked at: pictures have "
                "(1 or 3, height, width)"
            )
        if denoiser.guidance_by_step:
            raise ValueError(
                f"{denoiser.name} is guided by a number for each evaluation, and here their number is moved: give one"
            )
        self.name, self.schedule, self.shape = denoiser.name, denoiser.schedule, denoiser.shape
        self.denoiser = denoiser
        self.labels = dict(labels or {})
        self.kind = "Class" if self.labels else ""
        self.choices = _choices(list(self.labels))
        scale = denoiser.guidance_scale
        self.guidance = scale if isinstance(scale, float) and denoiser.null_condition is not None else None
        self._guided: dict[float | None, Denoiser] = {}

    def ask(self, guidance: float | None, names: Sequence[str]) -> tuple[Denoiser, Condition]:
        return self._at(guidance), self.condition(names)

    def condition(self, names: Sequence[str]) -> Condition:
        """The labels of samples."""
        return {"class_labels": torch.tensor([self.labels[name] for name in names])} if self.labels else {}

    def guided(self, guidance: float | None) -> Denoiser:
        """A denoiser of its own counter and memory."""
        return self.denoiser.replace(**({} if guidance is None else {"guidance_scale": guidance}))

    def pictures(self, states: Tensor) -> Tensor:
        return states.float().cpu()

    def _at(self, guidance: float | None) -> Denoiser:
        found = self._guided.pop(guidance, None) or self.guided(guidance)
        while len(self._guided) >= _KEPT:
            del self._guided[next(iter(self._guided))]
        self._guided[guidance] = found
        return found


class Piped(Subject):
    """A pipeline of diffusers, driven as it is; its pictures are decoded by its own autoencoder.

    Args:
        pipe: it; it is not changed.
        prompts, calls, call, batch_size: as `dode.integrations.diffusers.drive`; calls differ in their class label alone, or there is one.
        guidance: the scale to begin with; the pipeline's own if None.

    Raises:
        ValueError: what it makes is no picture.
        Exception: what it raises when it is first called, with a note of the call.
    """

    def __init__(
        self,
        pipe: Any,
        *,
        prompts: Sequence[str] | None = None,
        calls: Sequence[Mapping[str, Any]] | None = None,
        batch_size: int | None = None,
        guidance: float | None = None,
        **call: Any,
    ) -> None:
        from dode.integrations.diffusers.calls import arguments
        from dode.integrations.diffusers.decoding import decoder_of

        self._pipe, self._batch_size, self._call = pipe, batch_size, call
        self._calls: dict[str, dict[str, Any]] = {}
        if prompts is not None:
            self.kind, self.free = "Prompt", True
            self._calls = {text: {"prompt": text} for text in prompts}
        elif calls is not None and len(calls) > 1:
            self.kind = "Class"
            self._calls = {str(each["class_labels"]): dict(each) for each in calls}
        else:
            self.kind = ""
            self._calls = {"": dict(calls[0]) if calls else {}}
        self.choices = _choices(list(self._calls))
        self._open: tuple[Any, Denoiser] | None = None
        self._stack = ExitStack()
        guides = "guidance_scale" in arguments(pipe)[0]
        denoiser, _ = self.ask(guidance if guides else None, self.names(self.choices[0], 1))
        self.name, self.schedule, self.shape = denoiser.name, denoiser.schedule, denoiser.shape or ()
        own = denoiser.net.guidance_scale  # type: ignore[attr-defined]
        self.guidance = (guidance if guidance is not None else own) if guides else None
        self._decode = decoder_of(pipe, self.shape, call)
        made = self.pictures(torch.zeros(1, *self.shape))
        if made.ndim != 4 or made.shape[1] not in (1, 3):
            raise ValueError(
                f"{self.name} makes what has shape {tuple(made.shape[1:])}, and here it is looked at: pictures have (1 or 3, height, "
                "width)"
            )

    def ask(self, guidance: float | None, names: Sequence[str]) -> tuple[Denoiser, Condition]:
        from dode.integrations.diffusers.driver import drive

        listed = list(self._calls) if set(names) <= set(self._calls) else list(dict.fromkeys(names))
        key = guidance, tuple(listed)
        if self._open is None or self._open[0] != key:
            self.close()
            driven = drive(self._pipe, batch_size=self._batch_size, **self._asked(guidance, listed))
            self._open = key, self._stack.enter_context(driven)[0]
        return self._open[1], {"prompt": torch.tensor([listed.index(name) for name in names])}

    def pictures(self, states: Tensor) -> Tensor:
        return states.float() if self._decode is None else self._decode(states).float().cpu()

    def close(self) -> None:
        self._open = None
        self._stack.close()

    def _asked(self, guidance: float | None, names: Sequence[str]) -> dict[str, Any]:
        """The arguments by which a pipeline is driven for these names."""
        shared = self._call | ({} if guidance is None else {"guidance_scale": guidance})
        if self.kind == "Prompt":
            return {"prompts": list(names), **shared}
        return {"calls": [self._calls[name] for name in names], **shared}


def _choices(names: list[str]) -> tuple[str, ...]:
    return (IN_TURN, *names) if len(names) > 1 else tuple(names) or ("",)


@contextmanager
def closing(subject: Subject) -> Iterator[Subject]:
    """Close it at the end."""
    try:
        yield subject
    finally:
        subject.close()
