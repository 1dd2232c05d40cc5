"""Denoiser: a network with its noise schedule, its kind of prediction, and how it is run.

    D = denoiser(x, t)          x: (batch, *shape), t: network time         the estimate of x_0

Predictions N and what they say of x = alpha x_0 + sigma eps: "epsilon" eps; "sample" x_0; "v" alpha eps - sigma x_0;
"flow" eps - x_0; "score" -eps / sigma; "edm" x_0 from a preconditioned network that is asked as net(x / alpha, sigma / alpha).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from dode.calling import Caller, evaluation_mode
from dode.conditions import Condition, as_condition, check_batch, checked_condition, join_null, slice_rows
from dode.grids import Point
from dode.guidance import Scale, as_scale, guided, scale_at
from dode.names import unknown_name
from dode.notes import add_note
from dode.schedules import NoiseSchedule
from dode.tableau import PREDICTIONS, output_to_sample

Network = Callable[..., Any]


class Evaluate(Protocol):
    """What `Denoiser.evaluator` gives."""

    def __call__(self, x: Tensor, point: Point, call: int | None = None) -> Tensor:
        """N for states x, (batch, *shape), at a point; `call` is which evaluation of a run it is, from 0, where it is one."""


class Denoiser:
    """Wraps `net(x, t, **cond)`.

    Args:
        net: called with x (batch, *shape) in the network's dtype, t (batch,) float32 (float64 for a float64 network), and the
            condition as keywords. May return a tensor, an object with `.sample`, or a tuple whose first item is the tensor.
        schedule: the noise schedule that it was trained with.
        prediction: "epsilon", "sample", "v", "flow", "score" or "edm".
        guidance_scale: classifier-free guidance: N = N_null + scale (N_cond - N_null), in one batched call. 1 is none. A number; or
            a function of the network's time, for example `dode.guidance.Interval(3.0, 200, 800)`: where it gives 1, N_null is not
            asked for; or a list with a number for each evaluation of the tableau, which serves runs of that length only.
        guidance_rescale: phi in [0, 1]: how far the guided N is scaled back to the spread of N_cond in each sample
            (arXiv 2305.08891, section 3.4).
        null_condition: the condition of N_null, e.g. {"class_labels": 10}; needed for a scale other than 1.
        classifier: `classifier(x, t, **cond)` gives the log-probability (batch,) of what is wanted; its gradient in x is added,
            D + classifier_scale sigma^2 / alpha gradient (Dhariwal and Nichol 2021, arXiv 2105.05233, algorithm 2).
        classifier_scale: strength of that guidance.
        clip: D is clipped to [-clip, clip].
        dynamic_threshold: in (0, 1): D is clipped to this quantile of |D| in each sample where that is above `clip` (1 if
            None), and scaled back to it (Saharia et al. 2022, Imagen, section 2.3).
        integer_times: the network takes whole times only, given as int64; `schedule` then is `schedule.with_integer_times()`, on
            which grids and solvers ask at no others. True of itself where the schedule says so.
        batch_size: at most that many samples in one call of the network; all at once if None.
        shape: shape of one sample, for those who make the noise; a list will do.
        name: for titles and messages.

    Attributes:
        evaluations: network evaluations of one sample so far; guidance does not count twice, and a compiled run not at all.
        watcher: called after each evaluation with the number of samples; for progress bars.
        memo: what was made with the network and need not be made twice; see `first_output`, which looks whether it still holds.

    Raises:
        ValueError: an unknown prediction, guidance without a null condition, or NaN in that.
    """

    def __init__(
        self,
        net: Network,
        schedule: NoiseSchedule,
        prediction: str = "epsilon",
        *,
        guidance_scale: float | Callable[[float], float] | Sequence[float] = 1.0,
        guidance_rescale: float = 0.0,
        null_condition: Mapping[str, Any] | None = None,
        classifier: Callable[..., Tensor] | None = None,
        classifier_scale: float = 1.0,
        clip: float | None = None,
        dynamic_threshold: float | None = None,
        integer_times: bool = False,
        batch_size: int | None = None,
        shape: Sequence[int] | None = None,
        name: str = "",
    ) -> None:
        if not callable(net):
            raise TypeError(f"net must be callable as net(x, t), got {type(net).__name__}")
        if prediction not in PREDICTIONS:
            raise unknown_name("prediction", prediction, PREDICTIONS)
        scale = as_scale(guidance_scale)
        if _may_guide(scale) and null_condition is None:
            what = f" {scale:g}" if isinstance(scale, float) else ""
            raise ValueError(f"guidance_scale{what} needs null_condition, the condition of the unguided call")
        checked_condition(null_condition or {})
        if not 0 <= guidance_rescale <= 1:
            raise ValueError(f"guidance_rescale must lie in [0, 1], got {guidance_rescale}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be above 0, got {clip}")
        if dynamic_threshold is not None and not 0 < dynamic_threshold < 1:
            raise ValueError(f"dynamic_threshold must lie in (0, 1), got {dynamic_threshold}")
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        self.net = net
        self.schedule = schedule.with_integer_times() if integer_times else schedule
        self.prediction = prediction
        self.guidance_scale: Scale = scale
        self.guidance_rescale = float(guidance_rescale)
        self.null_condition = null_condition
        self.classifier = classifier
        self.classifier_scale = float(classifier_scale)
        self.clip = clip
        self.dynamic_threshold = dynamic_threshold
        self.integer_times = self.schedule.integer_times
        if self.integer_times and prediction == "edm":
            raise ValueError(
                'a network of the prediction "edm" is asked at sigma / alpha, no whole time: leave integer_times out'
            )
        self.batch_size = batch_size
        self.shape = None if shape is None else tuple(int(size) for size in shape)
        self.name = name or type(net).__name__
        self.evaluations = 0
        self.watcher: Callable[[int], None] | None = None
        self.memo: dict[str, Any] = {}

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
    def guidance_by_step(self) -> bool:
        """Whether the guidance scale is a list, which says nothing of runs of another length."""
        return isinstance(self.guidance_scale, tuple)

    @property
    def _works_on_D(self) -> bool:
        return self.clip is not None or self.dynamic_threshold is not None or self.classifier is not None

    @property
    def device(self) -> torch.device | None:
        """Where the network's parameters are; where a function says it is, by its own `device`; else None."""
        parameter = self._parameter()
        found: torch.device | None = getattr(self.net, "device", None) if parameter is None else parameter.device
        return found if isinstance(found, torch.device) else None

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
        if self.integer_times and t != round(t):
            raise ValueError(f"the network takes whole times only, got t = {t:g}")
        point = Point(float(t), float(self.schedule.alpha(t)), float(self.schedule.sigma(t)))
        with self.evaluator(x, checked_condition(cond)) as evaluate, torch.no_grad():
            return self.denoised(x, evaluate(x, point), point)

    def denoised(self, x: Tensor, output: Tensor, point: Point) -> Tensor:
        """D from a state and what the evaluator gave for it."""
        u, w = output_to_sample(self.output, point)
        return output if (u, w) == (0.0, 1.0) else torch.add(x * u, output, alpha=w)

    @contextmanager
    def evaluator(self, like: Tensor, cond: Mapping[str, Any]) -> Iterator[Evaluate]:
        """A function (x, point) -> N for a batch shaped as `like`, in its dtype; N is of the kind `output`.

        N shares no memory with anything, and neither x nor the condition is changed, whatever the network does (see
        `dode.calling`). While it is open the network is in evaluation mode; its training flags are put back after. It runs under
        `inference_mode`, on its own device and in its own dtype; N is no inference tensor, whatever the prediction.

        Raises:
            ValueError: a condition with another number of rows than the batch.
            TypeError, ValueError: from the function, for an output that no network can mean; see `dode.calling`. What the network itself
                raises keeps its type, with a note of time, evaluation and samples.
        """
        batch = len(like)
        condition = as_condition(cond)
        check_batch(condition, batch)
        size = self.batch_size or batch
        slices = [slice(i, min(i + size, batch)) for i in range(0, batch, size)]
        parameter = self._parameter()
        device = like.device if parameter is None else parameter.device
        dtype = like.dtype if parameter is None else parameter.dtype
        caller = Caller(self.net, self.name, device, dtype, integer_times=self.integer_times)
        parts = [slice_rows(condition, rows, device) for rows in slices]
        joined = parts
        if _may_guide(self.guidance_scale):
            null = as_condition(self.null_condition or {})
            joined = [join_null(part, null, s.stop - s.start, device) for part, s in zip(parts, slices, strict=True)]

        def evaluate(x: Tensor, point: Point, call: int | None = None) -> Tensor:
            scale = scale_at(self.guidance_scale, point.t, call)
            outputs = []
            with nullcontext() if not torch.is_grad_enabled() else torch.no_grad():
                for rows, part, both in zip(slices, parts, joined, strict=True):
                    own = x if len(slices) == 1 else x[rows]
                    try:
                        outputs.append(self._evaluate(caller, own, point, scale, part, both))
                    except Exception as error:
                        number = "" if call is None else f", evaluation {call + 1} of the run"
                        samples = f"samples {rows.start} to {rows.stop - 1} of {batch}"
                        add_note(error, f"when {self.name} was asked at t = {point.t:g}{number}, for {samples}")
                        raise
            output = outputs[0] if len(slices) == 1 else torch.cat(outputs)
            self._count(batch)
            return output

        with evaluation_mode(self.net):
            yield evaluate

    def _count(self, samples: int) -> None:
        # A compiled graph is not made anew for each number that it begins from.
        if torch.compiler.is_compiling():
            return
        self.evaluations += samples
        if self.watcher is not None:
            self.watcher(samples)

    def _evaluate(
        self, caller: Caller, x: Tensor, point: Point, scale: float, condition: Condition, joined: Condition
    ) -> Tensor:
        """N for a part of the batch, in memory of its own."""
        scaled = self.prediction == "edm"
        given, t = (x / point.alpha, point.rho) if scaled else (x, point.t)
        if scale == 1:
            output = caller.ask(given, t, condition, own=scaled)
        else:
            both = caller.ask(torch.cat([given, given]), t, joined, own=True).to(device=x.device, dtype=x.dtype)
            conditional, null = both.chunk(2)
            output = guided(conditional, null, scale, self.guidance_rescale)
        if self._works_on_D:
            return self._shaped(x, output.to(device=x.device, dtype=x.dtype), point, condition)
        if scale != 1:
            return output
        return output.clone() if output.dtype == x.dtype and output.device == x.device else output.to(x)

    def _shaped(self, x: Tensor, output: Tensor, point: Point, condition: Condition) -> Tensor:
        """D from the network's output, with classifier guidance and clipping. In float32 at least: D = (x - sigma eps) / alpha
        magnifies rounding where alpha is small."""
        wide = torch.promote_types(x.dtype, torch.float32)
        u, w = output_to_sample(self.prediction, point)
        D = torch.add(x.to(wide) * u, output.to(wide), alpha=w)
        if self.classifier is not None:
            D = D + self._classifier_term(x, point, condition)
        if self.dynamic_threshold is not None:
            D = threshold(D, self.dynamic_threshold, self.clip or 1.0)
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


def _may_guide(scale: Scale) -> bool:
    """Whether some evaluation is guided."""
    if isinstance(scale, tuple):
        return any(part != 1 for part in scale)
    return callable(scale) or scale != 1


def threshold(D: Tensor, quantile: float, bound: float, most: float = math.inf) -> Tensor:
    """D: (batch, *shape), clipped in each sample to the quantile of |D| where that is above `bound`, at most to `most`, and scaled back to
    `bound` (Saharia et al. 2022, Imagen, section 2.3)."""
    # A sample at a time: torch.quantile refuses more than 2^24 values.
    limits = torch.stack([torch.quantile(sample.abs().flatten().float(), quantile) for sample in D])
    limits = limits.to(D.dtype).clamp(min=bound, max=most).reshape(-1, *[1] * (D.ndim - 1))
    return D.clamp(-limits, limits) * (bound / limits)
