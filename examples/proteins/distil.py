"""The best undistilled solver for so many calls, and what distilling makes of it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

import dode
from dode.noise import standard_noise
from examples.proteins.residues import Residues

SOLVERS = ("ddim", "ipndm", "deis", "dpm-solver++", "unipc")
GRIDS = ("uniform", "mixed", "log-snr", "karras")
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


def tried(denoiser: dode.Denoiser, residues: Residues, nfe: tuple[int, ...]) -> list[dict[str, Any]]:
    """The errors of all undistilled solvers on all grids, on noise that is used for nothing else."""
    noise = standard_noise(CHOOSING, len(residues), denoiser.shape)
    truth = dode.sample(denoiser, fine_run(denoiser, 64), noise, **residues.condition)
    found = []
    for calls in nfe:
        for solver in SOLVERS:
            for grid in GRIDS:
                x = dode.sample(
                    denoiser, dode.solver(solver).tableau(denoiser.schedule, calls, grid), noise, **residues.condition
                )
                error = squared_distance(x, truth, residues.moved).mean().item()
                found.append({"calls": calls, "solver": solver, "grid": grid, "error": error})
    return found


def best(found: list[dict[str, Any]], calls: int) -> dict[str, Any]:
    """The one of least error with so many calls."""
    return min((each for each in found if each["calls"] == calls), key=lambda each: each["error"])


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
