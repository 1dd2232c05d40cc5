"""What reports measure against: a fine run of a solver that no teacher is, on noise that nothing was fitted to or chosen by."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dode.cache import Cache
from dode.conditions import Condition, cycle
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.fine import PAIR, REFERENCE, FineRun, whole_span
from dode.noise import REPORT, standard_noise
from dode.schedules import NoiseSchedule
from dode.tableau import Tableau
from dode.teacher import Teacher, teacher_states

# Noises on which the reference is compared with another run.
CHECKS = 8


def reference_run(nfe: int) -> FineRun:
    """The fine run; its `str` are words for it."""
    return FineRun(*REFERENCE, nfe)


def reference_tableau(schedule: NoiseSchedule, nfe: int) -> Tableau:
    """The fine run's numbers."""
    return reference_run(nfe).tableau(schedule, whole_span(schedule))


def reference_error(denoiser: Denoiser, unseen: Batch, nfe: int) -> float:
    """Mean square distance of the reference's end points to those of another solver on another grid, as fine, on a few of the noises: about
    the larger of their errors. Infinite where the other run diverges.
    """
    few = unseen.part(slice(0, CHECKS))
    other = FineRun(*PAIR[0], nfe).tableau(denoiser.schedule, whole_span(denoiser.schedule))
    return float(end_errors(denoiser, other, few).mean())


def report_noise(denoiser: Denoiser, count: int, seed: int) -> Tensor:
    """Noise (count, *shape) of the stream that only reports use, in the network's precision but at least float32.

    Raises:
        ValueError: fewer than 2, or the denoiser does not know the shape of a sample.
    """
    if count < 2:
        raise ValueError(f"held_out must be at least 2, got {count}")
    if denoiser.shape is None:
        raise ValueError("the shape of a sample is not known: make the Denoiser with shape=...")
    return standard_noise(seed, count, denoiser.shape, stream=REPORT, dtype=denoiser.noise_dtype)


def unseen_batch(
    denoiser: Denoiser, cond: Condition, count: int, nfe: int, *, seed: int = 0, cache: Path | None = None
) -> Batch:
    """Report noise with its condition and the reference's end point.

    Args:
        denoiser: the network.
        cond: the condition; sample i takes its row i modulo its rows.
        count: samples.
        nfe: evaluations of the reference.
        seed: of the noise.
        cache: a folder that keeps the end points.

    Raises:
        ValueError: as `report_noise`.
        FloatingPointError: the reference is not finite.
    """
    noise = report_noise(denoiser, count, seed)
    return with_reference(denoiser, noise, cycle(cond, 0, count), nfe, cache=cache)


def with_reference(denoiser: Denoiser, noise: Tensor, cond: Condition, nfe: int, *, cache: Path | None = None) -> Batch:
    """Noise (n, *shape) with its condition, a row a sample, and the reference's end point; `nfe`, `cache` and errors as `unseen_batch`."""
    tableau = reference_tableau(denoiser.schedule, nfe)
    end = Teacher(tableau, (tableau.rows - 1,))
    return Batch(noise, cond, teacher_states(denoiser, end, noise, cond, cache=None if cache is None else Cache(cache)))
