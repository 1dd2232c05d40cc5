"""Thin modules around a network, for what its own forward does not do: pixel layout, class labels, learned variances, channels
beside the sample, the scalings of EDM, another direction of time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dode.outputs import tensor_of


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
        return F.pixel_shuffle(tensor_of(self.net(F.pixel_unshuffle(x, self.factor), t, **cond)), self.factor)


class ClassLabels(nn.Module):
    """Gives a class-conditional network its `class_labels` as a tensor, whatever they came as.

    Args:
        net: called as net(x, t, class_labels=labels), with int64 labels (batch,).
        classes: how many there are, the null class included.
        null_class: used where no label is given.
    """

    def __init__(self, net: Callable[..., Any], classes: int, null_class: int | None = None) -> None:
        super().__init__()
        self.net = net
        self.classes = classes
        self.null_class = null_class
        self._checked: Tensor | None = None

    def forward(self, x: Tensor, t: Any, class_labels: Any = None, **cond: Any) -> Tensor:
        """As the network.

        Args:
            x: (batch, *shape).
            t: (batch,).
            class_labels: one number for all, or (batch,) integers in 0 .. classes - 1 as a tensor, an array, a list or a range;
                the null class if None.
            cond: handed on.

        Raises:
            ValueError: no label where there is no null class, a label out of range or no integer, or another number of labels.
        """
        labels = self._labels(class_labels, x.shape[0], x.device)
        return tensor_of(self.net(x, t, class_labels=labels, **cond))

    def _labels(self, given: Any, batch: int, device: torch.device) -> Tensor:
        if given is None:
            given = self.null_class
        if given is None:
            raise ValueError(f"the network is class-conditional: give class_labels, 0 to {self.classes - 1}")
        if not isinstance(given, Tensor):
            given = _as_tensor(given)
        self._check(given)
        labels: Tensor = given.to(device=device, dtype=torch.long)
        if labels.numel() not in (1, batch) or labels.ndim > 1:
            raise ValueError(f"class_labels must have shape ({batch},), one a sample, got {tuple(labels.shape)}")
        return labels.expand(batch)

    def _check(self, labels: Tensor) -> None:
        # A sampling loop gives one tensor again and again: to look at it once is to wait for the device once.
        if labels is self._checked or torch.compiler.is_compiling():
            return
        if labels.dtype not in _INTEGERS:
            raise ValueError(f"class_labels must be integers, got {labels.dtype}")
        outside = labels[(labels < 0) | (labels >= self.classes)]
        if outside.numel():
            raise self._out_of_range(outside.flatten()[0].item())
        self._checked = labels

    def _out_of_range(self, label: float) -> ValueError:
        null = "" if self.null_class is None else f" ({self.null_class} is the null class)"
        return ValueError(f"class labels go from 0 to {self.classes - 1}{null}, got {label}")


class OneHotLabels(ClassLabels):
    """Gives a network of EDM its `class_labels`, integers here, as the rows that it takes: a 1 at the class, or zeros alone.

    Args:
        net: called as net(x, sigma, rows), with float32 rows (batch, classes).
        classes: how many there are.
        null: the network was trained without labels too; the null class then is the number `classes`, and used where no label is given.
    """

    def __init__(self, net: Callable[..., Any], classes: int, *, null: bool = False) -> None:
        super().__init__(net, classes + null, classes if null else None)
        self._width = classes

    def forward(self, x: Tensor, t: Any, class_labels: Any = None, **cond: Any) -> Tensor:
        """As `ClassLabels`."""
        labels = self._labels(class_labels, len(x), x.device)
        rows = labels[:, None] == torch.arange(self._width, device=x.device)
        return tensor_of(self.net(x, t, rows.to(torch.float32), **cond))


_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def _as_tensor(labels: Any) -> Tensor:
    try:
        array = np.asarray(labels)
        return torch.as_tensor(array.astype(np.int64) if np.issubdtype(array.dtype, np.integer) else array, device="cpu")
    except (TypeError, ValueError):
        raise ValueError(f"class_labels must be integers, got {labels!r}") from None


class ConcatChannels(nn.Module):
    """Gives a network of more input channels than the sample has the other ones: the condition `concat`, behind the sample.

    Inpainting networks take a mask and masked latents that way, instruction-following ones the latents of the picture to change,
    upscalers the small picture.

    Args:
        net: called as net(cat([x, concat]), t).
        channels: how many there are beside the sample's.
    """

    def __init__(self, net: nn.Module, channels: int) -> None:
        super().__init__()
        self.net = net
        self.channels = channels

    def forward(self, x: Tensor, t: Any, concat: Tensor | None = None, **cond: Any) -> Tensor:
        """As the network.

        Args:
            x: (batch, sample channels, *size).
            t: (batch,).
            concat: (batch, channels, *size), or one row for all.
            cond: handed on.

        Raises:
            ValueError: no concat, or of another shape.
        """
        wanted = (x.shape[0], self.channels, *x.shape[2:])
        if not isinstance(concat, Tensor):
            got = "none" if concat is None else type(concat).__name__
            raise ValueError(
                f"the network takes {self.channels} channels beside the sample: give concat=, a tensor {wanted}, got {got}"
            )
        if concat.shape[1:] != wanted[1:] or len(concat) not in (1, x.shape[0]):
            raise ValueError(
                f"concat must have shape {wanted}, what the network takes beside the sample, got {tuple(concat.shape)}"
            )
        beside = concat.to(device=x.device, dtype=x.dtype).expand(wanted)
        return tensor_of(self.net(torch.cat([x, beside], dim=1), t, **cond))


class EDMPreconditioned(nn.Module):
    """The denoiser D(x, sigma) of a network F that was trained inside the scalings of EDM (Karras et al. 2022, eq. 7, table 1).

        D = c_skip x + c_out F(c_in x, log(sigma) / 4)
        c_in = 1 / sqrt(s^2 + sigma^2), c_skip = s^2 / (s^2 + sigma^2), c_out = sigma s / sqrt(s^2 + sigma^2), s = sigma_data

    For `Denoiser(..., prediction="edm")`, with any schedule.

    Args:
        net: F.
        sigma_data: s, the standard deviation of the data in training.
        negative: F was trained with -c_out (diffusers' "v_prediction").
    """

    def __init__(self, net: nn.Module, sigma_data: float = 0.5, *, negative: bool = False) -> None:
        super().__init__()
        self.net = net
        self.sigma_data = sigma_data
        self.negative = negative

    def forward(self, x: Tensor, sigma: Tensor | float, **cond: Any) -> Tensor:
        """D: (batch, *shape), from x: (batch, *shape) = x_0 + sigma eps and sigma: (batch,) or one number, above 0."""
        sigma = _levels(sigma, x)
        t = 0.25 * sigma.log()
        wide = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(torch.promote_types(x.dtype, torch.float32))
        power = wide**2 + self.sigma_data**2
        output = tensor_of(self.net((x * power.rsqrt()).to(x.dtype), t, **cond))
        c_out = wide * self.sigma_data * power.rsqrt()
        D = x * (self.sigma_data**2 / power) + output * (-c_out if self.negative else c_out)
        return D.to(x.dtype)


class SampleOfScore(nn.Module):
    """The denoiser D(x, sigma) = x + sigma^2 score of a network that is asked at sigma and gives the score (score-based VE
    networks). For `Denoiser(..., prediction="edm")`, with any schedule.

    Args:
        net: called as net(x, sigma).
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, sigma: Tensor | float, **cond: Any) -> Tensor:
        """D: (batch, *shape), from x: (batch, *shape) = x_0 + sigma eps and sigma: (batch,) or one number, above 0."""
        sigma = _levels(sigma, x)
        wide = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(torch.promote_types(x.dtype, torch.float32))
        return (x + wide**2 * tensor_of(self.net(x, sigma, **cond))).to(x.dtype)


class NoiseAtZero(nn.Module):
    """A flow network whose time runs from 0 at the noise to `time_scale` at the data, and that gives data - noise, as dode's
    "flow" prediction: noise - data, with time from `time_scale` at the noise to 0.

    For networks of torchcfm, flow_matching, SiT and others, with `Flow(time_scale=time_scale)`.

    Args:
        net: called as net(x, time_scale - t).
        time_scale: the network's time at the data.
    """

    def __init__(self, net: nn.Module, time_scale: float = 1.0) -> None:
        super().__init__()
        self.net = net
        self.time_scale = time_scale

    def forward(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return -tensor_of(self.net(x, self.time_scale - t, **cond))


class MeanHalf(nn.Module):
    """The first half of the channels of a network that predicts a mean and a variance: an ODE has no use for the variance."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return tensor_of(self.net(x, t, **cond)).chunk(2, dim=1)[0]


class TimestepKeyword(nn.Module):
    """Gives t by its name `timestep`: diffusers' transformers do not have it as their second argument."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        return tensor_of(self.net(x, timestep=t, **cond))


def _levels(sigma: Tensor | float, x: Tensor) -> Tensor:
    """A noise level for each sample: (batch,); a number is float32 whatever torch's default is."""
    if not isinstance(sigma, Tensor):
        sigma = torch.tensor(sigma, dtype=torch.float32, device=x.device)
    return sigma.to(x.device).expand(x.shape[0])
