"""Image metrics of a comparison: what an extractor sees in the images of cells and of the reference, part by part."""

from __future__ import annotations

import hashlib
import warnings
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dode.report.parts import Part, Parts
from dode.report.thumbnails import are_images
from dode.statistics import Figure

if TYPE_CHECKING:
    from dode.metrics import Extractor, Gathering, Seen, Statistics


class Scores:
    """What image metrics are made with. By default cells are compared with the reference's own images, from the same noise.

    Attributes:
        extractor: its name; "" where there is none, and then images are compared pixel by pixel alone.
        images: words for what images are compared with; "" for nothing.
        notes: what a reader has to know.
        key: a hash of all that figures depend on beside the images.
    """

    def __init__(self, parts: Parts, shape: tuple[int, ...], extractor: Any = None, images: Any = None) -> None:
        """
        Args:
            parts: the reference's images.
            shape: of one image; no figures are made of samples that are none.
            extractor: as `dode.metrics.extractor_of`; None for none.
            images: as `dode.metrics.statistics_of`: what cells are compared with, in place of the reference's.

        Raises:
            ValueError: an extractor that does not take such images, images without an extractor, or what cannot be read.
            FileNotFoundError: images that are not there.
        """
        self._parts = parts
        self._possible = are_images(shape)
        self._extractor: Extractor | None = None
        self._given: Statistics | None = None
        self.extractor = self.images = self.key = ""
        self.notes: tuple[str, ...] = ()
        if images is not None and extractor is None:
            raise ValueError("images to compare with need an extractor of features: give one, or leave the images out")
        if not self._possible:
            if extractor is not None:
                self.notes = (f"samples of shape {shape} are no images of 1 or 3 channels: there are no figures of images",)
            return
        self.key = "pixels"
        if extractor is None:
            return
        from dode.metrics import enough, extractor_of, statistics_of

        self._extractor = extractor_of(extractor)
        seen = self._extractor(torch.linspace(-1, 1, 2).view(2, 1, 1, 1).expand(2, *shape))
        self.extractor, self.images = self._extractor.name, "the reference's own samples"
        self._digest = self._extractor.digest(shape)
        if images is not None:
            self._given = statistics_of(images, self._extractor, cache=parts.cache)
            self.images = str(images) if isinstance(images, str) or hasattr(images, "__fspath__") else "given images"
        content = hashlib.sha256(self._digest.encode())
        if self._given is not None:
            for array in (self._given.mean, self._given.covariance, self._given.features):
                content.update(array.tobytes())
        self.key = content.hexdigest()[:24]
        fewest = min(parts.samples, parts.samples if self._given is None else self._given.count or parts.samples)
        width = seen.features.shape[1]
        # A singular covariance says nothing.
        self._frechet = fewest > width
        if said := enough(fewest, width):
            self.notes = (said if self._frechet else f"there is no Frechet distance: {said}",)

    def begin(self) -> Scoring:
        """For the images of a cell."""
        return Scoring(self)

    @property
    def possible(self) -> bool:
        """Samples are images."""
        return self._possible

    def seen(self, part: Part) -> Seen | None:
        """What the extractor saw in the reference's images; kept in the cache, as it is the same for all cells."""
        if self._extractor is None:
            return None
        from dode.metrics import Seen

        name = f"seen-{hashlib.sha256((part.key + self._digest).encode()).hexdigest()[:32]}.safetensors"
        kept = self._parts.cache.tensors(name)
        if kept is None:
            found = self._extractor(part.images)
            kept = {"features": torch.from_numpy(found.features)}
            if found.logits is not None:
                kept["logits"] = torch.from_numpy(found.logits)
            self._parts.cache.keep_tensors(name, kept)
        return Seen(kept["features"].numpy(), kept["logits"].numpy() if "logits" in kept else None)

    @cached_property
    def of_reference(self) -> Statistics | None:
        """Statistics of the reference's images; None without an extractor."""
        if self._extractor is None:
            return None
        from dode.metrics import Gathering

        gathering = Gathering(self._extractor)
        for part in self._parts:
            seen = self.seen(part)
            assert seen is not None
            gathering.add_seen(seen)
        return gathering.statistics()

    def reference_figures(self) -> dict[str, Figure]:
        """Of the reference's images, where they are compared with others; else what needs no comparison."""
        if self._extractor is None:
            return {}
        assert self.of_reference is not None
        return self.figures(self.of_reference, of_reference=True)

    def figures(self, gathered: Gathering | Statistics, *, of_reference: bool = False) -> dict[str, Figure]:
        """Of images that were looked at, against those that they are compared with."""
        from dode.metrics import FewSamples, image_figures

        against = self._given or self.of_reference
        assert against is not None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FewSamples)  # the notes say it, once for all cells
            found = image_figures(gathered, against, paired=self._given is None)
        if not self._frechet:
            del found["fid"]
        if of_reference and self._given is None:
            return {name: figure for name, figure in found.items() if name == "inception_score"}
        return found

    def gathering(self) -> Gathering | None:
        """For what the extractor sees in a cell's images; None without one."""
        from dode.metrics import Gathering

        return None if self._extractor is None else Gathering(self._extractor)


class Scoring:
    """The images of one cell, part by part."""

    def __init__(self, scores: Scores) -> None:
        from dode.metrics import Paired

        self._scores = scores
        self._gathering, self._pairs = scores.gathering(), Paired()

    def add(self, images: Tensor, part: Part) -> None:
        """Take in images of the part's noise, in [-1, 1]; what lies outside is cut."""
        images = images.float().clamp(-1, 1)
        seen = None if self._gathering is None else self._gathering.add(images)
        self._pairs.add(images, part.images, seen, self._scores.seen(part))

    def figures(self) -> dict[str, Figure]:
        """All that can be had."""
        found = self._pairs.figures()
        return found if self._gathering is None else found | self._scores.figures(self._gathering)
