"""Fashion-MNIST (Xiao, Rasul, Vollgraf 2017, MIT licence) as tensors, read from its four IDX files.

Debian's package `dataset-fashion-mnist` puts the files where `DEFAULT_FOLDER` says.
"""

import gzip
from pathlib import Path

import torch
from torch import Tensor

DEFAULT_FOLDER = Path("/usr/share/datasets/fashion-mnist")


def load(split: str, folder: Path = DEFAULT_FOLDER) -> tuple[Tensor, Tensor]:
    """Images (n, 1, 28, 28), float32 in [-1, 1], and labels (n,), int64 in 0..9.

    Args:
        split: "train" (60,000 images) or "test" (10,000).
        folder: where the gzipped IDX files are.

    Raises:
        FileNotFoundError: a file is missing; the message names the package to install.
    """
    prefix = {"train": "train", "test": "t10k"}[split]
    images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz")
    labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz")
    return images[:, None].float() / 127.5 - 1, labels.long()


def _read_idx(path: Path) -> Tensor:
    """An IDX file: two zero bytes, the type (8 = unsigned byte), the rank, the shape as big-endian int32, the data."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: install Debian's package dataset-fashion-mnist, or name the folder with --data"
        )
    raw = bytearray(gzip.decompress(path.read_bytes()))
    if raw[:3] != b"\0\0\x08":
        raise ValueError(f"{path} is not an IDX file of unsigned bytes")
    rank = raw[3]
    shape = [int.from_bytes(raw[4 + 4 * i : 8 + 4 * i], "big") for i in range(rank)]
    return torch.frombuffer(raw, dtype=torch.uint8, offset=4 + 4 * rank).reshape(shape)
