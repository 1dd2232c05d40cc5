"""Carrying a plan out: the teacher, the data, the fit and the choice."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from torch import Tensor

from dode.conditions import Condition
from dode.distillation.batch import Batch
from dode.distillation.data import CHOICE, FIT, Noises, Tutor, given
from dode.distillation.gram import RIDGES
from dode.distillation.ledger import Ledger
from dode.distillation.method import Method, Outcome
from dode.distillation.plan import Plan
from dode.distillation.search import ALL_GRIDS, FEW_GRIDS, MORE_GRIDS, NAMED_GRIDS, every_solver
from dode.distillation.teaching import Teaching, choose_teacher, finer, too_coarse
from dode.distillation.times import Times
from dode.first_output import mean_output
from dode.grids import Grid, GridFamily

# Budgets up to this many times the paper's cost try fewer grids.
_SMALL = 1.0


@dataclass(frozen=True, eq=False)
class Made:
    """What carrying out a plan came to.

    Attributes:
        outcome: the tableau, and how it was found.
        teaching: the teacher, and how it was chosen; None where targets were given.
        fit, validation: the data.
        noises: where more of it comes from.
        ledger: what it cost.
    """

    outcome: Outcome
    teaching: Teaching | None
    fit: Batch
    validation: Batch | None
    noises: Noises
    ledger: Ledger


def carry_out(plan: Plan, ledger: Ledger, taught: Made | None = None) -> Made:
    """Choose the teacher, run it, fit and choose; go on with a finer teacher where the result has come near this one.

    Args:
        plan: what to do.
        ledger: counts what it costs.
        taught: what another budget's plan came to, whose teacher and states are taken where they serve any grid.

    Raises:
        ValueError: a teacher that is coarser than the student or the student itself.
        FloatingPointError: the network gave NaN or infinite values; the message names the step.
    """
    noises = Noises(plan.denoiser, plan.seed, plan.noise, plan.counts, plan.cond, plan.base if plan.start is not None else None)
    if plan.teacher is None:
        assert plan.targets is not None
        fit, judging = given(*noises.of(FIT), plan.targets, plan.base.rows, choose=plan.shrink or plan.refine > 0)
        method = _method(plan, ledger, fit, judging, None, noises, sharpen=False)
        return Made(_improved(plan, method), None, fit, judging, noises, ledger)
    if taught is not None and taught.teaching is not None and taught.teaching.tutor.dense:
        teaching, data = taught.teaching, (taught.fit, taught.validation)
    else:
        teaching = choose_teacher(plan, plan.teacher, noises, ledger)
        data = _taught(plan, teaching, noises, ledger)
    made = _made(plan, teaching, data, noises, ledger, None, sharpen=True)
    while too_coarse(plan, teaching, error := _error(made.outcome), ledger):
        better = finer(plan, teaching, error, noises, ledger)
        if better is not None:
            teaching, data = better, _taught(plan, better, noises, ledger)
        # Without a better one what was left undone for it is done with this one.
        made = _made(plan, teaching, data, noises, ledger, made.outcome, sharpen=better is not None)
        if better is None:
            break
    return made


def _taught(plan: Plan, teaching: Teaching, noises: Noises, ledger: Ledger) -> tuple[Batch, Batch | None]:
    """Fitting and validation set with a teacher's states."""
    fit = _batch(plan, teaching.tutor, ledger, *noises.of(FIT))
    return fit, _batch(plan, teaching.tutor, ledger, *noises.of(CHOICE)) if plan.validation else None


def _batch(plan: Plan, tutor: Tutor, ledger: Ledger, noise: Tensor, cond: Condition) -> Batch:
    """Samples with a teacher's states. They are charged as if there were no cache."""
    with ledger.count("teacher"):
        batch = tutor.batch(plan.denoiser, noise, cond)
    ledger.saved += tutor.nfe * len(noise) - ledger.last
    return batch


def _made(
    plan: Plan,
    teaching: Teaching,
    data: tuple[Batch, Batch | None],
    noises: Noises,
    ledger: Ledger,
    before: Outcome | None,
    *,
    sharpen: bool,
) -> Made:
    """What a teacher leads to, from the start or from what was found before; `sharpen`: it stops where a finer one should take over."""
    method = _method(plan, ledger, *data, teaching, noises, sharpen=sharpen)
    outcome = _improved(plan, method) if before is None else method.once_more(before)
    if outcome.tableau.first == "mean" and not plan.cond:
        # An unconditional network's mean first output goes into the file.
        with ledger.count("shared"):
            mean = mean_output(plan.denoiser, outcome.tableau, data[0].noise.to(plan.denoiser.device), {})
        outcome = replace(outcome, tableau=replace(outcome.tableau, mean=mean.cpu().double().numpy()))
    return Made(outcome, teaching, *data, noises, ledger)


def _method(
    plan: Plan,
    ledger: Ledger,
    fit: Batch,
    judging: Batch | None,
    teaching: Teaching | None,
    noises: Noises,
    *,
    sharpen: bool,
) -> Method:
    tutor = None if teaching is None else teaching.tutor

    def more(first: int, last: int) -> Batch:
        assert tutor is not None
        return _batch(plan, tutor, ledger, *noises.of(CHOICE, first, last))

    alone = partial(Times, solver=plan.solver, start=plan.start, move_start=plan.move_start)
    return (alone if plan.learn == "times" else Method)(
        denoiser=plan.denoiser,
        directions=plan.directions,
        shrink=plan.shrink,
        spending=plan.spending,
        iterations=plan.refine,
        budget=plan.budget,
        cache=plan.cache,
        ledger=ledger,
        fit=fit,
        validation=judging,
        more=None if tutor is None else (more, tutor.nfe),
        too_coarse=lambda error: sharpen and teaching is not None and too_coarse(plan, teaching, error, ledger),
        doubt=math.nan if teaching is None else teaching.doubt,
        ridges=(0.0,) if plan.paper else RIDGES,
    )


def _improved(plan: Plan, method: Method) -> Outcome:
    if plan.automatic:
        return method.search(None, every_solver(), plan.nfe, _beginning(NAMED_GRIDS, plan.start))
    if plan.search:
        if plan.learn == "times":
            return method.search(None, [plan.solver], plan.nfe, _beginning((*ALL_GRIDS, *MORE_GRIDS), plan.start))
        grids = FEW_GRIDS if plan.spending.budget <= _SMALL else ALL_GRIDS
        return method.search(plan.base, [plan.solver], plan.nfe, _beginning(grids, plan.start))
    return method.improve(plan.base)


def _beginning(grids: Sequence[Grid], start: float | None) -> list[Grid]:
    """Grids that begin at a time; None for the schedule's own."""
    return [replace(grid, start=start) if isinstance(grid, GridFamily) else grid for grid in grids]


def _error(outcome: Outcome) -> float:
    """Of what was chosen, on validation; nan where nothing was."""
    return math.nan if outcome.picked is None else outcome.picked.error
