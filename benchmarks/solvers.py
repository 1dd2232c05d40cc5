"""End-point error of every solver on `fashion`, base and distilled, at several budgets.

    python benchmarks/solvers.py --paper [--out docs/benchmarks]

256 held-out noises, all classes in turn, against one 500-NFE reference; 100 fitting samples; default grids.
Where distilled is worse than its base it is printed at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

import dode
from dode.distillation import PAPER
from dode.report import compare
from dode.report.compare import Entry
from dode.solvers import REGISTRY

BUDGETS = (4, 5, 6, 8, 10, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for comparison.csv, .md and .png")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--paper", action="store_true", help="the paper's method, one number a step")
    parser.add_argument("--effort", default="balanced", help="otherwise: the effort of distill")
    parser.add_argument("--held-out", type=int, default=256)
    parser.add_argument("--reference-nfe", type=int, default=500)
    args = parser.parse_args()
    console = Console(width=120)

    def progress(entry: Entry) -> None:
        numbers = entry.skipped or f"{entry.base.mean():.3e} -> {entry.distilled.mean():.3e} ({entry.ratio:.3f})"
        console.print(f"{entry.solver:14} NFE {entry.nfe:>2}  {numbers}", highlight=False)

    result = compare(
        dode.load("fashion"),
        REGISTRY,
        args.budgets,
        options={**PAPER, "samples": args.samples} if args.paper else {"effort": args.effort},
        held_out=args.held_out,
        reference_nfe=args.reference_nfe,
        on_entry=progress,
        class_labels=torch.arange(10),
    )
    console.print(result.markdown(), soft_wrap=True)
    console.print("\n".join(result.exceptions()), highlight=False)
    if args.out:
        result.save(args.out, overwrite=True)


if __name__ == "__main__":
    main()
