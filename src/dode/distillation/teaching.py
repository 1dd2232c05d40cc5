"""Which teacher: the paper's, the caller's, or by measurement; how near it is to the truth, and whether a result has come near it.

A teacher by measurement is made finer until two different solvers agree on a few noises to a tenth of the error that the *student* is
expected to have. That is known after the fit alone; so it is looked at again then.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from dode.conditions import Condition
from dode.distillation.data import FIT, Noises, Tutor
from dode.distillation.ledger import Ledger
from dode.distillation.plan import Plan, TeacherPlan
from dode.fine import PAIR, Agreement, FineRun, agreed, other_than, undistilled_errors
from dode.tableau import Tableau
from dode.teacher import Teacher, make_teacher

# The teacher's own error is to be below this share of the student's.
SHARE = 0.1
# Noises on which runs are compared: so many, but no more than cost this share of the budget at the first try.
_FEW, _FEWEST, _CHECK_SHARE = 8, 4, 0.06
# Evaluations of the coarsest and of the finest teacher; as a multiple of the student's too.
_LEAST, _MOST, _TIMES_STUDENT = 16, 256, 2
# All runs of the teacher take this share of the budget at the most.
_TEACHER_SHARE = 0.45
# And leave this share to an end-to-end fit.
_REFINING_SHARE = 0.25


@dataclass(frozen=True, eq=False)
class Teaching:
    """A teacher and what is known of it.

    Attributes:
        tutor: its run.
        run: what it is; None for one on the student's own grid.
        agreement: how far it is from another solver's run; None where that was not measured.
    """

    tutor: Tutor
    run: FineRun | None
    agreement: Agreement | None

    @property
    def doubt(self) -> float:
        """The mean square distance that it may be from the truth; nan where it was not measured."""
        return math.nan if self.agreement is None else self.agreement.error


def choose_teacher(plan: Plan, said: TeacherPlan, noises: Noises, ledger: Ledger) -> Teaching:
    """The teacher of a plan.

    Raises:
        ValueError: it is coarser than the student, or the student itself.
        FloatingPointError: it is not finite.
    """
    if said.students_grid:
        return Teaching(_on_students_grid(plan, said), None, None)
    ours = said.solver is None and said.grid is None
    own = (said.solver or PAIR[0][0], said.grid or PAIR[0][1])
    # The caller's run stands against that of the pair which differs from it most.
    pair = PAIR if ours else (own, other_than(FineRun(*own, 1), plan.denoiser.schedule))
    samples = plan.samples + plan.validation
    least = said.nfe or max(_LEAST, _TIMES_STUDENT * plan.nfe)
    most = said.nfe or max(least, min(_MOST, int(_TEACHER_SHARE * plan.budget / samples)))
    noise, cond = _few_of(plan, noises, _few(plan, 2 * least))
    with ledger.count("teacher's check"):
        undistilled = undistilled_errors(plan.denoiser, plan.nfe, plan.span, noise, cond)

        def tolerance(end: Tensor) -> float:
            return SHARE * plan.spending.expected * undistilled(end)

        agreement = agreed(plan.denoiser, noise, cond, pair, tolerance, span=plan.span, least=least, most=most, either=ours)
    return _measured(plan, agreement)


def too_coarse(plan: Plan, teaching: Teaching, error: float, ledger: Ledger) -> bool:
    """Whether a result with this error is so near to the teacher's states that the teacher's own error counts, and a finer teacher can be
    had."""
    return (
        teaching.run is not None
        and teaching.doubt > SHARE * error
        and _finest(plan, teaching.run, ledger) >= 2 * teaching.run.nfe
    )


def finer(plan: Plan, teaching: Teaching, error: float, noises: Noises, ledger: Ledger) -> Teaching | None:
    """A teacher that is fine enough for a result with this error, or nearer to it than the one so far; None if there is none."""
    if not too_coarse(plan, teaching, error, ledger):
        return None
    assert teaching.run is not None and teaching.agreement is not None
    run, other = teaching.run, teaching.agreement.against
    most = _finest(plan, run, ledger)
    with ledger.count("teacher's check"):
        agreement = agreed(
            plan.denoiser,
            *_few_of(plan, noises, teaching.agreement.samples),
            [(run.solver, run.grid), (other.solver, other.grid)],
            lambda end: SHARE * error,
            span=plan.span,
            least=2 * run.nfe,
            most=most,
            either=False,
        )
    return _measured(plan, agreement) if agreement.error < teaching.doubt else None


def _finest(plan: Plan, run: FineRun, ledger: Ledger) -> int:
    """The most evaluations that what is left of the budget allows another teacher; 0 where the caller has named them."""
    assert plan.teacher is not None
    if plan.teacher.nfe is not None:
        return 0
    samples = plan.samples + plan.validation
    # The other turn fits the closed form again and judges three candidates, and is to have something left for an end-to-end fit.
    turn = plan.nfe * (plan.samples + 3 * plan.validation) + (_REFINING_SHARE * plan.budget if plan.refine else 0)
    room = plan.denoiser.schedule.most_evaluations
    affordable = int((plan.budget - ledger.charged - turn) / (samples + 2 * _FEW))
    return min(_MOST, affordable, _MOST if room is None else room)


def _few_of(plan: Plan, noises: Noises, few: int) -> tuple[Tensor, Condition]:
    noise, cond = noises.of(FIT, 0, few)
    return noise.to(plan.denoiser.device), cond


def _measured(plan: Plan, agreement: Agreement) -> Teaching:
    run = agreement.run
    teacher = Teacher(run.tableau(plan.denoiser.schedule, plan.span), ())
    _check(plan, teacher.tableau)
    return Teaching(Tutor(teacher, str(run), dense=True, cache=plan.cache), run, agreement)


def _on_students_grid(plan: Plan, said: TeacherPlan) -> Tutor:
    assert said.solver is not None
    teacher = make_teacher(said.solver, plan.path, plan.base, scale=said.scale, nfe=said.nfe)
    _check(plan, teacher.tableau)
    name = f"{said.solver}, the student's own grid, {teacher.tableau.nfe} NFE"
    return Tutor(teacher, name, dense=plan.search, cache=plan.cache)


def _check(plan: Plan, made: Tableau) -> None:
    base = plan.base
    if made.nfe < base.nfe:
        raise ValueError(f"the teacher takes {made.nfe} evaluations, the student {base.nfe}: take a finer teacher")
    if np.array_equal(made.times, base.times) and np.array_equal(made.b, base.b):
        raise ValueError("the teacher is the student itself, so there is nothing to learn: take a finer teacher")


def _few(plan: Plan, cost: int) -> int:
    affordable = int(_CHECK_SHARE * plan.budget / cost)
    return min(plan.samples, max(_FEWEST, min(_FEW, affordable)))
