"""How ComfyUI runs a sampler function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class EpsSampling:
    """Of models that predict epsilon: states x_0 + sigma eps, asked at whole times."""

    def __init__(self, sigmas: Tensor) -> None:
        self.sigmas = sigmas

    @property
    def sigma_max(self) -> Tensor:
        return self.sigmas[-1]

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:
        return noise * (torch.sqrt(1 + sigma**2) if max_denoise else sigma) + latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent

    def denoised(self, net: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
        t = (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(dim=0)
        s = sigma.reshape(-1, *[1] * (x.ndim - 1))
        return x - s * net(x / torch.sqrt(s**2 + 1), t.to(x.dtype))


class FlowSampling:
    """Of flow models: states (1 - sigma) x_0 + sigma eps."""

    sigma_max = torch.tensor(1.0)

    def noise_scaling(self, sigma: Tensor, noise: Tensor, latent: Tensor, max_denoise: bool) -> Tensor:
        return sigma * noise + (1 - sigma) * latent

    def inverse_noise_scaling(self, sigma: Tensor, latent: Tensor) -> Tensor:
        return latent / (1 - sigma)

    def denoised(self, net: Callable[[Tensor, Tensor], Tensor], x: Tensor, sigma: Tensor) -> Tensor:
        return x - sigma.reshape(-1, *[1] * (x.ndim - 1)) * net(x, sigma * 1000)


class Patcher:
    """A MODEL."""

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor], model_sampling: Any) -> None:
        self.net, self.model_sampling = net, model_sampling

    def get_model_object(self, name: str) -> Any:
        return getattr(self, name)


class Guider:
    """What KSAMPLER is given: it gives D, and holds the model."""

    def __init__(self, patcher: Patcher) -> None:
        self.inner_model = patcher

    def __call__(self, x: Tensor, sigma: Tensor, model_options: Any = None, seed: int | None = None) -> Tensor:
        return self.inner_model.model_sampling.denoised(self.inner_model.net, x, sigma)


class Inpainting:
    """What a sampler function is given."""

    def __init__(self, guider: Guider) -> None:
        self.inner_model = guider

    def __call__(
        self, x: Tensor, sigma: Tensor, denoise_mask: Tensor | None, model_options: Any = None, seed: Any = None
    ) -> Tensor:
        assert denoise_mask is None
        return self.inner_model(x, sigma, model_options=model_options, seed=seed)


class KSAMPLER:
    """A SAMPLER: `sampler_function(model, x, sigmas, extra_args=, callback=, disable=, **extra_options)`."""

    def __init__(self, sampler_function: Callable[..., Tensor], extra_options: dict[str, Any] | None = None) -> None:
        self.sampler_function = sampler_function
        self.extra_options = extra_options or {}

    def sample(
        self, guider: Guider, sigmas: Tensor, extra_args: dict[str, Any], callback: Any, noise: Tensor, latent: Tensor
    ) -> Tensor:
        extra_args["denoise_mask"] = None
        sampling = guider.inner_model.model_sampling
        most = float(sampling.sigma_max)
        highest = abs(most - float(sigmas[0])) <= 1e-5 * most or float(sigmas[0]) > most
        x = sampling.noise_scaling(sigmas[0], noise, latent, highest)
        told = None if callback is None else lambda step: callback(step["i"], step["denoised"], step["x"], len(sigmas) - 1)
        x = self.sampler_function(
            Inpainting(guider), x, sigmas, extra_args=extra_args, callback=told, disable=True, **self.extra_options
        )
        return sampling.inverse_noise_scaling(sigmas[-1], x)
