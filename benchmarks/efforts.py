"""What the efforts reach on a network, beside the best undistilled solver and the best single-lambda solver, and what each costs.

    python benchmarks/efforts.py fashion [--nfe 3 4 5 6 8] [--work .benchmarks] [--out docs/benchmarks]

Mean square end-point distance to a 200-NFE reference, whose own error is on the page, on 256 held-out noises that nothing was fitted to or
chosen by. The best undistilled solver is the best of the registry over all its grids, chosen on these very noises: the bar is as high as
it can be. An interrupted run goes on where it was. With --out the tableaux of "thorough" for a bundled network go into a folder
tableaux/NETWORK of it.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from common import (
    EVERY_NETWORK,
    HELD_OUT,
    MIXTURES,
    REFERENCE_NFE,
    SEED,
    Store,
    held_out,
    mean_and_error,
    network,
    options,
    publish,
)
from rich.console import Console

import dode
from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distillation import PAPER
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.grids import Grid, Karras, LogSNR, Mixed, Power, Quadratic, Shifted, Uniform
from dode.report.reference import reference_error
from dode.solvers import REGISTRY, Solver
from dode.tableau import Tableau

BUDGETS = (3, 4, 5, 6, 8)
# Where the budget of the best undistilled solver with the same error is looked for.
LARGER = (12, 16, 20, 30)
# Grids of the undistilled solvers, with and without the analytical first step.
GRIDS: tuple[Grid, ...] = (Uniform(), Power(exponent=1.2), Quadratic(), Shifted(shift=3.0), LogSNR(), Mixed(), Karras())
AFS = ", AFS"
EFFORTS = ("fast", "balanced", "thorough")
SOLVER = "deis"
# Of all solvers one of these is nearly always best with a single lambda.
SINGLES = ("ddim", "dpm-solver++", "unipc")
# All pairs are tried on so many of the noises, the best of them on all; at larger budgets those that were best at the last one.
FEW, FINALISTS = 48, 3
console = Console(width=140)


def main() -> None:
    parser = options(__doc__, EVERY_NETWORK)
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--solver", default=SOLVER, help="that the efforts improve")
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    store = Store(args.work / args.network)
    bench = Bench(denoiser, cond, held_out(denoiser, cond, store), store)

    rows = [row for nfe in args.nfe for row in bench.rows(nfe, args.solver)]
    larger = [bench.undistilled(nfe) for nfe in LARGER]
    own = store.get("error of the reference", lambda: reference_error(denoiser, bench.batch, REFERENCE_NFE))
    publish(page(args.network, rows, larger, own), f"efforts-{args.network}", args.out)
    if args.out:
        (args.out / f"efforts-{args.network}.csv").write_text(as_csv(rows + larger), encoding="utf-8")
    if args.out and args.network not in MIXTURES:
        best = args.out / "tableaux" / args.network
        best.mkdir(parents=True, exist_ok=True)
        for nfe in args.nfe:
            shutil.copy(store.tableau(args.solver, EFFORTS[-1], nfe), best)


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to sample: its error, and what it took to make it."""

    nfe: int
    what: str
    name: str
    error: float
    standard_error: float
    median: float
    cost: int = 0
    seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class Bench:
    denoiser: Denoiser
    cond: Condition
    batch: Batch
    store: Store

    def rows(self, nfe: int, solver: str) -> Iterator[Row]:
        """Everything at one budget."""
        best = self.undistilled(nfe)
        yield best
        if best.name.endswith(AFS):
            yield self.undistilled(nfe, afs=False)
        singles = [row for name in SINGLES if (row := self.distilled(nfe, name, "paper")) is not None]
        yield dataclasses.replace(min(singles, key=lambda row: row.error), what="best single lambda")
        for effort in EFFORTS:
            row = self.distilled(nfe, solver, effort)
            assert row is not None
            yield row

    def undistilled(self, nfe: int, *, afs: bool = True) -> Row:
        """The best of the registry over all grids, with or without those that take their first output as zero."""
        what = "best undistilled" if afs else "without AFS"

        def compute() -> dict[str, float | str | int]:
            found = {name: error for name, error in self.tried(nfe).items() if afs or not name.endswith(AFS)}
            tableaux = dict(undistilled(self.denoiser, nfe))
            finalists = sorted(found, key=found.__getitem__)[:FINALISTS]
            final = {name: self.errors(tableaux[name]) for name in finalists}
            name = min(final, key=lambda name: final[name]["error"])
            return {"nfe": nfe, "what": what, "name": name} | final[name]

        row = self._row(f"undistilled {nfe}" + ("" if afs else " without AFS"), compute)
        assert row is not None
        return row

    def tried(self, nfe: int) -> dict[str, float]:
        """The errors of the undistilled solvers on a few of the noises; at a larger budget only of the best at the small ones."""

        def compute() -> dict[str, float]:
            few = self.batch.part(slice(0, FEW))
            names = None
            if nfe in LARGER:
                last = self.tried(BUDGETS[-1])
                names = sorted(last, key=last.__getitem__)[: 2 * FINALISTS]
            return {
                name: float(end_errors(self.denoiser, tableau, few).mean())
                for name, tableau in undistilled(self.denoiser, nfe)
                if names is None or name in names
            }

        found: dict[str, float] = self.store.get(f"undistilled {nfe}, a few noises", compute)
        return found

    def distilled(self, nfe: int, solver: str, effort: str) -> Row | None:
        """A distilled solver; None at a budget that it does not have."""

        def compute() -> dict[str, float | str | int] | None:
            how = PAPER if effort == "paper" else {"effort": effort}
            began = time.perf_counter()
            try:
                result = dode.distill(self.denoiser, solver, nfe, seed=SEED, held_out=0, **how, **self.cond)
            except ValueError:
                return None
            seconds = time.perf_counter() - began
            result.save(self.store.tableau(solver, effort, nfe), overwrite=True)
            name = solver if effort == "paper" else f"{solver}: {result.chosen}"
            made = {"cost": result.cost, "seconds": seconds}
            return {"nfe": nfe, "what": effort, "name": name} | self.errors(result.tableau) | made

        return self._row(f"{effort} {solver} {nfe}", compute)

    def errors(self, tableau: Tableau) -> dict[str, float]:
        """Of a tableau on all the noises."""
        found = end_errors(self.denoiser, tableau, self.batch)
        error, doubt = mean_and_error(found.tolist())
        return {"error": error, "standard_error": doubt, "median": float(np.median(found))}

    def _row(self, key: str, compute: Callable[[], Any]) -> Row | None:
        found = self.store.get(key, compute)
        row = None if found is None else Row(**found)
        if row is not None:
            console.print(
                f"{row.nfe:>3} {row.what:18} {row.error:.3e}  {row.cost:>7,} evaluations  {row.name}", highlight=False
            )
        return row


def undistilled(denoiser: Denoiser, nfe: int) -> Iterator[tuple[str, Tableau]]:
    """Every solver on every grid, as it is and with the analytical first step."""
    for name in REGISTRY:
        for grid in GRIDS:
            for first in ("network", "zero"):
                try:
                    tableau = _tableau(denoiser, dode.solver(name), nfe, grid, first)
                except ValueError:  # a budget or grid that this solver does not have here
                    continue
                yield f"{name}, {grid}{AFS if first == 'zero' else ''}", tableau


def _tableau(denoiser: Denoiser, solver: Solver, nfe: int, grid: Grid, first: str) -> Tableau:
    if first == "network":
        return solver.tableau(denoiser.schedule, nfe, grid)
    return dataclasses.replace(solver.tableau(denoiser.schedule, nfe + 1, grid), first="zero")


def page(name: str, rows: Sequence[Row], larger: Sequence[Row], own: float) -> list[str]:
    """The table with ratios, and how many calls the best undistilled solver takes for the same error."""
    lines = [
        f"# Efforts on `{name}`",
        "",
        f"`python benchmarks/efforts.py {name} --out docs/benchmarks`; torch {torch.__version__}, {torch.get_num_threads()} threads. "
        f"Mean square distance of the end point to a {REFERENCE_NFE}-NFE reference (itself off by about {own:.0e}) over {HELD_OUT} "
        "held-out noises, ± standard error, and the median; evaluations and seconds made the tableau. The best undistilled solver is the "
        f"best of the registry over {', '.join(str(grid) for grid in GRIDS)}, with and without the analytical first step (AFS), chosen "
        "on these noises; the best single lambda is the best of "
        f"{', '.join(SINGLES)} by the paper's method.",
        "",
        *summary(rows, larger),
        "",
        "| NFE | | error | median | / best undistilled | median / its median | / best single lambda | undistilled NFE with this error "
        "| evaluations | x paper | s |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    plain = by_budget(rows, larger)
    medians = {row.nfe: row.median for row in rows if row.what == "best undistilled"}
    for row in rows:
        single = next(r.error for r in rows if r.nfe == row.nfe and r.what == "best single lambda")
        made = "" if not row.cost else f"{row.cost:,} | {row.cost / (1100 * row.nfe):.2f} | {row.seconds:.0f}"
        lines.append(
            f"| {row.nfe} | {row.what} ({row.name}) | {row.error:.2e} ± {row.standard_error:.0e} | {row.median:.2e} | "
            f"{row.error / plain[row.nfe]:.3f} | {row.median / medians[row.nfe]:.3f} | {row.error / single:.3f} | "
            f"{equal_budget(row.error, plain)} | {made or ' | | '} |"
        )
    budgets = ", ".join(f"{nfe}: {error:.2e}" for nfe, error in sorted(plain.items()))
    return [*lines, "", f"Best undistilled by NFE: {budgets}."]


def summary(rows: Sequence[Row], larger: Sequence[Row]) -> list[str]:
    """The errors alone, a line a budget, and how many calls of the best undistilled solver "thorough" stands for."""
    columns = ("best undistilled", "best single lambda", *EFFORTS)
    plain = by_budget(rows, larger)
    lines = [f"| NFE | {' | '.join(columns)} | undistilled NFE with the error of thorough |", "|---" * (len(columns) + 2) + "|"]
    for nfe in dict.fromkeys(row.nfe for row in rows):
        errors = {row.what: row.error for row in rows if row.nfe == nfe}
        cells = [f"{errors[column]:.4f}" if errors[column] >= 1e-3 else f"{errors[column]:.1e}" for column in columns]
        lines.append(f"| {nfe} | {' | '.join(cells)} | {equal_budget(errors['thorough'], plain)} |")
    return lines


def by_budget(rows: Sequence[Row], larger: Sequence[Row]) -> dict[int, float]:
    """The error of the best undistilled solver at every budget."""
    return {row.nfe: row.error for row in (*rows, *larger) if row.what == "best undistilled"}


def equal_budget(error: float, plain: dict[int, float]) -> str:
    """The budget at which the best undistilled solver is as good, between the measured ones on a log-log line."""
    known = sorted(plain.items())
    if error >= known[0][1]:
        return f"<= {known[0][0]}"
    for (n, before), (m, after) in pairwise(known):
        if after <= error < before:
            share = math.log(before / error) / math.log(before / after)
            return f"{math.exp(math.log(n) + share * math.log(m / n)):.1f}"
    return f"> {known[-1][0]}"


def as_csv(rows: Sequence[Row]) -> str:
    buffer = io.StringIO()
    names = [f.name for f in dataclasses.fields(Row)]
    writer = csv.DictWriter(buffer, names)
    writer.writeheader()
    writer.writerows(dataclasses.asdict(row) for row in rows)
    return buffer.getvalue()


if __name__ == "__main__":
    main()
