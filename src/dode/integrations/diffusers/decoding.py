"""From the latents of a pipeline to images, by its own autoencoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

# Latents that are decoded together: an autoencoder needs more memory for an image than the network does.
_AT_ONCE = 4


def decoder_of(pipe: Any, shape: tuple[int, ...], call: Mapping[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """What a pipeline makes of its last state: from (n, *shape) to images (n, channels, height, width) in [-1, 1].

    Args:
        pipe: a pipeline of diffusers.
        shape: of a sample, as its scheduler sees it: (channels, height, width), or packed as those of Flux.
        call: what all its calls are given; `height` and `width` matter where latents are packed.

    Returns:
        None where there is no autoencoder: then samples are images already. Or where it is one of another kind: of videos or of sound.
    """
    vae = getattr(pipe, "vae", None)
    config = getattr(vae, "config", None)
    if config is None or not hasattr(vae, "decode"):
        return None
    unpack = _unpacking(pipe, call) if len(shape) == 2 else None
    if unpack is None and not (len(shape) == 3 and shape[0] == getattr(config, "latent_channels", shape[0])):
        return None

    def decode(latents: Tensor) -> Tensor:
        with torch.no_grad():
            return torch.cat(
                [_decoded(vae, part if unpack is None else unpack(part)) for part in torch.split(latents, _AT_ONCE)]
            )

    return decode


def _unpacking(pipe: Any, call: Mapping[str, Any]) -> Callable[[Tensor], Tensor] | None:
    """From rows of patches to latents as the autoencoder has them; None for a pipeline that has no such step."""
    unpack, factor = getattr(pipe, "_unpack_latents", None), getattr(pipe, "vae_scale_factor", None)
    default = getattr(pipe, "default_sample_size", None)
    if unpack is None or factor is None or (default is None and not {"height", "width"} <= set(call)):
        return None
    size = [call.get(side) or default * factor for side in ("height", "width")]
    return lambda latents: unpack(latents, *size, factor)


def _decoded(vae: Any, latents: Tensor) -> Tensor:
    config = vae.config
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    latents = latents / (getattr(config, "scaling_factor", None) or 1.0)
    if mean is not None and std is not None:
        mean, std = (torch.tensor(each).view(1, -1, 1, 1).to(latents) for each in (mean, std))
        latents = latents * std + mean
    latents = latents + (getattr(config, "shift_factor", None) or 0.0)
    own = vae.dtype
    upcast = own == torch.float16 and getattr(config, "force_upcast", False)  # it overflows in half precision
    try:
        if upcast:
            vae.to(dtype=torch.float32)
        images: Tensor = vae.decode(latents.to(vae.device, vae.dtype), return_dict=False)[0]
    finally:
        if upcast:
            vae.to(dtype=own)
    return images.float()
