"""diffusers' networks and folders as dode's.

diffusers itself is imported only for a network that `dode.models.UNet` does not implement. Nothing is ever downloaded.
"""

from __future__ import annotations

import contextlib
import inspect
import pickle
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dode.defaults import usual_defaults
from dode.foreign import first_line, printable
from dode.models.traits import KNOWN, RENAMED, TRANSFORMERS, Traits
from dode.models.unet import UNet, full_config
from dode.models.weights import Stored, Weight
from dode.models.wrappers import ClassLabels, ConcatChannels, MeanHalf, SpaceToDepth, TimestepKeyword

# Modules of PyTorch that hold a network, by the attribute that has it.
_HOLDERS = {
    "_orig_mod": {"OptimizedModule"},
    "module": {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "AveragedModel"},
}


class Adapted(NamedTuple):
    """A network as `Denoiser` calls it.

    Attributes:
        net: called as net(x, t, **cond).
        shape: of one sample; None where the configuration does not say.
        null_condition: for guidance; None where the network has no null class.
        integer_times: the network looks its times up in a table.
    """

    net: nn.Module
    shape: tuple[int, ...] | None
    null_condition: dict[str, Any] | None
    integer_times: bool


def config_of(net: nn.Module) -> dict[str, Any] | None:
    """The configuration of a network that `traits_of` can read; None for another one. What compiles or spreads a network over
    devices is looked through."""
    inner = inner_network(net)
    names = ["UNet2DModel"] if isinstance(inner, UNet) else [kind.__name__ for kind in type(inner).__mro__]
    config = getattr(inner, "config", None)
    if not isinstance(config, Mapping):
        return None
    norm = config.get("norm_type")
    known = next((name for name in names if name in KNOWN or norm in RENAMED.get(name, {})), None)
    return None if known is None else {**config, "_class_name": known}


def class_name(net: Any) -> str:
    """Of the network inside what compiles it or spreads it over devices."""
    return type(inner_network(net)).__name__


def inner_network(net: Any) -> Any:
    """The network inside what compiles it or spreads it over devices."""
    names = {kind.__name__ for kind in type(net).__mro__}
    attribute = next((attribute for attribute, kinds in _HOLDERS.items() if names & kinds), None)
    return net if attribute is None else inner_network(getattr(net, attribute))


def adapt(net: nn.Module, traits: Traits, space_to_depth: int = 1) -> Adapted:
    """A network of diffusers, or a `UNet`, made ready for `Denoiser`.

    A predicted variance is left out; class labels may be a number or a list; channels beside the sample's are the condition
    `concat`.

    Args:
        net: of a class that `traits_of` knows; compiled or parallel ones are called as they are.
        traits: of its configuration.
        space_to_depth: the network works on images with this factor of space moved into channels.
    """
    adapted = net
    if traits.kind in TRANSFORMERS:
        adapted = TimestepKeyword(adapted)
    if traits.beside:
        adapted = ConcatChannels(adapted, traits.beside)
    if traits.variance:
        adapted = MeanHalf(adapted)
    if traits.classes is not None:
        adapted = ClassLabels(adapted, traits.classes, traits.null_class)
    if space_to_depth != 1:
        adapted = SpaceToDepth(adapted, space_to_depth)
    return Adapted(adapted, traits.shape(space_to_depth), traits.null_condition, traits.integer_times)


@usual_defaults()
def load_network(folder: Path, kind: str, config: Mapping[str, Any], stored: Stored) -> nn.Module:
    """The network of a folder: float32, evaluation mode, no gradients.

    Args:
        folder: where `config.json` and the weights are.
        kind: the class of network, by its present name.
        config: what `config.json` holds.
        stored: the weights.

    Raises:
        ValueError: weights and configuration do not fit each other, or something is damaged.
        ImportError: the network needs diffusers and it is not installed.
    """
    net = _light_network(folder, config, stored)
    if net is None:
        net = _diffusers_network(folder, kind, config, stored)
    return net.requires_grad_(False).eval()


def _light_network(folder: Path, config: Mapping[str, Any], stored: Stored) -> nn.Module | None:
    """A `UNet` with these weights; None where it does not implement the configuration or the names of the weights."""
    if config.get("_class_name") != "UNet2DModel" or stored.path.suffix == ".json" or stored.older_names:
        return None
    try:
        full = full_config(config)
    except ValueError:
        return None
    net = _without_numbers(folder, lambda: UNet(full))
    state = _read_weights(stored.path) if stored.weights is None else None
    weights = _weights_of(state) if state is not None else stored.weights
    assert weights is not None
    _compare(stored.path, net.state_dict(), weights)
    state = _read_weights(stored.path) if state is None else state
    # A copy in any case: the numbers do not stay in a file that may change.
    net.load_state_dict({name: state[name].to(torch.float32, copy=True) for name in net.state_dict()}, assign=True)
    return net


def _without_numbers(folder: Path, build: Callable[[], nn.Module]) -> nn.Module:
    """A network without memory for its numbers, to know their names and shapes."""
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of numbers that are not there
            return build()
    except NotImplementedError:
        raise
    except Exception as error:  # whatever a constructor makes of values that it does not expect
        raise ValueError(f"{folder / 'config.json'} makes no network: {first_line(error)}") from error


def _compare(path: Path, expected: Mapping[str, Tensor], weights: Mapping[str, Weight]) -> None:
    """Raise ValueError unless the weights are all there and as the network has them; warn of those that it has no place for."""
    missing = [name for name in expected if name not in weights]
    if missing:
        raise ValueError(f"{path} lacks what config.json asks for: {_names(missing)}")
    for name, tensor in expected.items():
        if weights[name].shape != tuple(tensor.shape):
            raise ValueError(f"{path}: {name} has shape {weights[name].shape}, config.json asks for {tuple(tensor.shape)}")
        if tensor.is_floating_point() and not weights[name].floating:
            raise ValueError(f"{path}: {name} holds whole numbers, config.json asks for fractions")
    left = [name for name in weights if name not in expected]
    if left:
        warnings.warn(f"{path} has what config.json has no place for, and it is left out: {_names(left)}", stacklevel=2)


def _names(names: Sequence[str], most: int = 3) -> str:
    listed = ", ".join(map(printable, names[:most]))
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def _weights_of(state: Mapping[str, Tensor]) -> dict[str, Weight]:
    return {name: Weight(tuple(tensor.shape), tensor.is_floating_point()) for name, tensor in state.items()}


def _read_weights(path: Path) -> dict[str, Tensor]:
    try:
        content: Any = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError(f"{path} cannot be read: it holds other things than tensors") from None
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from error
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ValueError(f"{path} must hold tensors by name")
    return content


def _diffusers_network(folder: Path, kind: str, config: Mapping[str, Any], stored: Stored) -> nn.Module:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"{kind} in {folder} needs diffusers: pip install dode[diffusers]") from error
    if not hasattr(diffusers, kind):
        raise ImportError(f"{kind} in {folder} is not in diffusers {diffusers.__version__}: install a newer one")
    made = getattr(diffusers, kind)
    unread = set(config) - set(inspect.signature(made.__init__).parameters)
    unread = {key for key in unread if not key.startswith("_") and config[key]}
    if unread:
        warnings.warn(f"{folder / 'config.json'} has what {kind} does not read: {_names(sorted(unread))}", stacklevel=2)
    with _quiet(diffusers.utils.logging):
        return _made_by_diffusers(made, folder, config, stored)


@contextlib.contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """diffusers logs what is said here, with names as they are in the file."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _made_by_diffusers(made: Any, folder: Path, config: Mapping[str, Any], stored: Stored) -> nn.Module:
    if stored.weights is not None and not stored.older_names:
        # Where a network cannot be made without numbers, what it lacks is seen below.
        with contextlib.suppress(NotImplementedError):
            empty = _without_numbers(folder, lambda: made.from_config(dict(config)))
            _compare(stored.path, empty.state_dict(), stored.weights)
    try:
        net, info = made.from_pretrained(
            str(folder),
            variant="fp16" if ".fp16" in stored.path.name else None,
            use_safetensors=stored.path.suffix != ".bin",
            local_files_only=True,
            torch_dtype=torch.float32,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except ImportError:  # a library that this network needs beside diffusers
        raise
    except Exception as error:  # diffusers raises all kinds
        raise ValueError(f"{folder} cannot be loaded by diffusers: {first_line(error)}") from error
    if info["missing_keys"]:
        raise ValueError(f"{stored.path} lacks what config.json asks for: {_names(sorted(info['missing_keys']))}")
    result: nn.Module = net
    return result
