"""Thin modules around a network, for what its own forward does not do: pixel layout, class labels, learned variances."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class SpaceToDepth(nn.Module):
    """Runs a network of small, deep images on large, flat ones.

    `net` works on (batch, channels x factor^2, height / factor, width / factor); this module on (batch, channels, height,
    width). Pixels only change their places, so Gaussian noise is the same in either layout and every solver gives the same
    samples.
    """

    def __init__(self, net: nn.Module, factor: int) -> None:
        super().__init__()
        self.net = net
        self.factor = factor

    def forward(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return F.pixel_shuffle(_tensor(self.net(F.pixel_unshuffle(x, self.factor), t, **cond)), self.factor)


class ClassLabels(nn.Module):
    """Gives a class-conditional network its `class_labels` as a tensor, whatever they came as.

    Args:
        net: called as net(x, t, class_labels=labels), with int64 labels (batch,).
        classes: how many there are, the null class included.
        null_class: used where no label is given.
    """

    def __init__(self, net: nn.Module, classes: int, null_class: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.classes = classes
        self.null_class = null_class
        self._checked: Tensor | None = None

    def forward(self, x: Tensor, t: Any, class_labels: Tensor | int | None = None, **cond: Any) -> Tensor:
        """As the network.

        Args:
            x: (batch, *shape).
            t: (batch,).
            class_labels: one number for all, or (batch,) integers in 0 .. classes - 1; the null class if None.
            cond: handed on.

        Raises:
            ValueError: no label where there is no null class, a label out of range, or another number of labels.
        """
        labels = self._labels(class_labels, len(x), x.device)
        return _tensor(self.net(x, t, class_labels=labels, **cond))

    def _labels(self, given: Tensor | int | None, batch: int, device: torch.device) -> Tensor:
        if given is None:
            given = self.null_class
        if given is None:
            raise ValueError(f"the network is class-conditional: give class_labels, 0 to {self.classes - 1}")
        if isinstance(given, Tensor):
            self._check(given)
            labels = given.to(device=device, dtype=torch.long)
        else:
            if not 0 <= given < self.classes:
                raise self._out_of_range(given)
            labels = torch.full((1,), int(given), device=device)
        if labels.numel() not in (1, batch) or labels.ndim > 1:
            raise ValueError(f"class_labels must have shape ({batch},), one a sample, got {tuple(labels.shape)}")
        return labels.expand(batch)

    def _check(self, labels: Tensor) -> None:
        # A sampling loop gives one tensor again and again: to look at it once is to wait for the device once.
        if labels is self._checked or torch.compiler.is_compiling():
            return
        if labels.is_floating_point():
            raise ValueError(f"class_labels must be integers, got {labels.dtype}")
        outside = labels[(labels < 0) | (labels >= self.classes)]
        if outside.numel():
            raise self._out_of_range(outside.flatten()[0].item())
        self._checked = labels

    def _out_of_range(self, label: float) -> ValueError:
        null = "" if self.null_class is None else f" ({self.null_class} is the null class)"
        return ValueError(f"class labels go from 0 to {self.classes - 1}{null}, got {label}")


class MeanHalf(nn.Module):
    """The first half of the channels of a network that predicts a mean and a variance: an ODE has no use for the variance."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return _tensor(self.net(x, t, **cond)).chunk(2, dim=1)[0]


class TimestepKeyword(nn.Module):
    """Gives t by its name `timestep`: diffusers' transformers do not have it as their second argument."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return _tensor(self.net(x, timestep=t, **cond))


def _tensor(output: Any) -> Tensor:
    """The tensor in what a network returned: itself, `.sample`, or the first of a tuple."""
    if isinstance(output, tuple):
        output = output[0]
    result: Tensor = getattr(output, "sample", output)
    return result
