"""Samples as pictures."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from dode.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor


def to_grid(samples: Tensor, columns: int | None = None, *, gap: int = 2, enlarge: int = 1) -> Image.Image:
    """One picture of all samples, row by row.

    Args:
        samples: (n, channels, height, width) in [-1, 1] (what lies outside is cut), 1 or 3 channels.
        columns: pictures in a row; about as many as rows if None.
        gap: white pixels between them.
        enlarge: factor by which every pixel is repeated.

    Raises:
        ValueError: samples that are no pictures.
    """
    if samples.ndim != 4 or samples.shape[1] not in (1, 3):
        raise ValueError(
            f"pictures have shape (n, 1 or 3, height, width), got {tuple(samples.shape)}: write them to a .npy file"
        )
    n, channels, height, width = samples.shape
    columns = min(n, columns or math.ceil(math.sqrt(n)))
    rows = math.ceil(n / columns)
    values = ((samples.float().clamp(-1, 1) + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    values = values.repeat(enlarge, axis=1).repeat(enlarge, axis=2)
    height, width = height * enlarge, width * enlarge
    sheet = np.full((rows * (height + gap) - gap, columns * (width + gap) - gap, channels), 255, np.uint8)
    for i, picture in enumerate(values):
        y, x = divmod(i, columns)
        y, x = y * (height + gap), x * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return Image.fromarray(sheet.squeeze(2) if channels == 1 else sheet)


def save_samples(samples: Tensor, path: Path, columns: int | None = None, *, overwrite: bool = False) -> None:
    """Write samples as one picture (.png) or as they are (.npy, float32).

    Raises:
        ValueError: another ending, or samples that are no pictures for .png.
        FileExistsError, FileNotFoundError: as `dode.files.write_atomically`.
    """
    check_ending(path)
    if path.suffix == ".npy":
        array = samples.float().cpu().numpy()
        write_atomically(path, lambda temporary: np.save(temporary, array), overwrite=overwrite)
        return
    picture = to_grid(samples, columns, enlarge=max(1, 56 // samples.shape[-1]))
    write_atomically(path, lambda temporary: picture.save(temporary), overwrite=overwrite)


def check_ending(path: Path) -> None:
    """Raise ValueError unless `save_samples` can write a file of this name."""
    if path.suffix not in (".png", ".npy"):
        raise ValueError(f"{path} must end in .png (one picture) or .npy (the numbers)")
