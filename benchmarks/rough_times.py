"""How rough a network is in its time, and what differences a fit of times needs for that.

    python benchmarks/rough_times.py fashion-flow [--solver unipc] [--nfe 8] [--shift 2.5] [--work .benchmarks] [--out docs/benchmarks]

The end point's mean square error over 32 noises, as one stop of a solver moves; the squared derivatives in log(sigma / alpha) of the
stops by differences of several lengths; and how far the fit of all stops comes on these noises with no limit of evaluations: by fine
differences alone, and by coarse ones first.
"""

from __future__ import annotations

import math

import numpy as np
from common import EVERY_NETWORK, REFERENCE_NFE, SEED, Store, network, options, publish

import dode
from dode.conditions import cycle
from dode.distillation.end_to_end import refine
from dode.distillation.linearisation import Differences, Problem, changed
from dode.distillation.ruled import Ruled, free_stops
from dode.grids import Power, Shifted
from dode.noise import FITTING, standard_noise
from dode.report.reference import with_reference

SAMPLES = 32
STEPS = (0.005, 0.0125, 0.05, 0.2)
MOVES = (-0.2, -0.05, -0.02, -0.01, -0.005, 0.0, 0.005, 0.01, 0.02, 0.05, 0.2)


def main() -> None:
    parser = options(__doc__, EVERY_NETWORK)
    parser.add_argument("--solver", default="unipc")
    parser.add_argument("--nfe", type=int, default=8)
    parser.add_argument("--shift", type=float, help="of the grid; without it, even in t")
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    store = Store(args.work / f"rough-times-{args.network}-{args.solver}-{args.nfe}-{args.shift}")
    solver = dode.solver(args.solver)
    grid = Power() if args.shift is None else Shifted(shift=args.shift)
    student = Ruled.on(solver.tableau(denoiser.schedule, args.nfe, grid), solver, denoiser.schedule, denoiser.output)
    unknowns = tuple(free_stops(student, first=True))
    noise = standard_noise(SEED, SAMPLES, denoiser.shape, stream=FITTING, dtype=denoiser.noise_dtype)
    batch = with_reference(denoiser, noise, cycle(cond, 0, SAMPLES), REFERENCE_NFE, cache=store.folder)
    problem = Problem(denoiser, student, unknowns, batch, 0.0)
    before = problem.error(student)

    def moved(i: int) -> list[float]:
        """The error as stop i moves, as a share of what it is where it was."""
        errors = []
        for move in MOVES:
            there = changed(student, unknowns, np.eye(len(unknowns))[i] * move, denoiser)
            errors.append(math.nan if there is None else problem.error(there) / before)
        return errors

    def squares(step: float) -> list[float]:
        """The squared derivatives of all stops, of which the first may not move up, as shares of the squared error."""
        problem.differences = Differences(time=step)
        model = problem.linearised(student, SAMPLES, 0)
        return [float(square / model.square) for square in np.diag(model.normal)]

    def fitted(coarse: bool) -> tuple[float, int, int]:
        """The share of the error that a fit leaves, its steps and what it cost in runs of all samples."""
        begun = denoiser.evaluations
        differences = None if coarse else Differences()
        found = refine(denoiser, student.base, batch, batch, stops=student, first_stop=True, differences=differences)
        return found.fitting[1] / found.fitting[0], found.iterations, round((denoiser.evaluations - begun) / SAMPLES / args.nfe)

    lines = {i: store.get(f"stop {i}", lambda i=i: moved(i)) for i in (len(unknowns) // 3, 2 * len(unknowns) // 3)}
    normal = {step: store.get(f"squares {step}", lambda step=step: squares(step)) for step in STEPS}
    fits = {coarse: store.get(f"fit {coarse}", lambda coarse=coarse: fitted(coarse)) for coarse in (False, True)}
    shift = "" if args.shift is None else f" --shift {args.shift:g}"
    publish(
        [
            f"# How rough `{args.network}` is in its time",
            "",
            f"`python benchmarks/rough_times.py {args.network} --solver {args.solver} --nfe {args.nfe}{shift} --out docs/benchmarks`; "
            f"{solver} on {grid}, seed {SEED}, {SAMPLES} noises, a {REFERENCE_NFE}-NFE reference.",
            "",
            "The end point's error, as a share of what it is on the grid, as one stop moves by so much in log(sigma / alpha):",
            "",
            "| stop | " + " | ".join(f"{move:g}" for move in MOVES) + " |",
            "|---" * (len(MOVES) + 1) + "|",
            *(f"| {i + 1} | " + " | ".join(f"{error:.4f}" for error in errors) + " |" for i, errors in lines.items()),
            "",
            "Squared derivatives of the end point in log(sigma / alpha) of each stop, as shares of its squared error, by differences of a "
            "length. Were the network smooth along its time, a column would hardly change:",
            "",
            "| differences of | " + " | ".join(f"stop {i + 1}" for i in range(len(unknowns))) + " |",
            "|---" * (len(unknowns) + 1) + "|",
            *(f"| {step:g} | " + " | ".join(f"{value:.3g}" for value in values) + " |" for step, values in normal.items()),
            "",
            "The fit of all stops on these noises, from the grid:",
            "",
            "| differences | error that is left | steps | runs of all samples |",
            "|---|---|---|---|",
            *(
                f"| {'coarse first' if coarse else 'fine'} | {left:.2g} | {steps} | {runs} |"
                for coarse, (left, steps, runs) in fits.items()
            ),
        ],
        f"rough-times-{args.network}",
        args.out,
    )


if __name__ == "__main__":
    main()
