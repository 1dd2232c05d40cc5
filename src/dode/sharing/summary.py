"""What is held at a path, for people; see `dode.held`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dode.distillation.summary import summary as of_tableau
from dode.fitted_for import said, setting_of
from dode.held import Held

if TYPE_CHECKING:
    from rich.console import RenderableType


def summary(held: Held, *, numbers: bool = False) -> RenderableType:
    """Which numbers of calls are held, what they were fitted for, and each table's summary; `numbers`: and its coefficients."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = []
    if held.config is not None or len(held.tableaux) > 1:
        parts.append(Text(f"calls held: {', '.join(map(str, held.nfe)) or 'any, of a solver as it is'}"))
    settings = [setting_of(tableau) for tableau in held.tableaux]
    for i, tableau in enumerate(held.tableaux):
        if settings[i] not in settings[:i] and any(settings):
            same = [str(t.nfe) for t, other in zip(held.tableaux, settings, strict=True) if other == settings[i]]
            title = "fitted for:" if len(same) == len(held.tableaux) else f"{', '.join(same)} calls fitted for:"
            lines = [f"  {name}: {value}" for name, value in said(settings[i]).items()] or ["  it does not say"]
            parts.append(Text("\n".join([title, *lines, ""])))
        parts.append(of_tableau(tableau))
        if numbers and tableau.meta.get("distillation"):  # else they are its summary
            parts.append(Text(str(tableau)))
    return Group(*parts)
