"""How accurate a teacher's states are between the times at which it stopped.

    python benchmarks/dense_teacher.py fashion [--nfe 20 40 64 128] [--samples 16] [--out docs/benchmarks]

Mean square distance per element to a run with every step cut into eight parts: at the teacher's own times, and half-way between them
in time, where its states are interpolated. The largest over all times of the mean over samples.
"""

from __future__ import annotations

from itertools import pairwise

from common import SEED, network, options, publish

from dode.cache import Cache
from dode.conditions import cycle
from dode.distances import mean_square_distance
from dode.fine import PAIR, FineRun, whole_span
from dode.grids import Point
from dode.report.reference import report_noise
from dode.teacher import Teacher, teacher_states

# Parts of a step of the finer run.
PARTS = 8


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--nfe", type=int, nargs="+", default=(20, 40, 64, 128))
    parser.add_argument("--samples", type=int, default=16)
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    noise = report_noise(denoiser, args.samples, SEED)
    own = cycle(cond, 0, args.samples)
    schedule, (solver, grid) = denoiser.schedule, PAIR[0]

    lines = [
        f"# Between the times of a teacher, on `{args.network}`",
        "",
        f"`python benchmarks/dense_teacher.py {args.network} --out docs/benchmarks`; largest mean square distance of the states of "
        f"{solver} on the {grid} grid to those of a run with {PARTS} times as many steps, {args.samples} samples.",
        "",
        "| teacher NFE | at its own times | half-way between | at the end |",
        "|---|---|---|---|",
    ]
    for nfe in args.nfe:
        coarse = Teacher(FineRun(solver, grid, nfe).tableau(schedule, whole_span(schedule)), ())
        times = [float(t) for t in coarse.tableau.times]
        parts = grid.refine(schedule, times, [PARTS] * (len(times) - 1))
        fine = Teacher(solver.tableau(schedule, grid=parts), ())
        found, exact = (
            teacher_states(denoiser, teacher, noise, own, dense=True, cache=Cache(args.work / args.network))
            for teacher in (coarse, fine)
        )

        def error(t: float, found=found, exact=exact) -> float:
            point = Point(t, float(schedule.alpha(t)), float(schedule.sigma(t)))
            return float(mean_square_distance(found.at(point), exact.at(point)).mean())

        inner = max(error((t + s) / 2) for t, s in pairwise(times))
        lines.append(f"| {nfe} | {max(error(t) for t in times[1:-1]):.1e} | {inner:.1e} | {error(times[-1]):.1e} |")
    publish(lines, f"dense-teacher-{args.network}", args.out)


if __name__ == "__main__":
    main()
