"""The options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A bundled network (see `dode models`), a diffusers folder, edm:FILE (a pickled network of EDM), or "
        "package.module:function that returns a Denoiser or a pipeline.",
        show_default=False,
    ),
]
Options = Annotated[
    list[str] | None,
    typer.Option("--option", "-o", metavar="NAME=VALUE", help="An option of the solver, e.g. order=2; may be repeated."),
]
GridName = Annotated[
    str | None,
    typer.Option(
        help="uniform, leading, trailing, linspace, quadratic, power, log-snr or karras; or times, 999,650,...,-1. "
        "The solver's or the schedule's own by default."
    ),
]
EffortName = Annotated[
    str,
    typer.Option(
        help="fast (the paper's cost: closed form), balanced (and all coefficients end to end), thorough (and grids, times, "
        "shared first outputs)."
    ),
]
Paper = Annotated[
    bool, typer.Option("--paper", help="The paper's method in place of an effort: one number a step, nothing else.")
]
Classes = Annotated[
    str | None,
    typer.Option(
        help="Class labels of a class-conditional network, e.g. 3 or 0,5-9: sample i has the i-th, over and over. Default: all."
    ),
]
Guidance = Annotated[
    str | None,
    typer.Option(help="Scale of classifier-free guidance; 1 is none. The model's own by default, which is 1 for most."),
]
GuidanceList = Annotated[
    str | None,
    typer.Option(help="Scale of classifier-free guidance; 1 is none. Or one for each evaluation, e.g. 1,3,3,2."),
]
GuidanceInterval = Annotated[
    str | None,
    typer.Option(metavar="LO,HI", help="Guidance at the network's times LO to HI alone, e.g. 200,800."),
]
GuidanceRescale = Annotated[
    float | None,
    typer.Option(
        help="How far the guided output is scaled back to the spread of the conditional one: 0 (not, the default) to 1."
    ),
]
BatchSize = Annotated[int | None, typer.Option(help="At most that many samples in one call of the network.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1 ...; a GPU where there is one by default.")]
Precision = Annotated[str | None, typer.Option("--dtype", help="float32, float16 or bfloat16; float32 by default.")]
AllowPickle = Annotated[
    bool,
    typer.Option(
        "--allow-pickle",
        help="Read pickles: weights in .bin files, and edm:FILE, which runs code in the file. Only if you trust who made it.",
    ),
]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="For a pipeline: a text file with a prompt on each line; empty lines and those that begin with # are left out."
    ),
]
Call = Annotated[
    list[str] | None,
    typer.Option(
        "--call",
        metavar="KEY=VALUE",
        help="For a pipeline: an argument of its calls, e.g. height=512; JSON, or else text; may be repeated.",
    ),
]
Seed = Annotated[int, typer.Option(help="Of the noise: same seed, same result.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]
