"""The command `export`: saved tableaux in the forms of other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from dode.cli.options import Force
from dode.cli.screen import console, errors

if TYPE_CHECKING:
    from dode.tableau import Tableau
    from dode.tableaux import TableauSet


class _Asked(NamedTuple):
    """What the options ask for; `name` is that of the file to write."""

    nfe: int | None
    final: bool | None
    unshift: float
    name: str


def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A tableau or a set of them, from `dode distill`.", show_default=False)
    ],
    to: Annotated[
        str, typer.Option("--to", help="times or sigmas: a list, of a solver on learned times; comfyui: a file of nodes.")
    ],
    nfe: Annotated[int | None, typer.Option(help="Which of a set: the number of network evaluations.")] = None,
    final: Annotated[
        bool | None,
        typer.Option(
            help="End a list with the time or sigma of the result too, N + 1 numbers; sigmas do, times do not by default."
        ),
    ] = None,
    unshift: Annotated[
        float,
        typer.Option(help="For sigmas of a flow model, for a program that shifts what it is given: by how much it does."),
    ] = 1.0,
    out: Annotated[Path | None, typer.Option(help="The file to write; standard output by default.")] = None,
    force: Force = False,
) -> None:
    """Export saved tableaux to other programs.

    Lists are for programs that bring the solver's own rule: of tableaux distilled with --learn times, or without fitted coefficients.
    ComfyUI's nodes hold a whole set, or the one that --nfe names; the file's name is theirs too.

    For example: dode export times-6.json --to sigmas

    dode export deis.json --to comfyui --out deis_nodes.py
    """
    from dode.files import check_writable, write_atomically
    from dode.names import unknown_name
    from dode.tableaux import TableauSet

    if to not in _FORMS:
        raise unknown_name("--to", to, list(_FORMS))
    if out is not None:
        check_writable(out, overwrite=force)
    asked = _Asked(nfe, final, unshift, "dode" if out is None else out.stem)
    text, said = _FORMS[to](TableauSet.load(file), asked)
    if out is None:
        print(text)
    else:
        write: Callable[[Path], object] = lambda temporary: temporary.write_text(text + "\n", encoding="utf-8")  # noqa: E731
        write_atomically(out, write, overwrite=force)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)
    errors.print(said, highlight=False, soft_wrap=True)


def _times(held: TableauSet, asked: _Asked) -> tuple[str, str]:
    """The list, and what it is."""
    from dode.integrations.export import lists

    if asked.unshift != 1.0:
        raise ValueError("--unshift is of --to sigmas")
    tableau = held.pick(asked.nfe)
    final = bool(asked.final)
    return _listed(tableau, lists.times(tableau, final=final), "times of the network", final, asked)


def _sigmas(held: TableauSet, asked: _Asked) -> tuple[str, str]:
    """The list, and what it is."""
    from dode.integrations.export import lists
    from dode.integrations.frames import frame_of

    tableau = held.pick(asked.nfe)
    final = asked.final is not False
    found = lists.sigmas(tableau, final=final, unshift=asked.unshift)
    what = "sigma of a flow" if frame_of(tableau) == "flow" else "sigma / alpha"
    return _listed(tableau, found, what, final, asked)


def _listed(tableau: Tableau, found: list[float], what: str, final: bool, asked: _Asked) -> tuple[str, str]:
    from dode.foreign import printable
    from dode.integrations.export import lists
    from dode.integrations.frames import frame_of

    shifted = ""
    if frame_of(tableau) == "flow":
        shifted = (
            ", shifted already: the program must not shift them again (or --unshift)"
            if asked.unshift == 1.0
            else f", before a shift by {asked.unshift:g}: the program must shift them by that"
        )
    last = "the last one is that of the result" if final else "the result is not in it"
    said = f"{printable(tableau.solver)}, {tableau.nfe} NFE: {what}, {len(found)} numbers, {last}{shifted}"
    return lists.decimals(found), said


def _comfyui(held: TableauSet, asked: _Asked) -> tuple[str, str]:
    """The file, and where it goes."""
    from dode.integrations.export.comfyui import asks_between, comfyui_nodes
    from dode.tableaux import TableauSet

    if asked.final is not None or asked.unshift != 1.0:
        raise ValueError("--final and --unshift are of lists: leave them out with --to comfyui")
    chosen = held if asked.nfe is None else TableauSet.of(held.pick(asked.nfe))
    said = f"nodes for {chosen.listed} NFE: put the file into ComfyUI's folder custom_nodes"
    between = next((t for t in map(asks_between, chosen) if t is not None), None)
    if between is not None:
        said += (
            f"; ComfyUI asks such models at whole times alone, and t = {between:g} is none: distil for whole times "
            "(denoiser.replace(integer_times=True)) to have just these samples"
        )
    return comfyui_nodes(chosen, asked.name), said


_FORMS: dict[str, Callable[[TableauSet, _Asked], tuple[str, str]]] = {
    "times": _times,
    "sigmas": _sigmas,
    "comfyui": _comfyui,
}
