"""Distilling inside a pipeline against the same through a `Denoiser`: the same numbers, and what driving costs.

    python benchmarks/pipeline_driver.py [--guidance 3] [--nfe 5] [--batch 20] [--repeats 3] [--out docs/benchmarks]

The network is `fashion`, once as a class-conditional pipeline of diffusers whose own loop guides it, once as dode's `Denoiser`. The two
take turns, with the paper's method (100 samples, a teacher of ten parts a step). Times are of the process (CPU seconds), one thread, so
that other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from common import publish

import dode
from dode.distances import mean_square_distance
from dode.distillation import PAPER
from dode.integrations.diffusers import drive, fashion_pipeline

NAME = "pipeline_driver"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--guidance", type=float, default=3.0)
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--batch", type=int, default=20)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, help="folder for the page")
    args = parser.parse_args()
    torch.set_num_threads(1)

    labels = {"class_labels": torch.arange(10)}
    calls = [{"class_labels": label} for label in range(10)]
    denoiser = dode.load("fashion", guidance_scale=args.guidance, batch_size=args.batch)
    pipe = fashion_pipeline()
    how = {**PAPER, "samples": args.samples, "held_out": 0}

    def by_network() -> dode.Distilled:
        return dode.distill(denoiser, "deis", args.nfe, **how, **labels)

    def by_pipeline() -> dode.Distilled:
        return dode.distill(pipe, "deis", args.nfe, **how, calls=calls, guidance_scale=args.guidance, batch_size=args.batch)

    times: dict[str, list[float]] = {"network": [], "pipeline": []}
    for _ in range(args.repeats):
        for name, run in (("network", by_network), ("pipeline", by_pipeline)):
            result, seconds = timed(run)
            times[name].append(seconds)
            if name == "network":
                alone = result
    with drive(pipe, calls=calls, guidance_scale=args.guidance, batch_size=args.batch) as (driven, cond):
        noise = dode.noise.standard_noise(1, args.batch, denoiser.shape)
        ends = [
            dode.sample(d, alone.tableau, noise, **dode.conditions.cycle(c, 0, args.batch))
            for d, c in ((denoiser, labels), (driven, cond))
        ]
    lambdas = np.abs(alone.lambdas - result.lambdas).max()
    apart = float(np.sqrt(mean_square_distance(*ends).max()))
    ratio = min(times["pipeline"]) / min(times["network"])
    publish(
        [
            "# Distilling inside a pipeline",
            "",
            f"`python benchmarks/pipeline_driver.py --guidance {args.guidance:g} --nfe {args.nfe} --batch {args.batch} "
            f"--repeats {args.repeats}`; torch {torch.__version__}, one thread.",
            "",
            "| | through a Denoiser | inside the pipeline |",
            "|---|---|---|",
            f"| CPU seconds, least of {args.repeats} | {min(times['network']):.1f} | {min(times['pipeline']):.1f} |",
            "",
            f"- Time inside the pipeline over that through a `Denoiser`: {ratio:.3f}.",
            f"- Lambdas differ by {lambdas:.1e} at most; they go to {np.abs(alone.lambdas).max():.2f}.",
            f"- Samples of one tableau from one noise differ by {apart:.1e}, root mean square an element, at most.",
        ],
        NAME,
        args.out,
    )


def timed(run: Callable[[], dode.Distilled]) -> tuple[dode.Distilled, float]:
    """The result, and the process's seconds for it."""
    before = time.process_time()
    result = run()
    return result, time.process_time() - before


if __name__ == "__main__":
    main()
