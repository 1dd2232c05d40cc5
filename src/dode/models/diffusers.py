"""diffusers' networks and folders as dode's.

diffusers itself is imported only for a network that `dode.models.UNet` does not implement. Nothing is ever downloaded.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from dode.defaults import usual_defaults
from dode.models.unet import UNet
from dode.models.wrappers import ClassLabels, ConcatChannels, MeanHalf, SpaceToDepth, TimestepKeyword
from dode.names import unknown_name

# The defaults of diffusers' classes where they matter here.
_UNETS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {"in_channels": 3, "out_channels": 3},
    "UNet2DConditionModel": {"in_channels": 4, "out_channels": 4},
}
# Those whose `timestep` is the scheduler's own time.
_TRANSFORMERS: dict[str, dict[str, Any]] = {
    "DiTTransformer2DModel": {"in_channels": 4, "sample_size": 32, "patch_size": 2, "num_embeds_ada_norm": 1000},
    "PixArtTransformer2DModel": {"in_channels": 4, "out_channels": 8, "sample_size": 128, "patch_size": 2},
    "SD3Transformer2DModel": {"in_channels": 16, "out_channels": 16, "sample_size": 128, "patch_size": 2},
}
_KNOWN = _UNETS | _TRANSFORMERS
# diffusers' own rule for what older folders call by a name that serves several networks: by their norm_type.
_RENAMED = {
    "Transformer2DModel": {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"},
}
# Modules of PyTorch that hold a network, by the attribute that has it.
_HOLDERS = {
    "_orig_mod": {"OptimizedModule"},
    "module": {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "AveragedModel"},
}
_WEIGHTS = "diffusion_pytorch_model"


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


@dataclass(frozen=True)
class Traits:
    """What a network's configuration says of how it is called; see `traits_of`.

    Attributes:
        kind: the class of network, by its present name.
        channels: of a sample, as the network has it.
        beside: how many input channels it has beside the sample's.
        variance: it gives a variance behind its prediction.
        classes: how many class labels it takes, the null class included; None if it takes none.
        null_class: the label that means "none"; None if there is none.
        size: height and width of a sample; None where the configuration does not say.
        patch: the side of a transformer's patch; None for others.
        integer_times: it looks its times up in a table.
    """

    kind: str
    channels: int
    beside: int
    variance: bool
    classes: int | None
    null_class: int | None
    size: tuple[int, int] | None
    patch: int | None
    integer_times: bool

    def shape(self, space_to_depth: int = 1) -> tuple[int, ...] | None:
        """Shape of a sample where this factor of space was moved into channels."""
        if self.size is None:
            return None
        height, width = self.size
        return self.channels // space_to_depth**2, height * space_to_depth, width * space_to_depth

    @property
    def null_condition(self) -> dict[str, Any] | None:
        """For guidance; None where there is no null class."""
        return None if self.null_class is None else {"class_labels": self.null_class}

    @property
    def tokens(self) -> int | None:
        """How many patches an image has; None where it is not known."""
        if self.size is None or self.patch is None:
            return None
        return self.size[0] // self.patch * (self.size[1] // self.patch)


def traits_of(
    config: Mapping[str, Any],
    *,
    null_class: int | None = None,
    learned_variance: bool = False,
    shape: tuple[int, ...] | None = None,
) -> Traits:
    """How a network of this configuration is called.

    Args:
        config: of the network, with its `_class_name`.
        null_class: the class that means "none", where diffusers does not say whether there is one. For a DiT it does: the one
            behind the last.
        learned_variance: the scheduler asks for a variance of the network.
        shape: of a sample, (channels, height, width), where the caller knows; else by the rule that a network with twice as many
            output as input channels gives a variance too, and that what it takes beyond the channels that it gives stands beside
            the sample.

    Raises:
        ValueError: a class that is called in another way, or values that do not fit.
    """
    kind = _present_name(config)
    config = _KNOWN[kind] | dict(config)
    inputs = int(config["in_channels"])
    outputs = int(config.get("out_channels") or inputs)
    channels = _sample_channels(inputs, outputs, learned_variance, None if shape is None else shape[0])
    classes = _classes(config, kind)
    if null_class is None and kind == "DiTTransformer2DModel" and classes is not None:
        null_class = classes - 1
    if null_class is not None:
        if classes is None:
            raise ValueError(f"null_class is {null_class}, but {kind} takes no class labels here")
        if not 0 <= null_class < classes:
            raise ValueError(f"null_class must lie in 0 .. {classes - 1}, got {null_class}")
    return Traits(
        kind=kind,
        channels=channels,
        beside=inputs - channels,
        variance=outputs == 2 * channels,
        classes=classes,
        null_class=null_class,
        size=_size(config.get("sample_size")) if shape is None else (shape[1], shape[2]),
        patch=config.get("patch_size") if kind in _TRANSFORMERS else None,
        integer_times=kind == "UNet2DModel" and config.get("time_embedding_type") == "learned",
    )


def _present_name(config: Mapping[str, Any]) -> str:
    name = str(config.get("_class_name"))
    if name in _RENAMED:
        kinds, norm = _RENAMED[name], str(config.get("norm_type"))
        if norm not in kinds:
            raise ValueError(f"{name} with norm_type {norm!r} is not known: {', '.join(kinds)} are")
        return kinds[norm]
    if name not in _KNOWN:
        unknown = unknown_name("network class", name, _KNOWN)
        raise ValueError(f"{unknown}; dode.load(net, schedule=...) takes a network that is loaded already, called as net(x, t)")
    return name


def _size(size: Any) -> tuple[int, int] | None:
    if size is None or isinstance(size, int):
        return None if size is None else (size, size)
    return int(size[0]), int(size[1])


def _sample_channels(inputs: int, outputs: int, learned_variance: bool, given: int | None) -> int:
    if given is not None:
        if given > inputs or outputs not in (given, 2 * given):
            raise ValueError(f"shape: the network takes {inputs} channels and gives {outputs}, got a sample of {given}")
        return given
    if outputs == 2 * inputs:
        return inputs
    if learned_variance and outputs % 2 == 0 and outputs // 2 < inputs:
        return outputs // 2
    if outputs > inputs:
        fits = outputs % 2 == 0 and outputs // 2 <= inputs
        advice = "give shape=(channels, height, width) of a sample" if fits else "give a module around it that returns a sample"
        raise ValueError(f"the network takes {inputs} channels and gives {outputs}, what a sample is cannot be told: {advice}")
    return outputs


def _classes(config: Mapping[str, Any], kind: str) -> int | None:
    if kind == "DiTTransformer2DModel":
        labels = config.get("num_embeds_ada_norm")
        return None if labels is None else int(labels) + 1  # the null class is behind the last
    if kind in _UNETS and config.get("class_embed_type") is None and config.get("num_class_embeds") is not None:
        return int(config["num_class_embeds"])
    return None


def config_of(net: nn.Module) -> dict[str, Any] | None:
    """The configuration of a network that `traits_of` can read; None for another one. What compiles or spreads a network over
    devices is looked through."""
    inner = _inner(net)
    names = ["UNet2DModel"] if isinstance(inner, UNet) else [kind.__name__ for kind in type(inner).__mro__]
    config = getattr(inner, "config", None)
    if not isinstance(config, Mapping):
        return None
    norm = config.get("norm_type")
    known = next((name for name in names if name in _KNOWN or norm in _RENAMED.get(name, {})), None)
    return None if known is None else {**config, "_class_name": known}


def class_name(net: Any) -> str:
    """Of the network inside what compiles it or spreads it over devices."""
    return type(_inner(net)).__name__


def _inner(net: Any) -> Any:
    names = {kind.__name__ for kind in type(net).__mro__}
    attribute = next((attribute for attribute, kinds in _HOLDERS.items() if names & kinds), None)
    return net if attribute is None else _inner(getattr(net, attribute))


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
    if traits.kind in _TRANSFORMERS:
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
def load_network(folder: Path, kind: str, *, allow_pickle: bool = False) -> nn.Module:
    """The network of a folder with `config.json` and weights: float32, evaluation mode, no gradients.

    Args:
        folder: where they are.
        kind: the class of network, by its present name.
        allow_pickle: read weights from a .bin file if there is no other.

    Raises:
        FileNotFoundError: no configuration or no weights there.
        ValueError: the weights are pickled and `allow_pickle` is False, or something is damaged.
        ImportError: the network needs diffusers and it is not installed.
    """
    config = read_json(folder / "config.json")
    weights = _find_weights(folder, allow_pickle)
    net = _light_network(config, weights)
    if net is None:
        net = _diffusers_network(folder, kind, weights)
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


def _diffusers_network(folder: Path, kind: str, weights: Path) -> nn.Module:
    try:
        import diffusers
    except ImportError as error:
        raise ImportError(f"{kind} in {folder} needs diffusers: pip install dode[diffusers]") from error
    if not hasattr(diffusers, kind):
        raise ImportError(f"{kind} in {folder} is not in diffusers {diffusers.__version__}: install a newer one")
    net: nn.Module = getattr(diffusers, kind).from_pretrained(
        str(folder),
        variant="fp16" if ".fp16" in weights.name else None,
        use_safetensors=weights.suffix != ".bin",
        local_files_only=True,
        torch_dtype=torch.float32,
        low_cpu_mem_usage=False,
    )
    return net
