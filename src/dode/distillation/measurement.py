"""How good a result is: base and distilled on noise that neither fitted nor chose, against a reference that is finer than the teacher and
another one."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dode.distillation.batch import Batch
from dode.distillation.choice import measure
from dode.distillation.data import UNSEEN, Tutor
from dode.distillation.execution import Made
from dode.distillation.method import AS_FITTED, Outcome
from dode.distillation.plan import Plan
from dode.distillation.result import Distilled, Errors, Reference, with_statistics
from dode.distillation.rounding import rounding_floor
from dode.distillation.teaching import SHARE
from dode.fine import PAIR, FineRun, agreed, other_than, undistilled_errors
from dode.metrics import mean_square, mean_square_distance
from dode.sampling import sample
from dode.teacher import Teacher

# The reference: so many times as fine as the teacher; by itself, where the teacher is on the student's grid, from so many evaluations on.
_FINER, _LEAST, _MOST = 2, 32, 256
# Noises on which teacher and reference are compared, and those on which the teacher's rounding is measured.
_CHECKS, _ROUNDED = 8, 4
# Held-out noise is drawn up to this many times as often where chance leaves it open which one is better.
_MORE = 4


def measured(plan: Plan, made: Made, began: float) -> Distilled:
    """The result with its errors; `began` is when it was begun, by `time.perf_counter`."""
    outcome, ledger = made.outcome, made.ledger
    with ledger.count("measurement"):
        judge = None if made.teaching is None else _reference(plan, made)
        fitting = _errors(plan, outcome, made.fit, fitted=True)
        unseen = None if judge is None or not plan.held_out else _unseen(plan, made, judge)
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
            reference=None if judge is None else judge.reference,
            fitting=fitting,
            held_out=unseen,
            notes=outcome.notes,
            seconds=time.perf_counter() - began,
            evaluations=ledger.evaluations,
            settings={
                "model": plan.denoiser.name,
                "effort": plan.effort,
                "teacher": "given targets" if made.teaching is None else made.teaching.tutor.name,
                "samples": len(made.fit),
                "validation": 0 if made.validation is None else len(made.validation),
                "seed": plan.seed,
            },
        )
    )


def expected(plan: Plan) -> int:
    """About how many evaluations the whole takes, for the progress bar."""
    budget = min(plan.budget, _LEAST * (plan.samples + plan.validation)) if not (plan.search or plan.refine) else plan.budget
    return budget + plan.nfe * plan.samples + (3 * _LEAST + 2 * plan.nfe) * plan.held_out


@dataclass(frozen=True, eq=False)
class _Judge:
    """The reference's run, and what is known of it."""

    tutor: Tutor
    reference: Reference


def _reference(plan: Plan, made: Made) -> _Judge:
    """The run that is measured against, and how far the teacher is from it on a few of the fitting noises."""
    assert made.teaching is not None
    few = made.fit.part(slice(0, _CHECKS))
    noise = few.noise.to(plan.denoiser.device)
    own = math.nan
    if made.teaching.run is not None:
        run = FineRun(*other_than(made.teaching.run, plan.denoiser.schedule), _FINER * made.teaching.run.nfe)
    else:
        undistilled = undistilled_errors(plan.denoiser, plan.nfe, plan.span, noise, few.cond)

        def tolerance(end: Tensor) -> float:
            return SHARE**2 * undistilled(end)

        most = max(_MOST, 4 * plan.nfe)
        found = agreed(plan.denoiser, noise, few.cond, PAIR, tolerance, span=plan.span, least=_LEAST, most=most)
        run, own = found.run, found.error
    tableau = run.tableau(plan.denoiser.schedule, plan.span)
    end = sample(plan.denoiser, tableau, noise, **few.cond)
    teachers = float(mean_square_distance(end, few.end).mean())
    # A finer run of another solver is nearer to the truth than the teacher, whose distance from it then bounds both errors.
    error = teachers if math.isnan(own) else own
    own_tableau = made.teaching.tutor.teacher.tableau
    rounding = rounding_floor(plan.denoiser, own_tableau, noise[:_ROUNDED], few.part(slice(0, _ROUNDED)).cond)
    reference = Reference(str(run), tableau.nfe, error, teachers, rounding, own_tableau.nfe, len(few))
    return _Judge(Tutor(Teacher(tableau, ()), str(run), dense=True, cache=plan.cache), reference)


def _unseen(plan: Plan, made: Made, judge: _Judge) -> Errors:
    """On held-out noise; on more of it where it is not clear whether the result is better."""
    have, found = 0, None
    while True:
        batch = judge.tutor.batch(plan.denoiser, *made.noises.of(UNSEEN, have, have + plan.held_out))
        errors = _errors(plan, made.outcome, batch)
        found = errors if found is None else found.followed_by(errors)
        have += plan.held_out
        if made.outcome.tableau is made.outcome.base or found.clear or have >= _MORE * plan.held_out:
            return found


def _errors(plan: Plan, outcome: Outcome, batch: Batch, *, fitted: bool = False) -> Errors:
    """Of base and result on a set; what the fit itself walked on the fitting set is known."""
    power = mean_square(batch.end)
    base = measure(plan.denoiser, outcome.base, batch)
    if outcome.tableau is outcome.base:
        return Errors(base, base, power)
    if fitted and outcome.chosen == AS_FITTED:
        return Errors(base, outcome.fit.errors, power)
    return Errors(base, measure(plan.denoiser, outcome.tableau, batch), power)


def _unused(outcome: Outcome) -> tuple[str, ...]:
    """The directions that no row of the closed form kept; none where there is no closed form."""
    kept = set().union(*outcome.fit.kept)
    return tuple(name for i, name in enumerate(outcome.directions.names) if i not in kept) if kept else ()
