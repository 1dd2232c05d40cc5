"""diffusers' networks, folders and scheduler configurations as dode's.

diffusers itself is imported only for a network that `dode.models.UNet` does not implement. Nothing is ever downloaded.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dode.models import ClassLabels, MeanHalf, SpaceToDepth, TimestepKeyword, UNet
from dode.names import unknown_name
from dode.schedules import VP, Flow, NoiseSchedule

_PREDICTIONS = {"epsilon": "epsilon", "sample": "sample", "v_prediction": "v", "flow_prediction": "flow"}
_BETA_SCHEDULES: dict[str, Callable[..., VP]] = {
    "linear": VP.linear,
    "scaled_linear": VP.scaled_linear,
    "squaredcos_cap_v2": VP.squared_cosine,
}
_UNETS = ("UNet2DModel", "UNet2DConditionModel")
# Transformers whose `timestep` is the scheduler's own time.
_TRANSFORMERS = ("DiTTransformer2DModel", "PixArtTransformer2DModel", "SD3Transformer2DModel")
_WEIGHTS = "diffusion_pytorch_model"


def schedule_from_config(config: Mapping[str, Any]) -> tuple[NoiseSchedule, str]:
    """The noise schedule and the kind of prediction that a scheduler's configuration stands for.

    `clip_sample` and `thresholding` are left out: diffusers clips x_0 by default, and its epsilon-solvers then go on with the
    unclipped epsilon, a rule that belongs to no ODE. Ask for clipping with `clip=1.0`. A resolution-dependent shift
    (`use_dynamic_shifting`) is left out as well: it moves the grid alone; give `schedule=Flow(shift=...)` for another one.

    Args:
        config: the content of `scheduler_config.json`, with its `_class_name`.

    Raises:
        ValueError: a schedule or a prediction that is not known; the message names the key.
    """
    name = str(config.get("_class_name", "the scheduler"))
    steps = int(config.get("num_train_timesteps", 1000))
    if name.startswith("FlowMatch"):
        if config.get("invert_sigmas"):
            raise ValueError("invert_sigmas = True of a flow-matching scheduler is not supported")
        shift = 1.0 if config.get("use_dynamic_shifting") else float(config.get("shift", 1.0))
        return Flow(shift, time_scale=steps), "flow"
    kind = config.get("prediction_type", "epsilon")
    if kind not in _PREDICTIONS:
        raise unknown_name("prediction_type", str(kind), _PREDICTIONS)
    if config.get("use_flow_sigmas") or kind == "flow_prediction":
        shift = float(config.get("flow_shift") or config.get("shift") or 1.0)
        return Flow(shift, time_scale=steps), _PREDICTIONS[kind]
    return _variance_preserving(config, name, steps), _PREDICTIONS[kind]


def _variance_preserving(config: Mapping[str, Any], name: str, steps: int) -> VP:
    if "beta_schedule" not in config or config.get("timestep_type") == "continuous":
        raise ValueError(f"{name} has no discrete schedule of betas: give schedule=..., from dode.schedules")
    kind = config["beta_schedule"]
    if config.get("trained_betas") is not None:
        schedule = VP(config["trained_betas"])
    elif kind not in _BETA_SCHEDULES:
        raise unknown_name("beta_schedule", str(kind), _BETA_SCHEDULES)
    elif kind == "squaredcos_cap_v2":
        schedule = VP.squared_cosine(steps)
    else:
        schedule = _BETA_SCHEDULES[kind](steps, float(config.get("beta_start", 1e-4)), float(config.get("beta_end", 0.02)))
    return schedule.rescaled_zero_terminal_snr() if config.get("rescale_betas_zero_snr") else schedule


class Adapted(NamedTuple):
    """A network as `Denoiser` calls it.

    Attributes:
        net: called as net(x, t, **cond).
        shape: of one sample; None where the configuration does not say.
        null_condition: for guidance; None where the network has no null class.
    """

    net: nn.Module
    shape: tuple[int, ...] | None
    null_condition: dict[str, Any] | None


def adapt(net: nn.Module, space_to_depth: int = 1, null_class: int | None = None) -> Adapted:
    """A network of diffusers, or a `UNet`, made ready for `Denoiser`.

    A network with twice as many output as input channels predicts a variance too, which is left out. A class-conditional UNet
    takes class_labels as a number or a tensor; the null class is used only where it is named here, as diffusers does not say
    whether there is one.

    Args:
        net: UNet, UNet2DModel, UNet2DConditionModel, or a transformer whose `timestep` is the scheduler's time.
        space_to_depth: the network works on images with this factor of space moved into channels.
        null_class: the class that means "none".

    Raises:
        ValueError: a network that is called in another way.
    """
    names = {kind.__name__ for kind in type(net).__mro__}
    config: Mapping[str, Any] = getattr(net, "config", {})
    adapted = net
    if names & set(_TRANSFORMERS):
        adapted = TimestepKeyword(adapted)
    elif not (isinstance(net, UNet) or names & set(_UNETS)):
        known = ", ".join((*_UNETS, *_TRANSFORMERS))
        raise ValueError(f"{type(net).__name__} is not among {known}: wrap it, dode.Denoiser(net, schedule, prediction)")
    if config["out_channels"] == 2 * config["in_channels"]:
        adapted = MeanHalf(adapted)
    null_condition = None
    classes = config.get("num_class_embeds")
    if classes is not None and config.get("class_embed_type") is None and "UNet2DConditionModel" not in names:
        if null_class is not None and not 0 <= null_class < classes:
            raise ValueError(f"null_class must lie in 0 .. {classes - 1}, got {null_class}")
        adapted = ClassLabels(adapted, classes, null_class)
        null_condition = None if null_class is None else {"class_labels": null_class}
    if space_to_depth != 1:
        adapted = SpaceToDepth(adapted, space_to_depth)
    return Adapted(adapted, _sample_shape(config, space_to_depth), null_condition)


def _sample_shape(config: Mapping[str, Any], factor: int) -> tuple[int, ...] | None:
    size = config.get("sample_size")
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    return config["in_channels"] // factor**2, height * factor, width * factor


def load_network(folder: Path, *, allow_pickle: bool = False) -> nn.Module:
    """The network of a folder with `config.json` and weights: float32, evaluation mode, no gradients.

    Raises:
        FileNotFoundError: no configuration or no weights there.
        ValueError: the weights are pickled and `allow_pickle` is False, or something is damaged.
        ImportError: the network needs diffusers and it is not installed.
    """
    config = read_json(folder / "config.json")
    weights = _find_weights(folder, allow_pickle)
    net = _light_network(config, weights)
    if net is None:
        net = _diffusers_network(folder, str(config.get("_class_name")), weights)
    return net.requires_grad_(False).eval()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileNotFoundError, ValueError: in one line, with the path.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(content).__name__}")
    return content


def _find_weights(folder: Path, allow_pickle: bool) -> Path:
    for variant in ("", ".fp16"):
        # The index of weights that are split over many files counts as the file.
        for name in (f"{_WEIGHTS}{variant}.safetensors", f"{_WEIGHTS}.safetensors.index{variant}.json"):
            if (folder / name).is_file():
                return folder / name
    pickled = sorted(folder.glob(f"{_WEIGHTS}*.bin"))
    if not pickled:
        raise FileNotFoundError(f"{folder} has no {_WEIGHTS}.safetensors")
    if not allow_pickle:
        raise ValueError(f"{pickled[0]} is a pickle, which can run code: convert it to safetensors, or give allow_pickle=True")
    return pickled[0]


def _light_network(config: Mapping[str, Any], weights: Path) -> nn.Module | None:
    """A `UNet` with these weights; None where it does not implement the configuration or the names of the weights."""
    if config.get("_class_name") != "UNet2DModel" or weights.suffix == ".json":
        return None
    try:
        # The first weights are random and thrown away: the caller's random state stays as it was.
        with torch.random.fork_rng(devices=[]):
            net = UNet.from_config(config)
    except ValueError:
        return None
    state = _read_weights(weights)
    expected = net.state_dict()
    if state.keys() != expected.keys():
        return None
    for name, value in state.items():
        got, wanted = tuple(value.shape), tuple(expected[name].shape)
        if got != wanted:
            raise ValueError(f"{weights}: {name} has shape {got}, config.json asks for {wanted}")
    net.load_state_dict(state)
    return net


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} cannot be read: it holds other things than tensors") from None
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {(str(error) or type(error).__name__).splitlines()[0]}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} must hold tensors by name")
    return content


def _diffusers_network(folder: Path, class_name: str, weights: Path) -> nn.Module:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"{class_name} in {folder} needs diffusers: pip install dode[diffusers]") from error
    kind = getattr(diffusers, class_name, None)
    if class_name not in (*_UNETS, *_TRANSFORMERS) or kind is None:
        raise unknown_name("network class", class_name, (*_UNETS, *_TRANSFORMERS))
    net: nn.Module = kind.from_pretrained(
        str(folder),
        variant="fp16" if ".fp16" in weights.name else None,
        use_safetensors=weights.suffix != ".bin",
        local_files_only=True,
        torch_dtype=torch.float32,
        low_cpu_mem_usage=False,
    )
    return net
