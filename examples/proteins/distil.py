"""The best undistilled solver for so many calls, and what distilling makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

import dode
from dode.grids import Shifted
from dode.noise import standard_noise
from examples.proteins.residues import Residues

# DEIS and iPNDM, which extrapolate epsilon, are far behind with so few calls: data are angstroms wide, and alpha begins at 0.0025.
SOLVERS = ("ddim", "dpm-solver++", "unipc")
GRIDS = ("mixed", "log-snr", "karras", Shifted(shift=2.5), Shifted(shift=4.0))
# Seeds of what is fitted, of what chooses the undistilled solver, and of what is measured.
FITTING, CHOOSING, MEASURING = 0, 1, 2


def squared_distance(x: Tensor, y: Tensor, moved: Tensor) -> Tensor:
    """Mean square distance over each residue's atoms, in square angstrom: (n,), float64.

    Args:
        x, y: (n, 13, 3).
        moved: (n, 13), where there is an atom.
    """
    squares = ((x - y).double().square().sum(dim=-1) * moved).sum(dim=1)
    return squares / moved.sum(dim=1)


def fine_run(denoiser: dode.Denoiser, calls: int, solver: str = "deis", grid: str = "log-snr") -> dode.Tableau:
    """What is taken for the truth."""
    return dode.solver(solver).tableau(denoiser.schedule, calls, grid)


def undistilled(schedule: dode.schedules.NoiseSchedule, calls: int) -> list[dode.Tableau]:
    """What there is without distilling: all solvers on all grids, and each once more with all atoms on the C-alpha for a first output,
    which costs no call and leaves another one for the rest of the way."""
    return [
        replace(dode.solver(solver).tableau(schedule, calls + (first == "zero"), grid), first=first)
        for solver in SOLVERS
        for grid in GRIDS
        for first in ("network", "zero")
    ]


def best_undistilled(denoiser: dode.Denoiser, residues: Residues, nfe: Sequence[int]) -> list[tuple[dode.Tableau, float]]:
    """For each number of calls the one of least error, in square angstrom, on noise that is used for nothing else."""
    noise = standard_noise(CHOOSING, len(residues), denoiser.shape)
    truth = dode.sample(denoiser, fine_run(denoiser, 64), noise, **residues.condition)

    def error(tableau: dode.Tableau) -> float:
        x = dode.sample(denoiser, tableau, noise, **residues.condition)
        return squared_distance(x, truth, residues.moved).mean().item()

    found = [[(tableau, error(tableau)) for tableau in undistilled(denoiser.schedule, calls)] for calls in nfe]
    return [min(each, key=lambda pair: pair[1]) for each in found]


def distilled(
    denoiser: dode.Denoiser, solver: str, nfe: int, residues: Residues, *, samples: int, **options: Any
) -> dode.Distilled:
    """A solver distilled on noise and residues of their own; every residue is a sample with a condition of its own.

    A mean first output would be made anew for every residue, and is not tried.
    """
    return dode.distill(
        denoiser,
        solver,
        nfe,
        samples=samples,
        validation=max(8, samples // 3),
        held_out=0,
        seed=FITTING,
        firsts=("network", "zero"),
        **options,
        **residues.condition,
    )
