"""The commands."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dode.cli.exporting import export
from dode.cli.options import (
    AllowPickle,
    BatchSize,
    Call,
    Classes,
    Device,
    EffortName,
    Force,
    GridName,
    Guidance,
    GuidanceInterval,
    GuidanceList,
    GuidanceRescale,
    Model,
    Options,
    Paper,
    Precision,
    Prompts,
    Seed,
)
from dode.cli.output import command_line, reserve
from dode.cli.reports import compare, report, study
from dode.cli.screen import console, errors, fail, failing_in_a_line, warn
from dode.cli.serving import serve
from dode.cli.sharing import share
from dode.cli.target import Asked, arguments_of_calls, asked_of, condition_of, found_of, network_of, pipeline_of
from dode.cli.values import (
    budgets_of,
    grid_of,
    guidance_of,
    method_of,
    names_of,
    precision_of,
    solver_of,
)

app = typer.Typer(
    name="dode",
    help="Diffusion and flow models in far fewer steps, without training them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
_INTERRUPTED = 130
# A tableau was written, and the warnings say what diverged.
_DIVERGED = 3


@app.command()
def distill(
    context: typer.Context,
    model: Model,
    nfe: Annotated[
        str, typer.Option(help="Number of network evaluations of the distilled solver; several, 4,6,8, learn from one teacher.")
    ],
    out: Annotated[
        Path,
        typer.Option(
            help="The file to write, .json; or a folder to share, with a card and pictures: always one for a pipeline."
        ),
    ],
    solver: Annotated[str, typer.Option(help="The solver; `dode models --solvers` lists them; auto tries them all.")] = "deis",
    option: Options = None,
    grid: GridName = None,
    effort: EffortName = "balanced",
    paper: Paper = False,
    learn: Annotated[
        str,
        typer.Option(
            help="coefficients; or times: the solver keeps its own rule and its stops are learned, for programs that take a list (`dode "
            "export --to sigmas`)."
        ),
    ] = "coefficients",
    keep_start: Annotated[
        bool, typer.Option("--keep-start", help="With --learn times: leave the first time where the grid has it.")
    ] = False,
    firsts: Annotated[
        str | None,
        typer.Option(
            help="First outputs that are tried: network, zero, mean; by effort. Of these mean has no place in most other programs.",
            metavar="NAME,NAME",
        ),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Fitting samples; by effort.")] = None,
    validation: Annotated[int | None, typer.Option(help="Samples that choose; by effort.")] = None,
    held_out: Annotated[int, typer.Option(help="Fresh samples on which base and distilled are compared.")] = 64,
    teacher: Annotated[str | None, typer.Option(help="The teacher's solver; by measurement.")] = None,
    teacher_grid: Annotated[str | None, typer.Option(help="The teacher's grid; by measurement.")] = None,
    teacher_nfe: Annotated[int | None, typer.Option(help="How many evaluations the teacher takes; by measurement.")] = None,
    teacher_scale: Annotated[
        int | None,
        typer.Option(help="A teacher on the student's own grid, with every step cut into so many parts, as in the paper."),
    ] = None,
    budget: Annotated[int | None, typer.Option(help="Network evaluations that the fit may take in all; by effort.")] = None,
    prompts: Prompts = None,
    call: Call = None,
    classes: Classes = None,
    guidance_scale: Guidance = None,
    guidance_interval: GuidanceInterval = None,
    guidance_rescale: GuidanceRescale = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Precision = None,
    allow_pickle: AllowPickle = False,
    pictures: Annotated[bool, typer.Option(help="Put pictures into the card of a folder.")] = True,
    cache: Annotated[
        Path | None,
        typer.Option(help="A folder for the teacher's states and the end-to-end fit: an interrupted run goes on from there."),
    ] = None,
    force: Force = False,
) -> None:
    """Distil a solver for a network or a pipeline and save it.

    A folder with a model_index.json is driven as a pipeline, whole and as it is, with --prompts, --call, or an --out that does not end in
    .json; else its network is taken alone. What a function returns is what it is. A file has all numbers of evaluations; a folder has
    a model card too, and for a pipeline is a scheduler's, which `DodeScheduler.from_pretrained` reads.

    For example: dode distill fashion --solver deis --nfe 8 --out deis-8.json

    dode distill SD_FOLDER --prompts prompts.txt --guidance-scale 5 --nfe 4,6,8 --out sd-dode
    """
    from dode.files import check_folder
    from dode.held import OF_NETWORK, OF_PIPELINE

    budgets = budgets_of(nfe)
    asked = asked_of(prompts, call, classes)
    how = method_of(effort, paper)
    grids = {"grid": grid_of(grid), "teacher_grid": grid_of(teacher_grid)}
    if solver == "auto" and option:
        raise ValueError(
            f"--solver auto tries all solvers as they are, got --option {option[0]}: leave it out, or name the solver"
        )
    chosen = solver if solver == "auto" else solver_of(solver, option)
    if teacher is not None:
        solver_of(teacher, None)
    guided = guidance_of(guidance_scale, guidance_interval, guidance_rescale)
    precision = precision_of(dtype)
    if cache is not None:
        check_folder(cache)
    one = out.suffix == ".json"
    into_folder = f"a pipeline's tables are written into a folder: give --out one, got {out}"
    if one and asked.of_pipeline:
        raise ValueError(into_folder)
    if one:
        reserve(context, out, None, force)
    found = found_of(model, not one, allow_pickle=allow_pickle)
    if one and found.pipeline:
        raise ValueError(into_folder)
    if not one:
        reserve(context, out, OF_PIPELINE if found.pipeline else OF_NETWORK, force)
    planned = {
        **grids,
        **how,
        "learn": learn,
        **({"move_start": False} if keep_start else {}),
        "firsts": None if firsts is None else names_of(firsts, "--firsts"),
        "samples": samples,
        "validation": validation,
        "held_out": held_out,
        "teacher": teacher,
        "teacher_nfe": teacher_nfe,
        "teacher_scale": teacher_scale,
        "budget": budget,
        "seed": seed,
        "cache": cache,
        "progress": True,
    }
    number: Any = budgets if len(budgets) > 1 or found.pipeline else budgets[0]
    told: dict[str, Any] = {"command": command_line(), "pictures": pictures, "progress": True, "overwrite": force}
    if not found.pipeline:
        asked.refuse(model)
        denoiser = network_of(found, guided, batch_size, device, precision)

        from dode.front import distill as run
        from dode.sharing import save_folder

        condition = condition_of(denoiser, asked.classes)
        result = run(denoiser, chosen, number, **planned, **condition)
        if one:
            result.save(out, overwrite=force)
        else:
            save_folder(result, out, denoiser, **told, **condition)
    else:
        given = arguments_of_calls(
            asked, guided, [*planned, "directions", "shrink", "refine", "times", "noise", "targets", "start"]
        )
        pipe = pipeline_of(context, found, device, precision, asked)

        from dode.front import distill as run
        from dode.integrations.diffusers.saved import save_scheduler

        with failing_in_a_line():
            result = run(pipe, chosen, number, batch_size=batch_size, **planned, **given)
        save_scheduler(result, pipe, out, batch_size=batch_size, **told, **given)
    console.print(result.summary())
    listed = f": {', '.join(map(str, budgets))} calls" if len(budgets) > 1 or found.pipeline else ""
    console.print(f"wrote {out}{listed}", highlight=False, soft_wrap=True)
    if result.diverged:
        raise typer.Exit(_DIVERGED)


@app.command()
def sample(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option(help="The file to write: .png (one picture of all) or .npy (the numbers).")],
    tableau: Annotated[Path | None, typer.Option(help="A file or folder from `dode distill`.")] = None,
    scheduler: Annotated[Path | None, typer.Option(help="For a pipeline: a scheduler folder from `dode distill`.")] = None,
    solver: Annotated[str | None, typer.Option(help="A solver as it is, in place of a file.")] = None,
    nfe: Annotated[
        int | None,
        typer.Option(
            help="The number of network evaluations: of --solver, or which of several tableaux; of --scheduler the largest."
        ),
    ] = None,
    option: Options = None,
    grid: GridName = None,
    n: Annotated[int | None, typer.Option("-n", help="How many samples; 64, of a pipeline one of each prompt.")] = None,
    prompt: Annotated[
        list[str] | None, typer.Option(help="For a pipeline: a prompt; may be repeated. Sample i has the i-th, over and over.")
    ] = None,
    prompts: Prompts = None,
    call: Call = None,
    classes: Classes = None,
    guidance_scale: GuidanceList = None,
    guidance_interval: GuidanceInterval = None,
    guidance_rescale: GuidanceRescale = None,
    seed: Seed = 0,
    columns: Annotated[int | None, typer.Option(help="Pictures in a row.")] = None,
    batch_size: BatchSize = None,
    device: Device = None,
    dtype: Precision = None,
    allow_pickle: AllowPickle = False,
    strict: Annotated[bool, typer.Option(help="Refuse a file that was made for another schedule.")] = True,
    force: Force = False,
) -> None:
    """Sample with a saved tableau or scheduler folder, or with a solver as it is.

    With --scheduler the pipeline itself runs, and its decoded images are written; guided as the table was fitted, unless
    --guidance-scale says otherwise.

    For example: dode sample fashion --tableau deis-8.json -n 64 --seed 0 --out grid.png

    dode sample SD_FOLDER --scheduler sd-dode --nfe 4 --prompt "a boat" --out grid.png
    """
    from dode.files import check_writable
    from dode.images import check_ending, save_samples
    from dode.reading import failing_as
    from dode.tableaux import TableauSet

    check_ending(out)
    check_writable(out, overwrite=force)
    if sum(given is not None for given in (tableau, scheduler, solver)) != 1:
        raise ValueError("give either --tableau FILE or --solver NAME --nfe N; for a pipeline --scheduler FOLDER")
    if n is not None and n < 1:
        raise ValueError(f"-n must be at least 1, got {n}")
    asked = asked_of(prompts, call, classes, prompt)
    saved = None
    if tableau is not None:
        with failing_as(tableau):
            saved = TableauSet.load(tableau).pick(nfe)
    chosen, stops = None if solver is None else solver_of(solver, option), grid_of(grid)
    guided = guidance_of(guidance_scale, guidance_interval, guidance_rescale, by_evaluation=scheduler is None)
    precision = precision_of(dtype)
    if scheduler is not None:
        samples, calls = _by_pipeline(
            context, model, scheduler, nfe, n, asked, guided, seed, batch_size, device, precision, allow_pickle, strict=strict
        )
        count = len(samples)
        if samples.ndim == 5 and out.suffix == ".png":  # a video's frames in a row
            columns, samples = columns or samples.shape[1], samples.flatten(0, 1)
        save_samples(samples, out, columns, overwrite=force)
        console.print(f"wrote {out}: {count} samples, {calls}", highlight=False, soft_wrap=True)
        return
    n = 64 if n is None else n
    found = found_of(model, False, allow_pickle=allow_pickle)
    asked.refuse(model, "; of a pipeline --scheduler FOLDER is run")
    denoiser = network_of(found, guided, batch_size, device, precision)

    from dode.conditions import cycle
    from dode.distillation.setting import warn_if_other
    from dode.noise import standard_noise
    from dode.progress import evaluation_progress
    from dode.sampling import sample as run

    if saved is None:
        assert chosen is not None
        saved = chosen.tableau(denoiser.schedule, nfe, stops)
    else:
        warn_if_other(saved, denoiser)
    if denoiser.shape is None:
        raise ValueError("the denoiser does not say the shape of a sample: make it with shape=...")
    condition = cycle(condition_of(denoiser, asked.classes), 0, n)
    with evaluation_progress(denoiser, saved.nfe * n, "sampling", show=True):
        samples = run(denoiser, saved, standard_noise(seed, n, denoiser.shape), strict=strict, **condition)
    save_samples(samples, out, columns, overwrite=force)
    console.print(f"wrote {out}: {n} samples, {saved.nfe} NFE", highlight=False, soft_wrap=True)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file or a folder from `dode distill`.", show_default=False)],
    numbers: Annotated[bool, typer.Option("--numbers", help="Also print the rows' coefficients.")] = False,
    cite: Annotated[
        bool, typer.Option("--cite", help="Print BibTeX instead: the papers of the solver, the grid and the method.")
    ] = False,
) -> None:
    """Show what a saved tableau is, how it was made and what it gained.

    Of several, in a file or a folder: which numbers of calls there are, what they were fitted for, and each table.
    """
    from dode.citations import bibtex, of_tableaux
    from dode.held import read_held

    held = read_held(file)
    if cite:
        print(bibtex(of_tableaux(held.tableaux)))
        return

    from dode.sharing.summary import summary

    console.print(summary(held, numbers=numbers), soft_wrap=False)


@app.command()
def models(
    solvers: Annotated[bool, typer.Option("--solvers", help="List the solvers and their options instead.")] = False,
) -> None:
    """List the bundled networks, or the solvers."""
    if solvers:
        from dode.solvers import REGISTRY

        table = Table("solver", "what it is", "options and defaults")
        for family in REGISTRY.values():
            options = ", ".join(f"{name}={value}" for name, value in family.options.items())
            table.add_row(family.name, family.summary, options)
    else:
        from dode.models import BUNDLED

        table = Table("network", "what it is", "licence")
        for entry in BUNDLED.values():
            table.add_row(entry.name, entry.description, entry.licence)
    console.print(table)


for command in (export, share, compare, study, report, serve):
    app.command()(command)


@app.callback(invoke_without_command=True)
def common(
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    """Options of the program itself."""
    if version:
        import dode

        print(dode.__version__)
        raise typer.Exit


def main() -> None:
    """Run the command line: bad input is one line on standard error and exit code 2, a result that diverges 3, Ctrl-C 130."""
    warnings.showwarning = warn
    for library in ("DIFFUSERS", "TRANSFORMERS"):  # what they log while they are imported is not of the caller's doing
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        code = app(standalone_mode=False)
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
        # Python 3.10 has the notes in the message.
        notes = [f"({note})" for note in getattr(error, "__notes__", ()) if note not in str(error)]
        fail(" ".join([str(error), *notes]))
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        # The parser's own errors: an unknown command or option, a value of the wrong type.
        if not hasattr(error, "format_message"):
            raise
        fail(error.format_message())
    sys.exit(code or 0)


def _by_pipeline(
    context: typer.Context,
    model: str,
    folder: Path,
    nfe: int | None,
    n: int | None,
    asked: Asked,
    guided: dict[str, Any],
    seed: int,
    batch_size: int | None,
    device: str | None,
    dtype: str | None,
    allow_pickle: bool,
    *,
    strict: bool,
) -> tuple[Any, str]:
    """Samples that a pipeline makes with a scheduler folder, and how many calls of the network each took, in words."""
    from dode.fitted_for import setting_of
    from dode.held import read_scheduler
    from dode.reading import failing_as
    from dode.tableaux import TableauSet

    held = read_scheduler(folder)
    if nfe is None and not held.nfe:
        raise ValueError(f"{folder} holds a solver as it is: give --nfe N")
    calls = held.nfe[-1] if nfe is None else nfe
    with failing_as(folder):
        table = TableauSet(held.whole).pick(calls) if held.nfe else None
    given = arguments_of_calls(asked, guided)
    found = found_of(model, True, allow_pickle=allow_pickle)
    if not found.pipeline:
        raise ValueError(f"--scheduler is for pipelines, and {model} is a network: give --tableau FILE")
    pipe = pipeline_of(context, found, device, dtype, asked)

    from rich.progress import Progress

    from dode.integrations.diffusers.pictures import pictures
    from dode.integrations.diffusers.saved import check_fits, guided_as, scheduler_of

    scheduler = scheduler_of(held)
    if strict:
        check_fits(scheduler, held, pipe)
    if table is not None:
        given = guided_as(setting_of(table), pipe, given)
    count = n or len(given.get("prompts") or given["calls"])
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar, failing_in_a_line():
        task = bar.add_task("sampling", total=count)
        advance = lambda done: bar.advance(task, done)  # noqa: E731
        samples = pictures(pipe, scheduler, calls, count, seed=seed, batch_size=batch_size, advance=advance, **given)
    chosen = "" if nfe is not None or len(held.nfe) == 1 else f", the most of {', '.join(map(str, held.nfe))} (--nfe)"
    return samples, f"{calls} NFE{chosen}"
