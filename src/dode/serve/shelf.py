"""The tableaux that are at hand: saved ones by file, and those that are made while the page is open."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from dode.foreign import printable
from dode.held import SET_FILE, is_scheduler, is_whole, read_held
from dode.reading import failing_as
from dode.schedules import NoiseSchedule
from dode.tableau import Tableau


class Kept(NamedTuple):
    """A tableau with its name.

    Attributes:
        name: for people, and different from those of the others.
        tableau: it.
    """

    name: str
    tableau: Tableau


def read_tableaux(paths: Iterable[Path]) -> list[Kept]:
    """All that is held at each path (see `dode.held`), or by the files of a folder; what is named twice counts once.

    Raises:
        FileNotFoundError: no such file or folder.
        ValueError: what is no tableau, or a folder without any.
    """
    found: dict[tuple[Path, int], Kept] = {}
    for path in paths:
        name = printable(path.resolve().name)
        for file in _files(path):
            label = name if file == path else f"{name}/{printable(file.name)}"
            whole = read_held(file).whole
            for tableau in whole:
                kept = Kept(label if len(whole) == 1 else f"{label}, NFE {tableau.nfe}", tableau)
                found.setdefault((file.resolve(), tableau.nfe), kept)
    return list(found.values())


def _files(path: Path) -> list[Path]:
    """A path that holds tableaux itself; else the files of a folder that do, as the report of a comparison has them."""
    if not path.is_dir() or is_scheduler(path) or (path / SET_FILE).is_file():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise ValueError(f"{path} has no tableau (*.json): name a file or a folder from `dode distill`")
    return files


class Shelf:
    """Tableaux for one schedule, by their number of calls.

    Raises:
        ValueError: a tableau of another schedule, or one that does not begin at the noise; the message has its name.
    """

    def __init__(self, schedule: NoiseSchedule, kept: Iterable[Kept] = ()) -> None:
        self._schedule = schedule
        self._kept: list[Kept] = []
        for each in kept:
            self.add(each)

    def add(self, kept: Kept) -> Kept:
        """Check a tableau and put it with the others; under a name of its own, which is given back with it."""
        with failing_as(kept.name):
            kept.tableau.check_schedule(self._schedule)
            if not is_whole(kept.tableau, self._schedule.t_max):
                raise ValueError(f"it begins at t = {kept.tableau.times[0]:g}, and here all begin at the noise")
        names = {each.name for each in self._kept}
        name = next(name for name in (kept.name, *(f"{kept.name} ({i})" for i in range(2, 1000))) if name not in names)
        self._kept = [*self._kept, Kept(name, kept.tableau)]  # another thread may be going through them
        return self._kept[-1]

    @property
    def budgets(self) -> list[int]:
        """The numbers of calls that there are tableaux of."""
        return sorted({each.tableau.nfe for each in self._kept})

    def of(self, nfe: int) -> list[Kept]:
        """Those with so many calls, in the order in which they were given."""
        return [each for each in self._kept if each.tableau.nfe == nfe]
