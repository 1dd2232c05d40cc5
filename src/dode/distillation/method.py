"""From a base solver and data to a tableau: the closed form, the choice, the end-to-end fit; from one start or from many."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.choice import Candidate, best, judge, shrunk
from dode.distillation.directions import Directions, DirectionsLike, make_directions
from dode.distillation.end_to_end import Refined, refine
from dode.distillation.gram import RIDGES
from dode.distillation.greedy import Fit, corrected, fit, no_fit
from dode.distillation.ledger import Ledger
from dode.distillation.search import Trial, finals, search
from dode.grids import Grid
from dode.solvers import Solver
from dode.tableau import FIRST, Tableau

AS_FITTED = "the fit as it is"
# Samples of each set with which a search judges its many candidates; with several solvers these are so many that all but the best
# are judged with fewer.
_SEARCH_SAMPLES, _FEW = 32, 8
# Of what a search tried, how many are fitted end to end with their times; steps, and share of the budget, after which the best of
# these goes on alone.
_STARTS, _STEPS, _SHARE = 2, 2, 0.25


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the fitting came to, before it is measured.

    Attributes:
        base: what it is compared with.
        tableau: what is given out.
        chosen: the name of the candidate that this is.
        start: the tableau whose rows the closed form corrected.
        directions: of the closed form.
        fit: the closed form.
        candidates: all of them, judged on validation; the base first.
        refined: the end-to-end fit from this start.
        trials: what a search tried, best first.
        notes: what went wrong on the way, for people.
    """

    base: Tableau
    tableau: Tableau
    chosen: str
    start: Tableau
    directions: Directions
    fit: Fit
    candidates: tuple[Candidate, ...] = ()
    refined: Refined | None = None
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class _Attempt:
    """A start of the end-to-end fit, and how far it came.

    Attributes:
        outcome: its closed form, and the end-to-end fit so far.
        name: of the start, for people; empty if there is no other.
        start: the candidate that it began with.
        best: the best candidate so far; the start itself before any step.
    """

    outcome: Outcome
    name: str
    start: Candidate
    best: Candidate

    @classmethod
    def begin(cls, outcome: Outcome, name: str, start: Candidate) -> _Attempt:
        """Before any step."""
        return cls(outcome, name, start, start)


@dataclass(frozen=True, eq=False)
class Method:
    """How a base solver is improved.

    Attributes:
        denoiser: the network.
        directions: of the closed form.
        shrink: choose among the base, the fit and weaker forms of it.
        iterations: accepted steps of the end-to-end fit at the most; 0 for none.
        budget: network evaluations that all may take together, teacher included.
        cache: the folder where end-to-end fits keep their state.
        ledger: where evaluations are booked.
        fit, validation: the data; without validation the closed form is given out as it is.
    """

    denoiser: Denoiser
    directions: DirectionsLike
    shrink: bool
    iterations: int
    budget: int
    cache: Path | None
    ledger: Ledger
    fit: Batch
    validation: Batch | None
    ridges: Sequence[float] = field(default=RIDGES)

    def improve(self, base: Tableau) -> Outcome:
        """On the base's own times."""
        closed = self._closed_form(base)
        if self.validation is None:
            return closed
        options = shrunk(base, closed.directions, closed.fit) if self.shrink else [(AS_FITTED, closed.tableau)]
        candidates = [self._judge(name, tableau) for name, tableau in [("the base", base), *options]]
        start = min(candidates, key=lambda candidate: candidate.error)
        attempt = self._pursued(_Attempt.begin(closed, "", start), times=False)
        return self._settled(attempt.outcome, candidates if attempt.best is start else [*candidates, attempt.best])

    def search(
        self, base: Tableau | None, solvers: Sequence[Solver], nfe: int, grids: Sequence[Grid], *, learned: bool
    ) -> Outcome:
        """From the best of many solvers and grids by their closed form, to which everything belongs that follows.

        Args:
            base: what the result is compared with; None for the best undistilled tableau of those tried.
            solvers, nfe, grids: what is tried.
            learned: with other first outputs, learned times and several starts.
        """
        validation = self.validation
        assert validation is not None
        many, few = ([batch.part(slice(0, count)) for batch in (self.fit, validation)] for count in (_SEARCH_SAMPLES, _FEW))
        firsts = FIRST if learned else ("network",)
        with_base = base is None
        with self.ledger.count("search"):
            data = many if len(solvers) == 1 else few
            trials = search(self.denoiser, solvers, nfe, grids, self.directions, *data, firsts=firsts, with_base=with_base)
            if data is few:
                trials = finals(self.denoiser, trials, self.directions, *many, with_base=with_base)
        if base is None:
            most = max(trial.samples for trial in trials)
            base = min((trial for trial in trials if trial.samples == most), key=lambda trial: trial.base_error).base
        candidates = [self._judge("the base", base)]
        attempts = []
        for trial in _starts(trials) if learned else trials[:1]:
            closed = replace(self._closed_form(trial.base), base=base, trials=tuple(trials))
            attempts.append(_Attempt.begin(closed, trial.name, self._judge(f"closed form, {trial.name}", closed.tableau)))
        if len(attempts) > 1:
            # A few steps show which start is worth the rest of the budget.
            attempts = [self._pursued(attempt, times=learned, share=_SHARE, iterations=_STEPS) for attempt in attempts]
        attempts.sort(key=lambda attempt: attempt.best.error)
        # What the first leaves of the budget is the second's.
        attempts = [self._pursued(attempt, times=learned) for attempt in attempts]
        for attempt in attempts:
            candidates += [attempt.start] if attempt.best is attempt.start else [attempt.start, attempt.best]
        return self._settled(min(attempts, key=lambda attempt: attempt.best.error).outcome, candidates)

    def _pursued(self, attempt: _Attempt, *, times: bool, share: float = 1.0, iterations: int | None = None) -> _Attempt:
        """An attempt after more steps of the end-to-end fit, within a share of what is left of the budget."""
        steps = self.iterations if iterations is None else min(iterations, self.iterations)
        if not steps:
            return attempt
        assert self.validation is not None
        start = attempt.best.tableau
        # The last judgement belongs to the fit.
        left = (self.budget - self.ledger.charged - start.nfe * len(self.validation)) * share
        if attempt.outcome.refined is not None and left < start.nfe * len(self.fit):
            return attempt
        file = None
        if self.cache is not None:
            settings = (start.digest, self.fit.digest, self.validation.digest, left, times, steps)
            file = self.cache / f"refine-{hashlib.sha256(repr(settings).encode()).hexdigest()[:32]}.json"
        with self.ledger.count("end-to-end"):
            refined = refine(
                self.denoiser, start, self.fit, self.validation, budget=left, times=times, iterations=steps, checkpoint=file
            )
        self.ledger.saved += refined.saved
        label = ", ".join(filter(None, ("end to end", "with times" if times else "", attempt.name)))
        best = self._judge(label, refined.tableau) if refined.iterations else attempt.best
        before = attempt.outcome.refined
        refined = refined if before is None else before.followed_by(refined)
        return replace(attempt, best=best, outcome=replace(attempt.outcome, refined=refined))

    def _closed_form(self, base: Tableau) -> Outcome:
        along = make_directions(self.directions, base)
        notes: tuple[str, ...] = ()
        with self.ledger.count("fit"):
            try:
                found = fit(self.denoiser, base, along, self.fit, self.ridges)
            except FloatingPointError as error:
                if self.validation is None:
                    raise
                # The choice is left with the base; if that diverges too, there is nothing to give out.
                found, notes = no_fit(base, along, len(self.fit)), (f"the closed form diverged ({error}) and was dropped",)
        return Outcome(base, corrected(base, along, found.coefficients), AS_FITTED, base, along, found, notes=notes)

    def _judge(self, name: str, tableau: Tableau) -> Candidate:
        assert self.validation is not None
        with self.ledger.count("choice"):
            return judge(self.denoiser, name, tableau, self.validation)

    def _settled(self, outcome: Outcome, candidates: Sequence[Candidate]) -> Outcome:
        if not any(math.isfinite(candidate.error) for candidate in candidates):
            raise FloatingPointError(
                "; ".join(("neither the base nor what was made of it gives finite samples", *outcome.notes))
            )
        picked = best(candidates) if self.shrink else min(candidates[1:], key=lambda candidate: candidate.error)
        return replace(outcome, tableau=picked.tableau, chosen=picked.name, candidates=tuple(candidates))


def _starts(trials: Sequence[Trial]) -> list[Trial]:
    """The best trial, and the best of those on another grid: the times are what a start decides."""
    first, *rest = trials
    others = [trial for trial in rest if trial.base.grid != first.base.grid]
    return [first, *others][:_STARTS]
