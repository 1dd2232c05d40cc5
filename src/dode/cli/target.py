"""What MODEL is, a network or a pipeline, and how it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer

from dode.cli.screen import errors
from dode.cli.values import labels_of
from dode.foreign import printable


class Found(NamedTuple):
    """What MODEL is.

    Attributes:
        pipeline: it is driven as a pipeline.
        source: what `load` takes, or the pipeline, or the index of its folder.
        ready: the pipeline was made by a function, which knows where its parts are.
        allow_pickle: as `load` has it.
    """

    pipeline: bool
    source: Any
    ready: bool = False
    allow_pickle: bool = False


def found_of(model: str, as_pipeline: bool, instead: str = "", *, allow_pickle: bool = False) -> Found:
    """What MODEL is; `as_pipeline`: a folder of a whole pipeline is one. `instead`: what to do about one that has to be.
    `allow_pickle`: pickles in it may be read.

    Raises:
        ValueError, ImportError: a folder whose pipeline cannot be driven, or needs to be.
    """
    from dode.loading import is_function, is_pipeline, made_by
    from dode.models import BUNDLED
    from dode.models.index import read_index

    if is_function(model):
        made = made_by(model)
        return Found(is_pipeline(made), made, ready=True)
    index = None if model in BUNDLED else read_index(Path(model).expanduser())
    if index is None:
        return Found(False, model, allow_pickle=allow_pickle)
    if as_pipeline:
        index.check(allow_pickle=allow_pickle)
        return Found(True, index, allow_pickle=allow_pickle)
    if index.needs_more is not None:
        tables = "it is run as a whole, and its tables are a folder (dode distill --out FOLDER, dode sample --scheduler FOLDER)"
        raise ValueError(f"{model} is a pipeline whose network needs its {printable(index.needs_more)}: {instead or tables}")
    return Found(False, model, allow_pickle=allow_pickle)


class Asked(NamedTuple):
    """What the command line says of a pipeline's calls, or of classes.

    Attributes:
        prompts: texts; None for none.
        call: arguments of each call.
        classes: labels.
    """

    prompts: list[str] | None
    call: dict[str, Any]
    classes: list[int] | None

    @property
    def of_pipeline(self) -> bool:
        return self.prompts is not None or bool(self.call)

    def refuse(self, model: str, instead: str = "") -> None:
        """Refuse for a network what a pipeline alone has."""
        if self.of_pipeline:
            given = "--call" if self.prompts is None else "--prompts"
            raise ValueError(f"{given} is for pipelines, and {model} is taken as a network{instead}")


def asked_of(file: Path | None, call: list[str] | None, classes: str | None, prompts: list[str] | None = None) -> Asked:
    from dode.reading import read_lines

    if prompts and file is not None:
        raise ValueError("give --prompt or --prompts, not both")
    texts = list(prompts) if prompts else None
    if file is not None:
        texts = read_lines(file)
        if not texts:
            raise ValueError(
                f"{file} has no prompts: write one on each line; empty lines and those that begin with # are left out"
            )
    arguments = {}
    for text in call or []:
        key, separator, value = text.partition("=")
        if not separator or not key.strip().isidentifier():
            raise ValueError(f"--call takes KEY=VALUE, an argument of the pipeline's call, got {text!r}")
        arguments[key.strip()] = _json_or_text(value.strip())
    if texts is not None and classes is not None:
        raise ValueError("give prompts or --classes, not both: each class is a call of its own")
    if texts is not None and "prompt" in arguments:
        raise ValueError("give prompts or --call prompt=..., not both")
    return Asked(texts, arguments, labels_of(classes))


def _json_or_text(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def arguments_of_calls(asked: Asked, guided: dict[str, Any], ours: Sequence[str] = ()) -> dict[str, Any]:
    """Prompts or calls, and what all calls have, as `dode.distill` takes them."""
    from dode.guidance import Interval

    if isinstance(guided["guidance_scale"], Interval):
        raise ValueError(
            "--guidance-interval is for networks: a pipeline guides by itself; give what it has for that with --call"
        )
    shared = {**asked.call, **{name: value for name, value in guided.items() if value is not None}}
    taken = [name for name in shared if name in (*ours, "prompts", "calls", "nfe", "solver", "batch_size", "progress", "seed")]
    if taken:
        raise ValueError(f"--call {taken[0]} is no argument of a pipeline's call here: give it as an option of its own")
    if asked.prompts is not None:
        return {"prompts": asked.prompts, **shared}
    if asked.classes is not None:
        return {"calls": [{"class_labels": label} for label in asked.classes], **shared}
    return {"calls": [{}], **shared}


def denoiser_of(
    model: str, guidance: dict[str, Any], batch_size: int | None, device: str | None, *, allow_pickle: bool = False
) -> Any:
    return network_of(found_of(model, False, allow_pickle=allow_pickle), guidance, batch_size, device, None)


def network_of(found: Found, guidance: dict[str, Any], batch_size: int | None, device: str | None, dtype: str | None) -> Any:
    from dode.loading import load

    if device is not None:
        _check_device(device)
    # What is not given stays as the model has it.
    given = {name: value for name, value in (guidance | {"batch_size": batch_size}).items() if value is not None}
    if dtype is not None:
        given["dtype"] = _torch_dtype(dtype)
    denoiser = load(
        found.source, allow_pickle=found.allow_pickle, device=device, **given
    )  # PyTorch is imported after the folder is read
    if device is None:
        import torch

        if torch.cuda.is_available() and isinstance(denoiser.net, torch.nn.Module):
            denoiser.net.to("cuda")
    return denoiser


def pipeline_of(context: typer.Context, found: Found, device: str | None, dtype: str | None, asked: Asked) -> Any:
    """The pipeline, where it is to run; what diffusers logs is not shown from here on."""
    from dode.models.index import require

    require()
    if device is not None:
        _check_device(device)
    import torch

    from dode.integrations.diffusers.saved import check_call, load_pipeline, quiet

    context.with_resource(quiet())
    kind = None if dtype is None else _torch_dtype(dtype)
    if found.ready:
        pipe = found.source
        pipe = pipe.to(device, kind) if device is not None or kind is not None else pipe
    else:
        with errors.status("loading the pipeline"):
            pipe = load_pipeline(found.source, dtype=kind, allow_pickle=found.allow_pickle)
        pipe = pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_call(pipe, asked.call)
    return pipe


def condition_of(denoiser: Any, labels: list[int] | None) -> dict[str, Any]:
    """Class labels for a class-conditional network: those asked for, or all of its classes."""
    import torch

    from dode.models import ClassLabels, ConcatChannels

    modules = list(denoiser.net.modules()) if isinstance(denoiser.net, torch.nn.Module) else []
    if any(isinstance(module, ConcatChannels) for module in modules):
        raise ValueError(
            f"{denoiser.name} takes channels beside the sample, which only Python can give: dode.sample(..., concat=...)"
        )
    labelled = next((module for module in modules if isinstance(module, ClassLabels)), None)
    if labelled is None:
        if labels is not None:
            raise ValueError(f"--classes: {denoiser.name} is not class-conditional")
        return {}
    every = [c for c in range(labelled.classes) if c != labelled.null_class]
    labels = every if labels is None else labels
    outside = [label for label in labels if not 0 <= label < labelled.classes]
    if outside:
        raise ValueError(f"--classes: {denoiser.name} has the classes 0 to {labelled.classes - 1}, got {outside[0]}")
    return {"class_labels": torch.tensor(labels)}


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: cpu, cuda or cuda:N") from None
