"""What a distillation learns from, chooses by and is measured on: three disjoint sets of noise, and the teacher's word on each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from dode.conditions import Condition, cycle
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.noise import FITTING, HELD_OUT, VALIDATION, standard_noise
from dode.teacher import Teacher, teacher_states


@dataclass(frozen=True, eq=False)
class Noises:
    """Noise of the three sets, (n, *shape) each; sample i of all of them together takes row i of the condition, modulo its rows.

    Attributes:
        fit: what is fitted.
        validation: what choices are made by; None where nothing is chosen.
        held_out: what neither saw; None where nothing is measured on it.
        cond: the condition as the caller gave it.
    """

    fit: Tensor
    validation: Tensor | None
    held_out: Tensor | None
    cond: Condition

    @classmethod
    def make(cls, denoiser: Denoiser, seed: int, fit: Tensor | int, validation: int, held_out: int, cond: Condition) -> Noises:
        """From the seed's streams; the fitting noise may be the caller's.

        Raises:
            ValueError: a number of samples that cannot be, or the shape of a sample is not known.
        """
        if held_out < 0:
            raise ValueError(f"held_out must be at least 0, got {held_out}")
        if isinstance(fit, int):
            if fit < 1:
                raise ValueError(f"samples must be at least 1, got {fit}")
            if denoiser.shape is None:
                raise ValueError("the shape of a sample is not known: make the Denoiser with shape=..., or hand over noise")
            fit = standard_noise(seed, fit, denoiser.shape, stream=FITTING, dtype=denoiser.noise_dtype)

        def other(count: int, stream: int) -> Tensor | None:
            return standard_noise(seed, count, tuple(fit.shape[1:]), stream=stream, dtype=fit.dtype) if count else None

        return cls(fit, other(validation, VALIDATION), other(held_out, HELD_OUT), cond)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Samples of each set."""
        fit, validation, held_out = (0 if noise is None else len(noise) for noise in (self.fit, self.validation, self.held_out))
        return fit, validation, held_out


@dataclass(frozen=True, eq=False)
class Tutor:
    """A teacher and how its states are kept.

    Attributes:
        teacher: its run.
        dense: keep its states at any time.
        cache: the folder that keeps them; None for none.
    """

    teacher: Teacher
    dense: bool
    cache: Path | None

    def batch(self, denoiser: Denoiser, noises: Noises, which: str) -> Batch | None:
        """A set with the teacher's states: "fit", "validation" or "held_out"; None if that set is empty."""
        noise: Tensor | None = getattr(noises, which)
        if noise is None:
            return None
        first = sum(noises.counts[: ("fit", "validation", "held_out").index(which)])
        cond = cycle(noises.cond, first, first + len(noise))
        states = teacher_states(denoiser, self.teacher, noise, cond, dense=self.dense, cache=self.cache)
        return Batch(noise, cond, states)


def given(noises: Noises, targets: Tensor | Sequence[Tensor], rows: int, *, choose: bool) -> tuple[Batch, Batch | None]:
    """Fitting and validation set of targets that the caller made; the last fifth of the samples chooses, if anything is chosen.

    Raises:
        ValueError: targets that do not fit the noise and the rows, or too few samples to keep some for validation.
    """
    noise = noises.fit
    if len(targets) != rows or any(target.shape != noise.shape for target in targets):
        raise ValueError(
            f"targets must have shape {(rows, *noise.shape)}, a state for each row, got {len(targets)} of "
            f"{tuple(targets[0].shape) if len(targets) else '-'}"
        )
    whole = Batch(noise, cycle(noises.cond, 0, len(noise)), list(targets))
    if not choose:
        return whole, None
    cut = len(noise) - max(2, len(noise) // 5)
    if cut < 1:
        raise ValueError(
            f"{len(noise)} samples are too few to keep some for validation: shrink=False and refine=0 use them all"
        )
    return whole.part(slice(0, cut)), whole.part(slice(cut, len(noise)))
