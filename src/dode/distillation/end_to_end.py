"""The end-to-end fit: all coefficients of all rows, and the times, for the end point. Levenberg-Marquardt; the network is a black box.

    minimise the mean over samples of |x_R - target|^2 (and, weighted, the distances of the states between)

The step is kept that is best on fitting and on validation samples, by the larger of the two errors: errors have heavy tails, and a few
dozen validation samples alone may hold none of the far ones that the fit has mended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import numpy as np

from dode.cache import Entry
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.linearisation import Differences, Problem, changed, unknowns
from dode.distillation.rounding import differences_for, most_evaluations
from dode.distillation.ruled import Ruled, free_stops
from dode.distillation.student import Student
from dode.tableau import Tableau

# Levenberg-Marquardt's damping, relative to the diagonal: where it starts, its change on success and on failure, where it gives up.
_DAMPING, _RELAX, _TIGHTEN, _HOPELESS = 1e-3, 5.0, 10.0, 30.0
# Where it starts for stops alone, which bend strongly.
_STOPS_DAMPING = 1e-2
# A step from a part of the samples, or from coarse differences, that this many dampings do not make better for all asks for more of them,
# or for finer ones, not for more damping.
_TRIALS = 3
# No less damping than this: it is not the model that makes so long a step fail, but the curvature.
_LEAST_DAMPING = 1e-8
# A step that gains less than this share ends the fit; a validation error that falls by less is no better.
_CONVERGED = 1e-3
# Why a fit ends.
_SPENT, _NO_BETTER, _NOT_FINITE = "the budget is spent", "no step is better", "the Jacobian is not finite"


@dataclass(frozen=True, eq=False)
class Refined:
    """What the fit came to.

    Attributes:
        tableau: the best by both sets, the start included.
        fitting: mean square error of the end point on the fitting samples, at the start and at the end.
        validation: the same on the validation samples, at the start and of the tableau.
        score: what steps are compared by (`_score`), at the start and of the tableau.
        iterations: accepted steps.
        diverged: trial steps that made a run diverge, and were taken back.
        unknowns: how many numbers were fitted.
        stopped: why it ended.
        saved: evaluations that a checkpoint made unnecessary.
    """

    tableau: Tableau
    fitting: tuple[float, float]
    validation: tuple[float, float]
    score: tuple[float, float]
    iterations: int
    diverged: int
    unknowns: int
    stopped: str
    saved: int = 0

    @property
    def better(self) -> bool:
        """Whether the tableau is another than the start."""
        return self.score[1] < self.score[0]

    def followed_by(self, later: Refined) -> Refined:
        """This fit and one that went on from its tableau, as one."""
        return replace(
            later,
            fitting=(self.fitting[0], later.fitting[1]),
            validation=(self.validation[0], later.validation[1]),
            score=(self.score[0], later.score[1]),
            iterations=self.iterations + later.iterations,
            diverged=self.diverged + later.diverged,
            saved=self.saved + later.saved,
        )


def refine(
    denoiser: Denoiser,
    tableau: Tableau,
    fit: Batch,
    validation: Batch,
    *,
    budget: float = math.inf,
    times: bool = False,
    outputs: int = 4,
    stops: Ruled | None = None,
    first_stop: bool = False,
    iterations: int = 30,
    jacobian_samples: int | None = None,
    inner_weight: float = 0.0,
    patience: int = 6,
    differences: Differences | None = None,
    checkpoint: Entry | None = None,
    on_step: Callable[[int, float, float], None] | None = None,
) -> Refined:
    """Fit a tableau end to end.

    Args:
        denoiser: the network.
        tableau: where to start.
        fit: noise, condition and targets that the fit sees.
        validation: those that have a say in the best step, never fitted; the fitting samples themselves where they alone say it.
        budget: network evaluations of one sample that may be spent.
        times: fit the times of the inner evaluations too.
        outputs: newest outputs whose coefficients a row may change; the last row may change all.
        stops: a solver that keeps its own rule, of which only the stops are fitted: in place of the tableau, which it is.
        first_stop: fit the first of the stops too, where the noise is handed over scaled for that time.
        iterations: accepted steps at the most.
        jacobian_samples: of the fitting samples, how many the Jacobian is taken from (the error is always that of all); by default
            so many that the budget lasts for several steps.
        inner_weight: weight of each inner state's square distance to its own target, beside the end point's; 0 for the end alone.
        patience: accepted steps that are no better after which to stop.
        differences: how derivatives are taken. If None, as the network's rounding asks for; and for `stops` by coarse differences first, by
            finer ones where these find no better step (implicit filtering; Kelley, 2011): a trained network is rough in its time.
        checkpoint: what keeps the fit after each accepted step and at its end; where it is there, the fit goes on from it, and comes to
            the same end to the last bit.
        on_step: called with (iteration, fitting error, validation error) after each accepted step.

    Raises:
        ValueError: fewer equations than unknowns, a tableau without the form of a `Student`, or times with inner targets.
    """
    if times and inner_weight:
        raise ValueError("inner states have no fixed targets while their times are fitted: take inner_weight=0 or times=False")
    begun = denoiser.evaluations
    fitted = tuple(unknowns(tableau, outputs, times)) if stops is None else tuple(free_stops(stops, first=first_stop))
    problem = Problem(denoiser, stops or Student.of(tableau, denoiser.output), fitted, fit, inner_weight)
    problem.check()
    judge = problem if validation is fit else Problem(denoiser, problem.student, fitted, validation, 0.0)
    kept = None if checkpoint is None else checkpoint.read()
    damping = _DAMPING if stops is None else _STOPS_DAMPING
    progress = _Progress.begin(problem, judge, damping) if kept is None else _Progress.resumed(kept, problem)
    # The budget and all that hangs on it go on from what was spent then, whatever was asked again since to get here.
    saved = 0 if kept is None else progress.spent - (denoiser.evaluations - begun)
    begun -= saved
    trial_cost, judge_cost = tableau.nfe * len(fit), 0 if judge is problem else tableau.nfe * len(validation)
    if not progress.samples:
        step = problem.jacobian_cost(1) + trial_cost + judge_cost
        if differences is None:
            known = denoiser.evaluations - begun + most_evaluations(tableau) + step <= budget
            progress.finest = differences_for(problem, progress.student) if known else Differences()
            progress.differences = progress.finest if stops is None else progress.finest.coarse()
        else:
            progress.differences = progress.finest = differences
        affordable = problem.affordable(budget, trial_cost + judge_cost)
        if stops is not None:
            # A few unknowns bend strongly: a Jacobian that costs no more than a trial is not worth saving at.
            affordable = max(affordable, min((trial_cost + judge_cost) // problem.jacobian_cost(1), len(fit)))
        progress.samples = jacobian_samples or affordable
    stopped = progress.stopped
    while not stopped:
        problem.differences = progress.differences
        left = budget - judge_cost - (denoiser.evaluations - begun)
        if progress.iterations >= iterations:
            stopped = f"{iterations} iterations"
        elif problem.jacobian_cost(progress.samples) + trial_cost > left:
            stopped = _SPENT
        if stopped:
            break
        before = progress.error
        partial = jacobian_samples is None and progress.samples < len(fit)
        coarse = progress.differences != progress.finest
        stopped = _descend(problem, progress, left, rough=partial or coarse)
        if (stopped == _NO_BETTER and partial) or (stopped in (_NO_BETTER, _NOT_FINITE) and coarse):
            if coarse:
                progress.differences = progress.differences.finer(progress.finest)
            else:  # what is best for a part of the samples may be no better for all
                progress.samples = min(2 * progress.samples, len(fit))
            progress.damping, stopped = damping, ""
            continue
        if progress.error == before:
            break
        unseen = progress.error if judge is problem else judge.error(progress.student)
        progress.accept(unseen, _score(problem, progress.error, unseen, fitted=True))
        progress.spent = denoiser.evaluations - begun
        progress.save(checkpoint)
        if on_step is not None:
            on_step(progress.iterations, progress.error, progress.validation)
        if progress.stale >= patience:
            stopped = "the last steps were no better"
        elif max(progress.error_gain(before), progress.promised) < _CONVERGED:
            # A small gain says little where the linear model promises more.
            stopped = "" if coarse else "converged"
            progress.differences = progress.differences.finer(progress.finest)
    progress.stopped, progress.spent = stopped, denoiser.evaluations - begun
    progress.save(checkpoint)
    return Refined(
        tableau=progress.best.tableau(),
        fitting=(progress.first_error, progress.error),
        validation=(progress.first_validation, progress.best_validation),
        score=(progress.first_score, progress.best_score),
        iterations=progress.iterations,
        diverged=progress.diverged,
        unknowns=len(problem.unknowns),
        stopped=stopped,
        saved=saved,
    )


def _score(problem: Problem, fitting: float, validation: float, *, fitted: bool) -> float:
    """What steps are compared by: the larger of the errors on both sets; that on validation where the fit minimises more than the end
    point's error.

    What a fit of p unknowns to N equations has minimised counts as (N + p) / (N - p) times itself, which is expected of new samples
    (Akaike's final prediction error, 1969).
    """
    equations, p = len(problem.batch) * problem.size, len(problem.unknowns)
    if problem.inner_weight or equations <= p:
        return validation
    return max(fitting * (equations + p) / (equations - p) if fitted else fitting, validation)


def _descend(problem: Problem, progress: _Progress, left: float, *, rough: bool) -> str:
    """One step that lowers the error, with as much damping as that takes; or why there is none. If the Jacobian is a rough one, of a part
    of the samples or by coarse differences, a few dampings have to do."""
    before = problem.denoiser.evaluations
    model = problem.linearised(progress.student, progress.samples, progress.iterations)
    if not (np.isfinite(model.normal).all() and np.isfinite(model.gradient).all()):
        return _NOT_FINITE
    trials = 0
    while progress.damping <= _HOPELESS and (trials < _TRIALS or not rough):
        trials += 1
        if problem.denoiser.evaluations - before + problem.tableau.nfe * len(problem.batch) > left:
            return _SPENT
        change = problem.step(progress.student, model, progress.damping)
        moved = changed(progress.student, problem.unknowns, change, problem.denoiser)
        if moved is not None:
            trial, error = problem.settled(moved)
            if error < progress.error:
                gain, promised = 1 - error / progress.error, model.gain(change)
                progress.student, progress.error = trial, error
                progress.promised = model.gain(model.solve(_LEAST_DAMPING, {}))
                # As far as the linear model was right.
                if gain > 0.5 * promised:
                    progress.damping = max(progress.damping / _RELAX, _LEAST_DAMPING)
                elif gain < 0.1 * promised:
                    progress.damping *= _RELAX
                return ""
            progress.diverged += math.isinf(error)
        progress.damping *= _TIGHTEN
    return _NO_BETTER


@dataclass(eq=False)
class _Progress:
    """Where a fit is.

    Attributes:
        student, error, validation: the current one, and its errors on the two sets.
        best, best_validation, best_score: the best over both sets so far.
        first_error, first_validation, first_score: where it began.
        damping: of the next step.
        iterations: accepted steps.
        stale: of these, the last ones that were no better.
        diverged: trial steps that made a run diverge.
        samples: that the next Jacobian is taken from.
        spent: evaluations so far.
        stopped: why the fit ended; empty while it has not.
        differences, finest: how derivatives are taken, and how they are in the end.
        promised: the share of the error that the last step would have taken away without damping, had the error been what its linear
            model says.
    """

    student: Student
    best: Student
    error: float
    validation: float
    first_error: float
    first_validation: float
    first_score: float
    best_validation: float
    best_score: float
    damping: float
    iterations: int = 0
    stale: int = 0
    diverged: int = 0
    samples: int = 0
    spent: int = 0
    stopped: str = ""
    differences: Differences = field(default_factory=Differences)
    finest: Differences = field(default_factory=Differences)
    promised: float = 1.0

    @classmethod
    def begin(cls, problem: Problem, judge: Problem, damping: float) -> _Progress:
        """From the problem's student."""
        student = problem.student
        error = problem.error(student)
        validation = error if judge is problem else judge.error(student)
        score = _score(problem, error, validation, fitted=False)
        return cls(student, student, error, validation, error, validation, score, validation, score, damping)

    @classmethod
    def resumed(cls, kept: Mapping[str, Any], problem: Problem) -> _Progress:
        """From where a checkpoint left off."""
        students = {name: problem.student.with_numbers(kept[name]) for name in ("student", "best")}
        steps = {name: Differences(**kept[name]) for name in ("differences", "finest")}
        return cls(**{**kept, **students, **steps})

    def error_gain(self, before: float) -> float:
        """The share of an earlier error that is gone."""
        return 1 - self.error / before if before else 0.0

    def accept(self, validation: float, score: float) -> None:
        """Count a step; it is better if it lowers the score by more than a thousandth."""
        self.iterations += 1
        self.validation = validation
        self.stale = 0 if score < self.best_score * (1 - _CONVERGED) else self.stale + 1
        if score < self.best_score:
            self.best, self.best_validation, self.best_score = self.student, validation, score

    def save(self, checkpoint: Entry | None) -> None:
        """Keep all of it."""
        if checkpoint is None:
            return
        numbers = {f.name: getattr(self, f.name) for f in fields(self)}
        students = {name: numbers[name].to_json() for name in ("student", "best")}
        steps = {name: asdict(numbers[name]) for name in ("differences", "finest")}
        checkpoint.write({**numbers, **students, **steps})
