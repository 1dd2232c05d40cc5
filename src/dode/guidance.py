"""Guidance by a null condition: how strong it is at a time, and what it does to a prediction.

N = N_null + scale (N_given - N_null)                                                    Ho and Salimans, arXiv 2207.12598
N = phi N std(N_given) / std(N) + (1 - phi) N, std over a sample        rescaled: Lin et al., arXiv 2305.08891, eq. 15 and 16
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

# A number, a function of the network's time, or a number for each evaluation of a tableau.
Scale: TypeAlias = float | Callable[[float], float] | tuple[float, ...]


@dataclass(frozen=True)
class Interval:
    """A scale in low <= t <= high, in the network's time, and no guidance elsewhere (Kynkäänniemi et al., arXiv 2404.07724).

    Raises:
        ValueError: the interval is empty.
    """

    scale: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not self.low <= self.high:
            raise ValueError(f"a guidance interval goes from a lower to a higher time, got {self.low:g} .. {self.high:g}")

    def __call__(self, t: float) -> float:
        return self.scale if self.low <= t <= self.high else 1.0


def as_scale(given: float | Callable[[float], float] | Sequence[float] | Any) -> Scale:
    """What `Denoiser` takes as its guidance scale, in one of the three forms.

    Raises:
        TypeError, ValueError: none of them, or a number that is not finite.
    """
    if callable(given):
        return given
    if hasattr(given, "tolist"):  # a tensor or an array
        given = given.tolist()
    if isinstance(given, Sequence) and not isinstance(given, str):
        scales = tuple(_number(scale) for scale in given)
        if not scales:
            raise ValueError("guidance_scale is an empty list: give a number for each evaluation")
        return scales
    return _number(given)


def _number(given: object) -> float:
    try:
        if isinstance(given, str):
            raise TypeError
        scale = float(given)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        kind = type(given).__name__
        raise TypeError(f"guidance_scale takes a number, a function of t, or a number an evaluation, got {kind}") from None
    if not math.isfinite(scale):
        raise ValueError(f"guidance_scale must be finite, got {scale}")
    return scale


def scale_at(scale: Scale, t: float, call: int | None) -> float:
    """The scale of one evaluation: at time t, the tableau's `call`-th, from 0; None where it belongs to no tableau.

    Raises:
        ValueError: numbers by evaluation where there is no such evaluation, or a function that gives no finite number.
    """
    if isinstance(scale, float):
        return scale
    if isinstance(scale, tuple):
        if call is None:
            raise ValueError("guidance_scale by evaluation says nothing of an evaluation outside a run: give a function of t")
        check_calls(scale, call + 1, at_least=True)
        return scale[call]
    found = scale(t)
    try:
        return _number(found)
    except (TypeError, ValueError):
        raise ValueError(f"guidance_scale, as a function of t, gave {found!r} at t = {t:g}: it must give a number") from None


def check_calls(scale: Scale, calls: int, *, at_least: bool = False) -> None:
    """Raise ValueError where a scale by evaluation has another number of them than a run."""
    if isinstance(scale, tuple) and (len(scale) < calls if at_least else len(scale) != calls):
        raise ValueError(
            f"guidance_scale has {len(scale)} numbers, one an evaluation, for a run of {calls} evaluations: give {calls}, or a "
            "function of t, which serves runs of any length"
        )


def guided(given: Tensor, null: Tensor, scale: float, rescale: float) -> Tensor:
    """N from the predictions with the condition and with the null condition, (batch, *shape) each; `rescale` is phi."""
    import torch  # here: the command line checks scales before it needs PyTorch

    output = torch.lerp(null, given, scale)
    if not rescale:
        return output
    dims = list(range(1, output.ndim))
    wide = torch.promote_types(output.dtype, torch.float32)
    std, target = (tensor.to(wide).std(dim=dims, keepdim=True) for tensor in (output, given))
    # A constant prediction has no spread to be scaled.
    ratio = torch.where(std > 0, target / std, torch.ones_like(std))
    return output * (1 + rescale * (ratio - 1)).to(output.dtype)
