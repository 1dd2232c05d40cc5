"""What a distillation was made for: the network, how it was asked and for which conditions; see `dode.fitted_for`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.fingerprint import weights_hash
from dode.guidance import Interval, Scale

# What a denoiser is called whose network is a function without a name.
_NAMELESS = ("function", "method", "partial")
# Values of a condition that are listed, such as class labels.
_LISTED = 20


def network_setting(denoiser: Denoiser, cond: Condition, samples: int) -> dict[str, Any]:
    """As JSON; what does not apply is left out.

    Args:
        denoiser: the network, as it is asked.
        cond: the condition, whose rows the samples take in turn.
        samples: that were fitted.
    """
    net = denoiser.net
    kind = type(_innermost(net)).__name__ if isinstance(net, nn.Module) else None
    setting = {
        "model": None if denoiser.name in _NAMELESS else denoiser.name,
        "network": kind,
        "weights_hash": weights_hash(net),
        "prediction": denoiser.prediction,
        "schedule": denoiser.schedule.fingerprint,
        "shape": None if denoiser.shape is None else list(denoiser.shape),
        "dtype": None if denoiser.dtype is None else str(denoiser.dtype).removeprefix("torch."),
        "guidance_scale": _scale(denoiser.guidance_scale),
        "guidance_rescale": denoiser.guidance_rescale or None,
        "classifier_scale": None if denoiser.classifier is None else denoiser.classifier_scale,
        "clip": denoiser.clip,
        "dynamic_threshold": denoiser.dynamic_threshold,
        "condition": "; ".join(_values(name, value) for name, value in cond.items()),
        "samples": samples,
    }
    return {name: value for name, value in setting.items() if value not in (None, "")}


def _innermost(net: nn.Module) -> nn.Module:
    """The network within dode's wrappers, which call what they wrap `net`."""
    while isinstance(inner := getattr(net, "net", None), nn.Module):
        net = inner
    return net


def _scale(scale: Scale) -> float | str:
    if isinstance(scale, Interval):
        return f"{scale.scale:g} in {scale.low:g} <= t <= {scale.high:g}, else 1"
    return scale if isinstance(scale, float) else "a function of t"


def _values(name: str, value: Any) -> str:
    """A part of the condition: whole numbers as they are, of anything else how many there are."""
    if isinstance(value, bool | int | float):
        return f"{name} {value:g}"
    if not isinstance(value, Tensor) or value.ndim == 0:
        return name
    different = torch.unique(value).tolist() if value.ndim == 1 and not value.is_floating_point() else []
    if 0 < len(different) <= _LISTED:
        return f"{name} {', '.join(map(str, different))}"
    return f"{name}, {len(value)} rows"
