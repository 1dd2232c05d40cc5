"""A folder to share: a set of tableaux with its card and pictures."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from dode.conditions import checked_condition
from dode.denoisers import Denoiser
from dode.distillation import Distilled, DistilledSet
from dode.files import check_folder_writable, write_folder
from dode.fitted_for import setting_of
from dode.held import OF_NETWORK, SET_FILE
from dode.sharing.card import write_card
from dode.sharing.network import about_network, base_of, drawn
from dode.sharing.pictures import Pictures
from dode.tableaux import TableauSet


def save_folder(
    made: Any,
    folder: str | Path,
    denoiser: Denoiser | None = None,
    *,
    pictures: bool = True,
    command: str = "",
    overwrite: bool = False,
    progress: bool = False,
    **cond: Any,
) -> Path:
    """Write a folder to share: `tableaux.json`, which `TableauSet.load(folder)` reads, a card, README.md, and pictures. Of a pipeline's
    tables `dode.integrations.diffusers.save_scheduler` writes one that diffusers loads.

        result = dode.distill(denoiser, "deis", nfe=(4, 6, 8), class_labels=labels)
        dode.sharing.save_folder(result, "fashion-deis", denoiser, class_labels=labels)

    Args:
        made: what `dode.distill` gave; a `TableauSet`, a `Tableau`, or several of these.
        folder: to write; it is replaced as a whole.
        denoiser: the network, which makes the pictures: the base, the tables and a run of many calls, from the same noise.
        pictures: put pictures into the card. Where the network makes none the card says so.
        command: what it was made with, for the card.
        overwrite: replace a folder that holds such files, and nothing else.
        progress: show a bar.
        cond: the condition of the pictures and of the code that the card shows: sample i has row i modulo the rows.

    Returns:
        The folder.

    Raises:
        TypeError, ValueError: what is no tableaux, or those of several networks or of a pipeline; tableaux of another schedule than the
            network's.
        FileExistsError: it is there, and `overwrite` is False or it has other files.
        OSError: as `dode.files.write_folder`.

    Warns:
        UserWarning: the network made no pictures; why.
    """
    held = TableauSet.of(made)
    if any("pipeline" in setting_of(tableau) for tableau in held):
        raise ValueError("the tableaux are of a pipeline: dode.integrations.diffusers.save_scheduler writes their folder")
    where = Path(folder)
    condition = checked_condition(cond)
    if denoiser is not None:
        if not isinstance(denoiser, Denoiser):
            raise TypeError(
                f"denoiser must be a Denoiser, got {type(denoiser).__name__}: of a pipeline save_scheduler writes a folder"
            )
        for tableau in held:
            tableau.check_schedule(denoiser.schedule)
    check_folder_writable(where, OF_NETWORK, overwrite=overwrite)
    shown = Pictures(missing="they were not asked for")
    if pictures and denoiser is None:
        shown = Pictures(missing="the network was not at hand")
    elif pictures and denoiser is not None:
        bases = _bases(made)
        tables = [(tableau, bases.get(tableau.nfe) or base_of(tableau, denoiser)) for tableau in held]
        shown = drawn(tables, denoiser, condition, progress)
        if shown.missing:
            warnings.warn(f"the card has no pictures: {shown.missing}", stacklevel=2)

    about = about_network(held.tableaux, where.name, condition)

    def write(temporary: Path) -> None:
        held.save(temporary / SET_FILE)
        write_card(temporary, about, held.tableaux, shown, command)

    write_folder(where, write, OF_NETWORK, overwrite=overwrite)
    return where


def _bases(made: Any) -> dict[int, Any]:
    """The bases of results, by number of evaluations."""
    results = made if isinstance(made, DistilledSet | list | tuple) else [made]
    return {result.tableau.nfe: result.base for result in results if isinstance(result, Distilled)}
