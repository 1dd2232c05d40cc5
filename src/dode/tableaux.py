"""TableauSet: the tableaux of one network for several numbers of evaluations, in one file."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from dode.citations import bibtex, of_tableaux
from dode.files import write_atomically
from dode.held import SET_FORMAT, SET_VERSION, read_held
from dode.reading import LARGE, failing_as
from dode.tableau import Tableau


@dataclass(frozen=True)
class TableauSet:
    """Tableaux for several numbers of evaluations; frozen. Iterates over them, fewest evaluations first.

        held = dode.TableauSet.load("deis.json")
        x = dode.sample(denoiser, held, noise, nfe=5)

    Attributes:
        tableaux: of one schedule, each with another number of evaluations; sorted on making.

    Raises:
        ValueError: on making: there is none, there are two of one number, or they are of several schedules.
    """

    tableaux: tuple[Tableau, ...]

    def __post_init__(self) -> None:
        tableaux = tuple(sorted(self.tableaux, key=lambda tableau: tableau.nfe))
        object.__setattr__(self, "tableaux", tableaux)
        if not tableaux:
            raise ValueError("a set needs at least one tableau")
        for one, other in pairwise(tableaux):
            if one.nfe == other.nfe:
                raise ValueError(f"there are two tableaux of {one.nfe} evaluations: a set has one for each number")
            if one.schedule != other.schedule:
                raise ValueError(
                    f"the tableaux are of several schedules, {one.schedule} and {other.schedule}: a set is of one network"
                )

    @classmethod
    def of(cls, made: Any) -> TableauSet:
        """A set of what is given: a set, a `Tableau`, a result of `distill` for one or for several numbers, or several of these.

        Raises:
            TypeError: something else.
            ValueError: as on making.
        """
        return made if isinstance(made, cls) else cls(tuple(_tableaux(made)))

    def __getitem__(self, nfe: int) -> Tableau:
        """The tableau of a number of evaluations; KeyError with those that there are."""
        for tableau in self.tableaux:
            if tableau.nfe == nfe:
                return tableau
        raise KeyError(self._missing(nfe))

    def pick(self, nfe: int | None = None) -> Tableau:
        """The tableau of a number of evaluations; the only one if None.

        Raises:
            ValueError: there is none, or there are several and None is given; the message says which there are.
        """
        if nfe is None and len(self) > 1:
            raise ValueError(f"there are tableaux of {self.listed} evaluations: say which with nfe")
        try:
            return self.tableaux[0] if nfe is None else self[nfe]
        except KeyError as error:
            raise ValueError(error.args[0]) from None

    def __iter__(self) -> Iterator[Tableau]:
        return iter(self.tableaux)

    def __len__(self) -> int:
        return len(self.tableaux)

    @property
    def nfe(self) -> tuple[int, ...]:
        """The numbers of evaluations."""
        return tuple(tableau.nfe for tableau in self.tableaux)

    @property
    def listed(self) -> str:
        """The numbers of evaluations, for people."""
        *others, last = map(str, self.nfe)
        return f"{', '.join(others)} and {last}" if others else last

    def _missing(self, nfe: int) -> str:
        return f"there is no tableau of {nfe} evaluations: there {'are' if len(self) > 1 else 'is one of'} {self.listed}"

    def cite(self) -> str:
        """BibTeX of the papers of all; see `Tableau.cite`."""
        return bibtex(of_tableaux(self.tableaux))

    def __str__(self) -> str:
        return "\n".join(map(str, self.tableaux))

    def __repr__(self) -> str:
        return f"TableauSet(nfe={self.nfe}, schedule={self.tableaux[0].schedule!r})"

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write all into one JSON file; float64 survives exactly. Errors as `Tableau.save`."""
        made = {"format": SET_FORMAT, "version": SET_VERSION, "tableaux": [tableau.to_saved() for tableau in self.tableaux]}
        text = json.dumps(made, indent=1) + "\n"
        if len(text) > LARGE:
            raise ValueError(
                f"{path} would have {len(text) / 2**20:.0f} MB, and a set may have {LARGE / 2**20:.0f}: save fewer in one"
            )
        write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> TableauSet:
        """Read what is at a path: a file of several, a file of one, a folder that holds `tableaux.json`, or that of a `DodeScheduler`, of
        which the tableaux of whole runs are taken. Nothing is downloaded.

        Raises:
            FileNotFoundError: no such file, or a folder that holds no tableaux.
            ValueError: something else, or damaged; in one line.
        """
        held = read_held(Path(path))
        with failing_as(path):
            if not held.whole:
                raise ValueError("it runs a solver as it is, and holds no tableaux")
            return cls(held.whole)


def picked(made: Any, nfe: int | None = None) -> Tableau:
    """The tableau of a number of evaluations of whatever `TableauSet.of` takes. Errors as `of` and `pick`."""
    return made if isinstance(made, Tableau) and nfe is None else TableauSet.of(made).pick(nfe)


def _tableaux(made: Any) -> Iterator[Tableau]:
    if isinstance(made, Tableau):
        yield made
    elif isinstance(getattr(made, "tableau", None), Tableau):
        yield made.tableau
    elif isinstance(made, Iterable) and not isinstance(made, str | bytes):
        for each in made:
            yield from _tableaux(each)
    else:
        raise TypeError(f"tableaux, sets of them or results of distill are taken, got {type(made).__name__}")
