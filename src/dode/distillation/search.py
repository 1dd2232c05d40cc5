"""Where to start: many grids, solvers and first outputs, each judged by its closed form on one dense teacher run.

Steps between grid families matter more than any coefficient, so this comes before the end-to-end fit, which then moves every time.
The closed form of a solver depends on its times alone, as its directions span the state and the outputs whatever the solver: of those that
ask at the same times only one is fitted.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.distillation.choice import Candidate, judge
from dode.distillation.directions import DirectionsLike, make_directions
from dode.distillation.gram import RIDGES
from dode.distillation.greedy import corrected, fit
from dode.grids import Grid, Karras, Leading, Linspace, LogSNR, Mixed, Power, Quadratic, Shifted, Trailing, Uniform
from dode.schedules import NoiseSchedule
from dode.solvers import REGISTRY, Solver
from dode.solvers import solver as make_solver
from dode.tableau import Tableau

# One-parameter families of grids, and what is taken of them where a budget is small.
POWERS = (0.8, 1.0, 1.2, 1.5, 2.0, 3.0)
SHIFTS = (0.5, 0.7, 1.5, 2.5, 4.0, 6.0)
RHOS = (3.0, 7.0)
FEW_GRIDS: tuple[Grid, ...] = (
    *(Power(exponent=p) for p in (1.0, 1.2, 1.5, 2.0, 3.0)),
    *(Shifted(shift=s) for s in (0.5, 2.5, 6.0)),
    LogSNR(),
    Karras(),
)
ALL_GRIDS: tuple[Grid, ...] = (
    *(Power(exponent=p) for p in POWERS),
    *(Shifted(shift=s) for s in SHIFTS),
    LogSNR(),
    *(Karras(rho=r) for r in RHOS),
)
# Those with names, for a search over all solvers.
NAMED_GRIDS: tuple[Grid, ...] = (Uniform(), Quadratic(), LogSNR(), Karras())
# Further grids of solvers as they are: between even and log-SNR, and the spacings of other programs.
MORE_GRIDS: tuple[Grid, ...] = (Mixed(), Leading(), Trailing(), Linspace())
# How many of the best grids with one first output that is no evaluation are tried with the other one: these two like the same grids.
_WITH_OTHER = 3
# How many of those tried with few samples are tried again: the best closed forms, and the best bases.
_FINALISTS, _FINAL_BASES = 4, 2


@dataclass(frozen=True, eq=False)
class Trial:
    """A tableau that was tried.

    Attributes:
        name: solver, grid and first output.
        base: the solver as it is.
        candidate: the closed form for its times, judged on both sets; another solver's where that asks at the same times.
        base_error: of the solver as it is; nan where it was not measured.
        samples: that it was judged with.
    """

    name: str
    base: Tableau
    candidate: Candidate
    base_error: float
    samples: int


@dataclass(eq=False)
class Search:
    """Tries tableaux on given data, each set of times only once.

    Attributes:
        denoiser: the network.
        directions: of the closed form.
        fit, validation: with dense teacher states.
        with_base: measure the bases too.
    """

    denoiser: Denoiser
    directions: DirectionsLike
    fit: Batch
    validation: Batch
    with_base: bool
    _known: dict[tuple[bytes, str], Candidate] = field(default_factory=dict)

    def all(self, solvers: Sequence[Solver], nfe: int, grids: Sequence[Grid], firsts: Sequence[str]) -> list[Trial]:
        """Every solver on every grid, also with other first outputs; the best trial first.

        Args:
            solvers, grids: to try.
            nfe: number of evaluations that every sample pays.
            firsts: first outputs to try, "network" among them: the first of the others on every grid, the next on its best ones.
        """
        schedule = self.denoiser.schedule
        trials = [self.trial(tableau) for tableau in _tableaux(schedule, solvers, nfe, grids)]
        # Where the first output costs no call, other grids are good than where it does.
        wanted = [(s, grid) for s in solvers for grid in grids]
        for first in firsts:
            if first == "network":
                continue
            found = [
                self.trial(replace(tableau, first=first))
                for s, grid in wanted
                for tableau in _tableaux(schedule, [s], nfe + 1, [grid])
            ]
            trials += found
            best = {(t.base.solver, t.base.grid) for t in sorted(found, key=lambda t: t.candidate.error)[:_WITH_OTHER]}
            wanted = [(s, grid) for s, grid in wanted if (str(s), str(grid)) in best]
        return sorted(trials, key=lambda trial: trial.candidate.error)

    def again(self, trials: Sequence[Trial]) -> list[Trial]:
        """The trials with the best ones, found on other data, made again; these come first."""
        best = list({trial.candidate.name: trial for trial in reversed(trials)}.values())[::-1][:_FINALISTS]
        if self.with_base:
            by_base = sorted(trials, key=lambda trial: trial.base_error)
            best += [trial for trial in by_base[:_FINAL_BASES] if trial not in best]
        made = [self.trial(trial.base) for trial in best]
        return sorted(made, key=lambda trial: trial.candidate.error) + [trial for trial in trials if trial not in best]

    def trial(self, base: Tableau) -> Trial:
        """One tableau."""
        shared = {"network": "", "zero": ", D0 = 0", "mean": ", D0 = mean"}[base.first]
        name = f"{base.solver}, {base.grid}{shared}"
        key = (base.times.tobytes(), base.first)
        if key not in self._known:
            self._known[key] = self._closed_form(name, base)
        error = judge(self.denoiser, name, base, self.validation).error if self.with_base else float("nan")
        return Trial(name, base, self._known[key], error, len(self.fit) + len(self.validation))

    def _closed_form(self, name: str, base: Tableau) -> Candidate:
        """Judged on both sets: a handful of numbers hardly fit the samples better than others, and chance is what misleads a search."""
        along = make_directions(self.directions, base)
        try:
            found = fit(self.denoiser, base, along, self.fit, RIDGES)
        except FloatingPointError:  # the base is the only one to judge, and may diverge too
            return judge(self.denoiser, name, base, self.validation)
        unseen = judge(self.denoiser, name, corrected(base, along, found.coefficients), self.validation)
        return replace(unseen, errors=np.concatenate([found.errors[-1], unseen.errors]))


def every_solver() -> list[Solver]:
    """All solvers of the registry with the options that people use."""
    return [make_solver(name) for name in REGISTRY]


def count_trials(
    schedule: NoiseSchedule, solvers: Sequence[Solver], nfe: int, grids: Sequence[Grid], firsts: Sequence[str]
) -> int:
    """How many sets of times `Search.all` fits, at the most."""
    plain = {tableau.times.tobytes() for tableau in _tableaux(schedule, solvers, nfe, grids)}
    if len(firsts) == 1:
        return len(plain)
    return (
        len(plain)
        + len({t.times.tobytes() for t in _tableaux(schedule, solvers, nfe + 1, grids)})
        + _WITH_OTHER * (len(firsts) - 2)
    )


def _tableaux(schedule: NoiseSchedule, solvers: Iterable[Solver], nfe: int, grids: Iterable[Grid]) -> Iterator[Tableau]:
    grids = list(grids)
    for s in solvers:
        for grid in grids:
            try:
                yield s.tableau(schedule, nfe, grid)
            except ValueError:  # a budget or a grid that this solver does not have here
                continue
