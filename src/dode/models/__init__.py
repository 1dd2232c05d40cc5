"""The bundled networks: small enough to be part of the package, so that everything can be tried without a download."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import lazy_loader

from dode.reading import read_json

if TYPE_CHECKING:
    from dode.models.classifier import FashionClassifier
    from dode.models.unet import UNet
    from dode.models.wrappers import (
        ClassLabels,
        ConcatChannels,
        EDMPreconditioned,
        MeanHalf,
        NoiseAtZero,
        OneHotLabels,
        SampleOfScore,
        SpaceToDepth,
        TimestepKeyword,
    )

__all__ = [
    "BUNDLED",
    "BundledModel",
    "ClassLabels",
    "ConcatChannels",
    "EDMPreconditioned",
    "FashionClassifier",
    "MeanHalf",
    "NoiseAtZero",
    "OneHotLabels",
    "SampleOfScore",
    "SpaceToDepth",
    "TimestepKeyword",
    "UNet",
    "fashion_classifier",
]

_HERE = Path(__file__).parent
# Imported, and PyTorch with them, when one is asked for.
__getattr__, __dir__, _ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "classifier": ["FashionClassifier"],
        "unet": ["UNet"],
        "wrappers": [
            "ClassLabels",
            "ConcatChannels",
            "EDMPreconditioned",
            "MeanHalf",
            "NoiseAtZero",
            "OneHotLabels",
            "SampleOfScore",
            "SpaceToDepth",
            "TimestepKeyword",
        ],
    },
)


@dataclass(frozen=True)
class BundledModel:
    """A network that comes with the package; `dode.load(name)` loads it.

    Attributes:
        name: what `dode.load` takes.
        description: one line.
        licence: of the weights and of the data that they were trained on.
        folder: a diffusers folder with a model card, README.md, and a dode.json for what diffusers does not store.
    """

    name: str
    description: str
    licence: str
    folder: Path

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their labels."""
        return tuple(read_json(self.folder / "dode.json").get("classes", ()))


BUNDLED: Mapping[str, BundledModel] = MappingProxyType(
    {
        model.name: model
        for model in (
            BundledModel(
                name="fashion",
                description="class-conditional epsilon network of Fashion-MNIST, 28 x 28 grey, 10 classes and a null class",
                licence="MIT",
                folder=_HERE / "fashion",
            ),
            BundledModel(
                name="fashion-flow",
                description="unconditional flow-matching network of Fashion-MNIST, 28 x 28 grey",
                licence="MIT",
                folder=_HERE / "fashion_flow",
            ),
            BundledModel(
                name="fashion-edm",
                description="class-conditional EDM network of Fashion-MNIST, 28 x 28 grey, 10 classes and a null class",
                licence="MIT",
                folder=_HERE / "fashion_edm",
            ),
        )
    }
)


def fashion_classifier() -> FashionClassifier:
    """The bundled classifier of Fashion-MNIST, in float32 and in evaluation mode; its `features` serve Frechet distances."""
    import torch
    from safetensors.torch import load_file

    from dode.defaults import usual_defaults
    from dode.models.classifier import FashionClassifier

    # The first weights are random and thrown away: the caller's random state stays as it was.
    with usual_defaults(), torch.random.fork_rng(devices=[]):
        classifier = FashionClassifier()
    classifier.load_state_dict(load_file(_HERE / "fashion_classifier.safetensors"))  # float16 on disk
    return classifier.requires_grad_(False).eval()
