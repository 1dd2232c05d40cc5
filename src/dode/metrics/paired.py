"""Images against those of a reference from the same noise, one by one."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from dode.distances import mean_square_distance
from dode.host import to_device
from dode.metrics.extractors import Seen
from dode.metrics.intervals import share
from dode.schedules import Array
from dode.statistics import Figure, mean

# Decibels of images that cannot be told apart.
CLOSEST = 100.0


class Paired:
    """Distances of images to those of the reference, batch by batch; a few numbers of each are kept.

    Attributes of all images so far, float64:
        psnr: (n,) decibels.
        feature_distances: (n,) mean square distance of the features.
        same_class: (n,) 1 where a classifier gives both the same class, else 0; empty where there is none.
    """

    def __init__(self) -> None:
        self._parts: dict[str, list[Array]] = {"psnr": [], "feature_distance": [], "same_class": []}

    def add(self, images: Tensor, reference: Tensor, seen: Seen | None = None, reference_seen: Seen | None = None) -> None:
        """Take in images and the reference's of the same noise.

        Args:
            images, reference: (n, channels, height, width) in [-1, 1]; what lies outside is cut.
            seen, reference_seen: what an extractor saw in them.

        Raises:
            ValueError: of another shape than the reference's.
        """
        if images.shape != reference.shape:
            raise ValueError(f"images have shape {tuple(images.shape)}, the reference's {tuple(reference.shape)}: give pairs")
        self._parts["psnr"].append(psnr(images, reference))
        if seen is None or reference_seen is None:
            return
        apart = mean_square_distance(torch.from_numpy(seen.features), torch.from_numpy(reference_seen.features))
        self._parts["feature_distance"].append(apart)
        if seen.logits is not None and reference_seen.logits is not None:
            same = seen.logits.argmax(1) == reference_seen.logits.argmax(1)
            self._parts["same_class"].append(same.astype(np.float64))

    def figures(self) -> dict[str, Figure]:
        """Those that can be had of "psnr" and "feature_distance", means with the intervals of `dode.statistics.mean`, and "same_class", the
        share with a binomial interval."""
        arrays = {name: np.concatenate(parts) for name, parts in self._parts.items() if parts}
        found = {name: mean(array) for name, array in arrays.items() if name != "same_class"}
        if "same_class" in arrays:
            found["same_class"] = share(float(arrays["same_class"].sum()), len(arrays["same_class"]))
        return found


def psnr(images: Tensor, reference: Tensor) -> Array:
    """Peak signal-to-noise ratio of each image in decibels, 10 log10(4 / mean square distance): the peak of [-1, 1] is 2.

    Args:
        images, reference: (n, channels, height, width); what lies outside [-1, 1] is cut.

    Returns:
        (n,), between 0 and `CLOSEST`, which equal images have.
    """
    apart = mean_square_distance(images.clamp(-1, 1), to_device(reference, images).clamp(-1, 1))
    return np.asarray(10 * np.log10(4 / np.maximum(apart, 4 * 10 ** (-CLOSEST / 10))), np.float64)
