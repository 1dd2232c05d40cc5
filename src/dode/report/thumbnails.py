"""Small pictures for a page: samples side by side, as WebP."""

from __future__ import annotations

from io import BytesIO

import torch
from torch import Tensor
from torch.nn import functional

from dode.images import to_grid

# Pixels of a picture's longer side at the most, and WebP's quality: some kilobytes for a row of eight.
LONGEST, _QUALITY = 64, 85
# WebP has no picture wider than 16,383 pixels.
MOST = 16_383 // LONGEST


def are_images(shape: tuple[int, ...]) -> bool:
    """Whether samples of this shape are pictures: (1 or 3, height, width)."""
    return len(shape) == 3 and shape[0] in (1, 3)


def strip(images: Tensor) -> bytes:
    """Pictures side by side, none larger than `LONGEST`.

    Args:
        images: (n, 1 or 3, height, width) in [-1, 1], at most `MOST`; what lies outside is cut, and what is not finite is grey.
    """
    small = torch.nan_to_num(images.detach().float().cpu(), nan=0.0, posinf=0.0, neginf=0.0).clamp(-1, 1)
    height, width = small.shape[-2:]
    if (longer := max(height, width)) > LONGEST:
        size = [max(1, round(side * LONGEST / longer)) for side in (height, width)]
        small = functional.interpolate(small, size=size, mode="area")
    file = BytesIO()
    to_grid(small, columns=len(small), gap=0).save(file, "WEBP", quality=_QUALITY, method=4)
    return file.getvalue()
