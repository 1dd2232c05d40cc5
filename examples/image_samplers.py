"""What the examples of images compare: a solver as it is, the best undistilled one, a distilled one, and a run of many calls."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import Tensor

import dode
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.distillation import PAPER
from dode.fine import REFERENCE
from dode.grids import GridFamily, Karras, LogSNR, Power, Quadratic, Shifted, Uniform
from dode.schedules import NoiseSchedule
from dode.tableau import Tableau

# Of these the best undistilled solver is taken. docs/choosing.md: one of them wins at 4 to 8 calls on every bundled network.
SOLVERS = ("ddim", "deis", "dpm-solver++", "unipc")
GRIDS = (Uniform(), Power(exponent=1.2), Quadratic(), Shifted(shift=3.0), LogSNR(), Karras())

Run = Callable[[Tableau], Tensor]


@dataclass(frozen=True)
class Samplers:
    """Tableaux for one use of a network: three with few calls, and what they are measured against.

    Attributes:
        base: the solver that is distilled, on its own grid.
        undistilled: the one of `SOLVERS` on one of `GRIDS` that came nearest to `many`, on noise of its own.
        distilled: by `dode.distill`.
        many: many calls of another solver.
    """

    base: Tableau
    undistilled: Tableau
    distilled: Tableau
    many: Tableau

    def named(self) -> Iterator[tuple[str, Tableau]]:
        """The four with the names that tables and pictures give them."""
        yield "base", self.base
        yield "best undistilled", self.undistilled
        yield "distilled", self.distilled
        yield "many calls", self.many


def many_calls(schedule: NoiseSchedule, nfe: int, start: float | None = None, *, reverse: bool = False) -> Tableau:
    """The run that others are measured against, from pure noise or from `start`; upwards with `reverse`."""
    solver, grid = REFERENCE
    return solver.tableau(schedule, nfe, _beginning(grid, start), reverse=reverse)


def base_tableau(
    schedule: NoiseSchedule, solver: str, nfe: int, start: float | None = None, *, reverse: bool = False
) -> Tableau:
    """A solver on its own grid, as someone who chooses nothing takes it."""
    made = dode.solver(solver)
    grid = None if start is None else _beginning(dode.grids.make_grid(made.family.default_grid, schedule), start)
    return made.tableau(schedule, nfe, grid, reverse=reverse)


def best_undistilled(
    schedule: NoiseSchedule, nfe: int, run: Run, target: Tensor, start: float | None = None, *, reverse: bool = False
) -> Tableau:
    """The classical tableau whose samples are nearest, by mean square distance.

    Args:
        schedule: the network's.
        nfe: calls.
        run: samples with a tableau; from noise that nothing is measured on.
        target: what it should give.
        start: a first time below that of pure noise.
        reverse: tableaux that run upwards, for inversion.

    Raises:
        ValueError: no solver has so few calls on any grid.
    """
    found = []
    for name, grid in product(SOLVERS, GRIDS):
        try:
            tableau = dode.solver(name).tableau(schedule, nfe, _beginning(grid, start), reverse=reverse)
            error = float(mean_square_distance(run(tableau), target).mean())
        except (ValueError, FloatingPointError):  # a grid that has no such budget or start, or a run that diverges
            continue
        found.append((error, tableau))
    if not found:
        raise ValueError(f"no solver runs with {nfe} calls: take more")
    return min(found, key=lambda pair: pair[0])[1]


def distilled(denoiser: Denoiser, solver: str, nfe: int, folder: Path, name: str, **options: Any) -> Tableau:
    """A distilled tableau from the folder; made and put there where it is not yet.

    Args:
        denoiser, solver, nfe, options: as `dode.distill` takes them; the effort "paper" is the paper's method, one number a step.
        folder: made if it is not there.
        name: of the file, without its ending; it should say all that the options say.
    """
    path = folder / f"{name}.json"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        if options.get("effort") == "paper":
            options = {**{key: value for key, value in options.items() if key != "effort"}, **PAPER}
        # What it is worth is measured by who asks for it, on the use that it is for.
        dode.distill(denoiser, solver, nfe, held_out=0, **options).save(path)
    return Tableau.load(path)


def condition(denoiser: Denoiser, labels: Tensor) -> dict[str, Tensor]:
    """The class labels as keywords; nothing for a network without classes."""
    return {"class_labels": labels} if denoiser.null_condition is not None else {}


def _beginning(grid: Any, start: float | None) -> Any:
    """A grid that begins at a time; as it is for None."""
    if start is None:
        return grid
    if not isinstance(grid, GridFamily):
        raise ValueError(f"{grid} cannot begin at another time")
    return replace(grid, start=start)
