"""End-point error of every solver of the registry on a network, base and distilled: the promise never to be worse, over the whole grid.

    python benchmarks/solvers.py fashion [--effort fast] [--nfe 4 5 6 8 10 20] [--work .benchmarks] [--out docs/benchmarks]

256 held-out noises that no choice saw, against one 500-NFE reference; default grids. Where distilled is worse than its base it is
printed at the end. Table and plot go into a folder EFFORT-NETWORK of --out. An interrupted run goes on where it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from common import HELD_OUT, REFERENCE_NFE, SEED, Store, held_out, network, options
from rich.console import Console

import dode
from dode.distillation import PAPER
from dode.report.compare import Comparison, Entry, compare_one
from dode.report.reference import reference_run
from dode.solvers import REGISTRY

BUDGETS = (4, 5, 6, 8, 10, 20)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--effort", default="fast", choices=("paper", "fast", "balanced", "thorough"))
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    args = parser.parse_args()
    console = Console(width=120)
    denoiser, cond = network(args.network)
    store = Store(args.work / args.network)
    batch = held_out(denoiser, cond, store)

    entries = []
    for name in REGISTRY:
        for nfe in args.nfe:
            key = f"{name} {nfe}, base and {args.effort}"

            def compute(name: str = name, nfe: int = nfe) -> dict[str, Any]:
                how = PAPER if args.effort == "paper" else {"effort": args.effort}
                entry = compare_one(denoiser, dode.solver(name), nfe, batch, options={"seed": SEED, **how}, cond=cond)
                return {"base": entry.base.tolist(), "distilled": entry.distilled.tolist(), "skipped": entry.skipped}

            found = store.get(key, compute)
            entry = Entry(name, nfe, np.array(found["base"]), np.array(found["distilled"]), found["skipped"])
            entries.append(entry)
            numbers = entry.skipped or f"{entry.base.mean():.3e} -> {entry.distilled.mean():.3e} ({entry.ratio:.3f})"
            console.print(f"{name:14} NFE {nfe:>2}  {numbers}", highlight=False)
    how = "the paper's method" if args.effort == "paper" else f"effort={args.effort!r}"
    result = Comparison(tuple(entries), denoiser.name, str(reference_run(REFERENCE_NFE)), HELD_OUT, how, SEED)
    console.print(result.markdown(), soft_wrap=True)
    console.print("\n".join(result.exceptions()), highlight=False)
    if args.out:
        folder = args.out / f"{args.effort}-{args.network}"
        folder.mkdir(exist_ok=True)
        result.save(folder, overwrite=True)


if __name__ == "__main__":
    main()
