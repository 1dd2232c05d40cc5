"""`distill`: teacher, fit, and the measurement on held-out noise."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dode.conditions import Condition, cycle
from dode.denoisers import Denoiser
from dode.distillation import directions, greedy
from dode.distillation.result import Distilled, Errors, with_statistics
from dode.grids import GridLike
from dode.noise import FITTING, HELD_OUT, standard_noise
from dode.progress import evaluation_progress
from dode.sampling import Run, start
from dode.schedules import Array
from dode.solvers import Solver
from dode.solvers import solver as make_solver
from dode.tableau import Tableau
from dode.teacher import Teacher, make_teacher, teacher_states


def distill(
    denoiser: Denoiser,
    solver: str | Solver,
    nfe: int | None = None,
    *,
    samples: int = 100,
    teacher_scale: int = 10,
    seed: int = 0,
    grid: GridLike | None = None,
    times: Sequence[float] | None = None,
    teacher: str | Solver | None = None,
    teacher_nfe: int | None = None,
    noise: Tensor | None = None,
    targets: Tensor | Sequence[Tensor] | None = None,
    held_out: int = 64,
    cache: str | Path | None = None,
    progress: bool = False,
    **cond: Any,
) -> Distilled:
    """Distil a solver: one number a row, fitted in closed form so that the student follows the teacher.

    Args:
        denoiser: the network; it is only run.
        solver: a name, or `dode.solver(name, **options)`.
        nfe: number of network evaluations of the student; may be left out where `times` are given.
        samples: fitting samples, >= 1.
        teacher_scale: into how many parts the teacher cuts a step of the student.
        seed: of the noise: same seed, same result.
        grid: where the student stops; the solver's or the schedule's own by default.
        times: explicit times in place of a grid, decreasing, the last one that of the result.
        teacher: another solver for the teacher.
        teacher_nfe: about how many evaluations the teacher takes, in place of `teacher_scale`.
        noise: (samples, *shape), standard normal, in place of the seed's fitting noise.
        targets: for each row the states to reach, (K, samples, *shape), in place of a teacher; needs `noise`.
        held_out: samples of fresh noise on which base and distilled are compared; 0 for none. None are used with `targets`.
        cache: a folder that keeps the teacher's states; an interrupted run goes on from there.
        progress: show a progress bar.
        cond: the condition. Tensors have a row a sample; sample i takes row i modulo their number; held-out ones go on.

    Raises:
        ValueError: a budget, grid, option or shape that cannot be.
        FloatingPointError: the network gave NaN or infinite values; the message names the step.
    """
    began = time.perf_counter()
    if grid is not None and times is not None:
        raise ValueError("give a grid or times, not both")
    chosen = make_solver(solver) if isinstance(solver, str) else solver
    where = grid if times is None else times
    base = chosen.tableau(denoiser.schedule, nfe, where)
    along = directions.paper(base)
    noise = _fitting_noise(denoiser, noise, samples, seed)
    samples = len(noise)
    if held_out < 0:
        raise ValueError(f"held_out must be at least 0, got {held_out}")
    made: Teacher | None = None
    if targets is None:
        tutor = chosen if teacher is None else make_solver(teacher) if isinstance(teacher, str) else teacher
        path = chosen.path(denoiser.schedule, nfe, where)
        made = make_teacher(tutor, path, base, scale=teacher_scale, nfe=teacher_nfe)
        described = f"{tutor}, {made.tableau.nfe} NFE"
    else:
        targets = _checked_targets(targets, noise, base.nfe)
        held_out = 0
        described = "given targets"

    counter = _Counter(denoiser)
    per_sample = (made.tableau.nfe if made else 0) + 2 * base.nfe
    folder = Path(cache) if cache is not None else None
    total = per_sample * samples + (per_sample if held_out else 0) * held_out
    with evaluation_progress(denoiser, total, f"distilling {chosen}", show=progress):
        fitting_cond = cycle(cond, 0, samples)
        if made:
            with counter.count("teacher"):
                targets = teacher_states(denoiser, made, noise, fitting_cond, cache=folder)
        assert targets is not None
        with counter.count("fit"):
            found = greedy.fit(denoiser, base, along, noise, list(targets), fitting_cond)
        tableau = greedy.corrected(base, along, found.lambdas)
        with counter.count("measurement"):
            fitting = Errors(row_errors(denoiser, base, noise, targets, fitting_cond), found.errors)
            unseen = None
            if made and held_out:
                fresh = standard_noise(seed, held_out, noise.shape[1:], stream=HELD_OUT, dtype=noise.dtype)
                fresh_cond = cycle(cond, samples, samples + held_out)
                fresh_targets = teacher_states(denoiser, made, fresh, fresh_cond, cache=folder)
                unseen = Errors(*(row_errors(denoiser, t, fresh, fresh_targets, fresh_cond) for t in (base, tableau)))
    assert base.integrand is not None
    return with_statistics(
        Distilled(
            tableau=tableau,
            base=base,
            lambdas=found.lambdas,
            factors=base.integrand.factors,
            standard_errors=found.standard_errors,
            fitting=fitting,
            held_out=unseen,
            seconds=time.perf_counter() - began,
            evaluations=counter.evaluations,
            settings={"model": denoiser.name, "teacher": described, "samples": samples, "seed": seed},
        )
    )


def row_errors(
    denoiser: Denoiser, tableau: Tableau, noise: Tensor, targets: Sequence[Tensor] | Tensor, cond: Condition
) -> Array:
    """Mean square distance of a run to the targets: (K, n), over a sample's elements."""
    x = start(denoiser, tableau, noise)
    errors = []
    with denoiser.evaluator(x, cond) as evaluate, torch.no_grad():
        run = Run(denoiser, evaluate, tableau, x)
        for k in range(tableau.rows):
            run.evaluate(k)
            distance = run.advance(k) - targets[k].to(x)
            errors.append(distance.double().square().flatten(1).mean(1))
    result: Array = torch.stack(errors).cpu().numpy()
    return result


def _fitting_noise(denoiser: Denoiser, noise: Tensor | None, samples: int, seed: int) -> Tensor:
    if noise is not None:
        return noise
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    if denoiser.shape is None:
        raise ValueError("the shape of a sample is not known: make the Denoiser with shape=..., or hand over noise")
    dtype = denoiser.dtype or torch.float32
    return standard_noise(seed, samples, denoiser.shape, stream=FITTING, dtype=torch.promote_types(dtype, torch.float32))


def _checked_targets(targets: Tensor | Sequence[Tensor], noise: Tensor, nfe: int) -> Tensor | Sequence[Tensor]:
    if len(targets) != nfe or any(target.shape != noise.shape for target in targets):
        raise ValueError(
            f"targets must have shape {(nfe, *noise.shape)}, a state for each row, got {len(targets)} of "
            f"{tuple(targets[0].shape) if len(targets) else '-'}"
        )
    return targets


class _Counter:
    """Network evaluations by what they were spent on."""

    def __init__(self, denoiser: Denoiser) -> None:
        self._denoiser = denoiser
        self.evaluations: dict[str, int] = {}

    @contextmanager
    def count(self, what: str) -> Iterator[None]:
        before = self._denoiser.evaluations
        yield
        self.evaluations[what] = self.evaluations.get(what, 0) + self._denoiser.evaluations - before
