"""What a scheduler configuration of diffusers says of the network that it was saved with.

A configuration mixes three things. What belongs to the network is taken over: alpha and sigma at each time, the kind of its
output, and what is done to its input and output around it. What belongs to a solver or a grid is dode's to choose (`LEFT_OUT`
says by which argument). The rest is refused or warned of by name. Neither diffusers nor PyTorch is imported to say so.

Every class is one entry of `CLASSES`: how it is read, and the keys that matter with the class's own defaults, which differ.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from dode.foreign import brief, printable
from dode.names import unknown_name
from dode.reading import checked, failing_as, read_json
from dode.schedules import EDM, VP, CosineVP, Flow, NoiseSchedule

if TYPE_CHECKING:
    from torch import nn

_Values = Mapping[str, Any]

_PREDICTIONS = {
    "epsilon": "epsilon",
    "sample": "sample",
    "original_sample": "sample",
    "v_prediction": "v",
    "flow_prediction": "flow",
}


class SchedulerConfig:
    """A scheduler configuration, read for its network.

    `schedule` and `prediction` fail each on its own, in one line that says what to give in its place.

    Args:
        content: of `scheduler_config.json`, with its `_class_name`.

    Attributes:
        name: the class of scheduler.

    Warns:
        UserWarning: a key that is not known, or that the class does not read, with a value other than an absent one.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self.name = printable(content.get("_class_name", "a scheduler without _class_name"))
        self._content = content
        self._damage = ""
        self._class = CLASSES.get(self.name)
        self._refusal = ""
        if self._class is None:
            near = get_close_matches(self.name, CLASSES, 1, cutoff=0.85)
            why = REFUSED.get(self.name) or f"not a scheduler that dode reads{f' (is it {near[0]}?)' if near else ''}"
            self._refusal = f"{self.name} is {why}"
            self._values: dict[str, Any] = {}
        else:
            self._values = {key: content.get(key, default) for key, default in self._class.keys.items()}
            _warn_of_other_keys(self.name, content, self._class.keys)

    @classmethod
    def read(cls, path: Path) -> SchedulerConfig:
        """That of a `scheduler_config.json`. A value of the wrong type or out of bounds fails as any other does: when it is asked for."""
        from dode.schemas import SchedulerFile

        content = read_json(path)
        config = cls(content)
        try:
            with failing_as(path):
                checked(SchedulerFile, content)
        except ValueError as error:
            config._damage = str(error)
        return config

    def schedule(self, tokens: int | None = None, mu: float | None = None) -> NoiseSchedule:
        """Its noise schedule.

        Args:
            tokens: patches in one image, on which a flow's dynamic shift depends; None if it is not known.
            mu: that shift itself, as a pipeline gives it to its scheduler, in place of `tokens`.

        Raises:
            ValueError: a class or a value that has no schedule here; the message names it.
        """
        if self._damage:
            raise ValueError(f"{self._damage}; give schedule=... (from dode.schedules) and prediction=... in its place")
        if self._class is None:
            both = "" if "prediction_type" in self._content else " and prediction=..."
            raise ValueError(f"{self._refusal}: give schedule=... (from dode.schedules){both} in its place")
        try:
            return self._class.schedule(self._values if mu is None else {**self._values, "mu": mu}, tokens)
        except (TypeError, ValueError, ArithmeticError) as error:
            raise ValueError(f"{self.name}: {error}; give schedule=... (from dode.schedules) in its place") from None

    @property
    def prediction(self) -> str:
        """The kind of prediction of the network, after `wrap`.

        Raises:
            ValueError: it does not say, or not in words that are known; the message asks for prediction=.
        """
        if self._damage:
            raise ValueError(f"{self._damage}; give prediction=... in its place")
        if self._class is not None and self._class.prediction is not None:
            return self._class.prediction
        kind = (self._content if self._class is None else self._values).get("prediction_type")
        if _is_preconditioned(self._values):
            _scaling(self._values)
            return "edm"
        if kind is None:
            raise ValueError(f"{self.name} does not say what its network predicts: give prediction=... too")
        if kind not in _PREDICTIONS:
            raise ValueError(f"{unknown_name('prediction_type', str(kind), _PREDICTIONS)}; give prediction=... in its place")
        return _PREDICTIONS[kind]

    @property
    def wraps(self) -> str | None:
        """What its network is, where `wrap` does something to it."""
        if self.towards_data:
            return "asked at times from noise to data"
        if self.scores:
            return "asked at sigma and gives the score"
        return "preconditioned" if _is_preconditioned(self._values) else None

    @property
    def preconditioning(self) -> tuple[float, bool] | None:
        """sigma_data of a network inside the scalings of EDM, and whether its c_out is negative; None for another network."""
        return _scaling(self._values) if _is_preconditioned(self._values) else None

    @property
    def towards_data(self) -> bool:
        """Its network is asked at times from noise to data."""
        return self._class is not None and bool(self._values.get("invert_sigmas", self._class.towards_data))

    @property
    def scores(self) -> bool:
        """Its network is asked at sigma and gives the score."""
        return self._class is not None and self._class.scores

    def wrap(self, net: nn.Module, schedule: NoiseSchedule) -> nn.Module:
        """The network with what its scheduler does around it: the scalings of input and output of EDM, a time that is sigma or
        runs from noise to data. Then it predicts what `prediction` says, at the times of any schedule."""
        from dode.models.wrappers import EDMPreconditioned, NoiseAtZero, SampleOfScore

        if self.towards_data:
            return NoiseAtZero(net, schedule.t_max)
        if self.scores:
            return SampleOfScore(net)
        if _is_preconditioned(self._values):
            sigma_data, negative = _scaling(self._values)
            return EDMPreconditioned(net, sigma_data, negative=negative)
        return net

    @property
    def thresholds(self) -> bool:
        """Whether it thresholds x_0 dynamically, which nothing here takes over."""
        return bool(self._content.get("thresholding"))

    @property
    def learned_variance(self) -> bool:
        """Whether the network gives a variance beside its prediction."""
        return self._class is not None and str(self._content.get("variance_type")).startswith("learned")


def class_known(scheduler: object) -> str:
    """The first of a scheduler's classes that is read or refused by name; its own where none is."""
    names = [kind.__name__ for kind in type(scheduler).__mro__]
    return next((name for name in names if name in CLASSES or name in REFUSED), names[0])


def check_exchangeable(name: str) -> None:
    """Raise ValueError unless the network of a class of schedulers has an ODE that another solver can run in its pipeline."""
    if name not in CLASSES:
        why = REFUSED.get(name, "not a scheduler that dode reads")
        raise ValueError(f"{name} is {why}: a pipeline with it can run no other solver's tableau")


def _betas(values: _Values, tokens: int | None) -> NoiseSchedule:
    if values.get("use_flow_sigmas"):
        return _flow(dict(values) | {"shift": values["flow_shift"]}, tokens)
    if values.get("prediction_type") == "flow_prediction":
        raise ValueError("prediction_type = 'flow_prediction' needs use_flow_sigmas = True")
    schedule = _variance_preserving(values)
    return _edm_of(values, schedule) if _is_preconditioned(values) else schedule


def _variance_preserving(values: _Values) -> VP:
    values = _BETAS | dict(values)
    steps, kind = int(values["num_train_timesteps"]), values["beta_schedule"]
    if values["trained_betas"] is not None:
        schedule = VP(values["trained_betas"])
    elif kind not in BETA_SCHEDULES:
        raise unknown_name("beta_schedule", str(kind), BETA_SCHEDULES)
    else:
        schedule = VP(BETA_SCHEDULES[kind](steps, float(values["beta_start"]), float(values["beta_end"])))
    shift = float(values.get("snr_shift_scale", 1.0))
    if shift != 1:
        abar = schedule.alpha(np.arange(schedule.t_max + 1)) ** 2
        schedule = VP(alphas_cumprod=abar / (shift + (1 - shift) * abar))
    return schedule.rescaled_zero_terminal_snr() if values.get("rescale_betas_zero_snr") else schedule


def _edm_of(values: _Values, schedule: VP) -> EDM:
    """The range of sigma of a scheduler that makes times of the sigmas of its betas, or of those named beside them."""
    chosen = any(values.get(key) for key in ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas"))
    ends = [values["sigma_min"], values["sigma_max"]] if chosen else [None, None]
    # A zero terminal SNR is 2^-24 in diffusers' sigma space.
    found = [float(schedule.rho(0.0)), min(float(schedule.rho(schedule.t_max)), 2.0**12)]
    return EDM(*(float(table if given is None else given) for given, table in zip(ends, found, strict=True)))


def _flow(values: _Values, tokens: int | None) -> Flow:
    return Flow(_shift(values, tokens), time_scale=int(values.get("num_train_timesteps", 1)))


def _shift(values: _Values, tokens: int | None) -> float:
    if not values.get("use_dynamic_shifting"):
        return float(values["shift"])
    if "mu" in values:
        return _of_mu(values, float(values["mu"]))
    if tokens is None:
        warnings.warn(
            "use_dynamic_shifting: the shift depends on the size of the image, which is not known here: 1 is taken; "
            "give schedule=dode.schedules.Flow(shift=...) for another",
            stacklevel=2,
        )
        return 1.0
    # diffusers' pipelines: mu is linear in the number of patches.
    low, high = float(values["base_shift"]), float(values["max_shift"])
    first, last = float(values["base_image_seq_len"]), float(values["max_image_seq_len"])
    return _of_mu(values, low + (high - low) * (tokens - first) / (last - first))


def _of_mu(values: _Values, mu: float) -> float:
    return mu if values["time_shift_type"] == "linear" else math.exp(mu)


def _edm(values: _Values, tokens: int | None) -> EDM:
    return EDM(float(values["sigma_min"]), float(values["sigma_max"]))


def _ipndm(values: _Values, tokens: int | None) -> CosineVP:
    return CosineVP(s=0.0, t_max=1.0)


def _wuerstchen(values: _Values, tokens: int | None) -> CosineVP:
    if values["scaler"] != 1:
        raise ValueError(f"scaler = {values['scaler']} is not supported, 1 is")
    whole = CosineVP(float(values["s"]), t_max=1.0)
    low, high = (math.log(abar / (1 - abar)) for abar in (1e-4, 0.9999))  # alpha-bar is clamped there
    return CosineVP(float(values["s"]), t_max=float(whole.time(low)), t_min=float(whole.time(high)))


def _is_preconditioned(values: _Values) -> bool:
    continuous = values.get("timestep_type") == "continuous" and values["prediction_type"] == "v_prediction"
    return "sigma_data" in values or continuous


def _scaling(values: _Values) -> tuple[float, bool]:
    """sigma_data, and whether c_out is negative."""
    kind = values["prediction_type"]
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"a preconditioned network has prediction_type epsilon or v_prediction, got {kind!r}")
    return float(values.get("sigma_data", 1.0)), kind == "v_prediction"


def _warn_of_other_keys(name: str, content: Mapping[str, Any], read: Mapping[str, Any]) -> None:
    """Warn of what neither this class reads nor `LEFT_OUT` explains: diffusers may mean something by it that dode does not know.

    An option that is absent (None, False, empty), or has the default of another class that reads it, says nothing.
    """
    strange = []
    for key, value in content.items():
        if key.startswith("_") or key in read or key in LEFT_OUT or value is None or value is False:
            continue
        if isinstance(value, str | list | tuple | dict) and not value:
            continue
        defaults = [other.keys[key] for other in CLASSES.values() if key in other.keys]
        if not (isinstance(value, str | int | float) and value in defaults):
            strange.append(f"{printable(key)} = {brief(value)}")
    if strange:
        warnings.warn(
            f"{name}: left out, as dode knows no such key of that class: {printable(', '.join(strange), 500)}; "
            "if it changes alpha, sigma or the network's output, give schedule= and prediction=",
            stacklevel=2,
        )


def _bounded_betas(alpha_bar: Callable[[float], float]) -> Callable[[int, float, float], Any]:
    def betas(steps: int, beta_start: float, beta_end: float) -> Any:
        values = [alpha_bar(i / steps) for i in range(steps + 1)]
        return [min(1 - after / before, 0.999) for before, after in pairwise(values)]

    return betas


def _laplace(t: float) -> float:
    half_log_snr = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-half_log_snr)))


# Betas from the number of steps, beta_start and beta_end.
BETA_SCHEDULES: Mapping[str, Callable[[int, float, float], Any]] = MappingProxyType(
    {
        "linear": lambda steps, low, high: np.linspace(low, high, steps),
        "scaled_linear": lambda steps, low, high: np.linspace(low**0.5, high**0.5, steps) ** 2,
        "squaredcos_cap_v2": _bounded_betas(lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2),
        "exp": _bounded_betas(lambda t: math.exp(-12 * t)),
        "laplace": _bounded_betas(_laplace),
        "sigmoid": lambda steps, low, high: low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, steps))),
    }
)


@dataclass(frozen=True)
class _Class:
    """How a class of schedulers is read.

    Attributes:
        schedule: from the values of its keys, and the number of patches.
        keys: what it reads of the configuration, with its defaults.
        prediction: of its network; what `prediction_type` says if None.
        towards_data: the network's time runs from noise to data.
        scores: the network is asked at sigma and gives the score.
    """

    schedule: Callable[[_Values, int | None], NoiseSchedule]
    keys: Mapping[str, Any]
    prediction: str | None = None
    towards_data: bool = False
    scores: bool = False


_BETAS: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "trained_betas": None,
    "prediction_type": "epsilon",
}
# Where sigma is the time: how many sigmas a table of diffusers' has.
_TABLE: _Values = {"num_train_timesteps": 1000}
_STABLE: _Values = {"beta_start": 0.00085, "beta_end": 0.012}
_ZERO_SNR: _Values = {"rescale_betas_zero_snr": False}
# Where no class has them, diffusers' pipelines take these values for a dynamic shift.
_SEQUENCE: _Values = {"base_shift": 0.5, "max_shift": 1.15, "base_image_seq_len": 256, "max_image_seq_len": 4096}
_DYNAMIC: _Values = {"use_dynamic_shifting": False, "time_shift_type": "exponential", **_SEQUENCE}
_FLOW_SIGMAS: _Values = {"use_flow_sigmas": False, "flow_shift": 1.0}
_FLOW: _Values = {"num_train_timesteps": 1000, "shift": 1.0}
_EDM: _Values = {"sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5, "prediction_type": "epsilon", **_TABLE}
_EULER: _Values = {
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
_COGVIDEOX: _Values = {**_BETAS, **_STABLE, "beta_schedule": "scaled_linear", "snr_shift_scale": 3.0, **_ZERO_SNR}
_REPAINT: _Values = {key: value for key, value in _BETAS.items() if key != "prediction_type"}
_UNCLIP: _Values = {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2", "prediction_type": "epsilon"}

CLASSES: Mapping[str, _Class] = MappingProxyType(
    {
        "CogVideoXDDIMScheduler": _Class(_betas, _COGVIDEOX),
        "CogVideoXDPMScheduler": _Class(_betas, _COGVIDEOX),
        "DDIMInverseScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR}),
        "DDIMParallelScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR}),
        "DDIMScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR}),
        "DDPMParallelScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR}),
        "DDPMScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR}),
        "DDPMWuerstchenScheduler": _Class(_wuerstchen, {"scaler": 1.0, "s": 0.008}, "epsilon"),
        "DEISMultistepScheduler": _Class(_betas, {**_BETAS, **_FLOW_SIGMAS, **_DYNAMIC}),
        "DPMSolverMultistepInverseScheduler": _Class(_betas, {**_BETAS, **_FLOW_SIGMAS}),
        "DPMSolverMultistepScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR, **_FLOW_SIGMAS, **_DYNAMIC}),
        "DPMSolverSDEScheduler": _Class(_betas, {**_BETAS, **_STABLE}),
        "DPMSolverSinglestepScheduler": _Class(_betas, {**_BETAS, **_FLOW_SIGMAS, **_DYNAMIC}),
        "EDMDPMSolverMultistepScheduler": _Class(_edm, _EDM),
        "EDMEulerScheduler": _Class(_edm, _EDM),
        "EulerAncestralDiscreteScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR}),
        "EulerDiscreteScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR, **_EULER}),
        "FlowMatchEulerDiscreteScheduler": _Class(_flow, {**_FLOW, **_DYNAMIC, "invert_sigmas": False}, "flow"),
        "FlowMatchHeunDiscreteScheduler": _Class(_flow, _FLOW, "flow"),
        "HeunDiscreteScheduler": _Class(_betas, {**_BETAS, **_STABLE}),
        # Its betas choose the grid alone.
        "IPNDMScheduler": _Class(_ipndm, {"trained_betas": None, **_TABLE}, "v"),
        "KDPM2AncestralDiscreteScheduler": _Class(_betas, {**_BETAS, **_STABLE}),
        "KDPM2DiscreteScheduler": _Class(_betas, {**_BETAS, **_STABLE}),
        "LMSDiscreteScheduler": _Class(_betas, _BETAS),
        "LTXEulerAncestralRFScheduler": _Class(_flow, {**_FLOW, **_DYNAMIC}, "flow"),
        "MiniMaxH3Scheduler": _Class(_flow, {"shift": 12.0}, "flow", towards_data=True),
        "PNDMScheduler": _Class(_betas, _BETAS),
        "RePaintScheduler": _Class(_betas, _REPAINT, "epsilon"),
        "SASolverScheduler": _Class(_betas, {**_BETAS, **_FLOW_SIGMAS}),
        "ScoreSdeVeScheduler": _Class(
            _edm, {"sigma_min": 0.01, "sigma_max": 1348.0, "num_train_timesteps": 2000}, "edm", scores=True
        ),
        "UnCLIPScheduler": _Class(_betas, _UNCLIP),
        "UniPCMultistepScheduler": _Class(_betas, {**_BETAS, **_ZERO_SNR, **_FLOW_SIGMAS, **_DYNAMIC}),
    }
)

_CONSISTENCY = "for networks distilled to jump to the end (consistency models), whose output is not the mean of x_0"
_TOKENS = "for networks of discrete tokens, which have no ODE"
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "AmusedScheduler": _TOKENS,
        "BlockRefinementScheduler": _TOKENS,
        "CMStochasticIterativeScheduler": _CONSISTENCY,
        "ConsistencyDecoderScheduler": _CONSISTENCY,
        "CosineDPMSolverMultistepScheduler": "for networks that are asked at atan(sigma), which dode does not wrap",
        "DiscreteDDIMScheduler": _TOKENS,
        "EntropyBoundScheduler": _TOKENS,
        "FlowMapEulerDiscreteScheduler": "for flow maps, which are given the time where a step ends too",
        "FlowMatchLCMScheduler": _CONSISTENCY,
        "HeliosDMDScheduler": "for networks that change their resolution on the way",
        "HeliosScheduler": "for networks that change their resolution on the way",
        "KarrasVeScheduler": "for networks that are asked with (x + 1) / 2 at sigma / 2, which dode does not wrap",
        "LCMScheduler": _CONSISTENCY,
        "PiflowScheduler": "for networks that give a policy of many steps in place of a velocity",
        "RFD4ProteinaScheduler": "for networks of proteins, with noise of several kinds",
        "SCMScheduler": _CONSISTENCY,
        "ScoreSdeVpScheduler": "for a stochastic loop of its own, at times from 1 to 0",
        "TCDScheduler": _CONSISTENCY,
        "VQDiffusionScheduler": _TOKENS,
    }
)

_GRID = "which times are run: choose them with grid="
_SOLVER = "how diffusers steps: choose the solver"
_CLIP = "clips x_0, but diffusers' epsilon-solvers go on with the unclipped epsilon, which is no ODE: ask with clip="
_THRESHOLD = "clips x_0, as clip_sample does: ask with dynamic_threshold="
_NOISE = "the noise that stochastic solvers add; a learned variance is left out of the network's output"
_CONSISTENCY_KEY = "the jumps of consistency models, which are refused by their class"
# Keys that say nothing of the network, with what they are for and where dode has it.
LEFT_OUT: Mapping[str, str] = MappingProxyType(
    {
        "algorithm_type": _SOLVER,
        "clip_denoised": _CLIP,
        "clip_sample": _CLIP,
        "clip_sample_range": _CLIP,
        "correct_steps": _NOISE,
        "corrector_order": _SOLVER,
        "disable_corrector": _SOLVER,
        "dynamic_thresholding_ratio": _THRESHOLD,
        "eta": _NOISE,
        "euler_at_final": _SOLVER,
        "final_sigmas_type": _GRID,
        "interpolation_type": "alpha and sigma between whole times",
        "lambda_min_clipped": _GRID,
        "lower_order_final": _SOLVER,
        "noise_sampler_seed": _NOISE,
        "original_inference_steps": _CONSISTENCY_KEY,
        "predict_x0": _SOLVER,
        "predictor_order": _SOLVER,
        "rho": _GRID,
        "s_noise": _NOISE,
        "sample_max_value": _THRESHOLD,
        "sampling_eps": _GRID,
        "set_alpha_to_one": "where the last step ends: at the clean sample here",
        "set_alpha_to_zero": "where an inversion begins: at the clean sample here",
        "shift_terminal": _GRID,
        "sigma_max": _GRID,
        "sigma_min": _GRID,
        "sigma_schedule": _GRID,
        "skip_prk_steps": _SOLVER,
        "snr": _NOISE,
        "solver_order": _SOLVER,
        "solver_p": _SOLVER,
        "solver_type": _SOLVER,
        "steps_offset": _GRID,
        "stochastic_sampling": _NOISE,
        "tau_func": _NOISE,
        "thresholding": _THRESHOLD,
        "timestep_scaling": _CONSISTENCY_KEY,
        "timestep_spacing": _GRID,
        "use_beta_sigmas": _GRID,
        "use_exponential_sigmas": _GRID,
        "use_karras_sigmas": _GRID,
        "use_lu_lambdas": _GRID,
        "variance_type": _NOISE,
    }
)
