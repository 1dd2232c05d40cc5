"""Known pixels in a run: images that serve a batch, and what keeps the pixels that a mask does not repaint.

x_k <- mask x_k + (1 - mask) (alpha_k known + sigma_k noise)            the run's own noise; at the end `known` itself
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

from dode.finite import check_finite, check_values, holds
from dode.tableau import Tableau

# (x_k, k) -> x_k with the known pixels at the noise level of state k.
Keep: TypeAlias = Callable[[Tensor, int], Tensor]


def for_all(name: str, image: Tensor, x: Tensor) -> Tensor:
    """Images (batch, *shape), or one of (1, *shape) or (*shape) for all, as (batch, *shape) in the dtype and on the device of x.

    Raises:
        TypeError, ValueError: no tensor, or one of another shape; `name` is for the message.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(image).__name__}")
    one = tuple(x.shape[1:])
    if tuple(image.shape) not in (tuple(x.shape), one, (1, *one)):
        raise ValueError(f"{name} must have the shape of noise {tuple(x.shape)}, or {one} for all, got {tuple(image.shape)}")
    check_values(name, image)
    return image.to(x).expand(x.shape)


def keeping(
    tableau: Tableau, noise: Tensor, x: Tensor, *, image: Tensor | None, known: Tensor | None, mask: Tensor | None
) -> Keep | None:
    """What keeps the known pixels of a run; None where none are known.

    Args:
        tableau: the run.
        noise: (batch, *shape), standard normal: the run's.
        x: its first state.
        image: what the run starts from; kept where no `known` is given.
        known: clean, shaped as for `for_all`.
        mask: in [0, 1], 1 where pixels are made and 0 where they are kept; broadcast to the shape of x.

    Raises:
        ValueError: a mask without pixels to keep or the other way round, or one that cannot be.
    """
    if mask is None:
        if known is not None:
            raise ValueError("known pixels need a mask: give mask too, 1 where the image is repainted and 0 where it is kept")
        return None
    name, clean = ("image", image) if known is None else ("known", known)
    if clean is None:
        raise ValueError("a mask needs the pixels that it keeps: give known too, or image to start from it as well")
    clean = for_all(name, clean, x)
    try:
        made = torch.as_tensor(mask, dtype=x.dtype, device=x.device).expand(x.shape)
    except (RuntimeError, TypeError, ValueError):
        got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
        raise ValueError(f"mask must be a tensor that broadcasts to the shape of noise {tuple(x.shape)}, got {got}") from None
    if not holds((made >= 0) & (made <= 1)):
        raise ValueError("mask must lie in [0, 1]: 1 where the image is repainted, 0 where it is kept")
    # Nothing of an image that is repainted may come through, not even NaN.
    clean = torch.where(made == 1, torch.zeros_like(clean), clean)
    check_finite(name, clean)
    kept, eps = 1 - made, noise.to(x)

    def keep(state: Tensor, k: int) -> Tensor:
        at_end = k == tableau.rows
        alpha, sigma = (1.0, 0.0) if at_end else (float(tableau.alphas[k]), float(tableau.sigmas[k]))
        return torch.where(made == 0, 0, state * made) + kept * (clean * alpha + eps * sigma)

    return keep
