"""The weights in a folder: which file has them, and the names, shapes and kinds of numbers that its header tells of.

What a configuration asks for is compared with that before anything is built. Needs neither diffusers nor PyTorch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from safetensors import SafetensorError, safe_open

from dode.foreign import first_line
from dode.models.traits import TRANSFORMERS, with_defaults
from dode.reading import LARGE, checked, failing_as, read_json

if TYPE_CHECKING:
    from dode.schemas import NetworkFile

_WEIGHTS = "diffusion_pytorch_model"
# Bytes of a safetensors header; the largest in use have one.
_HEADER = 2**24
# Positions of a transformer, by the numbers that tell of them: a small network may have so many, others no more than weights.
_POSITIONS = 2**22


class Weight(NamedTuple):
    """What a header says of a tensor; `floating` where it holds fractions."""

    shape: tuple[int, ...]
    floating: bool


class Stored(NamedTuple):
    """Weights on disk.

    Attributes:
        path: the file, or the index of the files that they are split over.
        weights: by name; None for a pickle, which tells nothing before it is read.
    """

    path: Path
    weights: Mapping[str, Weight] | None

    @property
    def older_names(self) -> bool:
        """Whether attention has the names of older versions, which diffusers translates."""
        return any(".query." in name or ".proj_attn." in name for name in self.weights or ())


def find_weights(folder: Path, *, allow_pickle: bool = False) -> Stored:
    """The weights of a network's folder.

    Raises:
        FileNotFoundError: there are none.
        ValueError: they are pickled and `allow_pickle` is False, or a header is damaged.
    """
    for variant in ("", ".fp16"):
        # The index of weights that are split over many files counts as the file.
        single, index = (
            folder / name for name in (f"{_WEIGHTS}{variant}.safetensors", f"{_WEIGHTS}.safetensors.index{variant}.json")
        )
        if single.is_file():
            return Stored(single, _header(single))
        if index.is_file():
            return Stored(index, _split(index))
    pickled = sorted(folder.glob(f"{_WEIGHTS}*.bin"))
    if not pickled:
        raise FileNotFoundError(f"{folder} has no {_WEIGHTS}.safetensors")
    if not allow_pickle:
        raise ValueError(f"{pickled[0]} is a pickle, which can run code: convert it to safetensors, or give allow_pickle=True")
    return Stored(pickled[0], None)


def check_size(kind: str, config: NetworkFile, stored: Stored) -> None:
    """Raise ValueError if a configuration asks for far more than there are weights: building it would take memory or time."""
    weights = stored.weights
    if weights is None:
        return
    if config.layers > len(weights):
        raise ValueError(f"it asks for {config.layers:,} layers, and {stored.path.name} has {len(weights):,} tensors")
    if kind not in TRANSFORMERS:
        return
    full = with_defaults(kind, config.model_dump())
    heads, width = full["num_attention_heads"], full["attention_head_dim"]
    if isinstance(heads, list) or isinstance(width, list):
        raise ValueError(f"{kind} takes one number of heads and one width of theirs, got lists")
    side = full.get("pos_embed_max_size") or _larger(full["sample_size"]) // full["patch_size"]
    positions = side**2 * heads * width
    if positions > max(_POSITIONS, sum(math.prod(weight.shape) for weight in weights.values())):
        raise ValueError(f"it asks for {side:,} x {side:,} positions, far more than fit the weights in {stored.path.name}")


def _larger(size: Any) -> int:
    return int(max(size)) if isinstance(size, list | tuple) else int(size)


def _split(index: Path) -> dict[str, Weight]:
    from dode.schemas import WeightsIndex

    content = read_json(index, LARGE)
    with failing_as(index):
        names = sorted(set(checked(WeightsIndex, content).weight_map.values()))
    found: dict[str, Weight] = {}
    for name in names:
        if not (index.parent / name).is_file():
            raise FileNotFoundError(f"{index} names {name}, which is not there")
        found |= _header(index.parent / name)
    return found


def _header(path: Path) -> dict[str, Weight]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _HEADER:
        raise ValueError(f"{path} cannot be read: its header has {length:,} bytes, and may have {_HEADER:,}")
    try:
        with safe_open(path, framework="numpy") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            return {name: Weight(tuple(s.get_shape()), "F" in s.get_dtype()) for name, s in slices.items()}
    except (SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from error
