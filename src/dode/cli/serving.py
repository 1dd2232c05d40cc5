"""The command `serve`: the page of `dode.serve`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from dode.cli.options import AllowPickle, BatchSize, Call, Classes, Device, Guidance, Model, Precision, Prompts
from dode.cli.screen import console, errors, failing_in_a_line
from dode.cli.target import Found, arguments_of_calls, asked_of, condition_of, found_of, network_of, pipeline_of
from dode.cli.values import guidance_of, precision_of

_HIGHEST_PORT = 65535


def serve(
    context: typer.Context,
    model: Model,
    tableau: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|FOLDER",
            help="Tableaux from `dode distill`, a file or a folder; may be repeated. NFE chooses among them.",
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen at: this machine alone by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port; where it is taken, a free one.")] = 7860,
    reference_nfe: Annotated[int, typer.Option(help="Network evaluations of the reference.")] = 64,
    prompt: Annotated[list[str] | None, typer.Option(help="For a pipeline: a prompt; may be repeated.")] = None,
    prompts: Prompts = None,
    call: Call = None,
    classes: Classes = None,
    guidance_scale: Guidance = None,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Precision = None,
    allow_pickle: AllowPickle = False,
) -> None:
    """Serve a local page: move NFE, solver, guidance and seed, and see base, distilled and reference side by side.

    It listens at 127.0.0.1, asks no other host for anything, and sends nothing anywhere.

    For example: dode serve fashion --tableau deis-8.json

    dode serve SD_FOLDER --tableau sd-dode --prompt "a boat"
    """
    from dode.serve.shelf import read_tableaux

    if not 0 <= port <= _HIGHEST_PORT:
        raise ValueError(f"--port must lie in 0 .. {_HIGHEST_PORT}, got {port}")
    if reference_nfe < 1:
        raise ValueError(f"--reference-nfe must be at least 1, got {reference_nfe}")
    asked = asked_of(prompts, call, classes, prompt)
    guided, precision = guidance_of(guidance_scale, None, None), precision_of(dtype)
    kept = read_tableaux(tableau or [])
    found = found_of(model, asked.of_pipeline or _of_pipeline(tableau or []), allow_pickle=allow_pickle)
    if not found.pipeline:
        asked.refuse(model)

    from dode.serve.app import serve as run
    from dode.serve.bench import Bench
    from dode.serve.shelf import Shelf
    from dode.serve.subjects import Network, Piped, Subject, closing

    subject: Subject
    if found.pipeline:
        pipe = pipeline_of(context, found, device, precision, asked)
        given = arguments_of_calls(asked, guided)
        own = given.pop("guidance_scale", None)
        with errors.status("asking the pipeline"), failing_in_a_line():
            subject = Piped(pipe, guidance=_fitted(kept) if own is None else own, batch_size=batch_size, **given)
    else:
        denoiser = network_of(found, guided, batch_size, device, precision)
        subject = Network(denoiser, _labels(denoiser, found, asked.classes))
    with closing(subject):
        bench = Bench(subject, Shelf(subject.schedule, kept), reference_nfe)
        run(bench, host, port, say=lambda line: console.print(line, highlight=False, soft_wrap=True))


def _of_pipeline(paths: list[Path]) -> bool:
    """Whether a scheduler folder is among them, which is a pipeline's."""
    from dode.held import is_scheduler

    return any(is_scheduler(path) for path in paths)


def _fitted(kept: list[Any]) -> float | None:
    """The guidance scale that the first table was fitted at, where it says so."""
    from dode.fitted_for import setting_of

    scales = (setting_of(each.tableau).get("guidance_scale") for each in kept)
    return next((float(scale) for scale in scales if isinstance(scale, int | float)), None)


def _labels(denoiser: Any, found: Found, classes: list[int] | None) -> dict[str, int]:
    """The labels of the classes by their names, or by their numbers where they have none."""
    from dode.models import BUNDLED

    condition = condition_of(denoiser, classes)
    names = BUNDLED[found.source].classes if isinstance(found.source, str) and found.source in BUNDLED else ()
    labels = condition["class_labels"].tolist() if condition else []
    return {names[label] if label < len(names) else str(label): label for label in labels}
