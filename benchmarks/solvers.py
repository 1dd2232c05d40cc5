"""End-point error of every solver of the registry on a network, base and distilled: the promise never to be worse, over the whole grid.

    python benchmarks/solvers.py fashion [--effort fast] [--nfe 4 5 6 8 10 20] [--work .benchmarks] [--out docs/benchmarks]

256 held-out noises that no choice saw, against one 500-NFE reference; default grids. Where distilled is worse than its base it is
printed at the end. An interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from common import HELD_OUT, NETWORKS, REFERENCE, REFERENCE_NFE, SEED, Store, held_out, network
from rich.console import Console

import dode
from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distillation import PAPER
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.report.compare import Comparison, Entry
from dode.solvers import REGISTRY

BUDGETS = (4, 5, 6, 8, 10, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--effort", default="fast", choices=("paper", "fast", "balanced", "thorough"))
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--work", type=Path, default=Path(".benchmarks"), help="folder of unfinished results")
    parser.add_argument("--out", type=Path, help="the table and its plot go into a folder EFFORT-NETWORK of this one")
    args = parser.parse_args()
    console = Console(width=120)
    denoiser, cond = network(args.network)
    store = Store(args.work / args.network)
    batch = held_out(denoiser, cond, store)

    entries = []
    for name in REGISTRY:
        for nfe in args.nfe:
            key = f"{name} {nfe}, base and {args.effort}"
            found = store.get(key, lambda name=name, nfe=nfe: errors(denoiser, cond, batch, name, nfe, args.effort))
            entry = Entry(name, nfe, np.array(found["base"]), np.array(found["distilled"]), found["skipped"])
            entries.append(entry)
            numbers = entry.skipped or f"{entry.base.mean():.3e} -> {entry.distilled.mean():.3e} ({entry.ratio:.3f})"
            console.print(f"{name:14} NFE {nfe:>2}  {numbers}", highlight=False)
    reference = f"{REFERENCE} with {REFERENCE_NFE} NFE"
    how = "the paper's method" if args.effort == "paper" else f"effort={args.effort!r}"
    result = Comparison(tuple(entries), denoiser.name, reference, HELD_OUT, how, SEED)
    console.print(result.markdown(), soft_wrap=True)
    console.print("\n".join(result.exceptions()), highlight=False)
    if args.out:
        folder = args.out / f"{args.effort}-{args.network}"
        folder.mkdir(exist_ok=True)
        result.save(folder, overwrite=True)


def errors(denoiser: Denoiser, cond: Condition, batch: Batch, solver: str, nfe: int, effort: str) -> dict[str, Any]:
    """For each held-out noise the error of the base and of what was made of it; or why there is none at this budget."""
    try:
        dode.solver(solver).tableau(denoiser.schedule, nfe)
    except ValueError as error:
        return {"base": [], "distilled": [], "skipped": str(error)}
    options = PAPER if effort == "paper" else {"effort": effort}
    result = dode.distill(denoiser, solver, nfe, seed=SEED, held_out=0, **options, **cond)
    base, distilled = (end_errors(denoiser, tableau, batch).tolist() for tableau in (result.base, result.tableau))
    return {"base": base, "distilled": distilled, "skipped": ""}


if __name__ == "__main__":
    main()
