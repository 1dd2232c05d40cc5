"""Pictures of a card: for each number of calls a sheet with a row for each run, from the same noise."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from dode.images import to_grid

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

# The side below which pictures are enlarged.
_SMALL = 96


class Sheet(NamedTuple):
    """Pictures with one number of calls.

    Attributes:
        calls: the number.
        image: them.
        rows: what each row is of, from above.
    """

    calls: int
    image: Image
    rows: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"pictures-{self.calls}.png"

    def save(self, folder: Path) -> None:
        self.image.save(folder / self.name)


class Pictures(NamedTuple):
    """What a card shows.

    Attributes:
        sheets: fewest calls first.
        columns: what each column is of; none where there is nothing to say.
        missing: why there are no sheets.
    """

    sheets: tuple[Sheet, ...] = ()
    columns: tuple[str, ...] = ()
    missing: str = ""


def sheet(calls: int, rows: Mapping[str, Tensor]) -> Sheet:
    """A sheet of samples by what they are of.

    Args:
        calls: the number of calls.
        rows: each (n, channels, height, width) in [-1, 1], or (n, frames, channels, height, width): of a video a frame from its middle.

    Raises:
        ValueError: samples that are no pictures.
    """
    whole = torch.cat(list(rows.values()))
    if whole.ndim == 5:
        whole = whole[:, whole.shape[1] // 2]
    columns = len(whole) // len(rows)
    return Sheet(calls, to_grid(whole, columns, enlarge=max(1, _SMALL // whole.shape[-1])), tuple(rows))
