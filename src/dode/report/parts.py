"""What every cell is measured on: noises in parts, each with the end points of the one reference run, kept in files.

One part is in memory at a time, however many samples there are: noise is drawn again whenever it is wanted, and the reference's end
points and images are mapped from the entries of a cache. A part that is there is not made again, so a reference that was interrupted
goes on, and one of more samples has the parts of one of fewer.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dode.cache import FORM, Cache
from dode.conditions import Condition, cycle
from dode.denoisers import Denoiser
from dode.noise import REPORT, noise_parts
from dode.report.course import Decode
from dode.sampling import end_point
from dode.tableau import Tableau

# Samples of a part: enough to keep a network busy, and few beside it. Where a call of the network has more, a part has as many.
_SAMPLES = 64


@dataclass(frozen=True, eq=False)
class Part:
    """Some of the samples.

    Attributes:
        key: a hash of all that they depend on.
        first: the number of its first sample.
        noise: (m, *shape), standard normal, on the host.
        cond: their condition.
        end: (m, *shape), the reference's end points, on the host.
        images: what these look like: `end` itself, or decoded.
    """

    key: str
    first: int
    noise: Tensor
    cond: Condition
    end: Tensor
    images: Tensor


def samples_of_part(batch_size: int | None) -> int:
    """How many samples a part has: a whole number of the network's calls."""
    if batch_size is None:
        return _SAMPLES
    return max(batch_size, _SAMPLES - _SAMPLES % batch_size)


@dataclass(frozen=True, eq=False)
class Parts:
    """The samples of a comparison; iterates over its parts.

    Attributes:
        denoiser, cond: the network, and its condition; sample i takes row i modulo its rows.
        samples, seed: how many noises, and of which seed.
        tableau: of the reference.
        decode: from samples to images; None where samples are looked at as they are.
        cache: where end points and images are kept.
        context: a hash of what the network gives, the condition and the decoding.
    """

    denoiser: Denoiser
    cond: Condition
    samples: int
    seed: int
    tableau: Tableau
    decode: Decode | None
    cache: Cache
    context: str

    @property
    def size(self) -> int:
        """Samples of a part; the last one may have fewer."""
        return samples_of_part(self.denoiser.batch_size)

    @property
    def key(self) -> str:
        """A hash of all that the parts depend on."""
        said = (FORM, self.context, self.samples, self.seed, self.size, self.tableau.digest)
        return hashlib.sha256(repr(said).encode()).hexdigest()[:24]

    def noises(self) -> Iterator[tuple[int, Tensor, Condition]]:
        """Of each part the number of its first sample, its noise and its condition."""
        assert self.denoiser.shape is not None
        dtype = self.denoiser.noise_dtype
        first = 0
        for noise in noise_parts(self.seed, self.samples, self.denoiser.shape, self.size, stream=REPORT, dtype=dtype):
            yield first, noise, cycle(self.cond, first, first + len(noise))
            first += len(noise)

    def __iter__(self) -> Iterator[Part]:
        """
        Raises:
            FloatingPointError: the reference is not finite.
            OSError: what was made cannot be kept.
        """
        for first, noise, cond in self.noises():
            key, kept = self._made(first, noise, cond)
            yield Part(key, first, noise, cond, kept["end"], kept.get("images", kept["end"]))

    @property
    def seconds(self) -> float:
        """Wall time that the reference took, in this run or in earlier ones."""
        return sum(float(self._made(*each)[1]["seconds"]) for each in self.noises())

    def _made(self, first: int, noise: Tensor, cond: Condition) -> tuple[str, dict[str, Tensor]]:
        said = (FORM, self.context, self.seed, first, len(noise), self.size, self.tableau.digest)
        key = hashlib.sha256(repr(said).encode()).hexdigest()[:32]
        name = f"reference-{key}.safetensors"
        kept = self.cache.tensors(name)
        if kept is not None:
            return key, kept
        began = time.perf_counter()
        end = end_point(self.denoiser, self.tableau, noise, cond)
        made = {"end": end.cpu().contiguous(), "seconds": torch.tensor(time.perf_counter() - began, dtype=torch.float64)}
        if self.decode is not None:
            made["images"] = self.decode(end).float().cpu().contiguous()
        self.cache.keep_tensors(name, made)
        return key, made
