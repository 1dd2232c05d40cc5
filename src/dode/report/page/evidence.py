"""What a comparison shows beyond chance, and what it leaves open.

Errors of cells are paired: all are of the same noises. So the ratio of two means has an interval of its own (`dode.statistics.ratios`), far
narrower than the two intervals beside each other. Other metrics have an interval each, and one cell is taken for better than another
only where these do not meet.

*The best undistilled* at a budget is the best of all bases there, over solvers and grids, picked on these very noises, which flatters it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from dode import statistics
from dode.report.page.curves import label, methods
from dode.report.results import METRICS, Comparison, Result
from dode.statistics import Figure

Verdict = Literal["better", "worse", "open"]

ERROR = "error"


class Equal(NamedTuple):
    """With how many calls the best undistilled is as good as a cell, between the budgets measured: the interval's lower end is what is
    sure. -inf: fewer than the fewest measured; inf: more than the most."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class Evidence:
    """What follows from a comparison; everything is made when it is asked for first."""

    comparison: Comparison

    @cached_property
    def distilled(self) -> list[Result]:
        """The measured cells that are no bases."""
        return [result for result in self.comparison.measured if not result.cell.base]

    @cached_property
    def best_bases(self) -> Mapping[int, Result]:
        """The best undistilled, by budget."""
        found = {nfe: self.comparison.best_base(nfe, ERROR) for nfe in self.comparison.budgets}
        return {nfe: result for nfe, result in found.items() if result is not None}

    @cached_property
    def best_distilled(self) -> Mapping[str, Mapping[int, Result]]:
        """Of each method the cell with the least error, by budget."""
        found: dict[str, dict[int, Result]] = {name: {} for name in methods(self.comparison)}
        for result in self.distilled:
            mine = found[label(result.cell)]
            other = mine.get(result.cell.nfe)
            if ERROR in result.figures and (other is None or _error(result) < _error(other)):
                mine[result.cell.nfe] = result
        return {name: mine for name, mine in found.items() if mine}

    def of_base(self, result: Result) -> Figure | None:
        """Mean error over that of its own base; None where that was not measured."""
        base = self.comparison.base_of(result)
        return None if base is None else self._ratios.get((id(result), id(base)))

    def of_best(self, result: Result) -> Figure | None:
        """Mean error over that of the best undistilled at the same budget; None where there is none."""
        best = self.best_bases.get(result.cell.nfe)
        return None if best is None else self._ratios.get((id(result), id(best)))

    def equal(self, result: Result) -> Equal | None:
        """See `Equal`; None where nothing undistilled was measured."""
        budgets = sorted(self.best_bases)
        found = [self._ratios.get((id(result), id(self._envelope[nfe]))) for nfe in budgets]
        known = [(nfe, figure) for nfe, figure in zip(budgets, found, strict=True) if figure is not None]
        if not known:
            return None
        places = [nfe for nfe, _ in known]
        value, high, low = (
            _crossing(places, [unknown if math.isnan(figure[k]) else figure[k] for _, figure in known])
            for k, unknown in enumerate((math.inf, 0.0, math.inf))
        )
        return Equal(value, low, high)

    @cached_property
    def _envelope(self) -> Mapping[int, Result]:
        """The best undistilled with at most so many calls: more calls are not always better."""
        found, best = {}, None
        for nfe in sorted(self.best_bases):
            if best is None or _error(self.best_bases[nfe]) < _error(best):
                best = self.best_bases[nfe]
            found[nfe] = best
        return found

    @cached_property
    def _ratios(self) -> Mapping[tuple[int, int], Figure]:
        """Of all pairs that are asked for, by the results' identities: the draws of the bootstrap are shared by all."""
        pairs: list[tuple[Result, Result]] = []
        for result in self.distilled:
            base, best = self.comparison.base_of(result), self.best_bases.get(result.cell.nfe)
            pairs += [(result, other) for other in (base, best, *self._envelope.values()) if other is not None]
        pairs = list({(id(a), id(b)): (a, b) for a, b in pairs}.values())
        if not pairs:
            return {}
        rows = list({id(result): result for pair in pairs for result in pair}.values())
        place = {id(result): i for i, result in enumerate(rows)}
        errors = np.stack([result.errors for result in rows])
        figures = statistics.ratios(errors, [(place[id(a)], place[id(b)]) for a, b in pairs])
        # What is finite is better than what diverges, and has no ratio to it.
        return {
            (id(a), id(b)): Figure(0.0, 0.0, 0.0) if b.diverged and not a.diverged else figure
            for (a, b), figure in zip(pairs, figures, strict=True)
        }


def verdict(ratio: Figure | None) -> Verdict:
    """What a ratio of errors to another's says: below 1 is better."""
    if ratio is None or math.isnan(ratio.low):
        infinite = ratio is not None and ratio.value == math.inf
        return "worse" if infinite else "open"
    return "better" if ratio.high < 1 else "worse" if ratio.low > 1 else "open"


def apart(metric: str, mine: Figure, other: Figure) -> Verdict:
    """Whether two figures' intervals do not meet, and which is the better one then."""
    if not all(math.isfinite(end) for figure in (mine, other) for end in figure):
        return "open"
    if mine.high < other.low:
        return "better" if METRICS[metric].lower else "worse"
    if mine.low > other.high:
        return "worse" if METRICS[metric].lower else "better"
    return "open"


def _error(result: Result) -> float:
    value = result.figures[ERROR].value if ERROR in result.figures else math.inf
    return value if math.isfinite(value) else math.inf


def _crossing(budgets: Sequence[int], ratios: Sequence[float]) -> float:
    """Where the ratio of an error to the best undistilled's crosses 1, linear in the logarithms of both; beyond the ends infinite."""
    values = np.log(np.maximum.accumulate([max(r, 1e-300) for r in ratios]))
    if values[0] > 0:
        return -math.inf
    if values[-1] < 0:
        return math.inf
    after = int(np.argmax(values >= 0))
    if after == 0:
        return float(budgets[0])
    part = -values[after - 1] / (values[after] - values[after - 1])
    return float(budgets[after - 1] * (budgets[after] / budgets[after - 1]) ** part)
