"""`load`: from a name, a folder, a pipeline or a network to a `Denoiser`."""

from __future__ import annotations

import importlib
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dode.models import BUNDLED
from dode.models.folder import read_folder
from dode.models.scheduler_configs import SchedulerConfig, class_known
from dode.models.traits import Traits, traits_of
from dode.names import unknown_name
from dode.reading import failing_as
from dode.schedules import EDM, Flow, NoiseSchedule

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from dode.denoisers import Denoiser
    from dode.models.diffusers import Adapted

# PyTorch is imported where a network is at hand: what cannot be loaded is refused before.
_FUNCTION = re.compile(r"[\w.]+:[\w.]+")
# What comes before the path of a pickled network of EDM.
_EDM = "edm:"


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
            - "edm:FILE", a pickled network of NVlabs/edm or NVlabs/edm2, with `allow_pickle`;
            - a network: a diffusers model or any net(x, t, **cond), with `schedule`; one that says `img_channels`, `img_resolution` and
              `label_dim` is a network of EDM, net(x, sigma, class_labels), and needs nothing else;
            - "package.module:function", a function without arguments that returns a Denoiser or a pipeline.
        schedule: in place of the model's own; needed where it has none.
        prediction: in place of the model's own; "epsilon" where it has none ("flow" for a `Flow` schedule).
        allow_pickle: read weights from a .bin file if there is no safetensors file, where code in it is not run; and "edm:FILE", where
            it is: the classes of the network are code in the file.
        device: where to move the network.
        dtype: what to convert the network to; weights from a folder are loaded in float32.
        options: further arguments of `Denoiser`: guidance_scale, batch_size, clip, shape, ...

    A scheduler's configuration gives alpha, sigma and the meaning of the output. What chooses its grid or its solver is left to
    `grid=` and to the solver (`dode.models.scheduler_configs.LEFT_OUT` lists the keys); so is its clipping of x_0, with which
    its epsilon-solvers go on with the unclipped epsilon, which is no ODE: ask for it with `clip=1.0` or `dynamic_threshold=`.
    The network of an EDM scheduler is wrapped in its scalings, and one whose time runs from noise to data is turned.

    A network with input channels beside the sample's (inpainting, instructions, upscaling) takes them as the condition
    `concat`, (batch, channels, height, width), behind the sample's. Guidance needs a null class, which dode.json names; that of a
    DiT is behind its classes.

    A network of EDM is sampled between the noise levels of EDM's own sampler, 0.002 to 80 and within its own; its class labels are
    integers, and the null class, behind them, is there if it was trained with label dropout.

    Raises:
        ValueError: an unknown name, a folder or configuration that is not understood, pickled weights, a function that fails,
            a pickle without `allow_pickle`, or one that holds no network.
        FileNotFoundError: a folder or a file in it is not there.
        ImportError: the network needs diffusers and it is not installed, or the code in a pickle needs what is not there.

    Warns:
        UserWarning: a scheduler's configuration has a key whose meaning is not known, or a folder has weights or values that its network
            has no place for.
    """
    if isinstance(options.get("shape"), list):
        options["shape"] = tuple(options["shape"])
    asked = _Asked(schedule, prediction, options)
    denoiser = _find(model, asked, allow_pickle)
    changes: dict[str, Any] = {"schedule": schedule, "prediction": prediction}
    denoiser = denoiser.replace(**{key: value for key, value in changes.items() if value is not None}, **options)
    if device is not None or dtype is not None:
        from torch import nn

        if isinstance(denoiser.net, nn.Module):
            denoiser.net.to(device=device, dtype=dtype)
    return denoiser


def is_function(model: str) -> bool:
    """Whether a name is that of a function, "package.module:function", and of nothing else."""
    return (
        model not in BUNDLED
        and not model.startswith(_EDM)
        and not Path(model).exists()
        and _FUNCTION.fullmatch(model) is not None
    )


def is_pipeline(made: Any) -> bool:
    """Whether something is called as a pipeline of diffusers is."""
    return callable(made) and hasattr(made, "scheduler")


def made_by(reference: str) -> Any:
    """What a function gives: a `Denoiser`, or a pipeline.

    Args:
        reference: "package.module:function"; the current folder's modules are found too.

    Raises:
        ValueError: it fails, or gives something else.
    """
    module_name, _, path = reference.partition(":")
    try:
        with current_folder_importable():
            target: Any = importlib.import_module(module_name)
            for part in path.split("."):
                target = getattr(target, part)
            made = target()  # which may import more
    except (Exception, SystemExit) as error:  # what it runs may end the interpreter, with success and without a denoiser
        raise ValueError(f"{reference} failed: {type(error).__name__}: {error}") from error
    from dode.denoisers import Denoiser

    if not isinstance(made, Denoiser) and not is_pipeline(made):
        raise ValueError(f"{reference} must return a dode.Denoiser or a pipeline of diffusers, got {type(made).__name__}")
    return made


class _Asked(NamedTuple):
    """What the caller says in place of the model."""

    schedule: NoiseSchedule | None
    prediction: str | None
    options: Mapping[str, Any]

    def shape(self, space_to_depth: int = 1) -> tuple[int, ...] | None:
        """(channels, height, width) of a sample in the network's own layout."""
        shape = self.options.get("shape")
        if not isinstance(shape, tuple) or len(shape) != 3:
            return None
        channels, height, width = shape
        return channels * space_to_depth**2, height // space_to_depth, width // space_to_depth


def _find(model: Any, asked: _Asked, allow_pickle: bool) -> Denoiser:
    if isinstance(model, str):
        if model in BUNDLED:
            return _from_folder(BUNDLED[model].folder, model, asked, allow_pickle)
        if model.startswith(_EDM):
            return _from_pickle(model.removeprefix(_EDM), asked, allow_pickle)
        if is_function(model):
            return _find(made_by(model), asked, allow_pickle)
        if not Path(model).exists() and re.fullmatch(r"[\w-]+", model):
            message = str(unknown_name("model", model, BUNDLED))
            raise ValueError(f"{message}; a folder and package.module:function are accepted too")
    if isinstance(model, str | PathLike):
        folder = Path(model).expanduser()
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist (networks are not downloaded: fetch the folder first)")
        if not folder.is_dir():
            pickled = folder.suffix in (".pkl", ".pickle")
            instead = f"a pickled network of EDM is named edm:{folder}" if pickled else "name the folder that it is in"
            raise ValueError(f"{folder} is a file: {instead}")
        return _from_folder(folder, folder.resolve().name, asked, allow_pickle)
    from dode.denoisers import Denoiser

    if isinstance(model, Denoiser):
        return model
    if hasattr(model, "scheduler"):
        return _from_pipeline(model, asked)
    if callable(model):
        return _from_network(model, asked)
    raise TypeError(f"load takes a name, a folder, a pipeline or a network, got {type(model).__name__}")


def _from_folder(folder: Path, name: str, asked: _Asked, allow_pickle: bool) -> Denoiser:
    found = read_folder(folder, asked.shape, allow_pickle=allow_pickle)
    traits, scheduler = found.traits, found.scheduler
    with failing_as(found.scheduler_path):
        schedule, prediction = _schedule_of(scheduler, traits, asked, str(folder))

    from dode.denoisers import Denoiser
    from dode.models.diffusers import adapt, load_network

    # The caller's options are refused before weights are loaded, or diffusers.
    Denoiser(_not_loaded, schedule, prediction, null_condition=traits.null_condition).replace(**asked.options)
    net = load_network(found.place, traits.kind, found.config, found.stored)
    return _denoiser(adapt(net, traits, found.space_to_depth), scheduler, schedule, prediction, name)


def _not_loaded(x: Tensor, t: Tensor, **cond: Any) -> Tensor:
    raise AssertionError("stands for a network while arguments are checked")


def _from_pickle(name: str, asked: _Asked, allow_pickle: bool) -> Denoiser:
    if "://" in name:
        raise ValueError(f"{name} is an address, and networks are not downloaded: fetch the file, and give edm:FILE")
    path = Path(name).expanduser()
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist (networks are not downloaded: fetch the file first)")
    if not path.is_file():
        raise ValueError(f"{path} is no file: name the pickle, edm:FILE")
    if not allow_pickle:
        raise ValueError(
            f"{path} is a pickle, and reading it runs code in it: give allow_pickle=True (--allow-pickle) if you trust who made it"
        )
    from dode.denoisers import Denoiser
    from dode.models.edm import read_network

    # The caller's options are refused before the network is read.
    Denoiser(_not_loaded, asked.schedule or EDM(), "edm", null_condition={}).replace(**asked.options)
    return _from_edm(read_network(path), asked, path.name)


def _from_edm(net: Any, asked: _Asked, name: str) -> Denoiser:
    from dode.models.edm import adapt, schedule_of

    return _denoiser(adapt(net), None, asked.schedule or schedule_of(net), "edm", name)


def _from_pipeline(pipeline: Any, asked: _Asked) -> Denoiser:
    from dode.models.diffusers import adapt, class_name, config_of

    name = type(pipeline).__name__
    # A network's truth value is its length, which not every one has.
    found = (getattr(pipeline, part, None) for part in ("unet", "transformer"))
    net = next((part for part in found if part is not None), None)
    if net is None:
        raise ValueError(f"{name} has neither a unet nor a transformer")
    scheduler = _scheduler_of(pipeline.scheduler)
    config = config_of(net)
    if config is None:
        raise ValueError(
            f"{class_name(net)} is not a network that dode knows: give dode.Denoiser(net, schedule, prediction), called as net(x, t)"
        )
    # What dode's own pipelines say beside their networks, as dode.json does in a folder.
    said = getattr(pipeline, "config", None) or {}
    factor = int(said.get("space_to_depth") or 1)
    traits = traits_of(
        config,
        null_class=said.get("null_class"),
        learned_variance=scheduler is not None and scheduler.learned_variance,
        shape=asked.shape(factor),
    )
    schedule, prediction = _schedule_of(scheduler, traits, asked, name)
    return _denoiser(adapt(net, traits, factor), scheduler, schedule, prediction, name)


def _scheduler_of(scheduler: Any) -> SchedulerConfig | None:
    """The configuration of a scheduler object, read as that of the first of its classes that is known."""
    if scheduler is None:
        return None
    config = getattr(scheduler, "config", None)
    return SchedulerConfig({**(config if isinstance(config, Mapping) else {}), "_class_name": class_known(scheduler)})


def _from_network(net: Any, asked: _Asked) -> Denoiser:
    from torch import nn

    from dode.denoisers import Denoiser
    from dode.models.diffusers import adapt, class_name, config_of
    from dode.models.edm import is_edm_network

    if is_edm_network(net):
        return _from_edm(net, asked, class_name(net))
    config = config_of(net) if isinstance(net, nn.Module) else None
    if config is None:
        schedule, prediction = _schedule_of(None, None, asked, class_name(net))
        return Denoiser(net, schedule, prediction)
    traits = traits_of(config, shape=asked.shape())
    schedule, prediction = _schedule_of(None, traits, asked, class_name(net))
    return _denoiser(adapt(net, traits), None, schedule, prediction, class_name(net))


def _denoiser(
    adapted: Adapted, scheduler: SchedulerConfig | None, schedule: NoiseSchedule, prediction: str, name: str
) -> Denoiser:
    from dode.denoisers import Denoiser

    return Denoiser(
        adapted.net if scheduler is None else scheduler.wrap(adapted.net, schedule),
        schedule,
        prediction,
        shape=adapted.shape,
        null_condition=adapted.null_condition,
        integer_times=adapted.integer_times,
        name=name,
    )


def _schedule_of(
    scheduler: SchedulerConfig | None, traits: Traits | None, asked: _Asked, what: str
) -> tuple[NoiseSchedule, str]:
    """The schedule and prediction asked for, or else the scheduler's."""
    schedule, prediction, options = asked
    if scheduler is None:
        if schedule is None:
            raise ValueError(f"{what} has no scheduler: give schedule=..., for example dode.schedules.VP.linear()")
        return schedule, prediction or ("flow" if isinstance(schedule, Flow) else "epsilon")
    if schedule is None:
        schedule = scheduler.schedule(None if traits is None else traits.tokens)
    if prediction is None:
        prediction = scheduler.prediction
    elif scheduler.wraps is not None and prediction != scheduler.prediction:
        raise ValueError(
            f"the network of {scheduler.name} is {scheduler.wraps}, and is wrapped to predict {scheduler.prediction!r}, got "
            f"prediction {prediction!r}: leave it out, or load the network alone, without its scheduler"
        )
    if scheduler.thresholds and not {"clip", "dynamic_threshold"} & set(options):
        warnings.warn(f"{scheduler.name}: thresholding = True is left out: ask with dynamic_threshold=...", stacklevel=4)
    return schedule, prediction


@contextmanager
def current_folder_importable() -> Iterator[None]:
    """The current folder at the end of the import path, so that it shadows nothing."""
    before = list(sys.path)
    sys.path.append(str(Path.cwd()))
    try:
        yield
    finally:
        sys.path[:] = before
