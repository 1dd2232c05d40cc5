"""What a distillation was made for: the network, how it is asked and for which conditions; see `dode.fitted_for`."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.fingerprint import weights_hash
from dode.fitted_for import setting_of
from dode.foreign import printable
from dode.guidance import Interval, Scale
from dode.tableau import Tableau

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


def warn_if_other(tableau: Tableau, denoiser: Denoiser) -> None:
    """Warn of a network, or of a guidance scale, that a tableau was not fitted for, as far as it says so.

    Warns:
        UserWarning: other weights in the same precision, whose hashes can be compared; another guidance scale.
    """
    fitted = setting_of(tableau)
    ours = network_setting(denoiser, {}, 0)
    same_precision = fitted.get("dtype") == ours.get("dtype")
    for name, words in (("weights_hash", "other weights"), ("guidance_scale", "another guidance scale")):
        then, this = fitted.get(name), ours.get(name)
        if None in (then, this) or then == this or (name == "weights_hash" and not same_precision):
            continue
        warnings.warn(
            f"the tableau was fitted for {words} ({printable(then)}) than it is run with ({this}): what it gains there is not known",
            stacklevel=2,
        )


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
