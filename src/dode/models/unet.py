"""A UNet in plain PyTorch with the parameter names and the arithmetic of diffusers' `UNet2DModel`.

It takes the weights of that class for the configurations below, so that a small network loads without importing diffusers.

    emb  = MLP(cos and sin of t) + class embedding
    down: resnets (each followed by self-attention in an AttnDownBlock2D), every output kept; then half the resolution
    mid:  resnet, self-attention, resnet
    up:   resnets on [h, kept output]; then twice the resolution
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dode.foreign import brief

# diffusers' defaults of what may be chosen, and the one value implemented of everything else.
_DEFAULTS: dict[str, Any] = {
    "sample_size": None,
    "in_channels": 3,
    "out_channels": 3,
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (224, 448, 672, 896),
    "layers_per_block": 2,
    "downsample_padding": 1,
    "dropout": 0.0,
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "norm_eps": 1e-5,
    "num_class_embeds": None,
    "num_train_timesteps": None,
}
_FIXED: dict[str, Any] = {
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attn_norm_num_groups": None,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
}


class UNet(nn.Module):
    """`net(x, t, class_labels)`; made by `UNet.from_config`.

    Attributes:
        config: the configuration, with diffusers' keys and every default filled in.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        widths = config["block_out_channels"]
        time_width = config["time_embedding_dim"] or 4 * widths[0]
        common = _Common(
            time_width, config["norm_num_groups"], config["norm_eps"], config["attention_head_dim"], config["dropout"]
        )
        layers, last = config["layers_per_block"], len(widths) - 1

        self.conv_in = nn.Conv2d(config["in_channels"], widths[0], 3, padding=1)
        self.time_embedding = _TimeEmbedding(widths[0], time_width)
        classes = config["num_class_embeds"]
        self.class_embedding = None if classes is None else nn.Embedding(classes, time_width)

        self.down_blocks = nn.ModuleList()
        kept = [widths[0]]
        for i, (kind, width) in enumerate(zip(config["down_block_types"], widths, strict=True)):
            inputs = [widths[max(i - 1, 0)]] + [width] * (layers - 1)
            block = _Block(inputs, width, kind.startswith("Attn"), common)
            if i < last:
                block.downsamplers = nn.ModuleList([_Downsampler(width, config["downsample_padding"])])
            kept += [width] * (layers + (i < last))
            self.down_blocks.append(block)

        self.mid_block = _Block([widths[-1]] * 2, widths[-1], True, common, attentions=1)

        self.up_blocks = nn.ModuleList()
        width = widths[-1]
        for i, kind in enumerate(config["up_block_types"]):
            before, width = width, widths[last - i]
            inputs = [(before if j == 0 else width) + kept.pop() for j in range(layers + 1)]
            block = _Block(inputs, width, kind.startswith("Attn"), common)
            if i < last:
                block.upsamplers = nn.ModuleList([_Upsampler(width)])
            self.up_blocks.append(block)

        self.conv_norm_out = nn.GroupNorm(common.groups, widths[0], eps=common.eps)
        self.conv_out = nn.Conv2d(widths[0], config["out_channels"], 3, padding=1)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> UNet:
        """The network of a diffusers `config.json`, with random weights. Keys that begin with an underscore are ignored.

        Raises:
            ValueError: a key or a value that is not implemented here; the message names it.
        """
        return cls(full_config(config))

    def forward(self, x: Tensor, t: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """The prediction: (batch, out_channels, height, width).

        Args:
            x: (batch, in_channels, height, width); both sides divisible by 2 to the number of downsamplings.
            t: (batch,) or one number; may be fractional.
            class_labels: (batch,) integers below `num_class_embeds`, for a class-conditional network.
        """
        if (class_labels is None) != (self.class_embedding is None):
            raise ValueError("class_labels must be given" if class_labels is None else "the network takes no class_labels")
        emb = self.time_embedding(self._time_features(t, x).to(self.conv_in.weight.dtype))
        if self.class_embedding is not None:
            emb = emb + self.class_embedding(class_labels)
        emb = F.silu(emb)  # every resnet begins with it

        h = self.conv_in(x)
        kept = [h]
        for block in self.down_blocks:
            h = block(h, emb, kept)
        h = self.mid_block(h, emb)
        for block in self.up_blocks:
            h = block(h, emb, skips=kept)
        result: Tensor = self.conv_out(F.silu(self.conv_norm_out(h)))
        return result

    def _time_features(self, t: Tensor | float, x: Tensor) -> Tensor:
        """(batch, width) float32: cosines and sines of t at frequencies from 1 down to 1/10000."""
        width = self.config["block_out_channels"][0]
        half = width // 2
        exponents = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=x.device)
        frequencies = torch.exp(exponents / (half - self.config["freq_shift"]))
        angles = torch.as_tensor(t, dtype=torch.float32, device=x.device).expand(x.shape[0])[:, None] * frequencies
        parts = [angles.cos(), angles.sin()] if self.config["flip_sin_to_cos"] else [angles.sin(), angles.cos()]
        return F.pad(torch.cat(parts, dim=1), (0, width % 2))


def full_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration of diffusers with every default filled in.

    Raises:
        ValueError: a key or a value that `UNet` does not implement; the message names it.
    """
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    for key, value in given.items():
        if key not in _DEFAULTS and key not in _FIXED:
            raise ValueError(f"UNet does not know the key {brief(key)} of the configuration")
        if key in _FIXED and value != _FIXED[key]:
            raise ValueError(f"UNet implements {key} = {_FIXED[key]!r} alone, got {brief(value)}")
    full = _DEFAULTS | _FIXED | given
    for key, kinds in (
        ("down_block_types", ("DownBlock2D", "AttnDownBlock2D")),
        ("up_block_types", ("UpBlock2D", "AttnUpBlock2D")),
    ):
        lists = full[key], full["block_out_channels"]
        if not all(isinstance(value, list | tuple) for value in lists) or len(lists[0]) != len(lists[1]):
            raise ValueError(f"{key} and block_out_channels must be lists of equal lengths, got {brief(full[key])}")
        for kind in full[key]:
            if kind not in kinds:
                raise ValueError(f"UNet implements {' and '.join(kinds)} as {key}, got {brief(kind)}")
    if full["norm_num_groups"] is None:
        raise ValueError("UNet needs norm_num_groups, got None")
    return full


class _Common(NamedTuple):
    """What all blocks of a network share."""

    time_width: int
    groups: int
    eps: float
    head_width: int | None
    dropout: float


class _TimeEmbedding(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(inputs, outputs)
        self.linear_2 = nn.Linear(outputs, outputs)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.linear_2(F.silu(self.linear_1(features)))
        return result


class _Block(nn.Module):
    """Resnets, with attention after the first `attentions` of them (all if None) where asked for."""

    def __init__(self, inputs: list[int], width: int, attention: bool, common: _Common, attentions: int | None = None) -> None:
        super().__init__()
        count = (len(inputs) if attentions is None else attentions) if attention else 0
        self.resnets = nn.ModuleList(_Resnet(n, width, common) for n in inputs)
        self.attentions = nn.ModuleList(_Attention(width, common) for _ in range(count))
        self.downsamplers: nn.ModuleList | None = None
        self.upsamplers: nn.ModuleList | None = None

    def forward(self, h: Tensor, emb: Tensor, kept: list[Tensor] | None = None, skips: list[Tensor] | None = None) -> Tensor:
        """Every output is appended to `kept`; every resnet takes the newest of `skips` beside its input."""
        for i, resnet in enumerate(self.resnets):
            h = resnet(h if skips is None else torch.cat([h, skips.pop()], dim=1), emb)
            if i < len(self.attentions):
                h = self.attentions[i](h)
            if kept is not None:
                kept.append(h)
        if self.downsamplers is not None:
            h = self.downsamplers[0](h)
            if kept is not None:
                kept.append(h)
        if self.upsamplers is not None:
            h = self.upsamplers[0](h)
        return h


class _Resnet(nn.Module):
    def __init__(self, inputs: int, outputs: int, common: _Common) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(common.groups, inputs, eps=common.eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(common.time_width, outputs)
        self.norm2 = nn.GroupNorm(common.groups, outputs, eps=common.eps)
        self.dropout = nn.Dropout(common.dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = h + self.time_emb_proj(emb)[:, :, None, None]
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        result: Tensor = (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h
        return result


class _Attention(nn.Module):
    def __init__(self, width: int, common: _Common) -> None:
        super().__init__()
        self.head_width = common.head_width or width
        inner = width // self.head_width * self.head_width
        self.group_norm = nn.GroupNorm(common.groups, width, eps=common.eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, inner) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(inner, width)])  # a list, as diffusers has a dropout beside it

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            linear(tokens).unflatten(2, (-1, self.head_width)).transpose(1, 2) for linear in (self.to_q, self.to_k, self.to_v)
        )
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        result: Tensor = self.to_out[0](attended).transpose(1, 2).reshape(x.shape) + x
        return result


class _Downsampler(nn.Module):
    def __init__(self, width: int, padding: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=padding)

    def forward(self, x: Tensor) -> Tensor:
        # Without padding of its own the convolution gets one row and column at the far ends.
        result: Tensor = self.conv(F.pad(x, (0, 1, 0, 1)) if self.conv.padding[0] == 0 else x)
        return result


class _Upsampler(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result
