"""Images that the examples begin from: photographs of Fashion-MNIST, or what a network makes where these are not at hand."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor

import dode
from dode.denoisers import Denoiser
from dode.noise import standard_noise

# The reader of the IDX files belongs to the training scripts.
sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

from fashion_mnist import DEFAULT_FOLDER, load

CLASSES = 10
__all__ = ["CLASSES", "DEFAULT_FOLDER", "generated", "load", "of_labels", "picked"]


def picked(images: Tensor, labels: Tensor, per_class: int, seed: int) -> tuple[Tensor, Tensor]:
    """So many images of each class, chosen at random; class after class.

    Args:
        images: (n, *shape).
        labels: (n,), 0 to 9.
        per_class: how many, >= 1.
        seed: of the choice.

    Raises:
        ValueError: a class has fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    places = []
    for label in range(CLASSES):
        found = order[labels[order] == label]
        if len(found) < per_class:
            raise ValueError(f"class {label} has {len(found)} images, and {per_class} are asked for")
        places.append(found[:per_class])
    index = torch.cat(places)
    return images[index], labels[index]


def of_labels(images: Tensor, labels: Tensor, wanted: Tensor) -> Tensor:
    """For each wanted label (n,) the next image of that class, in their order: (n, *shape).

    Raises:
        ValueError: a class has fewer images than are wanted.
    """
    result = torch.empty(len(wanted), *images.shape[1:])
    for label in wanted.unique().tolist():
        places = (wanted == label).nonzero().flatten()
        found = images[labels == label][: len(places)]
        if len(found) < len(places):
            raise ValueError(f"class {label} has {len(found)} images, and {len(places)} are asked for: take fewer samples")
        result[places] = found
    return result


def generated(denoiser: Denoiser, labels: Tensor, seed: int, stream: int, nfe: int = 12) -> Tensor:
    """Images (n, *shape) that a network makes of these classes, in place of photographs."""
    noise = standard_noise(seed, len(labels), denoiser.shape or (), stream=stream)
    tableau = dode.solver("deis").tableau(denoiser.schedule, nfe, "mixed")
    cond = {"class_labels": labels} if denoiser.null_condition is not None else {}
    return dode.sample(denoiser, tableau, noise, **cond).clamp(-1, 1)
