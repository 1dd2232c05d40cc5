"""An exactly known network with exactly known samples: data are independent Gaussians, N(mu, sd^2) element by element.

With var = alpha^2 sd^2 + sigma^2, the variance of a state's element,

    D = (alpha sd^2 x + sigma^2 mu) / var,   eps = sigma (x - alpha mu) / var,

and (x - alpha mu) / sqrt(var) stays what it is along the ODE, so the state at any time is known from that at any other. The end point
is by the convention of the field: the exact state at the schedule's lowest time, then D there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import dode
from dode.grids import Point
from dode.schedules import NoiseSchedule

Numbers = float | Sequence[float] | Tensor


@dataclass(frozen=True)
class Gaussian:
    """The data: `mu` and `sd` are numbers, or one for each element of a sample. All is float64 inside."""

    mu: Numbers = 0.5
    sd: Numbers = 0.3

    def denoised(self, x: Tensor, point: Point) -> Tensor:
        """D at states (batch, *shape); the mean of the data where alpha = 0, the state itself where sigma = 0."""
        mu, variance = self._moments()
        total = point.alpha**2 * variance + point.sigma**2
        return (point.alpha * variance * x.double() + point.sigma**2 * mu) / total

    def epsilon(self, x: Tensor, point: Point) -> Tensor:
        mu, variance = self._moments()
        total = point.alpha**2 * variance + point.sigma**2
        return point.sigma * (x.double() - point.alpha * mu) / total

    def moved(self, x: Tensor, start: Point, end: Point) -> Tensor:
        """The state at `end` of the ODE's path through x at `start`."""
        mu, variance = self._moments()
        scales = [(point.alpha**2 * variance + point.sigma**2).sqrt() for point in (start, end)]
        return end.alpha * mu + (x.double() - start.alpha * mu) * (scales[1] / scales[0])

    def _moments(self) -> tuple[Tensor, Tensor]:
        return torch.as_tensor(self.mu).double(), torch.as_tensor(self.sd).double() ** 2


class GaussianNetwork:
    """`net(x, t)` of Gaussian data for a schedule and a prediction: "epsilon", "sample", "v", "flow", "score" or "edm"."""

    def __init__(self, data: Gaussian, schedule: NoiseSchedule, prediction: str = "epsilon") -> None:
        self.data, self.schedule, self.prediction = data, schedule, prediction

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        time = float(t[0])
        point = Point(time, 1.0, time) if self.prediction == "edm" else point_at(self.schedule, time)
        D, eps = self.data.denoised(x, point), self.data.epsilon(x, point)
        match self.prediction:
            case "sample" | "edm":
                out = D
            case "epsilon":
                out = eps
            case "v":
                out = point.alpha * eps - point.sigma * D
            case "flow":
                out = eps - D
            case "score":
                out = -eps / point.sigma
            case _:
                raise ValueError(self.prediction)
        return out.to(x.dtype)


def gaussian_denoiser(
    schedule: NoiseSchedule,
    prediction: str = "epsilon",
    mu: Numbers = 0.5,
    sd: Numbers = 0.3,
    shape: tuple[int, ...] = (4,),
    **options: Any,
) -> dode.Denoiser:
    """The denoiser of Gaussian data; `options` are Denoiser's."""
    return dode.Denoiser(GaussianNetwork(Gaussian(mu, sd), schedule, prediction), schedule, prediction, shape=shape, **options)


def exact_end(
    schedule: NoiseSchedule,
    noise: Tensor,
    noise_scale: float | None = None,
    start: float | None = None,
    *,
    mu: Numbers = 0.5,
    sd: Numbers = 0.3,
) -> Tensor:
    """The finished samples, float64: D at the lowest time at which the network may be asked, from the exact state there.

    Args:
        schedule: the noise schedule.
        noise: (batch, *shape), standard normal.
        noise_scale: factor from the noise to the first state; the schedule's own if None.
        start: the time of the first state; `t_max` if None.
        mu, sd: of the data.
    """
    data, lowest = Gaussian(mu, sd), point_at(schedule, schedule.t_min)
    return data.denoised(exact_state(schedule, noise, schedule.t_min, noise_scale, start, mu=mu, sd=sd), lowest)


def exact_state(
    schedule: NoiseSchedule,
    noise: Tensor,
    t: float,
    noise_scale: float | None = None,
    start: float | None = None,
    *,
    mu: Numbers = 0.5,
    sd: Numbers = 0.3,
) -> Tensor:
    """The states at time t, float64; arguments as for `exact_end`."""
    first = schedule.t_max if start is None else start
    scale = schedule.noise_scale(first) if noise_scale is None else noise_scale
    return Gaussian(mu, sd).moved(noise.double() * scale, point_at(schedule, first), point_at(schedule, t))


def point_at(schedule: NoiseSchedule, t: float) -> Point:
    """The schedule's point at a time."""
    return Point(float(t), float(schedule.alpha(t)), float(schedule.sigma(t)))
