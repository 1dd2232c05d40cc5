"""The command `export`: saved tableaux in the forms of other programs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dode.cli.options import Force
from dode.cli.screen import console, errors

if TYPE_CHECKING:
    from dode.tableau import Tableau

_FORMS = ("times", "sigmas")


def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A tableau or a set of them, from `dode distill`.", show_default=False)
    ],
    to: Annotated[str, typer.Option("--to", help="times or sigmas: a list, of a solver on learned times.")],
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

    For example: dode export times-6.json --to sigmas
    """
    from dode.files import check_writable, write_atomically
    from dode.names import unknown_name
    from dode.tableaux import TableauSet

    if to not in _FORMS:
        raise unknown_name("--to", to, _FORMS)
    if out is not None:
        check_writable(out, overwrite=force)
    held = TableauSet.load(file)
    text, said = _listed(held.pick(nfe), to, final, unshift)
    if out is None:
        print(text)
    else:
        write: Callable[[Path], object] = lambda temporary: temporary.write_text(text + "\n", encoding="utf-8")  # noqa: E731
        write_atomically(out, write, overwrite=force)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)
    errors.print(said, highlight=False, soft_wrap=True)


def _listed(tableau: Tableau, to: str, final: bool | None, unshift: float) -> tuple[str, str]:
    """The list, and what it is."""
    from dode.foreign import printable
    from dode.integrations.export import lists
    from dode.integrations.frames import frame_of

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
