"""Times alone: a solver's own rule on learned times, against it on the best grid of the families, and against the whole tableau.

    python benchmarks/learned_times.py fashion [--nfe 4 6 8] [--solver ddim dpm-solver++ unipc] [--work .benchmarks] [--out docs/benchmarks]

Mean square end-point distance to a 200-NFE reference, whose own error is on the page, on 128 held-out noises that nothing was fitted to or
chosen by. The best grid is chosen on fitting and validation noise, as the learned times are; both cost what "balanced" costs. The whole
tableau is "balanced" with the same solver as its start. An interrupted run goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from common import EVERY_NETWORK, REFERENCE_NFE, SEED, Store, network, options, publish
from rich.console import Console

import dode
from dode import statistics
from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.integrations.export import lists
from dode.report.reference import reference_error, unseen_batch
from dode.tableau import Tableau

HELD_OUT = 128
BUDGETS, SOLVERS = (4, 6, 8), ("ddim", "dpm-solver++", "unipc")
# The whole tableau's start hardly counts: its closed form depends on the times alone.
WHOLE = "dpm-solver++"
console = Console(width=160)


@dataclass(frozen=True)
class Row:
    """A solver at a budget: errors (n,) of the best grid, of learned times and, of one solver, of the whole tableau."""

    solver: str
    nfe: int
    grid: str
    base: list[float]
    learned: list[float]
    whole: list[float] | None
    times: str
    cost: int
    seconds: float


def main() -> None:
    parser = options(__doc__, (*EVERY_NETWORK, "fashion-edm"))
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--solver", nargs="+", default=SOLVERS)
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    if args.network == "fashion-edm":
        cond = {"class_labels": torch.arange(10)}
    store = Store(args.work / f"times-{args.network}")
    batch = unseen_batch(denoiser, cond, HELD_OUT, REFERENCE_NFE, seed=SEED, cache=store.folder)
    own = store.get("error of the reference", lambda: reference_error(denoiser, batch, REFERENCE_NFE))
    rows = list(measured(denoiser, cond, batch, store, args.nfe, args.solver))
    publish(page(args.network, rows, own), f"times-{args.network}", args.out)


def measured(
    denoiser: Denoiser, cond: Condition, batch: Batch, store: Store, budgets: Sequence[int], solvers: Sequence[str]
) -> Iterator[Row]:
    def errors(tableau: Tableau) -> list[float]:
        return [float(error) for error in end_errors(denoiser, tableau, batch)]

    def made(solver: str, learn: str) -> dict[str, dict[str, Any]]:
        """By budget."""
        began = time.perf_counter()
        results = dode.distill(denoiser, solver, list(budgets), learn=learn, seed=SEED, held_out=0, cache=store.folder, **cond)
        seconds = (time.perf_counter() - began) / len(budgets)
        found = {}
        for result in results:
            nfe = result.tableau.nfe
            result.save(store.tableau(solver, learn, nfe), overwrite=True)
            listed = lists.decimals(lists.times(result.tableau)) if learn == "times" else ""
            found[str(nfe)] = {
                "grid": result.base.grid,
                "base": errors(result.base),
                "errors": errors(result.tableau),
                "times": listed,
                "cost": result.charged,
                "seconds": seconds,
            }
        return found

    for solver in solvers:
        times = store.get(f"{solver}, times {budgets}", lambda solver=solver: made(solver, "times"))
        whole = (
            store.get(f"{solver}, whole {budgets}", lambda solver=solver: made(solver, "coefficients"))
            if solver == WHOLE
            else None
        )
        for nfe in budgets:
            each = times[str(nfe)]
            yield Row(
                solver,
                nfe,
                each["grid"],
                each["base"],
                each["errors"],
                None if whole is None else whole[str(nfe)]["errors"],
                each["times"],
                each["cost"],
                each["seconds"],
            )
            console.print(solver, nfe, np.mean(each["errors"]) / np.mean(each["base"]), highlight=False)


def page(name: str, rows: Sequence[Row], own: float) -> list[str]:
    whole = {row.nfe: row.whole for row in rows if row.whole is not None}
    lines = [
        f"# Times alone on `{name}`",
        "",
        f"`python benchmarks/learned_times.py {name} --out docs/benchmarks`; torch {torch.__version__}, {torch.get_num_threads()} threads, "
        f"seed {SEED}. Mean square distance of the end point to a {REFERENCE_NFE}-NFE reference (itself off by about {own:.0e}) over "
        f"{HELD_OUT} held-out noises. The best grid of the families is chosen on the noise that the times are learned on; ratios are of "
        f"means, with {100 * statistics.LEVEL:.0f} % intervals, and of medians. The whole tableau is `balanced`, at the same cost: 1 is "
        "the budget of `balanced`.",
        "",
        "| solver | NFE | best grid | its error | learned times | ratio | ratio of medians | learned times / whole tableau | cost | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        base, learned = np.array(row.base), np.array(row.learned)
        gain = statistics.ratio(learned, base)
        other = whole.get(row.nfe)
        against = "" if other is None else f"{learned.mean() / np.mean(other):.2f}"
        lines.append(
            f"| {row.solver} | {row.nfe} | {row.grid} | {base.mean():.2e} | {learned.mean():.2e} | {gain.value:.2f} "
            f"({gain.low:.2g} to {gain.high:.2g}) | {np.median(learned) / np.median(base):.2f} | {against} | "
            f"{row.cost / (4400 * row.nfe):.2f} | {row.seconds:.0f} |"
        )
    ratios = [float(np.mean(row.learned) / np.mean(row.base)) for row in rows]
    mean = math.exp(float(np.mean(np.log(ratios))))
    return [
        *lines,
        "",
        f"Geometric mean of the ratios: {mean:.2f}; at most 0.6 in {sum(ratio <= 0.6 for ratio in ratios)} of {len(ratios)}.",
        "",
        "The learned times, as `dode export FILE --to times` prints them:",
        "",
        *(f"- {row.solver}, {row.nfe}: {row.times}" for row in rows),
    ]


if __name__ == "__main__":
    main()
