"""A plan, or several that share a teacher, carried out and measured."""

from __future__ import annotations

import time
from collections.abc import Sequence

from dode.distillation.execution import Made, carry_out
from dode.distillation.ledger import Ledger
from dode.distillation.measurement import Judge, expected, measured
from dode.distillation.plan import Plan
from dode.distillation.result import Distilled
from dode.distillation.together import DistilledSet
from dode.progress import evaluation_progress


def run(plan: Plan) -> Distilled:
    """Carry a plan out and measure what came of it; errors as `dode.distill`."""
    return run_together([plan]).results[0]


def run_together(plans: Sequence[Plan]) -> DistilledSet:
    """Carry out plans that differ in their number of evaluations alone; the one with the most chooses the teacher for all."""
    found: list[Distilled] = []
    made, judge = None, None
    for plan in sorted(plans, key=lambda plan: -plan.nfe):
        result, made, judge = _run(plan, made, judge)
        found.append(result)
    return DistilledSet(tuple(found[::-1]))


def _run(plan: Plan, taught: Made | None, judge: Judge | None) -> tuple[Distilled, Made, Judge | None]:
    began = time.perf_counter()
    denoiser = plan.denoiser
    ledger = Ledger(denoiser)
    # What was kept before would save evaluations, and the budget would go further than it does without: same seed, same result.
    kept, denoiser.memo = denoiser.memo, {}
    try:
        with evaluation_progress(denoiser, expected(plan), f"distilling {plan.name}", show=plan.progress):
            made = carry_out(plan, ledger, taught)
            result, judge = measured(plan, made, began, judge)
            return result, made, judge
    finally:
        denoiser.memo = kept | denoiser.memo
