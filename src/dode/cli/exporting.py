"""The command `export`: saved tableaux in the forms of other programs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple

import typer

from dode.cli.options import Force
from dode.cli.screen import console, errors
from dode.foreign import printable

if TYPE_CHECKING:
    from dode.tableaux import TableauSet


class _Asked(NamedTuple):
    """The command's arguments, for the forms."""

    held: TableauSet
    nfe: int | None
    to: str
    final: bool | None
    unshift: float
    out: Path | None


def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A tableau or a set of them, from `dode distill`.", show_default=False)
    ],
    to: Annotated[
        str,
        typer.Option("--to", help="times or sigmas: a list, of a solver on learned times. comfyui: a file of ComfyUI's nodes."),
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
    ComfyUI's nodes hold a whole set, or the one that --nfe names; they are named after the file.

    For example: dode export times-6.json --to sigmas

    dode export deis.json --to comfyui --out deis_nodes.py
    """
    from dode.files import check_writable, write_atomically
    from dode.names import unknown_name
    from dode.tableaux import TableauSet

    if to not in _FORMS:
        raise unknown_name("--to", to, _FORMS)
    if out is not None:
        check_writable(out, overwrite=force)
    made, said = _FORMS[to](_Asked(TableauSet.load(file), nfe, to, final, unshift, out))
    if out is None:
        print(made)
    else:
        content = f"{made}\n".encode()
        write_atomically(out, lambda temporary: temporary.write_bytes(content), overwrite=force)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)
    errors.print(said, highlight=False, soft_wrap=True)


def _listed(asked: _Asked) -> tuple[str, str]:
    """The list, and what it is."""
    from dode.integrations.export import lists
    from dode.integrations.frames import frame_of

    tableau, to, final, unshift = asked.held.pick(asked.nfe), asked.to, asked.final, asked.unshift
    flow = frame_of(tableau) == "flow"
    if to == "times":
        if unshift != 1.0:
            raise ValueError("--unshift is of --to sigmas")
        ends = bool(final)
        found = lists.times(tableau, final=ends)
        what = "times of the network"
    else:
        ends = final is not False
        found = lists.sigmas(tableau, final=ends, unshift=unshift)
        what = "sigma / alpha" if not flow else "sigma of a flow"
    shifted = ""
    if flow:
        shifted = (
            ", shifted already: the program must not shift them again (or --unshift)"
            if unshift == 1.0
            else f", before a shift by {unshift:g}: the program must shift them by that"
        )
    last = "the last one is that of the result" if ends else "the result is not in it"
    return lists.decimals(
        found
    ), f"{printable(tableau.solver)}, {tableau.nfe} NFE: {what}, {len(found)} numbers, {last}{shifted}"


def _comfyui(asked: _Asked) -> tuple[str, str]:
    """The file, and where it goes."""
    from dode.integrations.export.comfyui import rounded_by_comfyui, to_comfyui
    from dode.tableaux import TableauSet

    if asked.final is not None or asked.unshift != 1.0:
        raise ValueError("--final and --unshift are of lists, and --to comfyui writes nodes: leave them out")
    held = asked.held if asked.nfe is None else TableauSet.of(asked.held.pick(asked.nfe))
    text = to_comfyui(held, "dode" if asked.out is None else asked.out.stem).removesuffix("\n")
    said = f"nodes for {held.listed} NFE: put the file into ComfyUI's folder custom_nodes"
    between = next((t for t in map(rounded_by_comfyui, held) if t is not None), None)
    if between is not None:
        said += (
            f"; ComfyUI asks such a model at whole times alone, and t = {between:g} is none: its samples will be about as good as those of "
            "dode, not just the same (the page on ComfyUI says more)"
        )
    return text, said


_FORMS: Mapping[str, Callable[[_Asked], tuple[str, str]]] = {
    "times": _listed,
    "sigmas": _listed,
    "comfyui": _comfyui,
}
