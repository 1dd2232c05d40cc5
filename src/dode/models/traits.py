"""What the configuration of a network of diffusers says of how it is called. Needs neither diffusers nor PyTorch: what cannot be used
is refused before these are imported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dode.foreign import brief
from dode.names import unknown_name

# The defaults of diffusers' classes where they matter here.
UNETS: dict[str, dict[str, Any]] = {
    "UNet2DModel": {"in_channels": 3, "out_channels": 3},
    "UNet2DConditionModel": {"in_channels": 4, "out_channels": 4},
}
# Those whose `timestep` is the scheduler's own time.
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "DiTTransformer2DModel": {
        "in_channels": 4,
        "sample_size": 32,
        "patch_size": 2,
        "num_embeds_ada_norm": 1000,
        "num_attention_heads": 16,
        "attention_head_dim": 72,
    },
    "PixArtTransformer2DModel": {
        "in_channels": 4,
        "out_channels": 8,
        "sample_size": 128,
        "patch_size": 2,
        "num_attention_heads": 16,
        "attention_head_dim": 72,
    },
    "SD3Transformer2DModel": {
        "in_channels": 16,
        "out_channels": 16,
        "sample_size": 128,
        "patch_size": 2,
        "num_attention_heads": 18,
        "attention_head_dim": 64,
        "pos_embed_max_size": 96,
    },
}
KNOWN = UNETS | TRANSFORMERS
# diffusers' own rule for what older folders call by a name that serves several networks: by their norm_type.
RENAMED = {
    "Transformer2DModel": {"ada_norm_zero": "DiTTransformer2DModel", "ada_norm_single": "PixArtTransformer2DModel"},
}


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
    config = with_defaults(kind, config)
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
        patch=config.get("patch_size") if kind in TRANSFORMERS else None,
        integer_times=kind == "UNet2DModel" and config.get("time_embedding_type") == "learned",
    )


def with_defaults(kind: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration with diffusers' defaults of a class for what it leaves out."""
    return KNOWN[kind] | {key: value for key, value in config.items() if value is not None or key not in KNOWN[kind]}


def _present_name(config: Mapping[str, Any]) -> str:
    name = str(config.get("_class_name"))
    if name in RENAMED:
        kinds, norm = RENAMED[name], str(config.get("norm_type"))
        if norm not in kinds:
            raise ValueError(f"{name} with norm_type {brief(norm)} is not known: {', '.join(kinds)} are")
        return kinds[norm]
    if name not in KNOWN:
        unknown = unknown_name("network class", name, KNOWN)
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
    if kind in UNETS and config.get("class_embed_type") is None and config.get("num_class_embeds") is not None:
        return int(config["num_class_embeds"])
    return None
