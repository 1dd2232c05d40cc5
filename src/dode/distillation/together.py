"""Several budgets of one solver, taught by one run: the largest budget chooses and runs the teacher, and the others learn from its states.

A dense teacher's states serve every grid, and one that is fine enough for the most calls is for fewer. The reference that results are
measured against is shared too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dode.citations import bibtex, of_tableaux
from dode.distillation.result import Distilled
from dode.tableaux import TableauSet

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True, eq=False)
class DistilledSet:
    """Results for several numbers of evaluations; iterates over them, fewest first.

    Attributes:
        results: one `Distilled` for each number.
    """

    results: tuple[Distilled, ...]

    def __getitem__(self, nfe: int) -> Distilled:
        """The result for a number of evaluations; KeyError with those that there are."""
        for result in self.results:
            if result.tableau.nfe == nfe:
                return result
        raise KeyError(f"no result for {nfe} evaluations: there are {', '.join(map(str, self.nfe))}")

    def __iter__(self) -> Iterator[Distilled]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    @property
    def nfe(self) -> tuple[int, ...]:
        """The numbers of evaluations."""
        return tuple(result.tableau.nfe for result in self.results)

    @property
    def tableaux(self) -> TableauSet:
        """The tableaux alone, which one file holds."""
        return TableauSet(tuple(result.tableau for result in self.results))

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write all tableaux, statistics included, into one JSON file; `TableauSet.load` reads it. Errors as `Tableau.save`."""
        self.tableaux.save(path, overwrite=overwrite)

    @property
    def diverged(self) -> bool:
        """Whether any of them did; see `Distilled.diverged`."""
        return any(result.diverged for result in self.results)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Those of all, with the number of evaluations that each belongs to."""
        return tuple(f"NFE {result.tableau.nfe}: {text}" for result in self.results for text in result.warnings)

    def cite(self) -> str:
        """BibTeX of the papers of all results; see `Tableau.cite`."""
        return bibtex(of_tableaux(result.tableau for result in self.results))

    def summary(self) -> RenderableType:
        """The results' tables, one below the other."""
        from rich.console import Group

        return Group(*(result.summary() for result in self.results))

    def __str__(self) -> str:
        return "\n".join(map(str, self.results))

    def to_frame(self) -> Any:
        """The results' frames, one below the other; see `Distilled.to_frame`."""
        from dode.distillation.notebook import to_frame

        return to_frame(self.results)

    def plot(self) -> Any:
        """An altair chart of the end point's error against NFE, base and distilled; ImportError where altair is not installed."""
        from dode.distillation.notebook import plot_budgets

        return plot_budgets(self.results)

    def _repr_html_(self) -> str:
        """In notebooks: the summaries, each with its tableau on demand."""
        return "\n".join(result._repr_html_() for result in self.results)


def in_order(budgets: Sequence[int]) -> list[int]:
    """Different numbers of evaluations, fewest first.

    Raises:
        TypeError, ValueError: none, no whole numbers, or one of them twice.
    """
    if not budgets:
        raise ValueError("nfe is empty: give at least one number of evaluations")
    for nfe in budgets:
        if isinstance(nfe, bool) or int(nfe) != nfe:
            raise TypeError(f"nfe must be integers, got {nfe!r}")
    if len(set(budgets)) < len(budgets):
        raise ValueError(f"nfe has a number twice: {', '.join(map(str, budgets))}")
    return sorted(int(nfe) for nfe in budgets)
