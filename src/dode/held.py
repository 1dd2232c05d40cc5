"""Which tableaux are held at a path: in a file of one or of several, in a folder that is shared, in the folder of a scheduler. Read and
checked without diffusers or PyTorch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dode.foreign import printable
from dode.grids import FAMILIES, LEARNED, PUBLISHED
from dode.reading import LARGE, checked, failing_as, read_json
from dode.tableau import FORMAT, Tableau

SET_FORMAT, SET_VERSION = "dode.tableau-set", 1
# What a folder calls its set, what diffusers calls a scheduler's file, and what both have beside it.
SET_FILE, SCHEDULER_FILE = "tableaux.json", "scheduler_config.json"
CARD = "README.md"
_BESIDE = (CARD, "pictures-*.png")
# The files of the folders that `dode distill` writes, for a network and for a pipeline.
OF_NETWORK, OF_PIPELINE = (SET_FILE, *_BESIDE), (SCHEDULER_FILE, *_BESIDE)


@dataclass(frozen=True)
class Held:
    """What there is at a path.

    Attributes:
        path: the file or the folder.
        tableaux: all of them, fewest evaluations first; those of a scheduler may begin in the middle.
        config: of a scheduler; None where there is none.
    """

    path: Path
    tableaux: tuple[Tableau, ...]
    config: Mapping[str, Any] | None = None

    @property
    def whole(self) -> tuple[Tableau, ...]:
        """The tableaux of whole runs, from the noise."""
        if self.config is None:
            return self.tableaux
        highest = max((tableau.times[0] for tableau in self.tableaux), default=0.0)
        return tuple(tableau for tableau in self.tableaux if is_whole(tableau, highest))

    @property
    def nfe(self) -> list[int]:
        """The numbers of evaluations of whole runs."""
        return [tableau.nfe for tableau in self.whole]


def read_held(path: Path) -> Held:
    """Read and check what is at a path.

    Raises:
        FileNotFoundError: no such file, or a folder that holds no tableaux.
        ValueError: something else, or damaged; in one line.
    """
    if not path.is_dir():
        return Held(path, _of_file(path))
    if is_scheduler(path):
        return read_scheduler(path)
    if not (path / SET_FILE).is_file():
        raise FileNotFoundError(
            f"{path} has neither {SET_FILE} nor {SCHEDULER_FILE}: name a file or a folder from `dode distill`"
        )
    return Held(path, _of_file(path / SET_FILE))


def is_scheduler(folder: Path) -> bool:
    """Whether a folder is one of a scheduler."""
    return (folder / SCHEDULER_FILE).is_file()


def read_scheduler(folder: Path) -> Held:
    """Read and check a scheduler folder; it has no tableaux where a solver is run as it is.

    Raises:
        FileNotFoundError: it is not there, or has no scheduler.
        ValueError: another scheduler's, or a damaged one; in one line.
    """
    from dode.schemas import SchedulerFile

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name a scheduler folder from `dode distill`")
    path = folder / SCHEDULER_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {SCHEDULER_FILE}: name a scheduler folder from `dode distill`")
    content = read_json(path, LARGE)
    with failing_as(path):
        name = content.get("_class_name")
        if name != "DodeScheduler":
            raise ValueError(f"it holds {printable(name)}, not a DodeScheduler with tables")
        checked(SchedulerFile, content)
        listed = content.get("tableaux") or []
        if not isinstance(content.get("scheduler_class"), str) or not isinstance(listed, list):
            raise ValueError("it is damaged: tableaux must be a list, scheduler_class a name")
        return Held(folder, _of_list(listed), content)


def is_whole(tableau: Tableau, highest: float, slack: float = 0.0) -> bool:
    """Whether a tableau begins at the noise. Some grids do so below the first time of others ("leading"): a time alone does not tell.

    Args:
        tableau: the tableau.
        highest: the highest first time of those that are held with it.
        slack: times that are nearer are one.
    """
    name = tableau.grid.split("(")[0]
    known = name in FAMILIES | PUBLISHED or name == LEARNED
    named = known and "start=" not in tableau.grid and "strength=" not in tableau.grid
    return named or bool(highest - tableau.times[0] <= slack)


def _of_file(path: Path) -> tuple[Tableau, ...]:
    from dode.schemas import TableauSetFile

    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is no file: name a file from `save` or `dode distill`")
    data = read_json(path, LARGE)
    if data.get("format") == FORMAT:
        return (Tableau.load(path),)
    if data.get("format") != SET_FORMAT:
        raise ValueError(f'{path} is not a tableau, nor a set of them: it has no "format": "{FORMAT}" or "{SET_FORMAT}"')
    with failing_as(f"{path} is a damaged set of tableaux"):
        return _of_list(checked(TableauSetFile, data).tableaux)


def _of_list(listed: list[Any]) -> tuple[Tableau, ...]:
    found = []
    for i, data in enumerate(listed):
        with failing_as(f"tableau {i + 1}"):
            if not isinstance(data, dict):
                raise ValueError("it must be an object")
            found.append(Tableau.from_json(data))
    return tuple(sorted(found, key=lambda tableau: tableau.nfe))
