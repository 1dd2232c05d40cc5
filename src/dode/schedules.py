"""Noise schedules: x_t = alpha(t) x_0 + sigma(t) eps, with eps standard normal.

The network time t runs down from `t_max` (noise) to `t_min`, the lowest time at which the network may be asked; `t_clean` is
where sigma = 0, the time of a finished sample. Everything is float64 numpy on the host. Fractional t is allowed everywhere; a
schedule made by `with_integer_times` says that the network may be asked at whole times only.

Letters: rho = sigma / alpha; SNR = alpha^2 / sigma^2; log-SNR = log(SNR), which is twice the lambda of the DPM-Solver papers.
"""

from __future__ import annotations

import copy
import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Schedule = TypeVar("Schedule", bound="NoiseSchedule")

_ROUNDING = 1e-15


class NoiseSchedule(ABC):
    """A noise schedule; subclasses give `alpha`, `sigma` and the inverse of the log-SNR.

    Attributes:
        t_max: the first time, of (nearly) pure noise.
        t_min: the lowest time at which the network may be asked.
        t_clean: the time of a finished sample, where sigma = 0 (t_clean <= t_min < t_max).
        integer_times: the network may be asked at whole times only; see `with_integer_times`.
        default_grid: the name of the grid that suits this time best.
    """

    t_max: float
    t_min: float
    t_clean: float
    integer_times: bool = False
    default_grid: str = "uniform"

    @abstractmethod
    def alpha(self, t: npt.ArrayLike) -> Array:
        """Signal scale at times t; any shape, float64."""

    @abstractmethod
    def sigma(self, t: npt.ArrayLike) -> Array:
        """Noise scale at times t; any shape, float64."""

    @abstractmethod
    def time(self, log_snr: npt.ArrayLike) -> Array:
        """The time at which the log-SNR has these values, clamped to [t_clean, t_max]."""

    def rho(self, t: npt.ArrayLike) -> Array:
        """sigma / alpha at times t: infinite where alpha = 0."""
        with np.errstate(divide="ignore"):
            return self.sigma(t) / self.alpha(t)

    def log_snr(self, t: npt.ArrayLike) -> Array:
        """log(alpha^2 / sigma^2) at times t: -inf where alpha = 0, inf where sigma = 0."""
        with np.errstate(divide="ignore"):
            return 2 * (np.log(self.alpha(t)) - np.log(self.sigma(t)))

    def noise_scale(self, t: float) -> float:
        """The factor from standard normal noise to the state at a starting time t. VP states have unit variance: 1."""
        return float(self.sigma(t))

    def uniform_time(self, u: npt.ArrayLike) -> Array:
        """The time at the share u in [0, 1] of the way from `t_clean` to `t_max`, evenly; a flow's shift enters here."""
        return self.t_clean + (self.t_max - self.t_clean) * np.asarray(u, np.float64)

    def uniform_share(self, t: npt.ArrayLike) -> Array:
        """Inverse of `uniform_time`."""
        return (np.asarray(t, np.float64) - self.t_clean) / (self.t_max - self.t_clean)

    def with_integer_times(self: Schedule) -> Schedule:
        """The same schedule for a network that takes whole times only: grids and solvers then ask at no others.

        `t_min` and `t_max` become the lowest and the highest whole times between them at which sigma > 0; alpha and sigma stay
        functions of any t.

        Raises:
            ValueError: there are fewer than two whole times.
        """
        if self.integer_times:
            return self
        lowest, highest = math.ceil(self.t_min - _ROUNDING * abs(self.t_min)), math.floor(self.t_max)
        if self.sigma(float(lowest)) == 0:
            lowest += 1
        if lowest >= highest:
            raise ValueError(
                f"integer_times needs at least two whole times, and this schedule runs from {self.t_max:g} to {self.t_min:g}: "
                "leave it out, the network takes fractional times"
            )
        whole = copy.copy(self)
        whole.t_min, whole.t_max, whole.integer_times = float(lowest), float(highest), True
        return whole

    @property
    def most_evaluations(self) -> int | None:
        """At how many different times the network may be asked; None where there is no limit."""
        return round(self.t_max - self.t_min) + 1 if self.integer_times else None

    @property
    def fingerprint(self) -> str:
        """Kind and a hash of the schedule's values, the same on every machine: what a saved tableau remembers of it."""
        inner = np.linspace(self.t_min, self.t_max, 7)[1:-1]
        # Few values and decimals: the float32 and the float64 product of the same betas, 1e-6 apart, must not fall on two sides
        # of a rounding. It tells schedules apart that differ by a thousandth.
        values = [f"{v:.3f}" for v in (*self.alpha(inner), *self.sigma(inner))]
        text = " ".join([*values, *(f"{t:.6g}" for t in (self.t_min, self.t_max, self.t_clean))])
        return f"{self.kind}:{hashlib.sha256(text.encode()).hexdigest()[:12]}"

    @property
    def kind(self) -> str:
        """Short name of the class of schedule, e.g. "vp"."""
        return type(self).__name__.lower()

    def __repr__(self) -> str:
        whole = ", whole times" if self.integer_times else ""
        return f"{type(self).__name__}(t={self.t_max:g}..{self.t_min:g}{whole}, {self.fingerprint})"


class _VariancePreserving(NoiseSchedule):
    """alpha^2 + sigma^2 = 1, given by log alpha-bar(t) = 2 log alpha(t)."""

    def log_alpha_bar(self, t: npt.ArrayLike) -> Array:
        raise NotImplementedError

    def alpha(self, t: npt.ArrayLike) -> Array:
        return np.exp(0.5 * self.log_alpha_bar(t))

    def sigma(self, t: npt.ArrayLike) -> Array:
        # 0 - 0, not -0: no negative zero at the clean time.
        return np.sqrt(0.0 - np.expm1(self.log_alpha_bar(t)))

    def noise_scale(self, t: float) -> float:
        return 1.0


def _log_alpha_bar_of(log_snr: npt.ArrayLike) -> Array:
    """alpha-bar = 1 / (1 + exp(-log-SNR)) where alpha^2 + sigma^2 = 1."""
    return -np.logaddexp(0.0, -np.asarray(log_snr, np.float64))


class VP(_VariancePreserving):
    """Discrete variance-preserving schedule (DDPM): times 0 .. N-1, and -1 for the clean sample.

    Between integers log alpha is linear in t (as in DPM-Solver), or what `interpolation` names. A zero terminal SNR
    (alpha-bar[N-1] = 0) is allowed; its last interval is linear in alpha-bar.

    Args:
        betas: N variances in [0, 1]; a tensor, an array or a list.
        alphas_cumprod: alpha-bar instead of betas: N values, decreasing, in [0, 1).
        interpolation: what is linear in t between integers: "log-alpha", "alphas_cumprod", or "sigma" (sigma / alpha, as
            diffusers' sigma-space schedulers have it).

    Raises:
        ValueError: neither or both are given, or the values are out of range.
    """

    _TO_NODE: ClassVar[dict[str, Callable[[Array], Array]]] = {
        "log-alpha": lambda log_abar: log_abar,
        "alphas_cumprod": np.exp,
        "sigma": lambda log_abar: np.sqrt(np.expm1(-log_abar)),
    }
    _FROM_NODE: ClassVar[dict[str, Callable[[Array], Array]]] = {
        "log-alpha": lambda node: node,
        "alphas_cumprod": np.log,
        "sigma": lambda node: -np.log1p(node**2),
    }

    def __init__(self, betas: Any = None, *, alphas_cumprod: Any = None, interpolation: str = "log-alpha") -> None:
        if (betas is None) == (alphas_cumprod is None):
            raise ValueError("VP takes either betas or alphas_cumprod, got " + ("neither" if betas is None else "both"))
        if interpolation not in self._TO_NODE:
            raise ValueError(f"interpolation must be one of {', '.join(self._TO_NODE)}, got {interpolation!r}")
        if betas is not None:
            betas = _vector(betas, "betas")
            if not ((betas >= 0) & (betas <= 1)).all():
                raise ValueError(f"betas must lie in [0, 1], got {betas.min():g} .. {betas.max():g}")
            abar = np.cumprod(1 - betas)
        else:
            abar = _vector(alphas_cumprod, "alphas_cumprod")
        if not ((abar >= 0).all() and abar[0] < 1 and (np.diff(abar) < 0).all()):
            raise ValueError("alphas_cumprod must decrease strictly within [0, 1)")
        self.t_max, self.t_min, self.t_clean = float(len(abar) - 1), 0.0, -1.0
        self.interpolation = interpolation
        with np.errstate(divide="ignore"):
            self._log_abar = np.concatenate([[0.0], np.log(abar)])
        self._t = np.arange(-1.0, len(abar))

    @classmethod
    def linear(cls, steps: int = 1000, beta_start: float = 1e-4, beta_end: float = 0.02, **options: Any) -> VP:
        """Betas evenly from `beta_start` to `beta_end` (Ho et al. 2020)."""
        return cls(np.linspace(beta_start, beta_end, steps), **options)

    @classmethod
    def scaled_linear(cls, steps: int = 1000, beta_start: float = 0.00085, beta_end: float = 0.012, **options: Any) -> VP:
        """Square roots of the betas evenly spaced (Stable Diffusion)."""
        return cls(np.linspace(beta_start**0.5, beta_end**0.5, steps) ** 2, **options)

    @classmethod
    def squared_cosine(cls, steps: int = 1000, max_beta: float = 0.999, **options: Any) -> VP:
        """alpha-bar a squared cosine, betas at most `max_beta` (Nichol and Dhariwal 2021, eq. 17)."""
        abar = np.cos((np.arange(steps + 1) / steps + 0.008) / 1.008 * math.pi / 2) ** 2
        return cls(np.minimum(1 - abar[1:] / abar[:-1], max_beta), **options)

    def rescaled_zero_terminal_snr(self) -> VP:
        """The schedule shifted and scaled in alpha so that its last SNR is 0 (Lin et al. 2023, arXiv 2305.08891, alg. 1)."""
        root = np.exp(0.5 * self._log_abar[1:])
        root = (root - root[-1]) * root[0] / (root[0] - root[-1])
        rescaled = VP(alphas_cumprod=root**2, interpolation=self.interpolation)
        return rescaled.with_integer_times() if self.integer_times else rescaled

    def log_alpha_bar(self, t: npt.ArrayLike) -> Array:
        t = np.asarray(t, np.float64)
        nodes = self._TO_NODE[self.interpolation](self._log_abar)
        with np.errstate(divide="ignore"):
            if np.isfinite(nodes[-1]):
                return np.asarray(self._FROM_NODE[self.interpolation](np.interp(t, self._t, nodes)))
            last = np.log(np.interp(t, self._t[-2:], np.exp(self._log_abar[-2:])))
        inner = self._FROM_NODE[self.interpolation](np.interp(t, self._t[:-1], nodes[:-1]))
        return np.where(t > self._t[-2], last, inner)

    def time(self, log_snr: npt.ArrayLike) -> Array:
        log_abar = _log_alpha_bar_of(log_snr)
        to_node = self._TO_NODE[self.interpolation]
        with np.errstate(divide="ignore", over="ignore"):
            nodes, wanted = to_node(self._log_abar), np.asarray(to_node(log_abar))
        if np.isfinite(nodes[-1]):
            return _inverse_interpolation(wanted, self._t, nodes)
        last = _inverse_interpolation(np.exp(log_abar), self._t[-2:], np.exp(self._log_abar[-2:]))
        return np.where(log_abar < self._log_abar[-2], last, _inverse_interpolation(wanted, self._t[:-1], nodes[:-1]))


class ContinuousVP(_VariancePreserving):
    """Continuous VP with linear beta(t) = beta_min + t (beta_max - beta_min), t in [0, t_max] (Song et al. 2021, eq. 32).

    beta_max = beta_min is a constant rate: beta 1 and t_max 10 is alpha = exp(-t / 2).
    """

    def __init__(self, beta_min: float = 0.1, beta_max: float = 20.0, t_max: float = 1.0, t_min: float = 1e-3) -> None:
        if not 0 < beta_min <= beta_max < math.inf:
            raise ValueError(f"0 < beta_min <= beta_max is needed, got {beta_min} and {beta_max}")
        _check_times(t_min, t_max, 0.0)
        self.beta_min, self.beta_max = beta_min, beta_max
        self.t_max, self.t_min, self.t_clean = t_max, t_min, 0.0

    def log_alpha_bar(self, t: npt.ArrayLike) -> Array:
        t = np.asarray(t, np.float64)
        return -0.5 * t**2 * (self.beta_max - self.beta_min) - t * self.beta_min

    def time(self, log_snr: npt.ArrayLike) -> Array:
        wanted = np.minimum(-_log_alpha_bar_of(log_snr), -self.log_alpha_bar(self.t_max))
        slope = self.beta_max - self.beta_min
        # The positive root of slope t^2 / 2 + beta_min t = wanted, in the form without cancellation.
        t = 2 * wanted / (self.beta_min + np.sqrt(self.beta_min**2 + 2 * slope * wanted))
        return np.clip(t, self.t_clean, self.t_max)


class CosineVP(_VariancePreserving):
    """Continuous cosine VP: alpha(t) = cos((t + s) / (1 + s) pi / 2) / cos(s / (1 + s) pi / 2), t in [0, 1)."""

    def __init__(self, s: float = 0.008, t_max: float = 0.9946, t_min: float = 1e-3) -> None:
        _check_times(t_min, t_max, 0.0)
        if t_max > 1:
            raise ValueError(f"t_max of a cosine schedule is at most 1, got {t_max}")
        self.s = s
        self.t_max, self.t_min, self.t_clean = t_max, t_min, 0.0

    def log_alpha_bar(self, t: npt.ArrayLike) -> Array:
        t = np.asarray(t, np.float64)
        with np.errstate(divide="ignore"):
            cosine = np.cos((t + self.s) / (1 + self.s) * math.pi / 2)
            # At t = 1 it is zero but for rounding.
            cosine = np.where(cosine < _ROUNDING, 0.0, cosine)
            return np.minimum(2 * (np.log(cosine) - self._offset), 0.0)

    def time(self, log_snr: npt.ArrayLike) -> Array:
        cosine = np.exp(0.5 * _log_alpha_bar_of(log_snr) + self._offset)
        t = np.arccos(np.minimum(cosine, 1.0)) * 2 / math.pi * (1 + self.s) - self.s
        return np.clip(t, self.t_clean, self.t_max)

    @property
    def _offset(self) -> float:
        return math.log(math.cos(self.s / (1 + self.s) * math.pi / 2))


class EDM(NoiseSchedule):
    """Variance-exploding schedule whose time is sigma itself: alpha = 1, sigma = t (Karras et al. 2022)."""

    default_grid = "karras"

    def __init__(self, sigma_min: float = 0.002, sigma_max: float = 80.0) -> None:
        _check_times(sigma_min, sigma_max, 0.0)
        if sigma_min == 0:
            raise ValueError("sigma_min must be above 0")
        self.t_max, self.t_min, self.t_clean = sigma_max, sigma_min, 0.0

    def alpha(self, t: npt.ArrayLike) -> Array:
        return np.ones_like(np.asarray(t, np.float64))

    def sigma(self, t: npt.ArrayLike) -> Array:
        return np.array(t, np.float64)

    def time(self, log_snr: npt.ArrayLike) -> Array:
        with np.errstate(over="ignore"):
            return np.clip(np.exp(-0.5 * np.asarray(log_snr, np.float64)), self.t_clean, self.t_max)


class VE(NoiseSchedule):
    """Variance-exploding schedule in Song's time: sigma = sigma_min (sigma_max / sigma_min)^t, t in [0, 1] (Song et al. 2021).

    The clean sample is at t_clean = -0.1; between it and 0 sigma falls linearly to zero.
    """

    def __init__(self, sigma_min: float = 0.01, sigma_max: float = 50.0) -> None:
        if not 0 < sigma_min < sigma_max:
            raise ValueError(f"0 < sigma_min < sigma_max is needed, got {sigma_min} and {sigma_max}")
        self.sigma_min, self.sigma_max = sigma_min, sigma_max
        self.t_max, self.t_min, self.t_clean = 1.0, 0.0, -0.1

    def alpha(self, t: npt.ArrayLike) -> Array:
        return np.ones_like(np.asarray(t, np.float64))

    def sigma(self, t: npt.ArrayLike) -> Array:
        t = np.asarray(t, np.float64)
        geometric = self.sigma_min * (self.sigma_max / self.sigma_min) ** t
        return np.where(t < 0, self.sigma_min * (1 - t / self.t_clean), geometric)

    def time(self, log_snr: npt.ArrayLike) -> Array:
        with np.errstate(divide="ignore", over="ignore"):
            sigma = np.exp(-0.5 * np.asarray(log_snr, np.float64))
            geometric = np.log(sigma / self.sigma_min) / math.log(self.sigma_max / self.sigma_min)
        t = np.where(sigma < self.sigma_min, self.t_clean * (1 - sigma / self.sigma_min), geometric)
        return np.clip(t, self.t_clean, self.t_max)


class Flow(NoiseSchedule):
    """Flow matching by linear interpolation: alpha = 1 - s, sigma = s, network time t = time_scale * s.

    `shift` moves the *uniform* grid towards the noise as Stable Diffusion 3 and Flux do (Esser et al. 2024, eq. 23):
    s = shift u / (1 + (shift - 1) u) for u evenly from 1 to 0. The schedule itself, s as a function of t, has no shift.

    Args:
        shift: > 0; 1 is none, 3 is SD3's.
        time_scale: the network's time at pure noise: 1000 in diffusers, 1 in most papers.
        t_min: the lowest time at which the network may be asked, as a share of `time_scale`.
    """

    def __init__(self, shift: float = 1.0, time_scale: float = 1000.0, t_min: float = 1e-3) -> None:
        if shift <= 0:
            raise ValueError(f"shift must be above 0, got {shift}")
        if time_scale <= 0:
            raise ValueError(f"time_scale must be above 0, got {time_scale}")
        _check_times(t_min, 1.0, 0.0)
        self.shift, self.time_scale = shift, time_scale
        self.t_max, self.t_min, self.t_clean = time_scale, t_min * time_scale, 0.0

    def alpha(self, t: npt.ArrayLike) -> Array:
        return 1 - np.asarray(t, np.float64) / self.time_scale

    def sigma(self, t: npt.ArrayLike) -> Array:
        return np.asarray(t, np.float64) / self.time_scale

    def time(self, log_snr: npt.ArrayLike) -> Array:
        # sigma / (1 - sigma) = exp(-log-SNR / 2), a logistic function.
        half = -0.5 * np.asarray(log_snr, np.float64)
        return self.time_scale * np.exp(-np.logaddexp(0.0, -half))

    def uniform_time(self, u: npt.ArrayLike) -> Array:
        u = np.asarray(u, np.float64)
        return self.time_scale * self.shift * u / (1 + (self.shift - 1) * u)

    def uniform_share(self, t: npt.ArrayLike) -> Array:
        s = np.asarray(t, np.float64) / self.time_scale
        return s / (self.shift - (self.shift - 1) * s)


def _vector(values: Any, name: str) -> Array:
    if hasattr(values, "detach"):  # a tensor: told by what is used of it, so that this module does without PyTorch
        values = values.detach().cpu().double().numpy()
    vector = np.asarray(values, np.float64)
    if vector.ndim != 1 or len(vector) < 2:
        raise ValueError(f"{name} must be a vector of at least 2 values, got shape {vector.shape}")
    if not np.isfinite(vector).all():
        raise ValueError(f"{name} must be finite")
    return vector


def _check_times(t_min: float, t_max: float, t_clean: float) -> None:
    if not t_clean <= t_min < t_max:
        raise ValueError(f"times must satisfy {t_clean:g} <= t_min < t_max, got t_min={t_min:g}, t_max={t_max:g}")


def _inverse_interpolation(values: Array, t: Array, nodes: Array) -> Array:
    """The t at which the monotone interpolant of (t, nodes) takes these values, clamped to the ends."""
    increasing = nodes[-1] > nodes[0]
    return np.asarray(np.interp(values, nodes, t) if increasing else np.interp(values, nodes[::-1], t[::-1]))
