"""`distill`: a solver, a teacher and noise in; a tableau and its statistics out."""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

from dode.distillation.execution import carry_out
from dode.distillation.ledger import Ledger
from dode.distillation.measurement import expected, measured
from dode.distillation.plan import Plan, make_plan
from dode.distillation.result import Distilled
from dode.progress import evaluation_progress

Arguments = ParamSpec("Arguments")


def run(plan: Plan) -> Distilled:
    """Carry a plan out and measure what came of it; errors as `distill`."""
    began = time.perf_counter()
    denoiser = plan.denoiser
    ledger = Ledger(denoiser)
    # What was kept before would save evaluations, and the budget would go further than it does without: same seed, same result.
    kept, denoiser.memo = denoiser.memo, {}
    try:
        with evaluation_progress(denoiser, expected(plan), f"distilling {plan.name}", show=plan.progress):
            made = carry_out(plan, ledger)
            return measured(plan, made, began)
    finally:
        denoiser.memo = kept | denoiser.memo


def _with_arguments_of(
    make: Callable[Arguments, Plan],
) -> Callable[[Callable[[Plan], Distilled]], Callable[Arguments, Distilled]]:
    """The function of a plan as one of the arguments that make the plan."""

    def decorate(function: Callable[[Plan], Distilled]) -> Callable[Arguments, Distilled]:
        @wraps(function)
        def wrapper(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Distilled:
            return function(make(*args, **kwargs))

        signature = inspect.signature(make)
        wrapper.__signature__ = signature.replace(return_annotation="Distilled")  # type: ignore[attr-defined]
        wrapper.__annotations__ = {**make.__annotations__, "return": "Distilled"}
        del wrapper.__wrapped__
        return wrapper

    return decorate


@_with_arguments_of(make_plan)
def distill(plan: Plan) -> Distilled:
    """Distil a solver: make a few-step run of it follow a many-step run.

    The paper's method, one lambda a step, is `directions="paper", shrink=False, refine=0` (`PAPER`).

    Args:
        denoiser: the network; it is only run.
        solver: a name, `dode.solver(name, **options)`, or "auto": all solvers and grids are tried and the best is taken.
        nfe: number of network evaluations of the student; may be left out where `times` are given.
        effort: "fast" (the paper's cost: the best grid and first output, closed form with several directions, chosen on validation
            noise), "balanced" (and the end-to-end fit of all coefficients), "thorough" (and of the times, from several starts).
        directions: of the closed form: "multistep", "paper", or rows of coefficients; see `dode.distillation.directions`.
        shrink: choose on validation noise among the base, the fit and weaker forms of it, so that the result is never worse than
            the base; False gives out the fit.
        refine: accepted steps of the end-to-end fit at the most; 0 for none; by effort if None.
        samples: fitting samples, >= 1; by effort if None (100 for "balanced").
        validation: samples that choose; by effort if None. Neither fitted nor measured on. Up to four times as many are drawn where the
            gain is within its doubt and the budget allows it.
        held_out: samples of fresh noise on which base and distilled are compared, against a reference that is finer than the teacher and
            of another solver; up to four times as many where chance leaves open which is better; 0 for none. None are used with `targets`.
        seed: of the noise: same seed, same result.
        grid: where the student stops. By default that is chosen, with the first output; the base then is on the solver's or the schedule's
            own grid.
        times: explicit times in place of a grid, decreasing, the last one that of the result; K of them with nfe=K are those of the K
            calls, and the clean sample follows.
        teacher: the teacher's solver, a name or a `Solver`. By default solver, grid and evaluations of the teacher are found by
            measurement: two different solvers are made finer until they agree to a tenth of what the student's error will be, and
            again where the result has come nearer than that. What is named here is kept. For the paper's directions the teacher is
            the student's own solver, ten parts a step.
        teacher_grid: the teacher's grid.
        teacher_nfe: how many evaluations the teacher takes.
        teacher_scale: a teacher on the student's own grid, as in the paper: into how many parts it cuts a step.
        noise: (samples, *shape), standard normal, in place of the seed's fitting noise; or a function from a number of samples to so many
            of them, new ones with every call, which then serves all sets.
        targets: for each row the states to reach, (K, samples, *shape), in place of a teacher; needs `noise`. The last fifth of the
            samples then is the validation set, if one is needed.
        budget: network evaluations of one sample for all but the measurement; by effort if None.
        cache: a folder that keeps the teacher's states and the end-to-end fit: an interrupted run goes on from there, and comes to the
            same to the last bit. What is damaged in it is made again, with a warning.
        progress: show a progress bar.
        cond: the condition. Tensors have a row a sample; sample i takes row i modulo their number, other sets go on counting.

    Raises:
        ValueError: a budget, grid, option or shape that cannot be; fewer samples than directions; a teacher that is coarser than
            the student.
        FloatingPointError: the network gave NaN or infinite values; the message names the step.
        OSError: files cannot be made in the folder of the cache.
    """
    return run(plan)
