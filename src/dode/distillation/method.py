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
from dode.distillation.directions import DirectionsLike, make_directions
from dode.distillation.end_to_end import Refined, refine
from dode.distillation.gram import RIDGES
from dode.distillation.greedy import Fit, corrected, fit, no_fit
from dode.distillation.ledger import Ledger
from dode.distillation.search import Trial, search
from dode.grids import Grid
from dode.solvers import Solver
from dode.tableau import FIRST, Tableau

AS_FITTED = "the fit as it is"
# Samples of each set with which a search judges its many candidates.
_SEARCH_SAMPLES = 32
# Of what a search tried, how many are fitted end to end with their times.
_STARTS = 2


@dataclass(frozen=True, eq=False)
class Outcome:
    """What the fitting came to, before it is measured.

    Attributes:
        base: what it is compared with.
        tableau: what is given out.
        chosen: the name of the candidate that this is.
        start: the tableau whose rows the closed form corrected.
        directions: names of the closed form's directions.
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
    directions: tuple[str, ...]
    fit: Fit
    candidates: tuple[Candidate, ...] = ()
    refined: Refined | None = None
    trials: tuple[Trial, ...] = ()
    notes: tuple[str, ...] = ()


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
        along = make_directions(self.directions, base)
        options = shrunk(base, along, closed.fit) if self.shrink else [(AS_FITTED, closed.tableau)]
        candidates = [self._judge(name, tableau) for name, tableau in [("the base", base), *options]]
        start = min(candidates, key=lambda candidate: candidate.error)
        refined, found = self._end_to_end(start, "", times=False)
        return self._settled(replace(closed, refined=refined), [*candidates, *found])

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
        with self.ledger.count("search"):
            trials = search(
                self.denoiser,
                solvers,
                nfe,
                grids,
                self.directions,
                self.fit.part(slice(0, _SEARCH_SAMPLES)),
                validation.part(slice(0, _SEARCH_SAMPLES)),
                firsts=FIRST if learned else ("network",),
                with_base=base is None,
            )
        if base is None:
            base = min((t for t in trials if math.isfinite(t.base_error)), key=lambda trial: trial.base_error).base
        candidates = [self._judge("the base", base)]
        attempts: list[tuple[float, Outcome]] = []
        starts = _starts(trials) if learned else trials[:1]
        for i, trial in enumerate(starts):
            closed = self._closed_form(trial.base)
            start = self._judge(f"closed form, {trial.name}", closed.tableau)
            refined, found = self._end_to_end(start, trial.name, times=learned, share=1 / (len(starts) - i))
            candidates += [start, *found]
            error = min(candidate.error for candidate in (start, *found))
            attempts.append((error, replace(closed, base=base, refined=refined, trials=tuple(trials))))
        _, outcome = min(attempts, key=lambda attempt: attempt[0])
        return self._settled(outcome, candidates)

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
        return Outcome(base, corrected(base, along, found.coefficients), AS_FITTED, base, along.names, found, notes=notes)

    def _end_to_end(
        self, start: Candidate, name: str, *, times: bool, share: float = 1.0
    ) -> tuple[Refined | None, list[Candidate]]:
        """From a candidate, within a share of what is left of the budget: what it came to, and the candidate that this is."""
        if not self.iterations:
            return None, []
        assert self.validation is not None
        # The last judgement belongs to the fit.
        left = (self.budget - self.ledger.charged - start.tableau.nfe * len(self.validation)) * share
        file = None
        if self.cache is not None:
            settings = (start.tableau.digest, self.fit.digest, self.validation.digest, left, times, self.iterations)
            file = self.cache / f"refine-{hashlib.sha256(repr(settings).encode()).hexdigest()[:32]}.json"
        with self.ledger.count("end-to-end"):
            refined = refine(
                self.denoiser,
                start.tableau,
                self.fit,
                self.validation,
                budget=left,
                times=times,
                iterations=self.iterations,
                checkpoint=file,
            )
        self.ledger.saved += refined.saved
        if not refined.iterations:
            return refined, []
        label = f"end to end{', with times' if times else ''}{', ' + name if name else ''}"
        return refined, [self._judge(label, refined.tableau)]

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
    """The best trial, and the best of those with another kind of first output; else the next best."""
    first, *rest = trials
    others = [trial for trial in rest if trial.base.first != first.base.first]
    return [first, *(others or rest)][:_STARTS]
