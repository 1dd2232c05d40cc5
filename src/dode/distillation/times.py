"""Times alone: the solver keeps its own rule, and what is found is where it stops. From the best grids of the families, end to end.

No row has a closed form then: a grid is tried by running the solver on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dode.cache import Entry
from dode.distillation.batch import Batch
from dode.distillation.choice import Candidate, end_errors
from dode.distillation.directions import Directions
from dode.distillation.end_to_end import Refined
from dode.distillation.greedy import no_fit
from dode.distillation.method import BASE, Attempt, Method, Outcome
from dode.distillation.ruled import Ruled
from dode.distillation.search import Trial
from dode.grids import LEARNED, Grid, GridFamily
from dode.solvers import Solver
from dode.tableau import Tableau

# What trying all grids on a few samples takes of the budget at the most, and with how many samples of both sets at the least.
_SEARCH_SHARE, _FEWEST = 0.2, 8
# So many of the best grids are tried from lower starts, at which sigma / alpha is this.
_LOWERED, _RHOS = 2, (30.0, 10.0, 5.0)
# Every start is followed on this part of the samples first, for so many steps, within this share of what is left of the budget.
_PART, _STEPS, _SHARE = 3, 15, 0.5
# The best one goes on within this share of the rest: errors have heavy tails, and a gain may take more noise to be beyond doubt.
_GOING_ON = 0.85


@dataclass(frozen=True, eq=False)
class Times(Method):
    """A method that moves nothing but a solver's stops.

    Attributes:
        solver: whose rule is kept.
        start: the time at which it begins in the middle; None for pure noise.
        move_start: the first stop is learned too.
    """

    solver: Solver
    start: float | None
    move_start: bool

    def improve(self, base: Tableau) -> Outcome:
        """From the base's own times."""
        bases = self._judge(BASE, base)
        attempt = Attempt(self._unfitted(base), "", [replace(bases, name="undistilled")])
        if not self._wait([attempt]):
            attempt = self._pursued(attempt, times=True, share=_GOING_ON)
        return self._settled(attempt.outcome, [bases, *attempt.candidates])

    def search(self, base: Tableau | None, solvers: Sequence[Solver], nfe: int, grids: Sequence[Grid]) -> Outcome:
        """From the best of the grids.

        Args:
            base: what the result is compared with; None for the best of those tried.
            solvers: the one whose rule is kept.
            nfe, grids: what is tried.
        """
        trials = self._tried_grids(nfe, grids)
        # What begins lower than its grid does is a learned grid, and none of the families'.
        families = [trial for trial in trials if trial.base.grid != self._learned]
        most = self.spending.finalists
        finalists = list(dict.fromkeys([*families[:2], *trials[:most]]))
        rest = [trial for trial in trials if trial not in finalists]
        finalists = sorted((self._tried_on_all(trial) for trial in finalists), key=_error)
        base = base or next(trial.base for trial in finalists if trial.base.grid != self._learned)
        bases = self._judge(BASE, base)
        # Of two grids with nearly the same times one is enough.
        starts = _apart(finalists)[: self.spending.starts]
        outcome = self._unfitted(base, (*finalists, *rest))
        tried = [replace(start, name=f"undistilled, {start.name}") for start in starts]
        options = [self._unseen(trial) for trial in tried]
        if self._wait([Attempt(outcome, "", options)]):
            return self._settled(outcome, [bases, *options])
        # Most of the way is the same for a part of the samples, at a part of the cost.
        tried += [self._explored(start, _SHARE / len(starts)) for start in starts]
        best = min(tried, key=_error)
        attempt = self._pursued(Attempt(outcome, "", [self._unseen(best)]), times=True, share=_GOING_ON)
        others = [self._unseen(trial) for trial in tried if trial is not best]
        return self._settled(attempt.outcome, [bases, *others, *attempt.candidates])

    def _explored(self, start: Trial, share: float) -> Trial:
        """A start after steps on a part of the samples, within a share of what is left of the budget."""
        part = _part(self.fit)
        few = replace(self, fit=part, validation=part)
        with self.ledger.count("end-to-end"):
            left = (self.budget - self.ledger.charged) * share
            found = few._refined(start.base, left, iterations=_STEPS, entry=None).tableau
        return self._tried_on_all(replace(start, name=self._label(True, start.name), base=found))

    def once_more(self, before: Outcome) -> Outcome:
        """What was found with other data, improved on these."""
        bases, found = (self._judge(name, made) for name, made in ((BASE, before.base), (before.chosen, before.tableau)))
        attempt = Attempt(before, "", [found])
        if not self._wait([attempt]):
            attempt = self._pursued(attempt, times=True, share=_GOING_ON)
        return self._settled(attempt.outcome, [bases, *attempt.candidates])

    def _refined(self, start: Tableau, budget: float, *, iterations: int, entry: Entry | None, **how: Any) -> Refined:
        stops = Ruled.on(start, self.solver, self.denoiser.schedule, self.denoiser.output, self._learned)
        return super()._refined(start, budget, iterations=iterations, entry=entry, stops=stops, first_stop=self.move_start)

    def _label(self, times: bool, name: str) -> str:
        return "learned times" + (f", from {name}" if name else "")

    def _unfitted(self, base: Tableau, trials: tuple[Trial, ...] = ()) -> Outcome:
        """An outcome without a closed form."""
        nothing = np.zeros((0, base.rows, base.rows))
        along = Directions((), nothing, nothing)
        return Outcome(base, base, BASE, base, along, no_fit(base, along, len(self.fit)), trials=trials)

    @property
    def _learned(self) -> str:
        """What learned stops are called."""
        return LEARNED if self.start is None else f"{LEARNED}(start={self.start:g})"

    def _tried_grids(self, nfe: int, grids: Sequence[Grid]) -> list[Trial]:
        """The solver on every grid, with a few samples, the best first; and on the best ones from lower starts, where that is learned."""
        made = self._on_grids(nfe, grids)
        affordable = int(_SEARCH_SHARE * self.budget / (nfe * len(made)))
        samples = max(_FEWEST, min(self.spending.tried, affordable)) // 2
        with self.ledger.count("search"):
            trials = sorted((self._trial(*each, samples) for each in made), key=_error)
            if self.move_start:
                best = [grid for grid in grids if str(grid) in {trial.base.grid for trial in trials[:_LOWERED]}]
                lower = [replace(grid, start=t) for grid in best if isinstance(grid, GridFamily) for t in self._lower_starts()]
                trials += [
                    self._trial(name, replace(tableau, grid=self._learned), samples)
                    for name, tableau in self._on_grids(nfe, lower)
                ]
        return sorted(trials, key=_error)

    def _lower_starts(self) -> Iterator[float]:
        """Times at which a run from pure noise may begin too, of three digits: the noise is then taken for a noisy sample, which is nearly
        true as long as sigma / alpha is large."""
        schedule = self.denoiser.schedule
        for rho in _RHOS:
            t = float(f"{schedule.time(-2 * math.log(rho)):.3g}")
            if schedule.t_min < t < schedule.t_max:
                yield t

    def _on_grids(self, nfe: int, grids: Sequence[Grid]) -> list[tuple[str, Tableau]]:
        """The solver on each of the grids that it has, by name; each set of times once."""
        made: dict[bytes, tuple[str, Tableau]] = {}
        for grid in grids:
            try:
                tableau = self.solver.tableau(self.denoiser.schedule, nfe, grid)
            except ValueError:  # a budget or a grid that this solver does not have here
                continue
            made.setdefault(tableau.times.tobytes(), (f"{self.solver}, {grid}", tableau))
        return list(made.values())

    def _tried_on_all(self, trial: Trial) -> Trial:
        assert self.validation is not None
        with self.ledger.count("search"):
            return self._trial(trial.name, trial.base, max(len(self.fit), len(self.validation)))

    def _unseen(self, trial: Trial) -> Candidate:
        """What was tried on all samples, on those that choose alone."""
        return Candidate(trial.name, trial.base, trial.candidate.errors[len(self.fit) :])

    def _trial(self, name: str, tableau: Tableau, samples: int) -> Trial:
        """A set of times on so many samples of each of both sets."""
        assert self.validation is not None
        parts = [batch.part(slice(0, samples)) for batch in (self.fit, self.validation)]
        errors = np.concatenate([end_errors(self.denoiser, tableau, part) for part in parts])
        return Trial(name, tableau, Candidate(name, tableau, errors), float("nan"), len(errors))


def _error(trial: Trial) -> float:
    return trial.candidate.error


def _part(batch: Batch) -> Batch:
    """The first samples, of which there are enough for a few unknowns."""
    return batch.part(slice(0, max(_FEWEST, len(batch) // _PART)))


def _apart(trials: Sequence[Trial]) -> list[Trial]:
    """Those of which none before has nearly the same times: within a tenth of a step in log-SNR."""
    found: list[Trial] = []
    for trial in trials:
        if all(_distance(trial.base, other.base) > 0.1 for other in found):
            found.append(trial)
    return found


def _distance(one: Tableau, other: Tableau) -> float:
    """The largest distance of two sets of as many times, in mean steps of log-SNR; infinite for others."""
    if one.rows != other.rows:
        return float("inf")
    ours, theirs = (np.array([point.lam for point in tableau.points]) for tableau in (one, other))
    both = np.isfinite(ours) & np.isfinite(theirs)
    step = np.ptp(ours[both]) / max(both.sum() - 1, 1)
    return float(np.abs(ours[both] - theirs[both]).max() / step) if step else float("inf")
