"""What reports measure against: a fine run of one solver, on noise that nothing was fitted to or chosen by."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from dode.conditions import Condition, cycle
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.noise import REPORT, standard_noise
from dode.schedules import NoiseSchedule
from dode.solvers import solver
from dode.tableau import Tableau
from dode.teacher import Teacher, teacher_states

# The most accurate of the registry at many evaluations.
REFERENCE = "deis"


def reference_name(nfe: int) -> str:
    """The fine run, in words."""
    return f"{REFERENCE} with {nfe} NFE"


def reference_tableau(schedule: NoiseSchedule, nfe: int) -> Tableau:
    """The fine run."""
    return solver(REFERENCE).tableau(schedule, nfe)


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
    own = cycle(cond, 0, count)
    tableau = reference_tableau(denoiser.schedule, nfe)
    end = Teacher(tableau, (tableau.rows - 1,))
    return Batch(noise, own, teacher_states(denoiser, end, noise, own, cache=cache))
