"""How far fine runs are from the truth, by solver, grid and number of calls: what a teacher is chosen from.

    python benchmarks/teachers.py fashion [--nfe 16 32 64 128] [--noises 32] [--work .benchmarks] [--out docs/benchmarks]

Mean and median square distance of the end point to a 400-call reference that is none of these runs and shares no grid with them, on
noises that nothing was fitted to. "bounded" is the end that all share: the clean sample is D at the lowest time at which the network may be
asked; "as in the papers" lets DEIS extrapolate there. An interrupted run goes on where it was.
"""

from __future__ import annotations

import numpy as np
import torch
from common import EVERY_NETWORK, Store, network, options, publish

import dode
from dode.distillation.choice import end_errors
from dode.fine import PAIR, FineRun, whole_span
from dode.grids import Grid, LogSNR, Mixed, Quadratic, Uniform
from dode.report.reference import reference_error, unseen_batch
from dode.solvers import Solver

BUDGETS = (16, 32, 64, 128)
REFERENCE_NFE = 400
GRIDS: tuple[Grid, ...] = (Uniform(), Quadratic(), Mixed(), LogSNR())
SOLVERS: dict[str, Solver] = {
    "UniPC-2": dode.solver("unipc", order=2),
    "DEIS-3": dode.solver("deis", order=3),
    "DEIS-3, as in the papers": dode.solver("deis", order=3, bounded=False),
    "DPM-Solver++ 3M": dode.solver("dpm-solver++", order=3),
}


def main() -> None:
    parser = options(__doc__, EVERY_NETWORK)
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--noises", type=int, default=32)
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    store = Store(args.work / args.network)
    batch = unseen_batch(denoiser, cond, args.noises, REFERENCE_NFE, cache=store.folder)

    def errors(solver: Solver, grid: Grid, nfe: int) -> list[float]:
        tableau = FineRun(solver, grid, nfe).tableau(denoiser.schedule, whole_span(denoiser.schedule))
        found = end_errors(denoiser, tableau, batch)
        return [float(found.mean()), float(np.median(found))]

    made = {
        (name, str(grid), nfe): store.get(
            f"teacher {name} {grid} {nfe} on {args.noises}",
            lambda s=solver, g=grid, n=nfe: errors(s, g, n),  # type: ignore[misc]
        )
        for name, solver in SOLVERS.items()
        for grid in GRIDS
        for nfe in args.nfe
    }
    own = store.get("error of the 400-call reference", lambda: reference_error(denoiser, batch, REFERENCE_NFE))
    publish(page(args.network, args.noises, args.nfe, made, own), f"teachers-{args.network}", args.out)


def page(name: str, noises: int, budgets: list[int], made: dict[tuple[str, str, int], list[float]], own: float) -> list[str]:
    """Mean (median) by solver and grid."""
    pair = " and ".join(f"`{solver}` on `{grid}`" for solver, grid in PAIR)
    lines = [
        f"# Teachers on `{name}`",
        "",
        f"`python benchmarks/teachers.py {name} --out docs/benchmarks`; torch {torch.__version__}. Mean (median) square distance of the "
        f"end point to a {REFERENCE_NFE}-call reference, itself off by about {own:.0e}, over {noises} noises. A teacher is found from "
        f"{pair}.",
        "",
        f"| solver | grid | {' | '.join(f'{nfe} calls' for nfe in budgets)} |",
        "|---" * (2 + len(budgets)) + "|",
    ]
    for solver in SOLVERS:
        for grid in map(str, GRIDS):
            cells = [f"{mean:.1e} ({median:.1e})" for mean, median in (made[solver, grid, nfe] for nfe in budgets)]
            lines.append(f"| {solver} | {grid} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
