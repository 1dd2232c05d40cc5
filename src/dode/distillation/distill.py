"""`distill`: teacher, closed form, choice, end-to-end fit, search; and the measurement on held-out noise."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.conditions import Condition, cycle
from dode.denoisers import Denoiser
from dode.distillation import greedy
from dode.distillation.batch import Batch
from dode.distillation.choice import Candidate, best, judge, measure, shrunk
from dode.distillation.directions import Directions, DirectionsLike, make_directions
from dode.distillation.effort import Effort, effort_of
from dode.distillation.end_to_end import Refined, refine
from dode.distillation.gram import RIDGES
from dode.distillation.result import Distilled, Errors, TeacherError, with_statistics
from dode.distillation.search import Trial, everything, grid_families, search
from dode.first_output import mean_output
from dode.grids import GridLike, Uniform
from dode.noise import FITTING, HELD_OUT, VALIDATION, standard_noise
from dode.progress import evaluation_progress
from dode.sampling import sample
from dode.solvers import Solver
from dode.solvers import solver as make_solver
from dode.tableau import FIRST, Tableau
from dode.teacher import Teacher, dense_teacher, make_teacher, teacher_states

# The paper's method, exactly: `distill(..., **PAPER)`.
PAPER: dict[str, Any] = {"directions": "paper", "shrink": False, "refine": 0}

# Unless told otherwise everything but the paper's method learns from this solver, whose states are good to fourth order.
_TEACHER = "deis"
# Evaluations of a dense teacher, at least; each step of a student is cut into eight at least.
_DENSE = 64
# Noises on which the teacher is compared with one twice as fine.
_TEACHER_CHECKS = 4
# Samples with which a search judges its many candidates.
_SEARCH_SAMPLES = 32
_STARTS = 2


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
    job = _Job(
        denoiser=denoiser,
        effort=effort_of(effort),
        directions=directions,
        shrink=shrink,
        refine=refine,
        budget=budget,
        cache=Path(cache) if cache is not None else None,
        seed=seed,
        cond=cond,
    )
    began = time.perf_counter()
    if grid is not None and times is not None:
        raise ValueError("give a grid or times, not both")
    where = grid if times is None else times
    thorough = job.effort.search and targets is None and directions != "paper"
    automatic = solver == "auto"
    if automatic and (where is not None or targets is not None or directions == "paper"):
        raise ValueError(
            'solver="auto" chooses solver and grid itself: leave out grid, times and targets, and the paper\'s directions'
        )
    chosen = make_solver(_TEACHER if automatic else solver) if isinstance(solver, str) else solver
    base = chosen.tableau(denoiser.schedule, nfe, where)
    job.prepare(base, noise, samples, validation, targets)
    tutor = _tutor(teacher, chosen, directions)
    made: Teacher | None = None
    if targets is not None:
        held_out = 0
    elif thorough or automatic:
        made = dense_teacher(tutor, denoiser.schedule, teacher_nfe or max(_DENSE, 8 * base.nfe))
    else:
        path = chosen.path(denoiser.schedule, nfe, where)
        scale = job.effort.teacher_scale if teacher_scale is None and directions != "paper" else teacher_scale
        made = make_teacher(tutor, path, base, scale=10 if scale is None else scale, nfe=teacher_nfe)
    if made is not None and made.tableau.nfe < base.nfe:
        raise ValueError(f"the teacher takes {made.tableau.nfe} evaluations, the student {base.nfe}: take a finer teacher")
    if held_out < 0:
        raise ValueError(f"held_out must be at least 0, got {held_out}")
    dense = thorough or automatic
    with evaluation_progress(denoiser, job.expected(base, made, held_out), f"distilling {solver}", show=progress):
        job.teach(made, dense, targets)
        if dense:
            solvers, grids = ([chosen], grid_families()) if not automatic else everything(base.nfe, denoiser.schedule)
            result = job.searched(base, solvers, grids, named=not automatic, learned=thorough)
        else:
            result = job.fitted(base)
        teacher_error = job.check_teacher(made, tutor) if made is not None else None
        fitting, unseen = job.measured(result, made, dense, held_out)
    found = result.tableau
    if found.first == "mean" and not cond:
        with job.count("shared"):
            like = noise if noise is not None else job.fit.noise
            mean = mean_output(denoiser, found, like.to(denoiser.device), {})
        found = replace(found, mean=mean.double().cpu().numpy())
    described = "given targets" if made is None else f"{tutor}, {made.tableau.nfe} NFE" + (", dense" if dense else "")
    return with_statistics(
        Distilled(
            tableau=found,
            base=result.base,
            directions=result.directions,
            coefficients=result.fit.coefficients if result.fit is not None else np.zeros((base.rows, 0)),
            factors=result.base.integrand.factors if result.base.integrand is not None else np.ones(result.base.rows),
            standard_errors=result.fit.standard_errors if result.fit is not None else np.zeros((base.rows, 0)),
            kept=result.fit.kept if result.fit is not None else (),
            ridges=result.fit.ridges if result.fit is not None else (),
            chosen=result.chosen,
            candidates=tuple(result.candidates),
            refined=result.refined,
            trials=tuple(result.trials),
            teacher_error=teacher_error,
            fitting=fitting,
            held_out=unseen,
            seconds=time.perf_counter() - began,
            evaluations=job.evaluations,
            settings={
                "model": denoiser.name,
                "effort": "paper" if job.paper else effort,
                "teacher": described,
                "samples": len(job.fit),
                "validation": len(job.validation) if job.validation is not None else 0,
                "seed": seed,
            },
        )
    )


@dataclass(eq=False)
class _Outcome:
    """What the fitting came to, before it is measured."""

    base: Tableau
    tableau: Tableau
    directions: tuple[str, ...]
    fit: greedy.Fit | None
    chosen: str
    candidates: Sequence[Candidate] = ()
    refined: Refined | None = None
    trials: Sequence[Trial] = ()


@dataclass(eq=False)
class _Job:
    """One distillation: its data, and the steps in which it is done."""

    denoiser: Denoiser
    effort: Effort
    directions: DirectionsLike
    shrink: bool
    refine: int | None
    budget: int | None
    cache: Path | None
    seed: int
    cond: Condition
    evaluations: dict[str, int] = field(default_factory=dict)

    @property
    def paper(self) -> bool:
        """The paper's method, exactly."""
        return self.directions == "paper" and not self.shrink and self.refine == 0

    @property
    def steps(self) -> int:
        """Accepted steps of the end-to-end fit at the most."""
        return self.effort.refine if self.refine is None else self.refine

    def prepare(
        self,
        base: Tableau,
        noise: Tensor | None,
        samples: int | None,
        validation: int | None,
        targets: Tensor | Sequence[Tensor] | None,
    ) -> None:
        """Make the noise of the fitting and the validation set."""
        needs_validation = self.shrink or self.steps > 0
        if noise is None:
            if targets is not None:
                raise ValueError("targets need the noise that they belong to: give noise too")
            count = (100 if self.paper else self.effort.samples) if samples is None else samples
            noise = _noise(self.denoiser, count, self.seed, FITTING)
        self.noise = noise
        self.choosing: Tensor | None = None
        self._targets = None if targets is None else _checked_targets(targets, noise, base.rows)
        if needs_validation and targets is None:
            count = self.effort.validation if validation is None else validation
            if count < 2:
                raise ValueError(f"validation must be at least 2 samples, got {count}: or shrink=False and refine=0 for none")
            self.choosing = standard_noise(self.seed, count, tuple(noise.shape[1:]), stream=VALIDATION, dtype=noise.dtype)
        along = make_directions(self.directions, base)
        if len(noise) < len(along):
            raise ValueError(f"{len(along)} directions need at least {len(along)} fitting samples, got {len(noise)}")

    def expected(self, base: Tableau, made: Teacher | None, held_out: int) -> int:
        """About how many evaluations the whole takes, for the progress bar."""
        choosing = 0 if self.choosing is None else len(self.choosing)
        teacher = made.tableau.nfe if made is not None else 0
        fit = teacher * (len(self.noise) + choosing) + base.nfe * len(self.noise)
        if self.steps or self.effort.search:
            fit = max(fit, self._budget(base.nfe))
        return fit + (teacher + 2 * base.nfe) * held_out + 2 * base.nfe * len(self.noise) + 2 * teacher * _TEACHER_CHECKS

    def teach(self, made: Teacher | None, dense: bool, targets: Tensor | Sequence[Tensor] | None) -> None:
        """Run the teacher on both sets, or take the targets apart."""
        count = len(self.noise)
        cond = cycle(self.cond, 0, count)
        if made is None:
            assert self._targets is not None
            whole = Batch(self.noise, cond, list(self._targets))
            if not (self.shrink or self.steps):
                self.fit, self.validation = whole, None
                return
            cut = count - max(2, count // 5)
            if cut < 1:
                raise ValueError(
                    f"{count} samples are too few to keep some for validation: shrink=False and refine=0 use them all"
                )
            self.fit, self.validation = whole.part(slice(0, cut)), whole.part(slice(cut, count))
            return
        with self.count("teacher"):
            states = teacher_states(self.denoiser, made, self.noise, cond, dense=dense, cache=self.cache)
            self.fit = Batch(self.noise, cond, states)
            self.validation = None
            if self.choosing is not None:
                rest = cycle(self.cond, count, count + len(self.choosing))
                states = teacher_states(self.denoiser, made, self.choosing, rest, dense=dense, cache=self.cache)
                self.validation = Batch(self.choosing, rest, states)

    def fitted(self, base: Tableau) -> _Outcome:
        """Closed form, choice, end-to-end fit, on the base's own times."""
        along = make_directions(self.directions, base)
        with self.count("fit"):
            found = greedy.fit(self.denoiser, base, along, self.fit, (0.0,) if self.directions == "paper" else RIDGES)
        outcome = _Outcome(base, greedy.corrected(base, along, found.coefficients), along.names, found, "the fit as it is")
        if self.validation is None:
            return outcome
        outcome.candidates = self._judged(base, along, found)
        self._refined(outcome, self._best(outcome), times=False)
        self._settle(outcome)
        return outcome

    def searched(
        self, base: Tableau, solvers: Sequence[Solver], grids: Sequence[Any], *, named: bool, learned: bool
    ) -> _Outcome:
        """Many starts by their closed form; the best of them end to end, with their times if `learned`."""
        assert self.validation is not None
        few, chooser = self.fit.part(slice(0, _SEARCH_SAMPLES)), self.validation.part(slice(0, _SEARCH_SAMPLES))
        with self.count("search"):
            trials = search(
                self.denoiser,
                solvers,
                base.nfe,
                grids,
                self.directions,
                few,
                chooser,
                firsts=FIRST if learned else ("network",),
                with_base=not named,
            )
        if not named:
            bases = [trial for trial in trials if math.isfinite(trial.base_error)]
            base = min(bases, key=lambda trial: trial.base_error).base
        starts = [trials[0], *(t for t in trials[1:] if t.base.first != trials[0].base.first or not learned)][:_STARTS]
        if len(starts) < _STARTS:
            starts = trials[:_STARTS]
        outcome: _Outcome | None = None
        with self.count("choice"):
            reference = judge(self.denoiser, "the base", base, self.validation)
        candidates = [reference]
        for i, trial in enumerate(starts if learned else starts[:1]):
            along = make_directions(self.directions, trial.base)
            with self.count("fit"):
                found = greedy.fit(self.denoiser, trial.base, along, self.fit, RIDGES)
            start = greedy.corrected(trial.base, along, found.coefficients)
            with self.count("choice"):
                candidate = judge(self.denoiser, f"closed form, {trial.name}", start, self.validation)
            candidates.append(candidate)
            attempt = _Outcome(base, start, along.names, found, candidate.name, [candidate])
            share = (len(starts) - i) if learned else 1
            self._refined(attempt, candidate, times=learned, share=share, name=trial.name)
            candidates += attempt.candidates[1:]
            if outcome is None or _error(attempt) < _error(outcome):
                outcome = attempt
        assert outcome is not None
        outcome.candidates, outcome.trials = candidates, trials
        self._settle(outcome)
        return outcome

    def _judged(self, base: Tableau, along: Directions, found: greedy.Fit) -> list[Candidate]:
        assert self.validation is not None
        options = shrunk(base, along, found) if self.shrink else shrunk(base, along, found, (1.0,), 0)
        with self.count("choice"):
            return [judge(self.denoiser, name, tableau, self.validation) for name, tableau in [("the base", base), *options]]

    def _refined(self, outcome: _Outcome, start: Candidate, *, times: bool, share: int = 1, name: str = "") -> None:
        """The end-to-end fit from a candidate, within what is left of the budget; adds what it finds to the candidates."""
        if not self.steps:
            return
        assert self.validation is not None
        left = self._budget(outcome.base.nfe) - sum(self.evaluations.values()) - start.tableau.nfe * len(self.validation)
        file = (
            None if self.cache is None else self.cache / f"refine-{start.tableau.digest[:16]}-{self.seed}-{len(self.fit)}.json"
        )
        with self.count("end-to-end"):
            found = refine(
                self.denoiser,
                start.tableau,
                self.fit,
                self.validation,
                budget=left / share,
                times=times,
                iterations=self.steps,
                checkpoint=file,
            )
        outcome.refined = found
        if found.iterations:
            label = "end to end, with times" if times else "end to end"
            with self.count("choice"):
                candidate = judge(self.denoiser, f"{label}, {name}" if name else label, found.tableau, self.validation)
            outcome.candidates = [*outcome.candidates, candidate]

    def _best(self, outcome: _Outcome) -> Candidate:
        """The candidate with the smallest validation error."""
        return min(outcome.candidates, key=lambda candidate: candidate.error)

    def _settle(self, outcome: _Outcome) -> None:
        picked = best(outcome.candidates) if self.shrink else outcome.candidates[-1]
        outcome.tableau = picked.tableau
        outcome.chosen = picked.name

    def check_teacher(self, made: Teacher, tutor: Solver) -> TeacherError:
        """The teacher's own error: its end point against that of a run twice as fine, on a few noises."""
        count = min(_TEACHER_CHECKS, len(self.fit))
        few = self.fit.part(slice(0, count))
        times = made.tableau.times
        steps = sorted(set(times.tolist()), reverse=True)
        fine = Uniform().refine(self.denoiser.schedule, steps, [2] * (len(steps) - 1))
        with self.count("measurement"):
            x = sample(self.denoiser, tutor.tableau(self.denoiser.schedule, grid=fine), few.noise, **few.cond)
        error = (x.double() - few.end.to(x).double()).square().flatten(1).mean(1)
        return TeacherError(float(error.mean()), count, made.tableau.nfe)

    def measured(self, outcome: _Outcome, made: Teacher | None, dense: bool, held_out: int) -> tuple[Errors, Errors | None]:
        """Errors of base and distilled on the fitting noise, and on noise that neither fitted nor chose."""
        with self.count("measurement"):
            fitting = self._errors(outcome, self.fit)
            if made is None or not held_out:
                return fitting, None
            fresh = standard_noise(self.seed, held_out, tuple(self.noise.shape[1:]), stream=HELD_OUT, dtype=self.noise.dtype)
            first = len(self.noise) + (0 if self.choosing is None else len(self.choosing))
            cond = cycle(self.cond, first, first + held_out)
            states = teacher_states(self.denoiser, made, fresh, cond, dense=dense, cache=self.cache)
            return fitting, self._errors(outcome, Batch(fresh, cond, states))

    def _errors(self, outcome: _Outcome, batch: Batch) -> Errors:
        base = measure(self.denoiser, outcome.base, batch)
        if outcome.tableau is outcome.base:
            return Errors(base, base)
        if outcome.fit is not None and outcome.chosen == "the fit as it is" and batch is self.fit:
            return Errors(base, outcome.fit.errors)
        return Errors(base, measure(self.denoiser, outcome.tableau, batch))

    def _budget(self, nfe: int) -> int:
        return self.effort.evaluations(nfe) if self.budget is None else self.budget

    @contextmanager
    def count(self, what: str) -> Iterator[None]:
        """Network evaluations by what they were spent on."""
        before = self.denoiser.evaluations
        yield
        self.evaluations[what] = self.evaluations.get(what, 0) + self.denoiser.evaluations - before


def _error(outcome: _Outcome) -> float:
    return min(candidate.error for candidate in outcome.candidates)


def _tutor(teacher: str | Solver | None, chosen: Solver, directions: DirectionsLike) -> Solver:
    if teacher is None:
        return chosen if directions == "paper" else make_solver(_TEACHER)
    return make_solver(teacher) if isinstance(teacher, str) else teacher


def _noise(denoiser: Denoiser, count: int, seed: int, stream: int) -> Tensor:
    if count < 1:
        raise ValueError(f"samples must be at least 1, got {count}")
    if denoiser.shape is None:
        raise ValueError("the shape of a sample is not known: make the Denoiser with shape=..., or hand over noise")
    dtype = torch.promote_types(denoiser.dtype or torch.float32, torch.float32)
    return standard_noise(seed, count, denoiser.shape, stream=stream, dtype=dtype)


def _checked_targets(targets: Tensor | Sequence[Tensor], noise: Tensor, rows: int) -> Sequence[Tensor]:
    if len(targets) != rows or any(target.shape != noise.shape for target in targets):
        raise ValueError(
            f"targets must have shape {(rows, *noise.shape)}, a state for each row, got {len(targets)} of "
            f"{tuple(targets[0].shape) if len(targets) else '-'}"
        )
    return list(targets)
