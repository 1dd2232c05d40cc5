"""What a first output that is no call of its own is worth: the network's, zero, and the mean for the condition, at equal NFE.

    python benchmarks/first_output.py fashion [--guidance 3] [--nfe 4 5 6] [--out docs/benchmarks]

The closed form of DEIS on its best grid for each kind of first output: the error on noise that nothing saw, and whether the
validation noise, by which `thorough` chooses, prefers it. For a network with classes also class by class.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from common import SEED, network, options, publish
from rich.progress import track

import dode
from dode.distillation.choice import end_errors
from dode.distillation.data import CHOICE, FIT, UNSEEN, Noises, Tutor
from dode.distillation.search import ALL_GRIDS, Search, Trial
from dode.fine import PAIR, FineRun, whole_span
from dode.tableau import FIRST
from dode.teacher import Teacher

SOLVER, TEACHER_NFE = "deis", 64
FITTED, VALIDATED, HELD_OUT = 100, 60, 120


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--guidance", type=float, nargs="+", default=(1.0,))
    parser.add_argument("--nfe", type=int, nargs="+", default=(4, 5, 6))
    args = parser.parse_args()
    how = f"--guidance {' '.join(f'{g:g}' for g in args.guidance)} --nfe {' '.join(map(str, args.nfe))}"
    lines = [
        f"# A first output that is shared, on `{args.network}`",
        "",
        f"`python benchmarks/first_output.py {args.network} {how} --out docs/benchmarks`; "
        f"closed form of {SOLVER} on its best grid, mean square end-point distance to {TEACHER_NFE} NFE on {HELD_OUT} held-out noises; "
        f"in brackets on the {VALIDATED} of the validation. All rows of a budget have the same number of calls that every sample pays.",
        "",
        "| guidance | NFE | the network's | D0 = mean | D0 = 0 | validation takes | classes that the mean helps |",
        "|---|---|---|---|---|---|---|",
    ]
    for guidance in track(args.guidance, disable=None):
        lines += table(args.network, guidance, args.nfe, args.work / args.network)
    publish(lines, f"first-output-{args.network}", args.out)


def table(name: str, guidance: float, budgets: list[int], cache: Path) -> list[str]:
    """A line for each budget; the teacher's states are kept in the folder `cache`."""
    denoiser, cond = network(name)
    if guidance != 1:
        denoiser = denoiser.replace(guidance_scale=guidance)
    noises = Noises(denoiser, SEED, None, {FIT: FITTED, CHOICE: VALIDATED, UNSEEN: HELD_OUT}, cond)
    fine = FineRun(*PAIR[0], TEACHER_NFE)
    teacher = Teacher(fine.tableau(denoiser.schedule, whole_span(denoiser.schedule)), ())
    tutor = Tutor(teacher, str(fine), True, cache)
    fit, validation, unseen = (tutor.batch(denoiser, *noises.of(which)) for which in (FIT, CHOICE, UNSEEN))
    lines = []
    for nfe in budgets:
        trials = Search(denoiser, "multistep", fit, validation, False).all([dode.solver(SOLVER)], nfe, ALL_GRIDS, FIRST)
        best: dict[str, Trial] = {}
        for trial in trials:  # the best comes first
            best.setdefault(trial.base.first, trial)
        errors = {first: end_errors(denoiser, trial.candidate.tableau, unseen) for first, trial in best.items()}
        cells = [f"{errors[first].mean():.2e} ({best[first].candidate.error:.2e}), {best[first].base.grid}" for first in FIRST]
        helped = helped_classes(errors["network"], errors["mean"], unseen.cond)
        lines.append(f"| {guidance:g} | {nfe} | {' | '.join(cells)} | {trials[0].base.first} | {helped} |")
    return lines


def helped_classes(network: np.ndarray, mean: np.ndarray, cond: dode.conditions.Condition) -> str:
    """In how many classes the mean error is the lower one."""
    labels = next((value for value in cond.values() if isinstance(value, torch.Tensor)), None)
    if labels is None:
        return ""
    rows = [(labels == label).numpy() for label in labels.unique()]
    return f"{sum(mean[row].mean() < network[row].mean() for row in rows)} of {len(rows)}"


if __name__ == "__main__":
    main()
