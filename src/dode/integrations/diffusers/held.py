"""A scheduler folder, read and shown without diffusers or PyTorch: which calls it has tables of, and what they were fitted for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dode.foreign import printable
from dode.integrations.diffusers.setting import is_whole, setting_of
from dode.reading import LARGE, checked, failing_as, read_json
from dode.tableau import Tableau

if TYPE_CHECKING:
    from rich.console import RenderableType

# What diffusers calls a scheduler's file.
FILE = "scheduler_config.json"
# What a setting says, in the order and the words of people.
_SAID = {
    "pipeline": "pipeline",
    "model": "model",
    "network": "network",
    "scheduler": "its own scheduler",
    "prediction": "predicts",
    "schedule": "schedule",
    "shape": "size of a state",
    "dtype": "precision",
    "guidance_scale": "guidance scale",
    "mu": "mu (the shift for the size of the image)",
    "boundary": "boundary between its two networks",
    "calls": "calls of each",
    "prompts": "prompts or calls",
    "samples": "fitting samples",
}


@dataclass(frozen=True)
class Held:
    """What a scheduler folder has.

    Attributes:
        folder: where it is.
        config: of the scheduler.
        tableaux: by number of calls.
    """

    folder: Path
    config: Mapping[str, Any]
    tableaux: tuple[Tableau, ...]

    @property
    def calls(self) -> list[int]:
        """The numbers of calls that there are tables of, of whole runs."""
        return [tableau.nfe for tableau in self.tableaux if self._is_whole(tableau)]

    def of(self, calls: int) -> Tableau:
        """The table for a number of calls.

        Raises:
            ValueError: there is none; the message says which are held.
        """
        for tableau in self.tableaux:
            if tableau.nfe == calls and self._is_whole(tableau):
                return tableau
        raise ValueError(f"{self.folder} has no table of {calls} calls: it has {', '.join(map(str, self.calls))}")

    def _is_whole(self, tableau: Tableau) -> bool:
        return is_whole(tableau, max(other.times[0] for other in self.tableaux))

    def summary(self, *, numbers: bool = False) -> RenderableType:
        """Which calls are held, what they were fitted for, and each table's summary; `numbers`: and its coefficients."""
        from rich.console import Group
        from rich.text import Text

        from dode.distillation.summary import summary

        parts: list[RenderableType] = [Text(f"calls held: {', '.join(map(str, self.calls)) or 'any, of a solver as it is'}")]
        settings = [setting_of(tableau) for tableau in self.tableaux]
        for i, tableau in enumerate(self.tableaux):
            if settings[i] not in settings[:i]:
                same = [str(t.nfe) for t, other in zip(self.tableaux, settings, strict=True) if other == settings[i]]
                title = "fitted for:" if len(same) == len(self.tableaux) else f"{', '.join(same)} calls fitted for:"
                lines = [f"  {name}: {value}" for name, value in said(settings[i]).items()] or ["  it does not say"]
                parts.append(Text("\n".join([title, *lines, ""])))
            parts.append(summary(tableau))
            if numbers:
                parts.append(Text(str(tableau)))
        return Group(*parts)


def is_held(folder: Path) -> bool:
    """Whether a folder is one of a scheduler."""
    return (folder / FILE).is_file()


def read_held(folder: Path) -> Held:
    """Read and check a scheduler folder.

    Raises:
        FileNotFoundError: it is not there, or has no scheduler.
        ValueError: another scheduler's, or a damaged one; in one line.
    """
    from dode.schemas import SchedulerFile

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder: name a scheduler folder from `dode distill`")
    path = folder / FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no {FILE}: name a scheduler folder from `dode distill`")
    content = read_json(path, LARGE)
    with failing_as(path):
        name = content.get("_class_name")
        if name != "DodeScheduler":
            raise ValueError(f"it holds {printable(name)}, not a DodeScheduler with tables")
        checked(SchedulerFile, content)
        listed = content.get("tableaux") or []
        if not isinstance(content.get("scheduler_class"), str) or not isinstance(listed, list):
            raise ValueError("it is damaged: tableaux must be a list, scheduler_class a name")
        found = []
        for i, data in enumerate(listed):
            with failing_as(f"tableau {i + 1}"):
                if not isinstance(data, dict):
                    raise ValueError("it must be an object")
                found.append(Tableau.from_json(data))
    return Held(folder, content, tuple(sorted(found, key=lambda tableau: tableau.nfe)))


def said(setting: Mapping[str, Any]) -> dict[str, str]:
    """A setting in words; what it does not say is left out."""
    return {words: printable(_text(setting[key])) for key, words in _SAID.items() if setting.get(key) not in (None, "", [])}


def _text(value: Any) -> str:
    if isinstance(value, list | tuple):
        return " x ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
