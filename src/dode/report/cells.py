"""The cells of a comparison, and how each one's tableau is made: a solver as it is, distilled, or read from a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distillation import PAPER, Distilled, make_plan, run
from dode.distillation.effort import EFFORTS
from dode.grids import Grid, GridLike, make_grid
from dode.names import unknown_name
from dode.report.results import BASE, PAPERS, Cell, to_json
from dode.schedules import NoiseSchedule
from dode.solvers import Solver
from dode.solvers import solver as make_solver
from dode.tableau import Tableau
from dode.tableaux import TableauSet

TableauLike = Tableau | TableauSet | str | Path

# What a solver is distilled by.
METHODS = (*EFFORTS, PAPERS)


@dataclass(frozen=True, eq=False)
class Wanted:
    """A cell that is asked for.

    Attributes:
        cell: it.
        solver: what it is made of; None for a tableau that is there.
        grid: of a base; None for its own.
        tableau: one that is there.
    """

    cell: Cell
    solver: Solver | None = None
    grid: Grid | None = None
    tableau: Tableau | None = None

    @property
    def distilled(self) -> bool:
        """It takes a distillation."""
        return self.solver is not None and not self.cell.base


def wanted_cells(
    schedule: NoiseSchedule,
    solvers: Sequence[str | Solver],
    budgets: Sequence[int],
    efforts: Sequence[str],
    grids: Sequence[GridLike],
    tableaux: Sequence[TableauLike] | Mapping[str, TableauLike],
) -> list[Wanted]:
    """All cells, solver by solver and budget by budget: the base, bases on other grids, the efforts; then the tableaux that are there.

    Raises:
        ValueError: nothing to compare, an unknown name, something twice, a budget below 1, or a tableau of another schedule.
        OSError: a tableau that cannot be read.
    """
    chosen = [make_solver(each) if isinstance(each, str) else each for each in solvers]
    stops = [make_grid(each, schedule) for each in grids]
    check_efforts(efforts)
    _check_distinct("solver", [str(each) for each in chosen])
    _check_distinct("nfe", budgets)
    _check_distinct("grid", [str(each) for each in stops])
    if low := [nfe for nfe in budgets if nfe < 1]:
        raise ValueError(f"nfe must be at least 1, got {low[0]}")
    found = []
    for each in chosen:
        for nfe in budgets:
            found.append(Wanted(Cell(str(each), nfe, BASE), each))
            found += [Wanted(Cell(str(each), nfe, BASE, str(grid)), each, grid) for grid in stops]
            found += [Wanted(Cell(str(each), nfe, effort), each) for effort in efforts]
    for name, tableau in _loaded(tableaux, budgets):
        try:
            tableau.check_schedule(schedule)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        found.append(Wanted(Cell(tableau.solver or name, tableau.nfe, name), tableau=tableau))
    if not found:
        raise ValueError("there is nothing to compare: give solvers with numbers of evaluations, or tableaux")
    return found


def check_efforts(efforts: Sequence[str]) -> None:
    """
    Raises:
        ValueError: an unknown effort, or one that is given twice.
    """
    for effort in efforts:
        if effort not in METHODS:
            raise unknown_name("effort", effort, METHODS)
    _check_distinct("effort", efforts)


def base_tableau(wanted: Wanted, schedule: NoiseSchedule) -> Tableau:
    """The undistilled tableau of a cell.

    Raises:
        ValueError: the solver has no such budget, or not on this grid.
    """
    assert wanted.solver is not None
    return wanted.solver.tableau(schedule, wanted.cell.nfe, wanted.grid)


def learned(
    denoiser: Denoiser,
    wanted: Wanted,
    cond: Condition,
    *,
    seed: int,
    cache: Path | None,
    options: Mapping[str, Any],
    finish: Callable[[Distilled], Distilled],
) -> dict[str, Any]:
    """Distil a cell's tableau, from noise that no cell is measured on; what it came to, as JSON.

    It depends on nothing but the network, the condition, the solver, the budget, the effort and the seed. Cells that choose the same
    teacher share its states by the cache, which changes no number; their `evaluations` are those that it would take alone.
    """
    effort = wanted.cell.method
    how = PAPER if effort == PAPERS else {"effort": effort}
    assert wanted.solver is not None
    try:
        plan = make_plan(denoiser, wanted.solver, wanted.cell.nfe, seed=seed, held_out=0, cache=cache, **how, **options, **cond)
        made = finish(run(plan))
    except (ValueError, FloatingPointError) as error:
        return {"skipped": " ".join(str(error).split())}
    lambdas = np.stack([made.lambdas, made.standard_errors[:, 0]]) if effort == PAPERS else None
    return {
        "tableau": to_json(made.tableau),
        "lambdas": to_json(lambdas),
        "evaluations": made.charged,
        "seconds": made.seconds,
        "notes": list(made.warnings),
        "skipped": "",
    }


def _loaded(
    tableaux: Sequence[TableauLike] | Mapping[str, TableauLike], budgets: Sequence[int]
) -> Iterator[tuple[str, Tableau]]:
    """Tableaux with their names: that of the file, with its folder where two are alike. Of several in one, those of the budgets."""
    if isinstance(tableaux, Mapping):
        named = [(name, tableau) for name, tableau in tableaux.items()]
    else:
        named = [(_name(each, i), each) for i, each in enumerate(tableaux)]
    names = [name for name, _ in named]
    found: set[str] = set()
    for name, each in named:
        unique = str(each) if names.count(name) > 1 and isinstance(each, str | Path) else name
        if unique in found:
            raise ValueError(f"the tableau {unique} is given twice")
        found.add(unique)
        held = TableauSet.load(each) if isinstance(each, str | Path) else TableauSet.of(each)
        taken = [tableau for tableau in held if len(held) == 1 or not budgets or tableau.nfe in budgets]
        if not taken:
            raise ValueError(f"{unique} has none of the numbers of evaluations that are compared: it has {held.listed}")
        for tableau in taken:
            yield unique, tableau


def _name(tableau: TableauLike, i: int) -> str:
    return Path(tableau).name if isinstance(tableau, str | Path) else f"tableau {i + 1}"


def _check_distinct(what: str, values: Sequence[Any]) -> None:
    for value in values:
        if list(values).count(value) > 1:
            raise ValueError(f"{what} {value} is given twice")
