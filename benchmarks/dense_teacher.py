"""How accurate a teacher's states are between the times at which it stopped.

    python benchmarks/dense_teacher.py fashion [--nfe 20 40 64 128] [--samples 16] [--out docs/benchmarks]

Mean square distance per element to a run with every step cut into eight parts: at the teacher's own times, and half-way between them
in time, where its states are interpolated. The largest over all times of the mean over samples.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path

from common import NETWORKS, REFERENCE, SEED, network
from rich.console import Console

import dode
from dode.conditions import cycle
from dode.grids import Point, Uniform
from dode.metrics import mean_square_distance
from dode.noise import REPORT, standard_noise
from dode.teacher import Teacher, dense_teacher, teacher_states

# Parts of a step of the finer run.
PARTS = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=NETWORKS)
    parser.add_argument("--nfe", type=int, nargs="+", default=(20, 40, 64, 128))
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--out", type=Path, help="folder for dense-teacher-NETWORK.md")
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    assert denoiser.shape is not None
    noise = standard_noise(SEED, args.samples, denoiser.shape, stream=REPORT)
    own = cycle(cond, 0, args.samples)
    schedule, solver = denoiser.schedule, dode.solver(REFERENCE)

    lines = [
        f"# Between the times of a teacher, on `{args.network}`",
        "",
        f"`python benchmarks/dense_teacher.py {args.network} --out docs/benchmarks`; largest mean square distance of {solver}'s states "
        f"to those of a run with {PARTS} times as many steps, {args.samples} samples.",
        "",
        "| teacher NFE | at its own times | half-way between | at the end |",
        "|---|---|---|---|",
    ]
    for nfe in args.nfe:
        coarse = dense_teacher(solver, schedule, nfe)
        times = [float(t) for t in coarse.tableau.times]
        grid = Uniform().refine(schedule, times, [PARTS] * (len(times) - 1))
        fine = Teacher(solver.tableau(schedule, grid=grid), ())
        found, exact = (teacher_states(denoiser, teacher, noise, own, dense=True) for teacher in (coarse, fine))

        def error(t: float, found=found, exact=exact) -> float:
            point = Point(t, float(schedule.alpha(t)), float(schedule.sigma(t)))
            return float(mean_square_distance(found.at(point), exact.at(point)).mean())

        inner = max(error((t + s) / 2) for t, s in pairwise(times))
        lines.append(f"| {nfe} | {max(error(t) for t in times[1:-1]):.1e} | {inner:.1e} | {error(times[-1]):.1e} |")
    text = "\n".join([*lines, ""])
    Console(width=140).print(text, soft_wrap=True, highlight=False)
    if args.out:
        (args.out / f"dense-teacher-{args.network}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
