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
    unshift: float | None
    prediction: str | None
    network: Path | None
    inputs: str | None
    out: Path | None


def export(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A tableau or a set of them, from `dode distill`.", show_default=False)
    ],
    to: Annotated[
        str,
        typer.Option(
            "--to",
            help="times or sigmas: a list, of a solver on learned times. comfyui: a file of ComfyUI's nodes. python: a file that samples "
            "with torch alone. onnx: one step, or with --network the whole run.",
        ),
    ],
    nfe: Annotated[int | None, typer.Option(help="Which of a set: the number of network evaluations.")] = None,
    final: Annotated[
        bool | None,
        typer.Option(
            help="End a list with the time or sigma of the result too, N + 1 numbers; sigmas do, times do not by default."
        ),
    ] = None,
    unshift: Annotated[
        float | None,
        typer.Option(help="For sigmas of a flow model, for a program that shifts what it is given: by how much it does."),
    ] = None,
    prediction: Annotated[
        str | None,
        typer.Option(
            help="For python and onnx: what the network gives (epsilon, sample, v, flow, score, edm), where the file does not say."
        ),
    ] = None,
    network: Annotated[
        Path | None,
        typer.Option(
            help="For onnx: the network, an .onnx file of a sample and a time with stated shapes.", metavar="NET.onnx"
        ),
    ] = None,
    inputs: Annotated[
        str | None,
        typer.Option(help="For --network: the names of its inputs for the sample and the time.", metavar="SAMPLE,TIME"),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The file to write; standard output by default.")] = None,
    force: Force = False,
) -> None:
    """Export saved tableaux to other programs.

    Lists are for programs that bring the solver's own rule: of tableaux distilled with --learn times, or without fitted coefficients. Nodes
    for ComfyUI, which are named after the file, and files for Python and ONNX say all of a tableau, or of the whole set.

    For example: dode export times-6.json --to sigmas

    dode export deis.json --to comfyui --out deis_nodes.py

    dode export deis.json --to python --out sampler.py
    """
    from dode.files import check_writable, write_atomically
    from dode.names import unknown_name
    from dode.tableaux import TableauSet

    if to not in _FORMS:
        raise unknown_name("--to", to, _FORMS)
    if out is not None:
        check_writable(out, overwrite=force)
    asked = _Asked(TableauSet.load(file), nfe, to, final, unshift, prediction, network, inputs, out)
    for name, forms in _OF_FORMS.items():
        if getattr(asked, name) is not None and to not in forms:
            raise ValueError(f"--{name} is of --to {' and '.join(forms)}, not of {to}")
    made, said = _FORMS[to](asked)
    if out is None:
        print(made)
    else:
        content = made if isinstance(made, bytes) else f"{made}\n".encode()
        write_atomically(out, lambda temporary: temporary.write_bytes(content), overwrite=force)
        console.print(f"wrote {out}", highlight=False, soft_wrap=True)
    errors.print(said, highlight=False, soft_wrap=True)


def _listed(asked: _Asked) -> tuple[str, str]:
    """The list, and what it is."""
    from dode.integrations.export import lists
    from dode.integrations.frames import frame_of

    tableau, to, final = asked.held.pick(asked.nfe), asked.to, asked.final
    unshift = 1.0 if asked.unshift is None else asked.unshift
    flow = frame_of(tableau) == "flow"
    if to == "times":
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
    if flow and tableau.alphas[0] > 0:
        first = f"{tableau.sigmas[0]:.4g}"
        shifted += f"; it begins at sigma {first}: the program must scale the noise by that (diffusers does not: distil with --keep-start)"
    last = "the last one is that of the result" if ends else "the result is not in it"
    return lists.decimals(
        found
    ), f"{printable(tableau.solver)}, {tableau.nfe} NFE: {what}, {len(found)} numbers, {last}{shifted}"


def _comfyui(asked: _Asked) -> tuple[str, str]:
    """The file, and where it goes."""
    from dode.integrations.export.comfyui import rounded_by_comfyui, to_comfyui
    from dode.tableaux import TableauSet

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


def _python(asked: _Asked) -> tuple[str, str]:
    """The file, and what its network has to give."""
    from dode.integrations.export import to_python

    held = asked.held if asked.nfe is None else asked.held.pick(asked.nfe)
    text = to_python(held, asked.prediction).removesuffix("\n")
    return (
        text,
        "sample(network, noise, nfe=None, **cond) in it needs torch alone; its first lines say what network has to give",
    )


def _onnx(asked: _Asked) -> tuple[bytes, str]:
    """The model, and what goes into it."""
    from dode.integrations.export import to_onnx

    if asked.out is None:
        raise ValueError("--to onnx writes a binary file: name it with --out")
    if asked.inputs is not None and asked.network is None:
        raise ValueError("--inputs are those of a network: give --network too")
    network, out = asked.network, asked.out
    model = to_onnx(
        asked.held,
        network,
        nfe=asked.nfe,
        prediction=asked.prediction,
        inputs=None if asked.inputs is None else [name.strip() for name in asked.inputs.split(",")],
        # Beside the network its weights can stay in their own file.
        embed=network is None or network.resolve().parent != out.resolve().parent,
    )
    taken, given = ([value.name for value in values] for values in (model.graph.input, model.graph.output))
    return (
        model.SerializeToString(),
        f"takes {printable(', '.join(taken))}, gives {printable(', '.join(given))}: {model.doc_string}",
    )


_FORMS: Mapping[str, Callable[[_Asked], tuple[str | bytes, str]]] = {
    "times": _listed,
    "sigmas": _listed,
    "comfyui": _comfyui,
    "python": _python,
    "onnx": _onnx,
}

# The options that some forms alone take.
_OF_FORMS: Mapping[str, tuple[str, ...]] = {
    "final": ("times", "sigmas"),
    "unshift": ("sigmas",),
    "prediction": ("python", "onnx"),
    "network": ("onnx",),
    "inputs": ("onnx",),
}
