"""From a base solver and data to a tableau: the closed form, the choice, the end-to-end fit; from one start or from many."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dode.cache import FORM, Cache, Entry
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.choice import DROPPED_ROWS, FACTORS, Candidate, best, hopeful, judge, shrunk
from dode.distillation.directions import Directions, DirectionsLike, make_directions
from dode.distillation.effort import Effort
from dode.distillation.end_to_end import Refined, refine
from dode.distillation.greedy import Fit, corrected, fit, no_fit
from dode.distillation.ledger import Ledger
from dode.distillation.search import Search, Trial, count_trials
from dode.fingerprint import hash_network
from dode.grids import Grid
from dode.solvers import Solver
from dode.tableau import Tableau

AS_FITTED, BASE = "the fit as it is", "the base"
# A search takes this share of the budget at the most, leaves what judging the result takes, and tries nothing with fewer samples than
# these; with several solvers all but the best are tried with so many.
_SEARCH_SHARE, _FEWEST = 0.35, 4
# Of what a search found, how the several starts of an end-to-end fit are compared: after so many steps, within this share of the budget.
_STEPS, _SHARE = 2, 0.25
# A base at a distance d from a teacher that is itself e from the truth may be nearer to the truth than the teacher unless d > 2 e; squared.
_CLEARLY = 4.0
# Validation noise is drawn up to this many times as often where the best candidate's gain is within its doubt.
_MORE = 4


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

    @property
    def picked(self) -> Candidate | None:
        """The candidate that was chosen; None where nothing was judged."""
        return next((candidate for candidate in self.candidates if candidate.name == self.chosen), None)


@dataclass(frozen=True, eq=False)
class Attempt:
    """A start of the end-to-end fit, and how far it came.

    Attributes:
        outcome: its closed form, and the end-to-end fit so far.
        name: of the start, for people; empty if there is no other.
        options: candidates that it may begin with; it begins with the best.
        refined: what the end-to-end fit came to; None before any step.
    """

    outcome: Outcome
    name: str
    options: Sequence[Candidate]
    refined: Candidate | None = None

    @property
    def best(self) -> Candidate:
        """The best candidate so far."""
        return self.refined or min(self.options, key=lambda candidate: candidate.error)

    @property
    def score(self) -> float:
        """What attempts are compared by: over fitting and validation samples, after steps of the end-to-end fit."""
        fit = self.outcome.refined
        return self.best.error if fit is None else fit.score[1]

    @property
    def candidates(self) -> list[Candidate]:
        """All that came of it; the base is never superseded."""
        if self.refined is None:
            return list(self.options)
        return [*(replace(option, superseded=option.name != BASE) for option in self.options), self.refined]


@dataclass(frozen=True, eq=False)
class Method:
    """How a base solver is improved.

    Attributes:
        denoiser: the network.
        directions: of the closed form.
        shrink: choose among the base, the fit and weaker forms of it.
        spending: what is tried.
        iterations: accepted steps of the end-to-end fit at the most; 0 for none.
        budget: network evaluations that all may take together, teacher included.
        cache: where end-to-end fits keep their state.
        ledger: where evaluations are booked.
        fit, validation: the data; without validation the closed form is given out as it is.
        more: from samples first .. last - 1 of the validation noise to their data, which are booked, and the teacher's evaluations of a
            sample; None where there is no more.
        too_coarse: whether a result with this error needs a finer teacher, and there is one to be had: then nothing more is fitted to this
            one.
        doubt: the mean square distance that the teacher's end points may be from the truth; nan where that is not known.
        ridges: strengths of the closed form's ridge.
    """

    denoiser: Denoiser
    directions: DirectionsLike
    shrink: bool
    spending: Effort
    iterations: int
    budget: int
    cache: Cache | None
    ledger: Ledger
    fit: Batch
    validation: Batch | None
    more: tuple[Callable[[int, int], Batch], int] | None
    too_coarse: Callable[[float], bool]
    doubt: float
    ridges: Sequence[float]

    def improve(self, base: Tableau) -> Outcome:
        """On the base's own times."""
        closed = self._closed_form(base)
        if self.validation is None:
            return closed
        options = shrunk(base, closed.directions, closed.fit) if self.shrink else [(AS_FITTED, closed.tableau)]
        attempt = Attempt(closed, "", [self._judge(name, tableau) for name, tableau in [(BASE, base), *options]])
        if not self._wait([attempt]):
            attempt = self._pursued(attempt, times=False)
        return self._settled(attempt.outcome, attempt.candidates)

    def search(self, base: Tableau | None, solvers: Sequence[Solver], nfe: int, grids: Sequence[Grid]) -> Outcome:
        """From the best of many solvers, grids and first outputs by their closed form, to which everything belongs that follows.

        Args:
            base: what the result is compared with; None for the best undistilled tableau of those tried.
            solvers, nfe, grids: what is tried.
        """
        trials = self._tried(solvers, nfe, grids, with_base=base is None)
        if base is None:
            most = max(trial.samples for trial in trials)
            base = min((trial for trial in trials if trial.samples == most), key=lambda trial: trial.base_error).base
        elif not trials:  # no budget to try anything else
            return self.improve(base)
        bases = self._judge(BASE, base)
        attempts = []
        for closed, trial in self._finalists(base, trials):
            options = shrunk(trial.base, closed.directions, closed.fit) if self.shrink else [(AS_FITTED, closed.tableau)]
            options.append(("undistilled", trial.base))
            made = [self._judge(f"{name}, {trial.name}", tableau) for name, tableau in options]
            attempts.append(Attempt(closed, trial.name, made))
        times = self.spending.times
        if len(attempts) > 1 and not self._wait(attempts):
            # A few steps show which start is worth the rest of the budget.
            attempts = [self._pursued(attempt, times=times, share=_SHARE, iterations=_STEPS) for attempt in attempts]
        attempts.sort(key=lambda attempt: attempt.score)
        if not self._wait(attempts):
            # What the first leaves of the budget is the second's.
            attempts = [self._pursued(attempt, times=times) for attempt in attempts]
        candidates = [bases, *(candidate for attempt in attempts for candidate in attempt.candidates)]
        return self._settled(min(attempts, key=lambda attempt: attempt.score).outcome, candidates)

    def once_more(self, before: Outcome) -> Outcome:
        """What was found with other data, improved on these."""
        closed = replace(self._closed_form(before.start), base=before.base, trials=before.trials)
        made = [(before.chosen, before.tableau), (f"{AS_FITTED}, made again", closed.tableau)]
        bases, *options = (self._judge(name, tableau) for name, tableau in [(BASE, before.base), *made])
        attempt = Attempt(replace(closed, refined=before.refined), "", options)
        if not self._wait([attempt]):
            attempt = self._pursued(attempt, times=self.spending.times and bool(before.trials))
        return self._settled(attempt.outcome, [bases, *attempt.candidates])

    def _finalists(self, base: Tableau, trials: Sequence[Trial]) -> list[tuple[Outcome, Trial]]:
        """Of the best trials those to start from, each on another grid, by their closed form on all samples: what came first among many on
        a few samples owes that to chance as well."""
        assert self.validation is not None
        distinct = list({trial.candidate.name: trial for trial in reversed(trials)}.values())[::-1]
        found = []
        for trial in distinct[: self._affordable_finalists(base.nfe)]:
            closed = replace(self._closed_form(trial.base), base=base, trials=tuple(trials))
            unseen = self._judge(trial.name, closed.tableau)
            error = float(np.concatenate([closed.fit.errors[-1], unseen.errors]).mean())
            found.append((error, closed, trial))
        found.sort(key=lambda entry: entry[0])
        grids: dict[str, tuple[Outcome, Trial]] = {}
        for _, closed, trial in found:
            grids.setdefault(trial.base.grid, (closed, trial))
        return list(grids.values())[: self.spending.starts]

    def _affordable_finalists(self, nfe: int) -> int:
        """How many of what was tried can be fitted and judged again, such that the starts' candidates can be judged too."""
        starts = self.spending.starts
        more = self._left_for_search(nfe, judged=1) // self._finalist_cost(nfe)
        return starts + max(0, min(self.spending.finalists - starts, more))

    def _left_for_search(self, nfe: int, *, judged: int = 0) -> int:
        """What of the budget is free once the starts have been fitted and everything that may come of them, and the base, has been judged;
        `judged` of that has been already."""
        assert self.validation is not None
        starts, options = self.spending.starts, len(FACTORS) + DROPPED_ROWS + 1
        due = starts * self._finalist_cost(nfe) + (1 - judged + starts * options) * nfe * len(self.validation)
        return self.budget - self.ledger.charged - due

    def _finalist_cost(self, nfe: int) -> int:
        """Evaluations that fit and judge a finalist."""
        assert self.validation is not None
        return nfe * (len(self.fit) + len(self.validation))

    def _tried(self, solvers: Sequence[Solver], nfe: int, grids: Sequence[Grid], *, with_base: bool) -> list[Trial]:
        """The trials of a search, the best one first; none where the budget allows none."""
        validation, firsts = self.validation, self.spending.firsts
        assert validation is not None
        trials = count_trials(self.denoiser.schedule, solvers, nfe, grids, firsts)
        cost = 2 * nfe * max(trials, 1)
        # A teacher that the caller named may have taken all: the search, which matters most, is not given up for that.
        left = max(self._left_for_search(nfe) // cost, _FEWEST)
        affordable = min(int(_SEARCH_SHARE * self.budget / cost), left)
        if affordable < _FEWEST and not with_base:
            return []
        several = len(solvers) > 1
        count = max(_FEWEST, min(self.spending.tried, affordable) // (2 if several else 1))

        def of(samples: int) -> Search:
            few = slice(0, samples)
            return Search(self.denoiser, self.directions, self.fit.part(few), validation.part(few), with_base)

        with self.ledger.count("search"):
            found = of(count).all(solvers, nfe, grids, firsts)
            return of(4 * count).again(found) if several else found

    def _wait(self, attempts: Sequence[Attempt]) -> bool:
        """Whether the end-to-end fit is left to a finer teacher."""
        return self.too_coarse(min(attempt.best.error for attempt in attempts))

    def _pursued(self, attempt: Attempt, *, times: bool, share: float = 1.0, iterations: int | None = None) -> Attempt:
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
        entry = None if self.cache is None else self._checkpoint(self.cache, start, (left, times, steps))
        with self.ledger.count("end-to-end"):
            refined = self._refined(start, left, iterations=steps, entry=entry, times=times)
        self.ledger.saved += refined.saved
        found = self._judge(self._label(times, attempt.name), refined.tableau) if refined.better else attempt.refined
        before = attempt.outcome.refined
        refined = refined if before is None else before.followed_by(refined)
        return replace(attempt, refined=found, outcome=replace(attempt.outcome, refined=refined))

    def _refined(self, start: Tableau, budget: float, *, iterations: int, entry: Entry | None, **how: Any) -> Refined:
        """The end-to-end fit of a start; `how`: what is fitted, as `refine` takes it."""
        assert self.validation is not None
        return refine(
            self.denoiser, start, self.fit, self.validation, budget=budget, iterations=iterations, checkpoint=entry, **how
        )

    def _label(self, times: bool, name: str) -> str:
        """What came of an attempt, for people."""
        return ", ".join(filter(None, ("end to end", "with times" if times else "", name)))

    def _checkpoint(self, cache: Cache, start: Tableau, settings: tuple[float | bool, ...]) -> Entry:
        """Where an end-to-end fit keeps its state: a name for all that it depends on, the network too."""
        assert self.validation is not None
        digest = hashlib.sha256(repr((FORM, start.digest, self.fit.digest, self.validation.digest, *settings)).encode())
        with self.ledger.count("end-to-end"):
            hash_network(digest, self.denoiser, start.points[: start.rows], self.fit.noise, self.fit.cond)
        self.ledger.saved -= self.ledger.last  # without a cache there is the same budget
        return cache.entry(f"refine-{digest.hexdigest()[:32]}.json")

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
        base = candidates[0]
        if self.shrink and _CLEARLY * self.doubt >= base.error:
            note = (
                f"no teacher was to be had that is nearer to the truth than the base: it may be off by {self.doubt:.1e}, and the base is "
                f"{base.error:.1e} from it; the base is given out"
            )
            notes = (*outcome.notes, note)
            return replace(outcome, tableau=base.tableau, chosen=base.name, candidates=tuple(candidates), notes=notes)
        if self.shrink:
            picked, candidates = self._chosen(candidates)
        else:
            picked = min((c for c in candidates[1:] if not c.superseded), key=lambda candidate: candidate.error)
        return replace(outcome, tableau=picked.tableau, chosen=picked.name, candidates=tuple(candidates))

    def _chosen(self, candidates: Sequence[Candidate]) -> tuple[Candidate, Sequence[Candidate]]:
        """The candidate to give out; where a gain is within its doubt, on more noise, as far as there is budget for it."""
        assert self.validation is not None
        base, picked, leader = candidates[0], best(candidates), hopeful(candidates)
        have, most = len(self.validation), _MORE * len(self.validation)
        while picked is base and leader is not None and self.more is not None and have < most:
            make, teachers_nfe = self.more
            more = min(have, most - have)
            if self.ledger.charged + more * (teachers_nfe + 2 * base.tableau.nfe) > self.budget:
                break
            batch = make(have, have + more)
            base, leader = (self._on_more(candidate, batch) for candidate in (base, leader))
            candidates = [base, *(leader if c.name == leader.name else c for c in candidates[1:])]
            picked, leader, have = best([base, leader]), hopeful([base, leader]), have + more
        return picked, candidates

    def _on_more(self, candidate: Candidate, batch: Batch) -> Candidate:
        with self.ledger.count("choice"):
            more = judge(self.denoiser, candidate.name, candidate.tableau, batch)
        return replace(candidate, errors=np.concatenate([candidate.errors, more.errors]))
