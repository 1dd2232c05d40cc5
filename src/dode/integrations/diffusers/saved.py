"""A pipeline from a folder, and a scheduler with its model card into one.

save_scheduler(result, pipe, "sd-dode", prompts=[...], guidance_scale=5.0)
pipe.scheduler = DodeScheduler.from_pretrained("sd-dode")
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from logging import CRITICAL
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dode.distillation import Distilled, DistilledSet
from dode.files import check_folder_writable, write_folder
from dode.fitted_for import setting_of
from dode.foreign import first_line, printable
from dode.held import OF_PIPELINE, Held
from dode.integrations.diffusers.calls import arguments, check_names, network_hash
from dode.integrations.diffusers.card import about_pipeline
from dode.integrations.diffusers.configs import of_network
from dode.integrations.diffusers.pictures import pictures as drawn
from dode.integrations.diffusers.scheduler import DodeScheduler
from dode.models.index import PipelineIndex
from dode.models.slots import slot_of
from dode.sharing.card import write_card
from dode.sharing.pictures import Pictures, sheet
from dode.solvers import solver_named

# Pictures of one run, at the most.
_SHOWN = 4


def load_pipeline(index: PipelineIndex, *, dtype: torch.dtype | None = None, allow_pickle: bool = False) -> Any:
    """The pipeline of a folder, on the host. Nothing is downloaded, and no code of the folder is run.

    Raises:
        ImportError: a library is not installed; the message says which extra to install.
        ValueError: diffusers has no such pipeline or cannot load it, or what it has cannot be driven.
    """
    index.check(allow_pickle=allow_pickle)
    import diffusers

    kind = getattr(diffusers, index.name, None)
    if kind is None:
        raise ValueError(
            f"{index.folder} is of {index.name}, which is not in diffusers {diffusers.__version__}: install a newer one"
        )
    try:
        with quiet():
            return diffusers.DiffusionPipeline.from_pretrained(
                str(index.folder),
                local_files_only=True,
                use_safetensors=None if allow_pickle else True,
                **({} if dtype is None else {"torch_dtype": dtype}),
            )
    except ImportError as error:
        raise ImportError(
            f"{index.name} in {index.folder} needs more: pip install dode[diffusers] ({first_line(error)})"
        ) from error
    except Exception as error:  # diffusers raises all kinds
        raise ValueError(f"{index.folder} cannot be loaded by diffusers: {first_line(error)}") from error


@contextmanager
def quiet() -> Iterator[None]:
    """What diffusers and transformers log, and their bars, which would run into the caller's own."""
    import diffusers

    found = [diffusers.utils.logging]
    with suppress(ImportError):
        import transformers

        found.append(transformers.utils.logging)
    with ExitStack() as stack:
        for logging in found:
            stack.callback(logging.set_verbosity, logging.get_verbosity())
            if logging.is_progress_bar_enabled():
                stack.callback(logging.enable_progress_bar)
            logging.set_verbosity(CRITICAL)  # an error is raised too
            logging.disable_progress_bar()
        yield


def save_scheduler(
    made: Distilled | DistilledSet,
    pipe: Any,
    folder: str | Path,
    *,
    overwrite: bool = False,
    pictures: bool = True,
    prompts: Sequence[str] | None = None,
    calls: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int | None = None,
    command: str = "",
    progress: bool = False,
    **call: Any,
) -> Path:
    """Write a scheduler folder with a model card: `DodeScheduler.from_pretrained` reads it. Nothing is left where it fails.

    Args:
        made: what `dode.distill` gave for the pipeline.
        pipe: the pipeline.
        folder: to write; it is replaced as a whole.
        overwrite: replace one that holds a scheduler and its card, and nothing else.
        pictures: put pictures by the pipeline into the card: base, distilled and teacher from the same noise. Where it cannot make any the
            card says so.
        prompts, calls, call: as they were given to `dode.distill`.
        batch_size: samples in one call at the most.
        command: what it was made with, for the card.
        progress: show a bar.

    Returns:
        The folder.

    Raises:
        FileExistsError: it is there, and `overwrite` is False or it has other files.
        ValueError: a tableau that a pipeline's loop cannot run.
        OSError: as `dode.files.write_folder`.

    Warns:
        UserWarning: the pipeline made no pictures; why.
    """
    results = list(made) if isinstance(made, DistilledSet) else [made]
    tableaux = [result.tableau for result in results]
    where = Path(folder)
    check_folder_writable(where, OF_PIPELINE, overwrite=overwrite)
    scheduler = DodeScheduler.from_tableaux(results, pipe.scheduler)
    shown = Pictures(missing="they were not asked for")
    if pictures:
        given = {"prompts": prompts, "calls": calls, "batch_size": batch_size, **call}
        shown = _drawn(results, pipe, given, progress)
        if shown.missing:
            warnings.warn(f"the card has no pictures: {shown.missing}", stacklevel=2)

    one: dict[str, Any] = {"prompt": "a prompt"} if prompts is not None else dict(calls[0]) if calls else {}
    if isinstance(one.get("class_labels"), int):
        one["class_labels"] = [one["class_labels"]]
    about = about_pipeline(tableaux, where.name, {**one, **call})

    def write(temporary: Path) -> None:
        scheduler.save_pretrained(temporary)
        write_card(temporary, about, tableaux, shown, command)

    write_folder(where, write, OF_PIPELINE, overwrite=overwrite)
    return where


def scheduler_of(held: Held) -> DodeScheduler:
    """The scheduler of a folder that was read and checked."""
    made: DodeScheduler = DodeScheduler.from_config(dict(held.config or {}))
    return made


def check_fits(scheduler: DodeScheduler, held: Held, pipe: Any) -> None:
    """See that tables are of a pipeline's network.

    Raises:
        ValueError: another schedule or prediction.

    Warns:
        UserWarning: a network of another configuration.
    """
    ours, theirs = slot_of(of_network(scheduler)), slot_of(of_network(pipe.scheduler))
    if ours.prediction != theirs.prediction:
        raise ValueError(
            f"the tables of {held.path} are of a network that predicts {ours.prediction}, this pipeline's predicts "
            f"{theirs.prediction}: distil for it"
        )
    said = network_hash(pipe)
    for tableau in held.tableaux:
        setting = setting_of(tableau)
        try:
            tableau.check_schedule(theirs.schedule, "--no-strict")
        except ValueError as error:
            raise ValueError(f"{held.path}: {error}") from None
        fitted = setting.get("network_hash")
        if fitted is not None and said is not None and fitted != said:
            warnings.warn(
                f"the tables of {held.path} were fitted for another network "
                f"({printable(setting.get('model') or setting.get('pipeline'))}): what they gain for this one is not known",
                stacklevel=2,
            )
            return


def check_call(pipe: Any, call: Mapping[str, Any]) -> None:
    """Raise ValueError for an argument that a pipeline's call has no name for: those that take any let a slip pass in silence."""
    known, passes_on = arguments(pipe)
    if not passes_on or "num_inference_steps" in known:  # else it hands them to another pipeline
        check_names(type(pipe).__name__, known, [call])


def guided_as(setting: Mapping[str, Any], pipe: Any, call: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a pipeline's call with the guidance that a table was fitted for, where they say none.

    Warns:
        UserWarning: they say another.
    """
    fitted, asked = setting.get("guidance_scale"), call.get("guidance_scale")
    if not isinstance(fitted, int | float) or "guidance_scale" not in arguments(pipe)[0]:
        return dict(call)
    if isinstance(asked, int | float) and float(asked) != float(fitted):
        warnings.warn(
            f"the table was fitted at guidance_scale = {fitted:g} and is run at {asked:g}: what it gains there is not known; distil one "
            "for it",
            stacklevel=2,
        )
    return {"guidance_scale": fitted, **call}


def _drawn(results: list[Distilled], pipe: Any, given: dict[str, Any], progress: bool) -> Pictures:
    """The pictures of base, distilled and teacher; none, and why, where the pipeline makes none."""
    kinds = given["prompts"] if given["prompts"] is not None else given["calls"]
    for which in ("prompts", "calls"):
        given[which] = None if given[which] is None else given[which][:_SHOWN]
    count = min(_SHOWN, len(kinds)) if kinds is not None else _SHOWN
    try:
        with _bar(progress, count * (2 * len(results) + 1)) as advance:

            def run(scheduler: Any, calls: int) -> Tensor:
                return drawn(pipe, scheduler, calls, count, advance=advance, **given)

            taught = _teacher(results[-1], pipe.scheduler.config)
            last = {} if taught is None else {f"{taught[2]}, {taught[1]} calls, as the teacher": run(taught[0], taught[1])}
            sheets = []
            for result in results:
                calls = result.tableau.nfe
                rows = {
                    f"{calls} calls of {result.base.solver}, {result.base.grid} grid": result.base,
                    f"{calls} calls of this scheduler": result.tableau,
                }
                made = {words: run(DodeScheduler.from_tableaux(each, pipe.scheduler), each.nfe) for words, each in rows.items()}
                sheets.append(sheet(calls, {**made, **last}))
    except Exception as error:  # pictures are no reason to lose what was distilled
        return Pictures(missing=f"{type(pipe).__name__} made none: {first_line(error)}")
    return Pictures(tuple(sheets), tuple(given["prompts"] or ()))


def _teacher(result: Distilled, config: Any) -> tuple[DodeScheduler, int, str] | None:
    """What runs as the teacher did, its calls and its solver; None where there is nothing to say of it."""
    found = re.fullmatch(r"(.+), ([\w-]+) grid, (\d+) NFE", str(result.settings["teacher"]))
    if found is None:
        return None
    try:
        solver = solver_named(found[1])
        scheduler = DodeScheduler.from_solver(solver.name, config, grid=found[2], **solver.options)
    except ValueError:
        return None
    return scheduler, int(found[3]), str(solver)


@contextmanager
def _bar(show: bool, total: int) -> Iterator[Any]:
    if not show:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("pictures for the card", total=total)
        yield lambda count: bar.advance(task, count)
