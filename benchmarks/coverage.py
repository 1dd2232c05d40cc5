"""Whether the intervals that a result states cover what they say: repeats of a distillation, each against one large pool of noise.

    python benchmarks/coverage.py fashion [--effort fast] [--nfe 5] [--repeats 40] [--pool 1024] [--out docs/benchmarks]

Every repeat has noise of its own to fit, to choose and to measure, with the default sizes. The truth is the result's error on the pool,
which no repeat sees, against a reference that is finer than theirs. The pool's own chance, 2 to 25 % of an interval's width, counts
against the intervals. An interrupted run goes on where it was.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from common import EVERY_NETWORK, Store, network, options, publish

import dode
from dode import statistics
from dode.distillation.choice import end_errors
from dode.report.reference import unseen_batch

REFERENCE_NFE = 100
SOLVER = "deis"
# What is judged: the name of a figure, and what is said of it.
FIGURES = {"mean": "mean error", "median": "median error", "high": "95 % quantile", "ratio": "mean / the base's mean"}


def main() -> None:
    parser = options(__doc__, EVERY_NETWORK)
    parser.add_argument("--effort", default="fast", choices=("fast", "balanced", "thorough"))
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--pool", type=int, default=1024)
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    store = Store(args.work / args.network)
    # Repeats take the seeds from 1 on.
    pool = unseen_batch(denoiser, cond, args.pool, REFERENCE_NFE, seed=0, cache=store.folder)
    base = dode.solver(SOLVER).tableau(denoiser.schedule, args.nfe)
    bases = np.array(store.get(f"base {args.nfe} on {args.pool}", lambda: end_errors(denoiser, base, pool).tolist()))

    def repeat(seed: int) -> dict[str, Any]:
        result = dode.distill(denoiser, SOLVER, args.nfe, effort=args.effort, seed=seed, **cond)
        assert result.held_out is not None
        true = end_errors(denoiser, result.tableau, pool)
        said = statistics.figures(result.held_out.distilled[-1]) | {"ratio": result.held_out.gain}
        found = {
            "mean": float(true.mean()),
            "median": float(np.median(true)),
            "high": float(np.quantile(true, statistics.HIGH)),
            "ratio": float(true.mean() / bases.mean()),
        }
        samples = result.held_out.samples
        return {"said": {name: list(said[name]) for name in FIGURES}, "true": found, "samples": samples}

    made = [
        store.get(f"coverage {args.effort} {args.nfe} {seed} on {args.pool}", lambda seed=seed: repeat(seed))  # type: ignore[misc]
        for seed in range(1, args.repeats + 1)
    ]
    publish(page(args.network, args.effort, args.nfe, args.pool, made), f"coverage-{args.network}", args.out)


def page(name: str, effort: str, nfe: int, pool: int, made: list[dict[str, Any]]) -> list[str]:
    """How often each interval holds the truth, and how far the truth is from what was said."""
    sizes = sorted({entry["samples"] for entry in made})
    lines = [
        f"# Intervals on `{name}`",
        "",
        f"`python benchmarks/coverage.py {name} --effort {effort} --nfe {nfe}`; torch {torch.__version__}. {len(made)} distillations of "
        f"{SOLVER}, each measured on {' to '.join(map(str, dict.fromkeys((sizes[0], sizes[-1]))))} held-out samples of its own; true "
        f"error on {pool} others. Intervals are to cover it in {100 * statistics.LEVEL:.0f} %.",
        "",
        "| figure | covered | truth below | truth above | truth / said, geometric mean | spread of its logarithm | width, high / low |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, words in FIGURES.items():
        true = np.array([entry["true"][key] for entry in made])
        value, low, high = np.array([entry["said"][key] for entry in made]).T
        inside = (low <= true) & (true <= high)
        logs = np.log(true / value)
        lines.append(
            f"| {words} | {inside.mean():.0%} | {(true < low).mean():.0%} | {(true > high).mean():.0%} | {np.exp(logs.mean()):.2f} | "
            f"{logs.std(ddof=1):.2f} | {np.median(high / low):.2f} |"
        )
    worse = sum(entry["true"]["ratio"] > 1 for entry in made)
    return [*lines, "", f"Worse than the base on the pool: {worse} of {len(made)}."]


if __name__ == "__main__":
    main()
