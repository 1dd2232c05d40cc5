"""torch's defaults are the caller's affair: no number of dode depends on them.

Wherever dode makes a tensor it names dtype and device. What is made by others while they load a network (layers, then their weights) takes
torch's defaults, so that it is made under the usual ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def usual_defaults() -> Iterator[None]:
    """float32 on the host while the block runs."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        with torch.device("cpu"):
            yield
    finally:
        torch.set_default_dtype(before)
