"""Feature extractors: what turns images into the numbers that image metrics compare.

Every one takes images (n, channels, height, width) in [-1, 1], in any precision and on any device, and gives features (n, d), and logits
(n, classes) where it is a classifier too. Figures of different extractors cannot be compared.
"""

from __future__ import annotations

import hashlib
import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from dode.calling import evaluation_mode
from dode.conditions import hash_tensor
from dode.fingerprint import hash_weights
from dode.finite import check_finite
from dode.foreign import brief
from dode.loading import current_folder_importable
from dode.notes import add_note

Numbers = npt.NDArray[np.float32]

FASHION = "fashion"
# Samplers overshoot. Where more than so many of the values lie beyond this, it is said that they are cut.
_OVERSHOOT, _SHARE = 1.5, 0.01
# Images that are looked at together, and how many of an image's values a call may have at the most (a batch of Inception's).
_AT_ONCE, _VALUES = 256, 2**22
# Images on which functions without weights are told from one another.
_PROBED = 2


class Seen(NamedTuple):
    """What an extractor sees in images: features (n, d), and logits (n, classes) or None, float32 on the host."""

    features: Numbers
    logits: Numbers | None = None


class Extractor:
    """A function from images to features, with the checks that its input and its output need.

    Attributes:
        name: words for it.
        channels: that it takes: 1 (colours are refused), 3 (grey is repeated), or None where it takes images as they are.
    """

    def __init__(
        self, function: Callable[[Tensor], Any], name: str, *, channels: int | None = None, at_once: int = _AT_ONCE
    ) -> None:
        """
        Args:
            function: images (n, channels, height, width), float32 in [-1, 1], to features (n, d) or a pair (features, logits). A module is
                in evaluation mode for the call, and gets images where its weights are and in their precision.
            name, channels: as the attributes.
            at_once: images in a call.
        """
        self.name = name
        self.channels = channels
        self._function = function
        self._at_once = at_once
        self._widths: tuple[int, int | None] | None = None
        self._digests: dict[tuple[int, ...], str] = {}
        self._said: set[str] = set()

    def __repr__(self) -> str:
        return f"Extractor({self.name!r})"

    def __call__(self, images: Tensor) -> Seen:
        """What it sees.

        Args:
            images: (n, channels, height, width) in [-1, 1], floating point, on any device. What lies outside is cut, as it is when a
                picture is written; where that is more than a sampler's overshoot, it is said once.

        Raises:
            TypeError: no tensor of floating point (bytes among them), or the function gives no tensors.
            ValueError: another shape, values that are not finite or lie in [0, 255], or features of a wrong shape or that are not finite.
        """
        self._check(images)
        step = max(1, min(self._at_once, _VALUES // images[0].numel()))
        parts = [self._see(images[first : first + step]) for first in range(0, len(images), step)]
        features = np.concatenate([part.features for part in parts])
        logits = [part.logits for part in parts if part.logits is not None]
        return Seen(features, np.concatenate(logits) if logits else None)

    def digest(self, shape: tuple[int, ...]) -> str:
        """What tells it from other extractors, for what is kept on disk: of a module its kind and weights, of another function what it
        gives for fixed noise.

        Args:
            shape: (channels, height, width) of an image.
        """
        if shape not in self._digests:
            found = hashlib.sha256(f"{self.name} {self.channels} {type(self._function).__qualname__}".encode())
            module = self._function if isinstance(self._function, nn.Module) else None
            if module is None or not hash_weights(found, module, buffers=True):
                generator = torch.Generator("cpu").manual_seed(0)
                seen = self(torch.rand((_PROBED, *shape), generator=generator, dtype=torch.float32, device="cpu") * 2 - 1)
                hash_tensor(found, torch.from_numpy(seen.features))
            self._digests[shape] = found.hexdigest()
        return self._digests[shape]

    def _check(self, images: Tensor) -> None:
        if not isinstance(images, Tensor):
            raise TypeError(
                f"images must be a tensor, got {type(images).__name__}: give (n, channels, height, width) in [-1, 1]"
            )
        if not images.is_floating_point():
            raise TypeError(
                f"images must be floating point in [-1, 1], got {images.dtype}: bytes are brought there by images / 127.5 - 1"
            )
        if images.ndim != 4:
            raise ValueError(f"images have shape (n, channels, height, width), got {tuple(images.shape)}")
        if not images.numel():
            raise ValueError(f"images of shape {tuple(images.shape)} have no values: give one image or more")
        check_finite("images", images)
        lowest, highest = float(images.min()), float(images.max())
        if lowest >= 0 and highest > _OVERSHOOT:
            raise ValueError(
                f"images must be in [-1, 1], got values from {lowest:.3g} to {highest:.3g}: [0, 255] is brought there by images / 127.5 - 1"
            )
        if max(-lowest, highest) > _OVERSHOOT and (far := float((images.abs() > _OVERSHOOT).float().mean())) > _SHARE:
            self._say(
                "cut",
                f"images should be in [-1, 1], and {far:.0%} of the values lie beyond {_OVERSHOOT}: what lies outside is cut",
            )
        if lowest >= 0 and len(images) > 1 and highest > 0:
            self._say(
                "positive", "images should be in [-1, 1], and have no value below 0: [0, 1] is brought there by 2 * images - 1"
            )

    def _say(self, kind: str, text: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            warnings.warn(text, stacklevel=4)

    def _see(self, images: Tensor) -> Seen:
        images = self._coloured(images).to(torch.float32).clamp(-1, 1)
        try:
            with torch.inference_mode(), evaluation_mode(self._function):
                given = self._function(_beside(self._function, images))
        except Exception as error:
            add_note(error, f"from the feature extractor {self.name}, on images of shape {tuple(images.shape)}")
            raise
        pair = given if isinstance(given, tuple) else (given, None)
        if len(pair) != 2:
            raise ValueError(
                f"the extractor {self.name} must return features, or a pair (features, logits), got {len(pair)} things"
            )
        features = self._numbers("features", pair[0], len(images))
        logits = None if pair[1] is None else self._numbers("logits", pair[1], len(images))
        widths = (features.shape[1], None if logits is None else logits.shape[1])
        if self._widths not in (None, widths):
            raise ValueError(f"the extractor {self.name} gave (features, logits) of widths {self._widths}, and now {widths}")
        self._widths = widths
        return Seen(features, logits)

    def _coloured(self, images: Tensor) -> Tensor:
        found = images.shape[1]
        if self.channels in (None, found):
            return images
        if found == 1:
            return images.expand(-1, self.channels, -1, -1)
        raise ValueError(f"the extractor {self.name} takes images with {self.channels} channels, got {found}")

    def _numbers(self, what: str, given: Any, n: int) -> Numbers:
        if isinstance(given, np.ndarray):
            given = torch.from_numpy(given)
        if not isinstance(given, Tensor):
            raise TypeError(f"the extractor {self.name} must return {what} as a tensor (n, d), got {brief(given)}")
        if given.ndim != 2 or len(given) != n or not given.shape[1]:
            raise ValueError(
                f"the extractor {self.name} must return {what} (n, d), a row for each of the {n} images, got {tuple(given.shape)}"
            )
        check_finite(f"{what} of the extractor {self.name}", given)
        numbers: Numbers = given.detach().to("cpu", torch.float32).numpy()
        return numbers


def extractor_of(what: str | Path | Callable[[Tensor], Any], *, device: torch.device | str | None = None) -> Extractor:
    """A feature extractor.

    Args:
        what: one of

            - "fashion": the bundled classifier of Fashion-MNIST, for 28 x 28 grey images: 128 features, 10 classes;
            - a file (.pth, .safetensors) with the weights of TensorFlow's Inception of 2015 in the names of torch-fidelity: 2,048
              features and 1,008 classes, those of published Frechet distances;
            - "package.module:function", a function from images (n, channels, height, width) in [-1, 1] to features (n, d), or to
              (features, logits);
            - such a function itself, or a module; or an `Extractor`.
        device: where the networks that this makes are put, the first two; the host if None.

    Raises:
        FileNotFoundError: a file that is not there.
        ValueError: something else, or a file with other weights.
        ImportError: torch-fidelity is not there, for Inception.
    """
    if isinstance(what, Extractor):
        return what
    if isinstance(what, str | Path):
        return _named(str(what), torch.device(device or "cpu"))
    if not callable(what):
        raise ValueError(f"no feature extractor: {brief(what)}; there are {_CHOICES}")
    return Extractor(what, getattr(what, "__qualname__", type(what).__qualname__))


_CHOICES = f"'{FASHION}', a file with Inception's weights, and package.module:function"


def _named(what: str, device: torch.device) -> Extractor:
    if what == FASHION:
        from dode.models import fashion_classifier

        return Extractor(_FashionFeatures(fashion_classifier()).to(device), FASHION, channels=1)
    path = Path(what)
    if path.suffix in (".pth", ".pt", ".safetensors"):
        from dode.metrics.inception import load_inception

        return Extractor(load_inception(path).to(device), "inception", channels=3, at_once=32)
    module, colon, function = what.partition(":")
    if not colon or path.exists():
        raise ValueError(f"no feature extractor: {brief(what)}; there are {_CHOICES}")
    return Extractor(_imported(what, module, function), what)


class _FashionFeatures(nn.Module):
    """The bundled classifier with its features beside its logits."""

    def __init__(self, classifier: Any) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.classifier.features(images)
        return features, self.classifier.head(features)


def _imported(reference: str, module: str, function: str) -> Callable[[Tensor], Any]:
    try:
        with current_folder_importable():
            found: Any = importlib.import_module(module)
            for part in function.split("."):
                found = getattr(found, part)
    except (Exception, SystemExit) as error:  # what it runs may end the interpreter
        raise ValueError(f"the feature extractor {reference} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        raise ValueError(f"the feature extractor {reference} must be a function, got {type(found).__name__}")
    return found  # type: ignore[no-any-return]


def _beside(function: object, images: Tensor) -> Tensor:
    """Images where a module's weights are, in their precision."""
    if not isinstance(function, nn.Module):
        return images
    weight = next((p for p in function.parameters() if p.is_floating_point()), images)
    return images.to(weight.device, weight.dtype)
