"""Denoiser: a network with its noise schedule, its kind of prediction, and how it is run.

    D = denoiser(x, t)          x: (batch, *shape), t: network time         the estimate of x_0

Predictions N and what they say of x = alpha x_0 + sigma eps: "epsilon" eps; "sample" x_0; "v" alpha eps - sigma x_0;
"flow" eps - x_0; "score" -eps / sigma; "edm" x_0 from a preconditioned network that is asked as net(x / alpha, sigma / alpha).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dode.conditions import Condition, check_batch, join_null, slice_rows
from dode.grids import Point
from dode.names import unknown_name
from dode.schedules import NoiseSchedule
from dode.tableau import PREDICTIONS, output_to_sample

Network = Callable[..., Any]
Evaluate = Callable[[Tensor, Point], Tensor]
_Ask = Callable[[Tensor, float, Condition], Tensor]


class Denoiser:
    """Wraps `net(x, t, **cond)`.

    Args:
        net: called with x (batch, *shape) in the network's dtype, t (batch,) float32 (float64 for a float64 network), and the
            condition as keywords. May return a tensor, an object with `.sample`, or a tuple whose first item is the tensor.
        schedule: the noise schedule that it was trained with.
        prediction: "epsilon", "sample", "v", "flow", "score" or "edm".
        guidance_scale: classifier-free guidance: N = N_null + scale (N_cond - N_null), in one batched call. 1 is none.
        null_condition: the condition of N_null, e.g. {"class_labels": 10}; needed for a scale other than 1.
        classifier: `classifier(x, t, **cond)` gives the log-probability (batch,) of what is wanted; its gradient in x is added,
            D + classifier_scale sigma^2 / alpha gradient (Dhariwal and Nichol 2021, arXiv 2105.05233, algorithm 2).
        classifier_scale: strength of that guidance.
        clip: D is clipped to [-clip, clip].
        dynamic_threshold: in (0, 1): D is clipped to this quantile of |D| in each sample where that is above `clip` (1 if
            None), and scaled back to it (Saharia et al. 2022, Imagen, section 2.3).
        integer_times: the network takes whole times only: it is asked at the nearest one, given as int64.
        batch_size: at most that many samples in one call of the network; all at once if None.
        shape: shape of one sample, for those who make the noise.
        name: for titles and messages.

    Attributes:
        evaluations: network evaluations of one sample so far; guidance does not count twice.
        watcher: called after each evaluation with the number of samples; for progress bars.
        memo: what was made with the network and need not be made twice; see `first_output`.

    Raises:
        ValueError: an unknown prediction, or guidance without a null condition.
    """

    def __init__(
        self,
        net: Network,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        *,
        guidance_scale: float = 1.0,
        null_condition: Mapping[str, Any] | None = None,
        classifier: Callable[..., Tensor] | None = None,
        classifier_scale: float = 1.0,
        clip: float | None = None,
        dynamic_threshold: float | None = None,
        integer_times: bool = False,
        batch_size: int | None = None,
        shape: tuple[int, ...] | None = None,
        name: str = "",
    ) -> None:
        if not callable(net):
            raise TypeError(f"net must be callable as net(x, t), got {type(net).__name__}")
        if prediction not in PREDICTIONS:
            raise unknown_name("prediction", prediction, PREDICTIONS)
        if guidance_scale != 1 and null_condition is None:
            raise ValueError(f"guidance_scale {guidance_scale:g} needs null_condition, the condition of the unguided call")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip}")
        if dynamic_threshold is not None and not 0 < dynamic_threshold < 1:
            raise ValueError(f"dynamic_threshold must lie in (0, 1), got {dynamic_threshold}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.net = net
        self.schedule = schedule
        self.prediction = prediction
        self.guidance_scale = float(guidance_scale)
        self.null_condition = null_condition
        self.classifier = classifier
        self.classifier_scale = float(classifier_scale)
        self.clip = clip
        self.dynamic_threshold = dynamic_threshold
        self.integer_times = integer_times
        self.batch_size = batch_size
        self.shape = shape
        self.name = name or type(net).__name__
        self.evaluations = 0
        self.watcher: Callable[[int], None] | None = None
        self.memo: dict[str, Tensor] = {}

    def replace(self, **changes: Any) -> Denoiser:
        """A denoiser over the same network with some arguments changed, e.g. `replace(guidance_scale=3.0)`; its own counter."""
        names = list(inspect.signature(Denoiser).parameters)
        for name in changes:
            if name not in names:
                raise unknown_name("argument of Denoiser", name, names)
        return Denoiser(**{name: getattr(self, name) for name in names} | changes)

    @property
    def output(self) -> str:
        """The kind of prediction that `evaluator` gives: the network's own, or "sample" where D itself is worked on."""
        return "sample" if self._works_on_D else self.prediction

    @property
    def _works_on_D(self) -> bool:
        return self.clip is not None or self.dynamic_threshold is not None or self.classifier is not None

    @property
    def device(self) -> torch.device | None:
        """Where the network's parameters are; None for a function."""
        parameter = self._parameter()
        return None if parameter is None else parameter.device

    @property
    def dtype(self) -> torch.dtype | None:
        """The dtype of the network's parameters; None for a function, which is called in the states' dtype."""
        parameter = self._parameter()
        return None if parameter is None else parameter.dtype

    @property
    def noise_dtype(self) -> torch.dtype:
        """The dtype of noise that is made for it: the network's, but at least float32."""
        return torch.promote_types(self.dtype or torch.float32, torch.float32)

    def __call__(self, x: Tensor, t: float, **cond: Any) -> Tensor:
        """The denoised sample: (batch, *shape), in the dtype of x.

        Args:
            x: (batch, *shape), states at time t.
            t: network time, one for the batch, in [t_min, t_max].
            cond: the condition.
        """
        point = Point(float(t), float(self.schedule.alpha(t)), float(self.schedule.sigma(t)))
        with self.evaluator(x, cond) as evaluate, torch.no_grad():
            return self.denoised(x, evaluate(x, point), point)

    def denoised(self, x: Tensor, output: Tensor, point: Point) -> Tensor:
        """D from a state and what the evaluator gave for it."""
        u, w = output_to_sample(self.output, point)
        return output if (u, w) == (0.0, 1.0) else torch.add(x * u, output, alpha=w)

    @contextmanager
    def evaluator(self, like: Tensor, cond: Mapping[str, Any]) -> Iterator[Evaluate]:
        """A function (x, point) -> N for a batch shaped as `like`, in its dtype; N is of the kind `output`.

        While it is open the network is in evaluation mode; its training flags are put back after. It runs under
        `inference_mode`, on its own device and in its own dtype.

        Raises:
            ValueError: a condition with another number of rows than the batch.
        """
        batch = len(like)
        condition = dict(cond)
        check_batch(condition, batch)
        size = self.batch_size or batch
        slices = [slice(i, min(i + size, batch)) for i in range(0, batch, size)]
        parameter = self._parameter()
        device = like.device if parameter is None else parameter.device
        dtype = like.dtype if parameter is None else parameter.dtype
        at_home = (like.device, like.dtype) == (device, dtype)
        # Half-precision times could not tell 998 from 999.
        time_dtype = torch.int64 if self.integer_times else torch.promote_types(dtype, torch.float32)
        parts = [slice_rows(condition, rows, device) for rows in slices]
        joined = parts
        if self.guidance_scale != 1:
            null = self.null_condition or {}
            joined = [join_null(part, null, s.stop - s.start, device) for part, s in zip(parts, slices, strict=True)]

        def ask(x: Tensor, t: float, condition: Condition) -> Tensor:
            given = x if at_home else x.to(device=device, dtype=dtype)
            times = torch.full((len(x),), round(t) if self.integer_times else t, dtype=time_dtype, device=device)
            try:
                output = self.net(given, times, **condition)
            except (RuntimeError, IndexError) as error:
                if not self.integer_times and _takes_whole_times(self.net, given, times, condition, error):
                    raise ValueError("the network looks its times up in a table: give integer_times=True") from error
                raise
            if isinstance(output, tuple):
                output = output[0]
            output = getattr(output, "sample", output)
            if not isinstance(output, Tensor) or output.shape != x.shape:
                got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(f"the network must return the shape of its input {tuple(x.shape)}, got {got}")
            return output if output.dtype == x.dtype and at_home else output.to(device=x.device, dtype=x.dtype)

        def evaluate(x: Tensor, point: Point) -> Tensor:
            with torch.inference_mode():
                if len(slices) == 1:
                    output = self._evaluate(ask, x, point, parts[0], joined[0])
                else:
                    calls = zip(slices, parts, joined, strict=True)
                    output = torch.cat([self._evaluate(ask, x[rows], point, part, both) for rows, part, both in calls])
            self.evaluations += batch
            if self.watcher is not None:
                self.watcher(batch)
            return output

        with _evaluation_mode(self.net):
            yield evaluate

    def _evaluate(self, ask: _Ask, x: Tensor, point: Point, condition: Condition, joined: Condition) -> Tensor:
        if self.prediction == "edm":
            given, t = x / point.alpha, point.rho
        else:
            given, t = x, point.t
        if self.guidance_scale == 1:
            output = ask(given, t, condition)
        else:
            guided, null = ask(torch.cat([given, given]), t, joined).chunk(2)
            output = torch.lerp(null, guided, self.guidance_scale)
        return self._shaped(x, output, point, condition) if self._works_on_D else output

    def _shaped(self, x: Tensor, output: Tensor, point: Point, condition: Condition) -> Tensor:
        """D from the network's output, with classifier guidance and clipping. In float32 at least: D = (x - sigma eps) / alpha
        magnifies rounding where alpha is small."""
        wide = torch.promote_types(x.dtype, torch.float32)
        u, w = output_to_sample(self.prediction, point)
        D = torch.add(x.to(wide) * u, output.to(wide), alpha=w)
        if self.classifier is not None:
            D = D + self._classifier_term(x, point, condition)
        if self.dynamic_threshold is not None:
            D = _threshold(D, self.dynamic_threshold, self.clip or 1.0)
        elif self.clip is not None:
            D = D.clamp(-self.clip, self.clip)
        return D.to(x.dtype)

    def _classifier_term(self, x: Tensor, point: Point, condition: Condition) -> Tensor:
        if point.alpha == 0:
            raise ValueError(f"classifier guidance is not defined at t = {point.t:g}, where alpha = 0")
        assert self.classifier is not None
        with torch.inference_mode(False), torch.enable_grad():
            x = x.clone().requires_grad_()
            t = torch.full((len(x),), point.t, dtype=torch.promote_types(x.dtype, torch.float32), device=x.device)
            log_probability = self.classifier(x, t, **condition)
            (gradient,) = torch.autograd.grad(log_probability.sum(), x)
        return gradient * (self.classifier_scale * point.sigma**2 / point.alpha)

    def _parameter(self) -> Tensor | None:
        if not isinstance(self.net, nn.Module):
            return None
        return next((p for p in self.net.parameters() if p.is_floating_point()), None)

    def __repr__(self) -> str:
        return f"Denoiser({self.name}, {self.prediction}, {self.schedule!r}, shape={self.shape})"


def _takes_whole_times(net: Network, x: Tensor, times: Tensor, condition: Condition, error: Exception) -> bool:
    """Whether a network that failed over some index works where the time is a whole number: it looks its time up in a table."""
    if not any(word in str(error) for word in ("indic", "index")):
        return False
    try:
        net(x, times.round().long(), **condition)
    except Exception:
        return False
    return True


@contextmanager
def _evaluation_mode(net: Network) -> Iterator[None]:
    """Every module of the network in evaluation mode, and its training flags back at the end."""
    training = [m for m in net.modules() if m.training] if isinstance(net, nn.Module) else []
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _threshold(D: Tensor, quantile: float, bound: float) -> Tensor:
    # A sample at a time: torch.quantile refuses more than 2^24 values.
    limits = torch.stack([torch.quantile(sample.abs().flatten().float(), quantile) for sample in D])
    limits = limits.to(D.dtype).clamp(min=bound).reshape(-1, *[1] * (D.ndim - 1))
    return D.clamp(-limits, limits) * (bound / limits)
