"""End-point error of every solver of the registry on a network, base and distilled: the promise never to be worse, over the whole grid.

    python benchmarks/solvers.py fashion [--effort fast] [--nfe 4 5 6 8 10 20] [--work .benchmarks] [--out docs/benchmarks]

256 held-out noises that no choice saw, against one 200-NFE reference; default grids. Where distilled is worse than its base it is
printed at the end. The table goes into --out as EFFORT-NETWORK.md. An interrupted run goes on where it was.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from common import HELD_OUT, REFERENCE_NFE, SEED, network, options, publish

import dode
from dode import statistics
from dode.report import Comparison
from dode.report.cells import METHODS
from dode.report.results import Result
from dode.solvers import REGISTRY

BUDGETS = (4, 5, 6, 8, 10, 20)


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--effort", default="fast", choices=METHODS)
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    found = dode.compare(
        denoiser,
        list(REGISTRY),
        args.nfe,
        efforts=[args.effort],
        samples=HELD_OUT,
        reference_nfe=REFERENCE_NFE,
        seed=SEED,
        cache=args.work / args.network / "compare",
        told=lambda words, done, total: print(f"{done} of {total}: {words}", flush=True),
        **cond,
    )
    publish(page(found, args.effort), f"{args.effort}-{args.network}", args.out)


def page(found: Comparison, effort: str) -> Iterator[str]:
    """A table with a row a solver, and the cells whose distilled tableau is worse than its base."""
    yield f"# {found.setting.model}: base → {effort}"
    yield ""
    yield (
        f"Mean square distance of the end point to that of {found.reference.name} (itself about {found.reference.error:.1e} off), "
        f"{found.setting.samples} noises, {found.setting.device}. `python benchmarks/solvers.py {found.setting.model} --effort {effort}`"
    )
    yield ""
    yield "| solver | " + " | ".join(f"NFE {nfe}" for nfe in found.budgets) + " |"
    yield "|---" * (1 + len(found.budgets)) + "|"
    for solver in found.solvers:
        of_solver = {r.cell.nfe: r for r in found.measured if r.cell.solver == solver and r.cell.method == effort}
        yield f"| {solver} | " + " | ".join(_pair(found, of_solver.get(nfe)) for nfe in found.budgets) + " |"
    yield ""
    distilled = [r for r in found.measured if not r.cell.base]
    worse = [line for r in distilled if (line := _worse(found, r))]
    yield f"Distilled is worse than its base in {len(worse)} of {len(distilled)} cells."
    yield from worse


def _pair(found: Comparison, result: Result | None) -> str:
    base = None if result is None else found.base_of(result)
    if result is None or base is None:
        return "-"
    return f"{base.errors.mean():.2e} → {result.errors.mean():.2e}"


def _worse(found: Comparison, result: Result) -> str:
    """A line about a cell whose mean or median error is above its base's; "" for others."""
    base = found.base_of(result)
    if base is None:
        return ""
    means = result.errors.mean() > base.errors.mean()
    medians = np.median(result.errors) > np.median(base.errors)
    if not (means or medians):
        return ""
    ratio = statistics.ratio(result.errors, base.errors)
    return (
        f"- {result.cell}: ratio of the means {ratio}, of the medians {np.median(result.errors) / np.median(base.errors):.3g}"
    )


if __name__ == "__main__":
    main()
