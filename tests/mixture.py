"""An exactly known network: the posterior mean under a mixture of isotropic Gaussians.

In the variance-exploding frame y = x / alpha, rho = sigma / alpha, component i has the mean m_i and the variance v = std^2, so
D = sum_i p_i (v y + rho^2 m_i) / (v + rho^2), p_i proportional to weight_i exp(-|y - m_i|^2 / (2 (v + rho^2))).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dode import Denoiser
from dode.noise import standard_noise
from dode.schedules import NoiseSchedule

MEANS = torch.tensor([[1.0, -0.5, 0.3, 0.8], [-0.7, 0.9, -0.2, 0.1], [0.2, 0.4, -1.0, -0.6]], dtype=torch.float64)
WEIGHTS = (0.5, 0.3, 0.2)


class Mixture:
    """`net(x, t)` of a mixture for a schedule and a prediction type; float64 inside, any shape."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        means: Tensor = MEANS,
        weights: tuple[float, ...] = WEIGHTS,
        std: float = 0.3,
    ) -> None:
        self.schedule, self.prediction = schedule, prediction
        self.means, self.log_weights, self.variance = means, torch.tensor(weights).double().log(), std**2

    def posterior_mean(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """D at x (batch, *shape), in float64. In the frame of x, so that alpha = 0 is allowed."""
        flat = x.double().flatten(1)
        total = alpha**2 * self.variance + sigma**2
        squares = (flat[:, None] - alpha * self.means).square().sum(-1)
        p = torch.softmax(self.log_weights - squares / (2 * total), dim=1)
        D = (alpha * self.variance * flat + sigma**2 * (p @ self.means)) / total
        return D.reshape(x.shape)

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        time = float(t[0])
        alpha, sigma = float(self.schedule.alpha(time)), float(self.schedule.sigma(time))
        wide = x.double()
        D = self.posterior_mean(x, alpha, sigma)
        match self.prediction:
            case "sample":
                out = D
            case "epsilon":
                out = (wide - alpha * D) / sigma
            case "v":
                out = alpha * (wide - alpha * D) / sigma - sigma * D
            case "flow":
                out = (wide - alpha * D) / sigma - D
            case "score":
                out = (alpha * D - wide) / sigma**2
            case _:
                raise ValueError(self.prediction)
        return out.to(x.dtype)


def mixture_denoiser(schedule: NoiseSchedule, prediction: str = "epsilon", **options: object) -> Denoiser:
    """The denoiser of the small mixture: samples are vectors of 4."""
    return Denoiser(Mixture(schedule, prediction), schedule, prediction, shape=(4,), **options)  # type: ignore[arg-type]


def double_noise(batch: int, seed: int = 0) -> Tensor:
    """(batch, 4) of the fitting stream, float64."""
    return standard_noise(seed, batch, (4,), dtype=torch.float64)


def log_density(x: Tensor, alpha: float, sigma: float, mixture: Mixture) -> Tensor:
    """log p_t(x) of the mixture's states, up to nothing."""
    total = alpha**2 * mixture.variance + sigma**2
    squares = (x.double().flatten(1)[:, None] - alpha * mixture.means).square().sum(-1)
    size = mixture.means.shape[1]
    logs = mixture.log_weights - squares / (2 * total) - size / 2 * math.log(2 * math.pi * total)
    return torch.logsumexp(logs, dim=1)
