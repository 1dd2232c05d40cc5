"""`load`: from a name, a folder, a pipeline or a network to a `Denoiser`."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dode.denoisers import Denoiser
from dode.integrations.diffusers import adapt, load_network, read_json, schedule_from_config
from dode.models import BUNDLED
from dode.names import unknown_name
from dode.schedules import Flow, NoiseSchedule

_FUNCTION = re.compile(r"[\w.]+:[\w.]+")
_DODE_KEYS = ("space_to_depth", "null_class", "classes")


def load(
    model: Any,
    *,
    schedule: NoiseSchedule | None = None,
    prediction: str | None = None,
    allow_pickle: bool = False,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> Denoiser:
    """A denoiser from whatever holds a network. Nothing is ever downloaded.

    Args:
        model: one of
            - the name of a bundled network, "fashion";
            - a diffusers folder with unet/ (or transformer/) and scheduler/; or a folder of a network alone, with `schedule`.
              A dode.json in it may say what diffusers cannot: {"space_to_depth": 2, "null_class": 10, "classes": [...]};
            - a diffusers pipeline, whose unet or transformer is taken: samples of a latent pipeline are latents, and
              conditions are tensors (`encoder_hidden_states=...`), as the network takes them;
            - a network: a diffusers model or any net(x, t, **cond), with `schedule`;
            - "package.module:function", a function without arguments that returns a Denoiser.
        schedule: in place of the model's own; needed where it has none.
        prediction: in place of the model's own; "epsilon" where it has none ("flow" for a `Flow` schedule).
        allow_pickle: read weights from a .bin file if there is no safetensors file; code in it is not run.
        device: where to move the network.
        dtype: what to convert the network to; weights from a folder are loaded in float32.
        options: further arguments of `Denoiser`: guidance_scale, batch_size, clip, ... diffusers' clip_sample is not taken
            over: it clips x_0 but its epsilon-solvers go on with the unclipped epsilon, which is no ODE.

    Raises:
        ValueError: an unknown name, a folder or configuration that is not understood, pickled weights, a function that fails.
        FileNotFoundError: a folder or a file in it is not there.
        ImportError: the network needs diffusers and it is not installed.
    """
    denoiser = _find(model, schedule, prediction, allow_pickle)
    changes: dict[str, Any] = {"schedule": schedule, "prediction": prediction}
    denoiser = denoiser.replace(**{key: value for key, value in changes.items() if value is not None}, **options)
    if isinstance(denoiser.net, nn.Module) and (device is not None or dtype is not None):
        denoiser.net.to(device=device, dtype=dtype)
    return denoiser


def _find(model: Any, schedule: NoiseSchedule | None, prediction: str | None, allow_pickle: bool) -> Denoiser:
    if isinstance(model, str):
        if model in BUNDLED:
            return _from_folder(BUNDLED[model].folder, model, schedule, prediction, allow_pickle)
        if not Path(model).exists() and _FUNCTION.fullmatch(model):
            return _from_function(model)
        if not Path(model).exists() and re.fullmatch(r"[\w-]+", model):
            message = str(unknown_name("model", model, BUNDLED))
            raise ValueError(f"{message}; a folder and package.module:function are accepted too")
    if isinstance(model, str | PathLike):
        folder = Path(model).expanduser()
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist (networks are not downloaded: fetch the folder first)")
        if not folder.is_dir():
            raise ValueError(f"{folder} is a file: name the folder that it is in")
        return _from_folder(folder, folder.resolve().name, schedule, prediction, allow_pickle)
    if isinstance(model, Denoiser):
        return model
    if hasattr(model, "scheduler"):
        return _from_pipeline(model, schedule, prediction)
    if callable(model):
        return _from_network(model, schedule, prediction)
    raise TypeError(f"load takes a name, a folder, a pipeline or a network, got {type(model).__name__}")


def _from_folder(
    folder: Path, name: str, schedule: NoiseSchedule | None, prediction: str | None, allow_pickle: bool
) -> Denoiser:
    places = [folder / "unet", folder / "transformer", folder]
    network_folder = next((place for place in places if (place / "config.json").is_file()), None)
    if network_folder is None:
        raise FileNotFoundError(f"{folder} has neither unet/config.json nor transformer/config.json nor config.json")
    extra = read_json(folder / "dode.json") if (folder / "dode.json").is_file() else {}
    for key in extra:
        if key not in _DODE_KEYS:
            raise unknown_name(f"key in {folder / 'dode.json'}", key, _DODE_KEYS)
    configs = [folder / "scheduler" / "scheduler_config.json", folder / "scheduler_config.json"]
    config = next((read_json(path) for path in configs if path.is_file()), None)
    schedule, prediction = _schedule_of(config, schedule, prediction, str(folder))
    net = load_network(network_folder, allow_pickle=allow_pickle)
    net, shape, null_condition = adapt(net, int(extra.get("space_to_depth", 1)), extra.get("null_class"))
    return Denoiser(net, schedule, prediction, shape=shape, null_condition=null_condition, name=name)


def _from_pipeline(pipeline: Any, schedule: NoiseSchedule | None, prediction: str | None) -> Denoiser:
    name = type(pipeline).__name__
    net = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    if net is None:
        raise ValueError(f"{name} has neither a unet nor a transformer")
    config = dict(pipeline.scheduler.config) | {"_class_name": type(pipeline.scheduler).__name__}
    schedule, prediction = _schedule_of(config, schedule, prediction, name)
    net, shape, null_condition = adapt(net)
    return Denoiser(net, schedule, prediction, shape=shape, null_condition=null_condition, name=name)


def _from_network(net: Any, schedule: NoiseSchedule | None, prediction: str | None) -> Denoiser:
    name = type(net).__name__
    schedule, prediction = _schedule_of(None, schedule, prediction, name)
    try:
        known = adapt(net) if isinstance(net, nn.Module) else None
    except ValueError:
        known = None
    if known is None:
        return Denoiser(net, schedule, prediction)
    return Denoiser(known.net, schedule, prediction, shape=known.shape, null_condition=known.null_condition, name=name)


def _schedule_of(
    config: dict[str, Any] | None, schedule: NoiseSchedule | None, prediction: str | None, what: str
) -> tuple[NoiseSchedule, str]:
    """The schedule and prediction given, or else the configuration's."""
    if schedule is None:
        if config is None:
            raise ValueError(f"{what} has no scheduler: give schedule=..., for example dode.schedules.VP.linear()")
        schedule, found = schedule_from_config(config)
        return schedule, prediction or found
    if prediction is None and config is not None:
        prediction = schedule_from_config(config)[1]
    return schedule, prediction or ("flow" if isinstance(schedule, Flow) else "epsilon")


def _from_function(reference: str) -> Denoiser:
    module_name, _, path = reference.partition(":")
    try:
        with _current_folder_importable():
            target: Any = importlib.import_module(module_name)
        for part in path.split("."):
            target = getattr(target, part)
        denoiser = target()
    except Exception as error:
        raise ValueError(f"{reference} failed: {type(error).__name__}: {error}") from error
    if not isinstance(denoiser, Denoiser):
        raise ValueError(f"{reference} must return a dode.Denoiser, got {type(denoiser).__name__}")
    return denoiser


@contextmanager
def _current_folder_importable() -> Iterator[None]:
    """The current folder at the end of the import path, so that it shadows nothing."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
