"""What keeps a thorough tableau from a lower error: the fit, the span of its outputs, the teacher, or arithmetic.

    python benchmarks/limits.py fashion [--nfe 3 4 5 6 8 10] [--work .benchmarks] [--out docs/benchmarks]

Run `benchmarks/efforts.py` first. On the noises that nothing saw: the error of the tableau, and the error that its last row would have
if its coefficients were the best ones for each sample alone, all states before as they are. What is left then no coefficients of the
last row can take away: only other states, that is other times or other rows before. Beside it the error on the fitting samples, and
how far float32 states are from float64 ones.
"""

from __future__ import annotations

import torch
from common import HELD_OUT, Store, held_out, network, options, publish
from efforts import BUDGETS, SOLVER
from torch import Tensor

import dode
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.distillation.batch import Batch
from dode.tableau import Tableau

# Samples whose float32 run is compared with a float64 one.
FEW = 16


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    store = Store(args.work / args.network)
    batch = held_out(denoiser, cond, store)
    lines = [
        f"# What limits a thorough tableau on `{args.network}`",
        "",
        f"`python benchmarks/limits.py {args.network} --out docs/benchmarks`; mean square end-point distances, {HELD_OUT} held-out noises.",
        "",
        "| NFE | held-out | fitting samples | held-out, the best last row for each sample alone | the teacher's own | float32 |",
        "|---|---|---|---|---|---|",
    ]
    for nfe in args.nfe:
        tableau = Tableau.load(store.tableau(SOLVER, "thorough", nfe))
        made = tableau.meta["distillation"]
        numbers = [
            *errors(denoiser, tableau, batch),
            made["fitting"]["distilled"][-1],
            made["reference"]["teacher"],
            rounding(denoiser, tableau, batch.part(slice(0, FEW))),
        ]
        held, floor, fitted, teacher, single = (f"{number:.1e}" for number in numbers)
        lines.append(f"| {nfe} | {held} | {fitted} | {floor} | {teacher} | {single} |")
    publish(lines, f"limits-{args.network}", args.out)


def errors(denoiser: Denoiser, tableau: Tableau, batch: Batch) -> tuple[float, float]:
    """The error, and that with the last row solved for each sample alone."""
    trajectory = dode.sample(denoiser, tableau, batch.noise, return_trajectory=True, **batch.cond)
    known = torch.stack([trajectory.states[-2], *trajectory.denoised], dim=1).flatten(2).double()
    target: Tensor = batch.end.to(known).flatten(1)
    # By singular values: a first output of zero is a column of zeros.
    weights = torch.linalg.lstsq(known.mT.cpu(), target.unsqueeze(-1).cpu(), driver="gelsd").solution.to(known)
    closest = (known.mT @ weights).squeeze(-1)
    return float(mean_square_distance(trajectory.final, batch.end).mean()), float(mean_square_distance(closest, target).mean())


def rounding(denoiser: Denoiser, tableau: Tableau, batch: Batch) -> float:
    """The distance between the end points of two runs whose states are float32 and float64; the network computes in its own dtype."""
    single, double = (
        dode.sample(denoiser, tableau, batch.noise, dtype=d, **batch.cond) for d in (torch.float32, torch.float64)
    )
    return float(mean_square_distance(double, single).mean())


if __name__ == "__main__":
    main()
