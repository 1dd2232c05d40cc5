"""What a distillation learns from, chooses by and is measured on: three disjoint sets of noise, and the teacher's word on each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dode.cache import Cache
from dode.conditions import Condition, cycle, take
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.fine import PAIR, FineRun
from dode.finite import check_finite
from dode.host import bytes_of, samples_at_once
from dode.noise import FITTING, HELD_OUT, VALIDATION, standard_noise
from dode.sampling import end_point
from dode.tableau import Tableau
from dode.teacher import Teacher, teacher_states

# The fitting noise itself, or a function from a number of samples to so many new ones.
NoiseSource = Tensor | Callable[[int], Tensor]

FIT, CHOICE, UNSEEN = "fit", "validation", "held_out"
# Evaluations of the run that leads to a start in the middle.
_TO_START = 32
_STREAMS = {FIT: FITTING, CHOICE: VALIDATION, UNSEEN: HELD_OUT}


@dataclass(eq=False)
class Noises:
    """Noise of the three sets, drawn when it is asked for; a set may be asked for more.

    Sample i of all sets together takes row i of the condition, modulo its rows.

    Args:
        denoiser: says the shape and the precision of a sample.
        seed: of the noise, unless `source` says otherwise.
        source: the fitting noise, or a function that is called with a number of samples for each set; None for the seed's streams.
        counts: samples of each set at first.
        cond: the condition as the caller gave it.
        begun: a tableau that begins in the middle: what is drawn is taken to its first time by a fine run, and divided by its noise scale,
            so that the tableau begins from the states of that run.

    Raises:
        ValueError: the shape of a sample is not known.
    """

    denoiser: Denoiser
    seed: int
    source: NoiseSource | None
    counts: dict[str, int]
    cond: Condition
    begun: Tableau | None = None

    def __post_init__(self) -> None:
        self._drawn: dict[str, Tensor] = {FIT: self.source} if isinstance(self.source, Tensor) else {}
        if self.source is None and self.denoiser.shape is None:
            raise ValueError("the shape of a sample is not known: make the Denoiser with shape=..., or hand over noise")

    def of(self, which: str, first: int = 0, last: int | None = None) -> tuple[Tensor, Condition]:
        """Samples first .. last - 1 of a set with their condition, the whole set at first by default."""
        last = self.counts[which] if last is None else last
        have = len(self._drawn[which]) if which in self._drawn else 0
        if last > have:
            more = self._draw(which, have, last)
            if self.begun is not None:
                more = self._taken(self.begun, more, cycle(self.cond, self._before(which) + have, self._before(which) + last))
            self._drawn[which] = torch.cat([self._drawn[which], more]) if have else more
        before = self._before(which)
        return self._drawn[which][first:last], cycle(self.cond, before + first, before + last)

    def _before(self, which: str) -> int:
        """How many samples the sets before this one have."""
        return sum(self.counts[name] for name in list(_STREAMS)[: list(_STREAMS).index(which)])

    def _taken(self, begun: Tableau, noise: Tensor, cond: Condition) -> Tensor:
        """The states of a fine run from noise at a tableau's first time, as the noise that the tableau begins with."""
        schedule = self.denoiser.schedule
        fine = FineRun(*PAIR[0], _TO_START).tableau(schedule, (schedule.t_max, float(begun.times[0])))
        size = samples_at_once(bytes_of(noise[:1]), self.denoiser.batch_size)
        states = [
            end_point(self.denoiser, fine, noise[rows].to(self.denoiser.device), take(cond, rows)).to(noise)
            for rows in (slice(first, first + size) for first in range(0, len(noise), size))
        ]
        return torch.cat(states) / begun.noise_scale

    def _draw(self, which: str, first: int, last: int) -> Tensor:
        if callable(self.source) and not isinstance(self.source, Tensor):
            found = self.source(last - first)
            if not isinstance(found, Tensor) or len(found) != last - first or not found.is_floating_point():
                got = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
                raise ValueError(f"noise, as a function, must give {last - first} samples of standard normal noise, got {got}")
            return found
        known = self._drawn.get(FIT)
        shape = self.denoiser.shape if known is None else tuple(known.shape[1:])
        assert shape is not None
        dtype = self.denoiser.noise_dtype if known is None else known.dtype
        # A sample is the same however many are drawn.
        return standard_noise(self.seed, last, shape, stream=_STREAMS[which], dtype=dtype)[first:]


@dataclass(frozen=True, eq=False)
class Tutor:
    """A teacher and how its states are kept.

    Attributes:
        teacher: its run.
        name: in words.
        dense: keep its states at any time.
        cache: what keeps them; None for nothing.
    """

    teacher: Teacher
    name: str
    dense: bool
    cache: Cache | None

    @property
    def nfe(self) -> int:
        """Its evaluations of a sample."""
        return self.teacher.tableau.nfe

    def batch(self, denoiser: Denoiser, noise: Tensor, cond: Condition) -> Batch:
        """Samples with the teacher's states."""
        return Batch(noise, cond, teacher_states(denoiser, self.teacher, noise, cond, dense=self.dense, cache=self.cache))


def given(
    noise: Tensor, cond: Condition, targets: Tensor | Sequence[Tensor], rows: int, *, choose: bool
) -> tuple[Batch, Batch | None]:
    """Fitting and validation set of targets that the caller made; the last fifth of the samples chooses, if anything is chosen.

    Raises:
        ValueError: targets that do not fit the noise and the rows, or too few samples to keep some for validation.
    """
    if len(targets) != rows or any(target.shape != noise.shape for target in targets):
        raise ValueError(
            f"targets must have shape {(rows, *noise.shape)}, a state for each row, got {len(targets)} of "
            f"{tuple(targets[0].shape) if len(targets) else '-'}"
        )
    for i, target in enumerate(targets):
        check_finite(f"the target of row {i + 1}", target)
    whole = Batch(noise, cond, list(targets))
    if not choose:
        return whole, None
    cut = len(noise) - max(2, len(noise) // 5)
    if cut < 1:
        raise ValueError(
            f"{len(noise)} samples are too few to keep some for validation: shrink=False and refine=0 use them all"
        )
    return whole.part(slice(0, cut)), whole.part(slice(cut, len(noise)))
