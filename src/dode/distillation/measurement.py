"""How good a result is: base and distilled on noise that neither fitted nor chose, against a reference that is finer than the teacher and
another one."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from dode.amplification import rounding_note
from dode.distances import mean_square, mean_square_distance
from dode.distillation.batch import Batch
from dode.distillation.choice import measure
from dode.distillation.data import UNSEEN, Tutor
from dode.distillation.execution import Made
from dode.distillation.method import AS_FITTED, Outcome
from dode.distillation.plan import Plan
from dode.distillation.result import Distilled, Errors, Reference, with_statistics
from dode.distillation.rounding import rounding_floor
from dode.distillation.setting import network_setting
from dode.distillation.soundness import noise_of_output, sound
from dode.distillation.teaching import SHARE
from dode.fine import PAIR, agreed, other_than, undistilled_errors
from dode.fitted_for import FITTED_FOR
from dode.grids import Grid
from dode.sampling import end_point
from dode.solvers import Solver
from dode.teacher import Teacher

# The reference: so many times as fine as the teacher at the least, and at the most; by itself, where the teacher is on the student's grid,
# from so many evaluations on.
_FINER, _FINEST, _LEAST, _MOST = 2, 8, 32, 256
# Its own error is to be below this share of the result's median error. Means would do with less: the median is what tails leave alone.
_SHARE_OF_MEDIAN = 0.02
# It is no better than a few times what rounding in the network leaves.
_ROUNDINGS = 4
# Noises on which teacher and reference are compared, and those on which the teacher's rounding is measured.
_CHECKS, _ROUNDED = 8, 4
# Held-out noise is drawn up to this many times as often where chance leaves it open which one is better.
_MORE = 4


def measured(plan: Plan, made: Made, began: float, judge: Judge | None = None) -> tuple[Distilled, Judge | None]:
    """The result with its errors, and what they were measured against.

    Args:
        plan, made: what was asked for and what came of it.
        began: when it was begun, by `time.perf_counter`.
        judge: what another budget's result was measured against, on the same noise.
    """
    ledger = made.ledger
    with ledger.count("measurement"):
        repeated = noise_of_output(plan.denoiser, made.outcome.base, made.fit)
        fitting = _errors(plan, made.outcome, made.fit, fitted=True)
        judge, unseen, failure = _held_out(plan, made, judge)
    outcome, fitting, unseen = sound(made.outcome, fitting, unseen, failure)
    rounded = rounding_note(outcome.tableau, plan.denoiser.output, made.fit.noise.dtype)
    start = outcome.start
    result = with_statistics(
        Distilled(
            tableau=outcome.tableau.with_meta(**{FITTED_FOR: network_setting(plan.denoiser, plan.cond, len(made.fit))}),
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
            notes=(*outcome.notes, *filter(None, (repeated, rounded))),
            diverged=outcome is not made.outcome,
            seconds=time.perf_counter() - began,
            evaluations=ledger.evaluations,
            settings={
                "model": plan.denoiser.name,
                "prediction": plan.denoiser.output,
                "learn": plan.learn,
                "effort": plan.effort,
                "teacher": "given targets" if made.teaching is None else made.teaching.tutor.name,
                "samples": len(made.fit),
                "validation": 0 if made.validation is None else len(made.validation),
                "seed": plan.seed,
            },
            saved=max(ledger.saved, 0),
            charged=ledger.charged - ledger.evaluations.get("measurement", 0),
        )
    )
    return result, judge


def _held_out(plan: Plan, made: Made, judge: Judge | None) -> tuple[Judge | None, Errors | None, str | None]:
    """The reference, the errors on held-out noise, and why there are none where the reference diverges."""
    if made.teaching is None:
        return None, None, None
    try:
        judge = judge or _reference(plan, made)
        return judge, _unseen(plan, made, judge) if plan.held_out else None, None
    except FloatingPointError as error:
        return judge, None, f"nothing could be measured against the reference, which diverges ({error})"


def expected(plan: Plan) -> int:
    """About how many evaluations the whole takes, for the progress bar."""
    budget = min(plan.budget, _LEAST * (plan.samples + plan.validation)) if not (plan.search or plan.refine) else plan.budget
    return budget + plan.nfe * plan.samples + (3 * _LEAST + 2 * plan.nfe) * plan.held_out


@dataclass(frozen=True, eq=False)
class Judge:
    """The reference's run, what is known of it, and its states on held-out noise, by the first sample."""

    tutor: Tutor
    reference: Reference
    batches: dict[int, Batch] = field(default_factory=dict)

    def batch(self, plan: Plan, made: Made, first: int, last: int) -> Batch:
        """Held-out samples with the reference's states."""
        if first not in self.batches:
            self.batches[first] = self.tutor.batch(plan.denoiser, *made.noises.of(UNSEEN, first, last))
        return self.batches[first]


def _reference(plan: Plan, made: Made) -> Judge:
    """The run that is measured against, and how far the teacher is from it on a few of the fitting noises."""
    assert made.teaching is not None
    few = made.fit.part(slice(0, _CHECKS))
    noise = few.noise.to(plan.denoiser.device)
    teacher, taught_by = made.teaching.tutor.teacher.tableau, made.teaching.run
    rounding = rounding_floor(plan.denoiser, teacher, noise[:_ROUNDED], few.part(slice(0, _ROUNDED)).cond)
    pair: Sequence[tuple[Solver, Grid]]
    if taught_by is None:
        pair, least, most = PAIR, _LEAST, max(_MOST, 4 * plan.nfe)
        undistilled = undistilled_errors(plan.denoiser, plan.nfe, plan.span, noise, few.cond)
    else:
        pair = (other_than(taught_by, plan.denoiser.schedule), (taught_by.solver, taught_by.grid))
        least = _FINER * taught_by.nfe
        # Where nothing is measured against it, it only says how good the teacher is.
        most = max(least, min(_MOST, _FINEST * taught_by.nfe)) if plan.held_out else least

    def tolerance(end: Tensor) -> float:
        enough = SHARE**2 * undistilled(end) if taught_by is None else _SHARE_OF_MEDIAN * _median(made)
        return max(enough, _ROUNDINGS * rounding)

    found = agreed(
        plan.denoiser, noise, few.cond, pair, tolerance, span=plan.span, least=least, most=most, either=taught_by is None
    )
    tableau = found.run.tableau(plan.denoiser.schedule, plan.span)
    end = end_point(plan.denoiser, tableau, noise, few.cond)
    teachers = float(mean_square_distance(end, few.end).mean())
    reference = Reference(str(found.run), tableau.nfe, found.error, teachers, rounding, teacher.nfe, len(few))
    return Judge(Tutor(Teacher(tableau, ()), str(found.run), dense=True, cache=plan.cache), reference)


def _median(made: Made) -> float:
    """The result's median distance to the teacher's end points; of its closed form's where nothing was chosen."""
    outcome = made.outcome
    return float(np.median(outcome.fit.errors[-1])) if outcome.picked is None else outcome.picked.median


def _unseen(plan: Plan, made: Made, judge: Judge) -> Errors:
    """On held-out noise; on more of it where it is not clear whether the result is better."""
    have, found = 0, None
    while True:
        errors = _errors(plan, made.outcome, judge.batch(plan, made, have, have + plan.held_out))
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
    # A fit that diverged knows no errors.
    if fitted and outcome.chosen == AS_FITTED and np.isfinite(outcome.fit.errors).all():
        return Errors(base, outcome.fit.errors, power)
    return Errors(base, measure(plan.denoiser, outcome.tableau, batch), power)


def _unused(outcome: Outcome) -> tuple[str, ...]:
    """The directions that no row of the closed form kept; none where there is no closed form."""
    kept = set().union(*outcome.fit.kept)
    return tuple(name for i, name in enumerate(outcome.directions.names) if i not in kept) if kept else ()
