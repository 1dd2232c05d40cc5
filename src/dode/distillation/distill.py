"""`distill`: a solver, a teacher and noise in; a tableau and its statistics out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.choice import measure
from dode.distillation.data import Noises, Tutor, given
from dode.distillation.directions import DirectionsLike, make_directions
from dode.distillation.effort import effort_of
from dode.distillation.gram import RIDGES
from dode.distillation.ledger import Ledger
from dode.distillation.method import AS_FITTED, Method, Outcome
from dode.distillation.result import Distilled, Errors, TeacherError, with_statistics
from dode.distillation.search import everything, grid_families
from dode.first_output import mean_output
from dode.grids import GridLike, Uniform
from dode.host import to_host
from dode.metrics import mean_square_distance
from dode.progress import evaluation_progress
from dode.sampling import sample
from dode.solvers import Solver
from dode.solvers import solver as make_solver
from dode.tableau import Tableau
from dode.teacher import dense_teacher, make_teacher

# The paper's method, exactly: `distill(..., **PAPER)`.
PAPER: dict[str, Any] = {"directions": "paper", "shrink": False, "refine": 0}

# Unless told otherwise everything but the paper's method learns from this solver, whose states are good to fourth order.
_TEACHER = "deis"
# Evaluations of a dense teacher, at least, without and with learned times, whose students come nearer to it; each step of a student is
# cut into eight at least.
_DENSE = (40, 64)
# Noises on which the teacher is compared with one twice as fine.
_TEACHER_CHECKS = 4


def distill(
    denoiser: Denoiser,
    solver: str | Solver,
    nfe: int | None = None,
    *,
    effort: str = "balanced",
    directions: DirectionsLike = "multistep",
    shrink: bool = True,
    refine: int | None = None,
    samples: int | None = None,
    validation: int | None = None,
    held_out: int = 64,
    seed: int = 0,
    grid: GridLike | None = None,
    times: Sequence[float] | None = None,
    teacher: str | Solver | None = None,
    teacher_scale: int | None = None,
    teacher_nfe: int | None = None,
    noise: Tensor | None = None,
    targets: Tensor | Sequence[Tensor] | None = None,
    budget: int | None = None,
    cache: str | Path | None = None,
    progress: bool = False,
    **cond: Any,
) -> Distilled:
    """Distil a solver: make a few-step run of it follow a many-step run.

    The paper's method, one lambda a step, is `directions="paper", shrink=False, refine=0` (`PAPER`).

    Args:
        denoiser: the network; it is only run.
        solver: a name, `dode.solver(name, **options)`, or "auto": all solvers and grids are tried and the best is taken.
        nfe: number of network evaluations of the student; may be left out where `times` are given.
        effort: "fast" (the paper's cost: closed form with several directions, chosen on validation noise), "balanced" (and the
            end-to-end fit of all coefficients), "thorough" (and grids, times, shared first outputs, several starts).
        directions: of the closed form: "multistep", "paper", or rows of coefficients; see `dode.distillation.directions`.
        shrink: choose on validation noise among the base, the fit and weaker forms of it, so that the result is never worse than
            the base; False gives out the fit.
        refine: accepted steps of the end-to-end fit at the most; 0 for none; by effort if None.
        samples: fitting samples, >= 1; by effort if None (100 for "balanced").
        validation: samples that choose; by effort if None. Neither fitted nor measured on.
        held_out: samples of fresh noise on which base and distilled are compared; 0 for none. None are used with `targets`.
        seed: of the noise: same seed, same result.
        grid: where the student stops; the solver's or the schedule's own by default. "thorough" takes it for the base only.
        times: explicit times in place of a grid, decreasing, the last one that of the result.
        teacher: the teacher's solver. By default the student's own for the paper's directions, else DEIS of third degree.
        teacher_scale: into how many parts the teacher cuts a step of the student; by effort if None.
        teacher_nfe: about how many evaluations the teacher takes, in place of `teacher_scale`.
        noise: (samples, *shape), standard normal, in place of the seed's fitting noise.
        targets: for each row the states to reach, (K, samples, *shape), in place of a teacher; needs `noise`. The last fifth of the
            samples then is the validation set, if one is needed.
        budget: network evaluations of one sample for all but the measurement; by effort if None.
        cache: a folder that keeps the teacher's states and the end-to-end fit: an interrupted run goes on from there.
        progress: show a progress bar.
        cond: the condition. Tensors have a row a sample; sample i takes row i modulo their number, other sets go on counting.

    Raises:
        ValueError: a budget, grid, option or shape that cannot be; fewer samples than directions; a teacher that is coarser than
            the student.
        FloatingPointError: the network gave NaN or infinite values; the message names the step.
    """
    began = time.perf_counter()
    spending = effort_of(effort)
    paper = directions == "paper"
    as_published = paper and not shrink and refine == 0
    iterations = spending.refine if refine is None else refine
    automatic = solver == "auto"
    if grid is not None and times is not None:
        raise ValueError("give a grid or times, not both")
    where = grid if times is None else times
    if automatic and (where is not None or targets is not None or paper):
        raise ValueError(
            'solver="auto" chooses solver and grid itself: leave out grid, times and targets, and the paper\'s directions'
        )
    learned = spending.search and targets is None and not paper
    searching = learned or automatic
    chosen = make_solver(_TEACHER if automatic else solver) if isinstance(solver, str) else solver
    base = chosen.tableau(denoiser.schedule, nfe, where)
    along = make_directions(directions, base)

    if noise is None and targets is not None:
        raise ValueError("targets need the noise that they belong to: give noise too")
    if samples is None:
        samples = 100 if as_published else spending.samples
    choose = shrink or iterations > 0
    choosing = 0 if not choose or targets is not None else spending.validation if validation is None else validation
    if choose and targets is None and choosing < 2:
        raise ValueError(f"validation must be at least 2 samples, got {choosing}: or shrink=False and refine=0 for none")
    noises = Noises.make(
        denoiser, seed, samples if noise is None else noise, choosing, held_out if targets is None else 0, cond
    )
    if len(noises.fit) < len(along):
        raise ValueError(f"{len(along)} directions need at least {len(along)} fitting samples, got {len(noises.fit)}")

    folder = None if cache is None else Path(cache)
    teaching = _solver_of_teacher(teacher, chosen, paper)
    tutor: Tutor | None = None
    if targets is None:
        if searching:
            made = dense_teacher(teaching, denoiser.schedule, teacher_nfe or max(_DENSE[learned], 8 * base.nfe))
        else:
            scale = teacher_scale if teacher_scale is not None else 10 if paper else spending.teacher_scale
            path = chosen.path(denoiser.schedule, nfe, where)
            made = make_teacher(teaching, path, base, scale=scale, nfe=teacher_nfe)
        if made.tableau.nfe < base.nfe:
            raise ValueError(f"the teacher takes {made.tableau.nfe} evaluations, the student {base.nfe}: take a finer teacher")
        if np.array_equal(made.tableau.times, base.times) and np.array_equal(made.tableau.b, base.b):
            raise ValueError("the teacher is the student itself, so there is nothing to learn: take a finer teacher")
        tutor = Tutor(made, searching, folder)

    ledger = Ledger(denoiser)
    allowed = spending.evaluations(base.nfe) if budget is None else budget
    total = _expected(noises, base.nfe, tutor, allowed if iterations or searching else 0)
    with evaluation_progress(denoiser, total, f"distilling {solver}", show=progress):
        with ledger.count("teacher"):
            fit, judging = _learn(denoiser, noises, tutor, targets, base.rows, choose=choose)
        if tutor is not None:
            ledger.saved += tutor.teacher.tableau.nfe * sum(noises.counts[:2]) - ledger.evaluations["teacher"]
        method = Method(
            denoiser, directions, shrink, iterations, allowed, folder, ledger, fit, judging, (0.0,) if paper else RIDGES
        )
        if searching:
            solvers, grids = everything() if automatic else ([chosen], grid_families())
            outcome = method.search(None if automatic else base, solvers, base.nfe, grids, learned=learned)
        else:
            outcome = method.improve(base)
        if outcome.tableau.first == "mean" and not cond:
            outcome = replace(outcome, tableau=_with_mean(denoiser, outcome.tableau, fit, ledger))
        with ledger.count("measurement"):
            teacher_error = None if tutor is None else _teacher_error(denoiser, teaching, tutor, fit)
            fitting = _errors(denoiser, outcome, fit, fitted=True)
            unseen = None if tutor is None else tutor.batch(denoiser, noises, "held_out")
            measured = None if unseen is None else _errors(denoiser, outcome, unseen)
    start = outcome.start
    return with_statistics(
        Distilled(
            tableau=outcome.tableau,
            base=outcome.base,
            directions=outcome.directions.names,
            coefficients=outcome.fit.coefficients,
            factors=start.integrand.factors if start.integrand is not None else np.ones(start.rows),
            standard_errors=outcome.fit.standard_errors,
            kept=tuple(len(row) for row in outcome.fit.kept),
            unused=_unused(outcome),
            ridges=outcome.fit.ridges,
            chosen=outcome.chosen,
            candidates=outcome.candidates,
            refined=outcome.refined,
            trials=outcome.trials,
            teacher_error=teacher_error,
            fitting=fitting,
            held_out=measured,
            notes=outcome.notes,
            seconds=time.perf_counter() - began,
            evaluations=ledger.evaluations,
            settings={
                "model": denoiser.name,
                "effort": "paper" if as_published else effort,
                "teacher": _described(tutor, teaching),
                "samples": len(fit),
                "validation": 0 if judging is None else len(judging),
                "seed": seed,
            },
        )
    )


def _solver_of_teacher(teacher: str | Solver | None, chosen: Solver, paper: bool) -> Solver:
    if teacher is None:
        return chosen if paper else make_solver(_TEACHER)
    return make_solver(teacher) if isinstance(teacher, str) else teacher


def _unused(outcome: Outcome) -> tuple[str, ...]:
    """The directions that no row of the closed form kept; none where there is no closed form."""
    kept = set().union(*outcome.fit.kept)
    return tuple(name for i, name in enumerate(outcome.directions.names) if i not in kept) if kept else ()


def _described(tutor: Tutor | None, teaching: Solver) -> str:
    if tutor is None:
        return "given targets"
    return f"{teaching}, {tutor.teacher.tableau.nfe} NFE" + (", dense" if tutor.dense else "")


def _expected(noises: Noises, nfe: int, tutor: Tutor | None, allowed: int) -> int:
    """About how many evaluations the whole takes, for the progress bar."""
    fit, validation, held_out = noises.counts
    teacher = 0 if tutor is None else tutor.teacher.tableau.nfe
    making = max(allowed, teacher * (fit + validation) + nfe * fit)
    return making + nfe * fit + (teacher + 2 * nfe) * held_out + 2 * teacher * _TEACHER_CHECKS


def _learn(
    denoiser: Denoiser,
    noises: Noises,
    tutor: Tutor | None,
    targets: Tensor | Sequence[Tensor] | None,
    rows: int,
    *,
    choose: bool,
) -> tuple[Batch, Batch | None]:
    """Fitting and validation set, of the teacher or of the caller's targets."""
    if tutor is None:
        assert targets is not None
        return given(noises, targets, rows, choose=choose)
    fit = tutor.batch(denoiser, noises, "fit")
    assert fit is not None
    return fit, tutor.batch(denoiser, noises, "validation")


def _with_mean(denoiser: Denoiser, tableau: Tableau, fit: Batch, ledger: Ledger) -> Tableau:
    """An unconditional network's mean first output goes into the file."""
    with ledger.count("shared"):
        mean = mean_output(denoiser, tableau, fit.noise.to(denoiser.device), {})
    return replace(tableau, mean=to_host(mean).astype(np.float64))


def _teacher_error(denoiser: Denoiser, teaching: Solver, tutor: Tutor, fit: Batch) -> TeacherError:
    """The teacher's end point against that of a run twice as fine, on a few noises."""
    few = fit.part(slice(0, _TEACHER_CHECKS))
    made = tutor.teacher.tableau
    steps = sorted(set(made.times.tolist()), reverse=True)
    fine = Uniform().refine(denoiser.schedule, steps, [2] * (len(steps) - 1))
    x = sample(denoiser, teaching.tableau(denoiser.schedule, grid=fine), few.noise, **few.cond)
    return TeacherError(float(mean_square_distance(x, few.end).mean()), len(few), made.nfe)


def _errors(denoiser: Denoiser, outcome: Outcome, batch: Batch, *, fitted: bool = False) -> Errors:
    """Of base and result on a set; what the fit itself walked on the fitting set is known."""
    base = measure(denoiser, outcome.base, batch)
    if outcome.tableau is outcome.base:
        return Errors(base, base)
    if fitted and outcome.chosen == AS_FITTED:
        return Errors(base, outcome.fit.errors)
    return Errors(base, measure(denoiser, outcome.tableau, batch))
