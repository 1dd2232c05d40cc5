"""End-point error of every solver on `fashion`, base and distilled, at several budgets.

    python benchmarks/solvers.py [--out docs/benchmarks]

256 held-out noises, all classes in turn, against one 500-NFE reference; 100 fitting samples; default grids.
Where distilled is worse than its base it is printed at the end.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from rich.console import Console

import dode
from dode.report import compare
from dode.report.compare import Entry
from dode.solvers import REGISTRY

BUDGETS = (4, 5, 6, 8, 10, 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="folder for comparison.csv, .md and .png")
    parser.add_argument("--budgets", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--samples", type=int, default=100)
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
        samples=args.samples,
        held_out=args.held_out,
        reference_nfe=args.reference_nfe,
        on_entry=progress,
        class_labels=torch.arange(10),
    )
    console.print(result.markdown(), soft_wrap=True)
    worse = [e for e in result.entries if not e.skipped and e.ratio > 1]
    console.print(f"\ndistilled is worse than its base in {len(worse)} of {len(result.entries)} cases:")
    for e in worse:
        mean, error = e.difference
        doubt = "" if e.worse else "  (within two standard errors)"
        console.print(f"  {e.solver}, NFE {e.nfe}: ratio {e.ratio:.3f}, difference {mean:+.2e} +- {error:.1e}{doubt}")
    if args.out:
        result.save(args.out, overwrite=True)


if __name__ == "__main__":
    main()
