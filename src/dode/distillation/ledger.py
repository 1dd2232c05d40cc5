"""What the network evaluations of a distillation were spent on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from dode.denoisers import Denoiser


class Ledger:
    """Counts a denoiser's evaluations by purpose.

    Attributes:
        evaluations: network evaluations of one sample, by purpose in the order of first use.
        saved: evaluations that a cache made unnecessary, less those that it asks for itself: they count against a budget, so that a run
            that goes on from its cache ends where an uninterrupted one does, with a cache or without.
        last: evaluations that were booked last.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self.evaluations: dict[str, int] = {}
        self.saved = 0
        self.last = 0

    @property
    def charged(self) -> int:
        """All so far, with those that were saved."""
        return sum(self.evaluations.values()) + self.saved

    @contextmanager
    def count(self, purpose: str) -> Iterator[None]:
        """Book what is spent while the block runs."""
        before = self._denoiser.evaluations
        yield
        self.last = self._denoiser.evaluations - before
        self.evaluations[purpose] = self.evaluations.get(purpose, 0) + self.last
