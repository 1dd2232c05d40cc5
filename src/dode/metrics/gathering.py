"""What is kept of the images that figures are made of, batch by batch: memory does not grow with their number.

Mean and covariance of the features are summed in float64, the classes by group. The kernel distance, precision and recall need features
themselves: of the first `KEPT` images all are kept, of more a random part of so many, the same places for the same number of images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dode.metrics.classes import ClassSums
from dode.metrics.extractors import Extractor, Numbers, Seen
from dode.metrics.frechet import Moments
from dode.metrics.kernel import own_sums
from dode.metrics.manifold import radii
from dode.schedules import Array

# Features that are kept: 5 MB of the bundled classifier's, 80 MB of Inception's.
KEPT = 10_000


@dataclass(frozen=True, eq=False)
class Statistics:
    """What figures are made of.

    Attributes:
        mean: (d,) of the features, float64.
        covariance: (d, d), float64.
        count: n, the images; None where a file does not tell.
        features: (m, d) of the kept images, float32; m = 0 where there are none.
        classes: None where the extractor has no logits.
        extractor: its digest; "" where a file does not tell.
    """

    mean: Array
    covariance: Array
    count: int | None
    features: Numbers
    classes: ClassSums | None = None
    extractor: str = ""

    @property
    def moments(self) -> Moments | None:
        """Of the features; None where the number of images is not known."""
        return None if self.count is None else Moments(self.count, self.mean, self.covariance * (self.count - 1))

    @cached_property
    def kernel_sums(self) -> Array:
        """What the kernel distance needs of these images alone."""
        return own_sums(self.features)

    @cached_property
    def radii(self) -> Array:
        """What the manifold of these images is made of."""
        return radii(self.features)

    def to_tensors(self) -> dict[str, Tensor]:
        """What `dode.cache.Cache.keep_tensors` takes.

        Raises:
            ValueError: the number of images is not known.
        """
        if self.count is None:
            raise ValueError("statistics of an unknown number of images are in a file already: keep that")
        arrays = {"mean": self.mean, "covariance": self.covariance, "count": np.array([self.count]), "features": self.features}
        if self.classes is not None:
            arrays |= vars(self.classes)
        return {key: torch.from_numpy(np.ascontiguousarray(array)) for key, array in arrays.items()}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor], extractor: str) -> Statistics:
        """The statistics that `to_tensors` gave, with the extractor's digest.

        Raises:
            KeyError: they are others.
        """
        arrays = {key: tensor.numpy() for key, tensor in tensors.items()}
        classes = ClassSums(**{each.name: arrays[each.name] for each in fields(ClassSums)}) if "counts" in arrays else None
        return cls(arrays["mean"], arrays["covariance"], int(arrays["count"].item()), arrays["features"], classes, extractor)


class Gathering:
    """Images that are looked at batch by batch.

    Attributes:
        extractor: what looks at them.
        count: images so far.
    """

    def __init__(self, extractor: Extractor, *, kept: int = KEPT) -> None:
        """
        Args:
            extractor: what looks at the images.
            kept: features that are kept, for the figures that need them.
        """
        if kept < 1:
            raise ValueError(f"kept must be at least 1, got {kept}")
        self.extractor = extractor
        self.count = 0
        self._kept = kept
        self._moments: Moments | None = None
        self._classes: ClassSums | None = None
        self._features: Numbers = np.empty((0, 0), np.float32)
        # Algorithm R of Vitter (1985): an image takes the place of one that is kept, or none.
        self._generator = np.random.default_rng(0)
        self._digest = ""

    def add(self, images: Tensor) -> Seen:
        """Look at images (n, channels, height, width) in [-1, 1]; gives what was seen in them. Errors as those of the extractor."""
        seen = self.extractor(images)
        if not self._digest:
            self._digest = self.extractor.digest(tuple(images.shape[1:]))
        self.add_seen(seen)
        return seen

    def add_seen(self, seen: Seen) -> None:
        """Take in what the extractor saw in images elsewhere.

        Raises:
            ValueError: features of another width than before.
        """
        width = seen.features.shape[1]
        if self._moments is not None and width != len(self._moments.mean):
            raise ValueError(f"features have {width} numbers, those before them {len(self._moments.mean)}: gather them apart")
        moments = Moments.of(np.asarray(seen.features, np.float64))
        self._moments = moments if self._moments is None else self._moments.merged(moments)
        if seen.logits is not None:
            classes = ClassSums.of(np.asarray(seen.logits, np.float64), self.count)
            self._classes = classes if self._classes is None else self._classes.merged(classes)
        self._keep(seen.features)
        self.count += len(seen.features)

    def statistics(self) -> Statistics:
        """What figures are made of.

        Raises:
            ValueError: fewer than 2 images.
        """
        if self._moments is None or self.count < 2:
            raise ValueError(f"a covariance of features needs 2 images or more, got {self.count}")
        mean, covariance = self._moments.mean, self._moments.covariance
        features = self._features[: min(self.count, self._kept)].copy()  # later images may take places in it
        return Statistics(mean, covariance, self.count, features, self._classes, self._digest)

    def _keep(self, features: Numbers) -> None:
        n, width = features.shape
        if len(self._features) < min(self._kept, self.count + n):
            grown = np.empty((min(self._kept, max(2 * len(self._features), self.count + n)), width), np.float32)
            filled = min(self.count, self._kept)
            if filled:
                grown[:filled] = self._features[:filled]
            self._features = grown
        free = max(0, min(n, self._kept - self.count))
        self._features[self.count : self.count + free] = features[:free]
        number = self.count + np.arange(free, n)
        slots = (self._generator.random(n - free) * (number + 1)).astype(np.int64)
        for row in np.flatnonzero(slots < self._kept):
            self._features[slots[row]] = features[free + row]
