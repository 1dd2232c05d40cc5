"""The end-to-end fit against Adam through the student run: the same unknowns, samples and start, error over network evaluations.

    python benchmarks/backpropagation.py fashion [--nfe 5] [--out docs/benchmarks]

Learned few-step samplers are fitted by back-propagation through the sampler. Here this is done with the unknowns of `dode`'s
fit, the coefficients of every row over its state and its newest outputs, from the same closed form, at several learning rates.
A backward pass counts as two evaluations.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from common import SEED, Store, held_out, network, options, publish
from torch import Tensor

import dode
from dode.conditions import map_tensors
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.distillation.data import CHOICE, FIT, UNSEEN, Noises, Tutor
from dode.distillation.directions import make_directions
from dode.distillation.end_to_end import refine
from dode.distillation.gram import RIDGES
from dode.distillation.greedy import corrected, fit
from dode.distillation.student import Student
from dode.tableau import Tableau
from dode.teacher import make_teacher

RATES = (3e-4, 1e-3, 3e-3)
BATCH = 20
OUTPUTS = 4


def main() -> None:
    parser = options(__doc__)
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--solver", default="deis")
    parser.add_argument("--budget", type=int, default=15_000, help="network evaluations of each fit after the closed form")
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    store = Store(args.work / args.network)
    unseen = held_out(denoiser, cond, store)

    solver = dode.solver(args.solver)
    base = solver.tableau(denoiser.schedule, args.nfe)
    noises = Noises(denoiser, SEED, None, {FIT: 100, CHOICE: 32, UNSEEN: 0}, cond)
    teacher = make_teacher(dode.solver("deis"), solver.path(denoiser.schedule, args.nfe), base)
    tutor = Tutor(teacher, "deis", False, store.folder)
    fitting, validation = (tutor.batch(denoiser, *noises.of(which)) for which in (FIT, CHOICE))
    along = make_directions("multistep", base)
    start = corrected(base, along, fit(denoiser, base, along, fitting, RIDGES).coefficients)

    lines = [
        f"# End-to-end fit and back-propagation on `{args.network}`, NFE {args.nfe}",
        "",
        f"`python benchmarks/backpropagation.py {args.network} --out docs/benchmarks`; {args.solver}, 100 fitting and 32 validation "
        "samples, both from the same closed form. A backward pass counts as two evaluations.",
        "",
        "| fit | held-out error | evaluations | s |",
        "|---|---|---|---|",
        line("closed form", start, denoiser, unseen, 0, 0.0),
    ]
    for share in (4, 2, 1):
        before, began = denoiser.evaluations, time.perf_counter()
        found = refine(denoiser, start, fitting, validation, budget=args.budget / share).tableau
        spent = denoiser.evaluations - before
        lines.append(line("Levenberg-Marquardt", found, denoiser, unseen, spent, time.perf_counter() - began))
    for rate in RATES:
        for tableau, spent, seconds in adam(denoiser, start, fitting, validation, args.budget, rate):
            lines.append(line(f"Adam, rate {rate:g}", tableau, denoiser, unseen, spent, seconds))
    publish(lines, f"backpropagation-{args.network}", args.out)


def line(name: str, tableau: Tableau, denoiser: Denoiser, unseen: Batch, spent: int, seconds: float) -> str:
    return f"| {name} | {end_errors(denoiser, tableau, unseen).mean():.3e} | {spent:,} | {seconds:.0f} |"


def adam(
    denoiser: Denoiser, start: Tableau, fitting: Batch, validation: Batch, budget: int, rate: float
) -> list[tuple[Tableau, int, float]]:
    """Fit by Adam; the best by validation after a quarter, a half and all of the budget, and then after four times that."""
    student = Student.of(start, denoiser.output)
    p = torch.tensor(student.p, dtype=torch.float64, requires_grad=True)
    q = torch.tensor(student.q, dtype=torch.float64, requires_grad=True)
    free = torch.from_numpy(np.tril(np.ones_like(student.q)) - np.tril(np.ones_like(student.q), -OUTPUTS))
    optimizer = torch.optim.Adam([p, q], lr=rate)
    order = np.random.default_rng(SEED)
    began, spent, turn = time.perf_counter(), 0, 0
    best, best_error = start, float(end_errors(denoiser, start, validation).mean())
    found, marks = [], [budget / 4, budget / 2, budget, 4 * budget]
    while marks:
        rows = torch.from_numpy(order.choice(len(fitting), BATCH, replace=False))
        loss = run(denoiser, student, p, q, fitting, rows)
        optimizer.zero_grad()
        loss.backward()
        assert q.grad is not None
        q.grad *= free
        optimizer.step()
        spent += 3 * BATCH * start.nfe
        turn += 1
        if turn % 10 == 0:
            current = student.changed(p.detach().numpy() - student.p, q.detach().numpy() - student.q).tableau()
            error = float(end_errors(denoiser, current, validation).mean())
            spent += start.nfe * len(validation)
            if error < best_error:
                best, best_error = current, error
        if spent >= marks[0]:
            marks.pop(0)
            found.append((best, spent, time.perf_counter() - began))
    return found


def run(denoiser: Denoiser, student: Student, p: Tensor, q: Tensor, batch: Batch, rows: Tensor) -> Tensor:
    """The mean square end-point error of some samples, with its graph."""
    x = batch.noise[rows] * student.base.noise_scale
    target, cond = batch.end[rows].to(x), map_tensors(lambda tensor: tensor[rows] if len(tensor) > 1 else tensor, batch.cond)
    outputs: list[Tensor] = []
    for k, point in enumerate(student.points[:-1]):
        output = denoiser.net(x, torch.full((len(x),), point.t), **cond)
        outputs.append(getattr(output, "sample", output))
        x = x * p[k].to(x) + sum(outputs[j] * q[k, j].to(x) for j in range(k + 1))
    return (x - target).square().mean()


if __name__ == "__main__":
    main()
