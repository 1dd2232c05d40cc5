"""Statistics of images that are there already: a folder of pictures, an array, or the file of statistics that the field hands round."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dode.cache import Cache
from dode.conditions import hash_tensor
from dode.foreign import first_line
from dode.metrics.classes import ClassSums
from dode.metrics.extractors import Extractor
from dode.metrics.gathering import KEPT, Gathering, Statistics

# Part of the names of entries: raised where what they hold changes.
FORM = 1
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
_ARRAYS = (".npy", ".npz")
# Images that are read together.
_AT_ONCE = 256


def statistics_of(
    source: str | Path | Tensor | np.ndarray[Any, Any], extractor: Extractor, *, cache: Cache | None = None, kept: int = KEPT
) -> Statistics:
    """Statistics of images, or of a file with them.

    Args:
        source: one of

            - a folder of pictures of one size (not those of its subfolders), made grey or coloured as the extractor has it;
            - a file .npz with `mu` (d,) and `sigma` (d, d), as the field has them: there are no features in it, so that only a Frechet
              distance can be had, whose interval knows nothing of the chance in the file;
            - a file .npy, or .npz with one array, of images: bytes (n, height, width, channels), (n, channels, height, width) or
              (n, height, width), or numbers (n, channels, height, width) in [-1, 1];
            - such an array, or a tensor.
        extractor: what looks at them.
        cache: where statistics are kept, by the content of the source and the extractor's digest; a damaged entry is made again, which
            is said.
        kept: as of `Gathering`.

    Raises:
        FileNotFoundError: there is no such file or folder, or no picture in it.
        ValueError: fewer than 2 images, pictures of different sizes, a damaged file, or what `Extractor` refuses.
    """
    if isinstance(source, str | Path):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist: name a folder of images, or a file .npz or .npy")
        if path.is_dir():
            return _gathered(_Pictures(path, extractor), extractor, cache, kept)
        found = _read(path)
        if isinstance(found, Statistics):
            return found
        return _gathered(_Array(found, str(path)), extractor, cache, kept)
    return _gathered(_Array(source, "the images"), extractor, cache, kept)


class _Pictures:
    """The pictures of a folder as batches."""

    def __init__(self, folder: Path, extractor: Extractor) -> None:
        self._paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
        if not self._paths:
            raise FileNotFoundError(f"{folder} has no pictures ({', '.join(PICTURES)}) in it")
        self._mode = {1: "L", 3: "RGB"}.get(extractor.channels or 0)
        self._first = self._paths[0].name
        first = self._open(self._paths[0])
        self._mode = self._mode or ("L" if first.ndim == 2 else "RGB")
        self._size = first.shape[:2]
        self.shape = (1 if self._mode == "L" else 3, *self._size)

    def hash(self, digest: hashlib._Hash) -> None:
        for path in self._paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())

    def __iter__(self) -> Iterator[Tensor]:
        for first in range(0, len(self._paths), _AT_ONCE):
            yield as_images(np.stack([self._checked(path) for path in self._paths[first : first + _AT_ONCE]]))

    def _checked(self, path: Path) -> np.ndarray[Any, Any]:
        found = self._open(path)
        if found.shape[:2] != self._size:
            (h, w), (a, b) = found.shape[:2], self._size
            raise ValueError(f"{path} has {w} x {h} pixels, and {self._first} {b} x {a}: bring all pictures to one size")
        return found

    def _open(self, path: Path) -> np.ndarray[Any, Any]:
        try:
            with Image.open(path) as picture:
                return np.asarray(picture.convert(self._mode or ("L" if picture.mode in ("1", "L") else "RGB")))
        except Exception as error:  # whatever foreign bytes do to a reader
            raise ValueError(f"{path} cannot be read as a picture: {first_line(error)}") from error


class _Array:
    """An array of images as batches."""

    def __init__(self, images: Tensor | np.ndarray[Any, Any], name: str) -> None:
        if len(images) < 2:
            raise ValueError(f"{name}: a covariance needs 2 images or more, got {len(images)}")
        self._images = images
        self.shape = tuple(as_images(images[:1]).shape[1:])

    def hash(self, digest: hashlib._Hash) -> None:
        for first in range(0, len(self._images), _AT_ONCE):
            part = self._images[first : first + _AT_ONCE]
            hash_tensor(digest, part if isinstance(part, Tensor) else torch.from_numpy(np.ascontiguousarray(part)))

    def __iter__(self) -> Iterator[Tensor]:
        for first in range(0, len(self._images), _AT_ONCE):
            yield as_images(self._images[first : first + _AT_ONCE])


def as_images(values: Tensor | np.ndarray[Any, Any]) -> Tensor:
    """Images (n, channels, height, width) in [-1, 1]: bytes are brought there, in any of the usual layouts; others stay as they are.

    Raises:
        ValueError: another shape.
    """
    images = values if isinstance(values, Tensor) else torch.from_numpy(np.ascontiguousarray(values))
    if images.ndim == 3:
        images = images[:, None]
    if images.ndim != 4:
        raise ValueError(f"images have shape (n, channels, height, width), got {tuple(images.shape)}")
    if images.dtype != torch.uint8:
        return images
    if images.shape[1] not in (1, 3) and images.shape[3] in (1, 3):
        images = images.permute(0, 3, 1, 2)
    return images.to(torch.float32) / 127.5 - 1


def _read(path: Path) -> np.ndarray[Any, Any] | Statistics:
    if path.suffix not in _ARRAYS:
        raise ValueError(f"{path} must be a folder of pictures, or end in .npz or .npy")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        with np.load(path, allow_pickle=False) as file:
            names = list(file)
            if {"mu", "sigma"} <= set(names):
                return _given(np.asarray(file["mu"], np.float64), np.asarray(file["sigma"], np.float64), path)
            if len(names) == 1:
                return np.asarray(file[names[0]])
    except Exception as error:  # whatever foreign bytes do to a reader
        raise ValueError(f"{path} cannot be read: {first_line(error)}") from error
    raise ValueError(f"{path} must have mu and sigma, or one array of images, got {', '.join(names) or 'nothing'}")


def _given(mean: np.ndarray[Any, Any], covariance: np.ndarray[Any, Any], path: Path) -> Statistics:
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ValueError(f"mu (d,) and sigma (d, d) have shapes {mean.shape} and {covariance.shape}")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError("mu and sigma must be finite")
    if not np.allclose(covariance, covariance.T, rtol=1e-4, atol=1e-6 * float(np.abs(covariance).max())):
        raise ValueError("sigma must be symmetric")
    return Statistics(mean, (covariance + covariance.T) / 2, None, np.empty((0, len(mean)), np.float32))


def _gathered(source: _Pictures | _Array, extractor: Extractor, cache: Cache | None, kept: int) -> Statistics:
    digest = extractor.digest(source.shape)
    name = ""
    if cache is not None:
        content = hashlib.sha256(f"{FORM} {digest} {kept} {source.shape}".encode())
        source.hash(content)
        name = f"statistics-{content.hexdigest()[:32]}.safetensors"
        if (found := cache.tensors(name)) is not None:
            return _from_tensors(found, digest)
    gathering = Gathering(extractor, kept=kept)
    for images in source:
        gathering.add(images)
    found_now = gathering.statistics()
    if cache is not None:
        cache.keep_tensors(name, _to_tensors(found_now))
    return found_now


def _to_tensors(found: Statistics) -> dict[str, Tensor]:
    arrays = {
        "mean": found.mean,
        "covariance": found.covariance,
        "count": np.array(found.count),
        "features": found.features,
    }
    if found.classes is not None:
        arrays |= vars(found.classes)
    return {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}


def _from_tensors(found: dict[str, Tensor], digest: str) -> Statistics:
    arrays = {key: tensor.numpy() for key, tensor in found.items()}
    names = ("counts", "probabilities", "certainties")
    classes = ClassSums(*(arrays[name] for name in names)) if "counts" in arrays else None
    return Statistics(arrays["mean"], arrays["covariance"], int(arrays["count"]), arrays["features"], classes, digest)
