"""The command line `dode`."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from dode import stopping
from dode.foreign import printable

app = typer.Typer(
    name="dode",
    help="Diffusion and flow models in far fewer steps, without training them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
console = Console(markup=False)  # names and paths are no markup
errors = Console(stderr=True, markup=False)

_INTERRUPTED = 130
# Characters of an error or a warning: paths and names in it may be anyone's.
_LONGEST = 2000
# A tableau was written, and the warnings say what diverged.
_DIVERGED = 3
_PRECISIONS = ("float32", "float16", "bfloat16")
# Files of the folders that `distill` writes, for a pipeline and for a network.
_OF_PIPELINE = ("scheduler_config.json", "README.md", "pictures-*.png")
_OF_NETWORK = ("nfe-*.json",)

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A bundled network (see `dode models`), a diffusers folder, or package.module:function that returns a Denoiser or a "
        "pipeline.",
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


@app.command()
def distill(
    context: typer.Context,
    model: Model,
    nfe: Annotated[
        str, typer.Option(help="Number of network evaluations of the distilled solver; several, 4,6,8, learn from one teacher.")
    ],
    out: Annotated[
        Path,
        typer.Option(help="The file to write, JSON; for a pipeline, and for several numbers, the folder, made as a whole."),
    ],
    solver: Annotated[str, typer.Option(help="The solver; `dode models --solvers` lists them; auto tries them all.")] = "deis",
    option: Options = None,
    grid: GridName = None,
    effort: EffortName = "balanced",
    paper: Paper = False,
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
    pictures: Annotated[bool, typer.Option(help="For a pipeline: put pictures by it into the model card.")] = True,
    cache: Annotated[
        Path | None,
        typer.Option(help="A folder for the teacher's states and the end-to-end fit: an interrupted run goes on from there."),
    ] = None,
    force: Force = False,
) -> None:
    """Distil a solver for a network or a pipeline and save it.

    A folder with a model_index.json is driven as a pipeline, whole and as it is, with --prompts, --call, or an --out that does not end in
    .json; else its network is taken alone. What a function returns is what it is. For a pipeline --out is a scheduler folder with a model
    card, which `DodeScheduler.from_pretrained` reads.

    For example: dode distill fashion --solver deis --nfe 8 --out deis-8.json

    dode distill SD_FOLDER --prompts prompts.txt --guidance-scale 5 --nfe 4,6,8 --out sd-dode
    """
    from dode.files import check_folder

    budgets = _budgets(nfe)
    asked = _asked(prompts, call, classes)
    how = _method(effort, paper)
    grids = {"grid": _grid(grid), "teacher_grid": _grid(teacher_grid)}
    if solver == "auto" and option:
        raise ValueError(
            f"--solver auto tries all solvers as they are, got --option {option[0]}: leave it out, or name the solver"
        )
    chosen = solver if solver == "auto" else _solver(solver, option)
    if teacher is not None:
        _solver(teacher, None)
    guided = _guidance(guidance_scale, guidance_interval, guidance_rescale)
    precision = _precision(dtype)
    if cache is not None:
        check_folder(cache)
    one = out.suffix == ".json"
    if one and (len(budgets) > 1 or asked.of_pipeline):
        what = "a pipeline's tables" if asked.of_pipeline else "tables of several numbers of evaluations"
        raise ValueError(f"{what} are written into a folder: give --out one, got {out}")
    if one:
        _reserve(context, out, None, force)
    found = _found(model, not one)
    if one and found.pipeline:
        raise ValueError(f"a pipeline's tables are written into a folder: give --out one, got {out}")
    whole = found.pipeline or len(budgets) > 1
    if not one:
        _reserve(context, out, (_OF_PIPELINE if found.pipeline else _OF_NETWORK) if whole else None, force)
    planned = {
        **grids,
        **how,
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
    number: Any = budgets if whole else budgets[0]
    if not found.pipeline:
        asked.refuse(model)
        denoiser = _network(found, guided, batch_size, device, precision)

        from dode.front import distill as run

        result = run(denoiser, chosen, number, **planned, **_condition(denoiser, asked.classes))
        _write(result, out, force)
    else:
        given = _arguments_of_calls(
            asked, guided, [*planned, "directions", "shrink", "refine", "times", "noise", "targets", "firsts", "start"]
        )
        pipe = _pipeline(context, found, device, precision, asked)

        from dode.front import distill as run
        from dode.integrations.diffusers.saved import save_scheduler

        with _failing_in_a_line():
            result = run(pipe, chosen, number, batch_size=batch_size, **planned, **given)
        told: dict[str, Any] = {"command": _command(), "pictures": pictures, "progress": True}
        save_scheduler(result, pipe, out, overwrite=force, batch_size=batch_size, **told, **given)
    console.print(result.summary())
    listed = f": {', '.join(map(str, budgets))} calls" if whole else ""
    console.print(f"wrote {out}{listed}", highlight=False, soft_wrap=True)
    if result.diverged:
        raise typer.Exit(_DIVERGED)


@app.command()
def sample(
    context: typer.Context,
    model: Model,
    out: Annotated[Path, typer.Option(help="The file to write: .png (one picture of all) or .npy (the numbers).")],
    tableau: Annotated[Path | None, typer.Option(help="A file from `dode distill`.")] = None,
    scheduler: Annotated[Path | None, typer.Option(help="For a pipeline: a scheduler folder from `dode distill`.")] = None,
    solver: Annotated[str | None, typer.Option(help="A solver as it is, in place of a file.")] = None,
    nfe: Annotated[
        int | None, typer.Option(help="With --solver: the number of network evaluations. With --scheduler: the largest held.")
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
    from dode.tableau import Tableau

    check_ending(out)
    check_writable(out, overwrite=force)
    if sum(given is not None for given in (tableau, scheduler, solver)) != 1:
        raise ValueError("give either --tableau FILE or --solver NAME --nfe N; for a pipeline --scheduler FOLDER")
    if n is not None and n < 1:
        raise ValueError(f"-n must be at least 1, got {n}")
    asked = _asked(prompts, call, classes, prompt)
    saved = None if tableau is None else Tableau.load(tableau)
    chosen, stops = None if solver is None else _solver(solver, option), _grid(grid)
    guided = _guidance(guidance_scale, guidance_interval, guidance_rescale, by_evaluation=scheduler is None)
    precision = _precision(dtype)
    if scheduler is not None:
        samples, calls = _by_pipeline(
            context, model, scheduler, nfe, n, asked, guided, seed, batch_size, device, precision, strict=strict
        )
        count = len(samples)
        if samples.ndim == 5 and out.suffix == ".png":  # a video's frames in a row
            columns, samples = columns or samples.shape[1], samples.flatten(0, 1)
        save_samples(samples, out, columns, overwrite=force)
        console.print(f"wrote {out}: {count} samples, {calls}", highlight=False, soft_wrap=True)
        return
    n = 64 if n is None else n
    found = _found(model, False)
    asked.refuse(model, "; of a pipeline --scheduler FOLDER is run")
    denoiser = _network(found, guided, batch_size, device, precision)

    from dode.conditions import cycle
    from dode.noise import standard_noise
    from dode.progress import evaluation_progress
    from dode.sampling import sample as run

    if saved is None:
        assert chosen is not None
        saved = chosen.tableau(denoiser.schedule, nfe, stops)
    if denoiser.shape is None:
        raise ValueError("the denoiser does not say the shape of a sample: make it with shape=...")
    condition = cycle(_condition(denoiser, asked.classes), 0, n)
    with evaluation_progress(denoiser, saved.nfe * n, "sampling", show=True):
        samples = run(denoiser, saved, standard_noise(seed, n, denoiser.shape), strict=strict, **condition)
    save_samples(samples, out, columns, overwrite=force)
    console.print(f"wrote {out}: {n} samples, {saved.nfe} NFE", highlight=False, soft_wrap=True)


@app.command()
def show(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="A tableau, or a folder from `dode distill`.", show_default=False)
    ],
    numbers: Annotated[bool, typer.Option("--numbers", help="Also print the rows' coefficients.")] = False,
) -> None:
    """Show what a saved tableau is, how it was made and what it gained.

    Of a folder: which numbers of calls it holds, and each table; of a scheduler's, what they were fitted for.
    """
    from dode.distillation.summary import summary
    from dode.integrations.diffusers.held import is_held, read_held
    from dode.tableau import Tableau

    if file.is_dir():
        listed = _tables(file)
        if is_held(file) or not listed:
            console.print(read_held(file).summary(numbers=numbers), soft_wrap=False)
            return
    else:
        listed = [file]
    for each in listed:
        tableau = Tableau.load(each)
        console.print(summary(tableau), soft_wrap=False)
        if numbers and tableau.meta.get("distillation"):
            console.print(str(tableau), highlight=False, soft_wrap=True)


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


@app.command()
def compare(
    context: typer.Context,
    model: Model,
    solver: Annotated[str, typer.Option(help="Solvers, separated by commas.")],
    nfe: Annotated[str, typer.Option(help="Numbers of network evaluations, separated by commas.")],
    out: Annotated[Path, typer.Option(help="The folder for the table (.csv, .md) and the plot; made if it is not there.")],
    grid: GridName = None,
    effort: EffortName = "balanced",
    paper: Paper = False,
    held_out: Annotated[int, typer.Option(help="Samples on which errors are measured; no fit sees their noise.")] = 64,
    reference_nfe: Annotated[int, typer.Option(help="Network evaluations of the reference.")] = 200,
    classes: Classes = None,
    guidance_scale: Guidance = None,
    guidance_interval: GuidanceInterval = None,
    guidance_rescale: GuidanceRescale = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    force: Force = False,
) -> None:
    """Compare solvers, base and distilled, at several budgets: a table and a plot.

    An interrupted comparison goes on where it was when the same command is given again; --force starts over.

    For example: dode compare fashion --solver ddim,deis,dpm-solver++ --nfe 5,8 --out report
    """
    from rich.progress import Progress

    from dode.locks import output_folder

    chosen, stops, how = [_solver(name.strip(), None) for name in solver.split(",")], _grid(grid), _method(effort, paper)
    labels = _labels(classes)
    budgets = _integers(nfe, "--nfe")
    if min(budgets) < 1:
        raise ValueError(f"--nfe must be at least 1, got {min(budgets)}")
    context.with_resource(output_folder(out, "comparison*"))

    from dode.report.compare import PAGE, RECORDS, Entry, check_output
    from dode.report.compare import compare as run

    check_output(out, overwrite=force)
    denoiser = _load(model, _guidance(guidance_scale, guidance_interval, guidance_rescale), batch_size, device)
    with Progress(console=errors, transient=True) as bar, _resumable(out / RECORDS, bar.console):
        task = bar.add_task("comparing", total=len(chosen) * len(budgets))

        def show(entry: Entry) -> None:
            (out / PAGE).unlink(missing_ok=True)  # from here on the folder holds an unfinished comparison
            bar.update(task, advance=1, description=f"{entry.solver}, NFE {entry.nfe}")

        result = run(
            denoiser,
            chosen,
            budgets,
            held_out=held_out,
            reference_nfe=reference_nfe,
            grid=stops,
            seed=seed,
            options=how,
            records=out / RECORDS,
            restart=force,
            on_entry=show,
            **_condition(denoiser, labels),
        )
    written = result.save(out, overwrite=force)
    console.print(result.table())
    console.print("wrote " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


@app.command()
def study(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path, typer.Option(help="The folder for the page (study.md), study.csv and the plots; made if it is not there.")
    ],
    solver: Annotated[str, typer.Option(help="The solver that is distilled.")] = "deis",
    nfe: Annotated[int, typer.Option(help="Number of network evaluations, but for the axis nfe.")] = 5,
    axes: Annotated[str, typer.Option(help="What is varied, separated by commas.")] = (
        "samples,teacher-scale,seeds,guidance,classes,nfe"
    ),
    values: Annotated[
        list[str] | None,
        typer.Option(metavar="AXIS=V,V,...", help="Other values of an axis, e.g. samples=8,64,512; may be repeated."),
    ] = None,
    option: Options = None,
    grid: GridName = None,
    samples: Annotated[int, typer.Option(help="Fitting samples, but for the axis samples.")] = 100,
    repeats: Annotated[int, typer.Option(help="Fits with other noise at each value of the axis samples.")] = 3,
    held_out: Annotated[int, typer.Option(help="Samples on which errors are measured; no fit sees their noise.")] = 128,
    reference_nfe: Annotated[int, typer.Option(help="Network evaluations of the reference.")] = 100,
    classes: Classes = None,
    guidance_scale: Guidance = None,
    guidance_rescale: GuidanceRescale = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    force: Force = False,
) -> None:
    """Study how the error depends on samples, teacher, seed, guidance, classes and budget: a page with numbers and plots.

    The paper's method (lambda alone) and the end-to-end fit are studied side by side.

    An interrupted study goes on where it was when the same command is given again; --force starts over.

    For example: dode study fashion --axes samples,seeds --out study
    """
    import shlex

    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from dode.locks import output_folder

    names = [name.strip() for name in axes.split(",")]
    chosen, stops, others = _solver(solver, option), _grid(grid), _axis_values(values)
    labels = _labels(classes)
    context.with_resource(output_folder(out, "study*"))

    from dode.report.axes import NAMES, Result
    from dode.report.study import study as run
    from dode.report.study_page import PAGE, RECORDS, check_output

    check_output(out, names, overwrite=force)
    denoiser = _load(model, _guidance(guidance_scale, None, guidance_rescale), batch_size, device)
    condition = _condition(denoiser, labels)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, transient=True) as bar, _resumable(out / RECORDS, bar.console):
        task = bar.add_task("studying", total=None)

        def show(axis: str, result: Result, done: int, total: int) -> None:
            if done == 1:  # all is checked: from here on the folder holds an unfinished study
                (out / PAGE).unlink(missing_ok=True)
            case = result.case
            where = " ".join(f"{axis} {case.value} {case.series}".split())
            found = result.skipped or f"{result.error:.3e}, {result.gain[0]:.3f} of the base's"
            bar.console.print(f"{where}, {NAMES[case.method]}: {found}", highlight=False, soft_wrap=True)
            bar.update(task, completed=done, total=total)

        result = run(
            denoiser,
            chosen,
            nfe,
            names,
            values=others,
            samples=samples,
            repeats=repeats,
            held_out=held_out,
            reference_nfe=reference_nfe,
            grid=stops,
            seed=seed,
            records=out / RECORDS,
            restart=force,
            on_result=show,
            **condition,
        )
    written = result.save(out, overwrite=force, command=shlex.join(["dode", *sys.argv[1:]]))
    for table in result.tables():
        console.print(table)
    for name, reason in result.skipped.items():
        console.print(f"skipped {name}: {reason}", highlight=False, soft_wrap=True)
    console.print(f"in all {result.effort}", highlight=False, soft_wrap=True)
    console.print("wrote " + ", ".join(map(str, written)), highlight=False, soft_wrap=True)


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
    warnings.showwarning = _warn
    for library in ("DIFFUSERS", "TRANSFORMERS"):  # what they log while they are imported is not of the caller's doing
        os.environ.setdefault(f"{library}_VERBOSITY", "error")
    try:
        code = app(standalone_mode=False)
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError) as error:
        # Python 3.10 has the notes in the message.
        notes = [f"({note})" for note in getattr(error, "__notes__", ()) if note not in str(error)]
        _fail(" ".join([str(error), *notes]))
    except (KeyboardInterrupt, typer.Abort):
        code = _INTERRUPTED
    except Exception as error:
        # The parser's own errors: an unknown command or option, a value of the wrong type.
        if not hasattr(error, "format_message"):
            raise
        _fail(error.format_message())
    sys.exit(code or 0)


@contextmanager
def _resumable(records: Path, shown: Console) -> Iterator[None]:
    """Say at Ctrl-C what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"what is done is kept in {records}: the same command without --force goes on from there"
        shown.print(kept, highlight=False, soft_wrap=True)
        raise


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line."""
    errors.print(f"warning: {printable(message, _LONGEST)}", highlight=False, soft_wrap=True)


def _fail(message: str) -> None:
    if stopping.heard():  # what a signal broke is no fault of the input
        raise KeyboardInterrupt
    errors.print(f"error: {printable(message, _LONGEST)}", highlight=False, soft_wrap=True)
    sys.exit(2)


def _load(model: str, guidance: dict[str, Any], batch_size: int | None, device: str | None) -> Any:
    return _network(_found(model, False), guidance, batch_size, device, None)


class _Found(NamedTuple):
    """What MODEL is.

    Attributes:
        pipeline: it is driven as a pipeline.
        source: what `load` takes, or the pipeline, or the index of its folder.
        ready: the pipeline was made by a function, which knows where its parts are.
    """

    pipeline: bool
    source: Any
    ready: bool = False


def _found(model: str, as_pipeline: bool) -> _Found:
    """What MODEL is; `as_pipeline`: a folder of a whole pipeline is one.

    Raises:
        ValueError, ImportError: a folder whose pipeline cannot be driven, or needs to be.
    """
    from dode.loading import is_function, is_pipeline, made_by
    from dode.models import BUNDLED
    from dode.models.index import read_index

    if is_function(model):
        made = made_by(model)
        return _Found(is_pipeline(made), made, ready=True)
    index = None if model in BUNDLED else read_index(Path(model).expanduser())
    if index is None:
        return _Found(False, model)
    if as_pipeline:
        index.check()
        return _Found(True, index)
    if index.needs_more is not None:
        raise ValueError(
            f"{model} is a pipeline whose network needs its {printable(index.needs_more)}: it is run as a whole, and its tables are a "
            "folder (dode distill --out FOLDER, dode sample --scheduler FOLDER)"
        )
    return _Found(False, model)


class _Asked(NamedTuple):
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


def _asked(file: Path | None, call: list[str] | None, classes: str | None, prompts: list[str] | None = None) -> _Asked:
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
    return _Asked(texts, arguments, _labels(classes))


def _json_or_text(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError):
        return text


def _arguments_of_calls(asked: _Asked, guided: dict[str, Any], ours: Sequence[str] = ()) -> dict[str, Any]:
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


def _by_pipeline(
    context: typer.Context,
    model: str,
    folder: Path,
    nfe: int | None,
    n: int | None,
    asked: _Asked,
    guided: dict[str, Any],
    seed: int,
    batch_size: int | None,
    device: str | None,
    dtype: str | None,
    *,
    strict: bool,
) -> tuple[Any, str]:
    """Samples that a pipeline makes with a scheduler folder, and how many calls of the network each took, in words."""
    from dode.integrations.diffusers.held import read_held
    from dode.integrations.diffusers.setting import setting_of

    held = read_held(folder)
    if nfe is None and not held.calls:
        raise ValueError(f"{folder} holds a solver as it is: give --nfe N")
    calls = held.calls[-1] if nfe is None else nfe
    table = held.of(calls) if held.calls else None
    given = _arguments_of_calls(asked, guided)
    found = _found(model, True)
    if not found.pipeline:
        raise ValueError(f"--scheduler is for pipelines, and {model} is a network: give --tableau FILE")
    pipe = _pipeline(context, found, device, dtype, asked)

    from rich.progress import Progress

    from dode.integrations.diffusers.pictures import pictures
    from dode.integrations.diffusers.saved import check_fits, guided_as, scheduler_of

    scheduler = scheduler_of(held)
    if strict:
        check_fits(scheduler, held, pipe)
    if table is not None:
        given = guided_as(setting_of(table), pipe, given)
    count = n or len(given.get("prompts") or given["calls"])
    with Progress(console=errors, transient=True, disable=not errors.is_terminal) as bar, _failing_in_a_line():
        task = bar.add_task("sampling", total=count)
        advance = lambda done: bar.advance(task, done)  # noqa: E731
        samples = pictures(pipe, scheduler, calls, count, seed=seed, batch_size=batch_size, advance=advance, **given)
    chosen = "" if nfe is not None or len(held.calls) == 1 else f", the most of {', '.join(map(str, held.calls))} (--nfe)"
    return samples, f"{calls} NFE{chosen}"


def _network(found: _Found, guidance: dict[str, Any], batch_size: int | None, device: str | None, dtype: str | None) -> Any:
    from dode.loading import load

    if device is not None:
        _check_device(device)
    # What is not given stays as the model has it.
    given = {name: value for name, value in (guidance | {"batch_size": batch_size}).items() if value is not None}
    if dtype is not None:
        given["dtype"] = _torch_dtype(dtype)
    denoiser = load(found.source, device=device, **given)  # PyTorch is imported after the folder is read
    if device is None:
        import torch

        if torch.cuda.is_available() and isinstance(denoiser.net, torch.nn.Module):
            denoiser.net.to("cuda")
    return denoiser


def _pipeline(context: typer.Context, found: _Found, device: str | None, dtype: str | None, asked: _Asked) -> Any:
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
            pipe = load_pipeline(found.source, dtype=kind)
        pipe = pipe.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    check_call(pipe, asked.call)
    return pipe


@contextmanager
def _failing_in_a_line() -> Iterator[None]:
    """What a pipeline raises may be of any kind; where it was called is noted on it."""
    try:
        yield
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError):
        raise
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        if not notes and "OutOfMemory" not in type(error).__name__:
            raise
        raised = ValueError(f"{type(error).__name__}: {error}")
        raised.__notes__ = notes  # type: ignore[attr-defined]
        raise raised from error


def _reserve(context: typer.Context, out: Path, names: Sequence[str] | None, force: bool) -> None:
    """See that the output can be written, and hold it for this run; `names`: of a folder's files, None for a file."""
    from dode.locks import output_file, output_whole_folder

    if names is not None:
        context.with_resource(output_whole_folder(out, names, overwrite=force))
    else:
        context.with_resource(output_file(out, overwrite=force))


def _write(result: Any, out: Path, force: bool) -> None:
    """A network's tableau, or a folder with one for each number of evaluations."""
    from dode.distillation import DistilledSet
    from dode.files import write_folder

    if not isinstance(result, DistilledSet):
        result.save(out, overwrite=force)
        return

    def write(folder: Path) -> None:
        for each in result:
            each.save(folder / f"nfe-{each.tableau.nfe}.json")

    write_folder(out, write, _OF_NETWORK, overwrite=force)


def _tables(folder: Path) -> list[Path]:
    """The tableaux of a folder from `dode distill`, fewest evaluations first."""
    found = {path: path.stem.removeprefix("nfe-") for path in folder.glob("nfe-*.json")}
    return sorted((path for path, number in found.items() if number.isdigit()), key=lambda path: int(found[path]))


def _command() -> str:
    import shlex

    return shlex.join(["dode", *sys.argv[1:]])


def _budgets(text: str) -> list[int]:
    """Different numbers of evaluations, fewest first."""
    try:
        found = _integers(text, "--nfe")
    except ValueError as error:
        raise ValueError(f"Invalid value for '--nfe': {error}") from None
    if min(found) < 1:
        raise ValueError(f"nfe must be at least 1, got {min(found)}")
    if len(set(found)) < len(found):
        raise ValueError(f"--nfe has a number twice: {text}")
    return sorted(found)


def _precision(name: str | None) -> str | None:
    from dode.names import unknown_name

    if name is not None and name not in _PRECISIONS:
        raise unknown_name("--dtype", name, _PRECISIONS)
    return name


def _torch_dtype(name: str) -> Any:
    import torch

    return getattr(torch, name)


def _check_device(device: str) -> None:
    import torch

    try:
        torch.device(device)
    except RuntimeError:
        raise ValueError(f"unknown device {device!r}: cpu, cuda or cuda:N") from None


def _guidance(scale: str | None, interval: str | None, rescale: float | None, *, by_evaluation: bool = False) -> dict[str, Any]:
    """The options of `Denoiser` that guide it; None where they are not given."""
    from dode.guidance import Interval

    scales = [] if scale is None else _numbers(scale, "--guidance-scale")
    if len(scales) > 1 and not by_evaluation:
        raise ValueError(f"--guidance-scale takes one number here, as runs of several lengths are made, got {scale!r}")
    found: Any = (scales[0] if len(scales) == 1 else scales) if scales else None
    if interval is not None:
        bounds = _numbers(interval, "--guidance-interval")
        if len(bounds) != 2 or len(scales) != 1:
            raise ValueError(f"--guidance-interval takes LO,HI beside a --guidance-scale of one number, got {interval!r}")
        found = Interval(scales[0], *bounds)
    return {"guidance_scale": found, "guidance_rescale": rescale}


def _numbers(text: str, what: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{what} takes numbers separated by commas, got {text!r}") from None


def _method(effort: str, paper: bool) -> dict[str, Any]:
    from dode.distillation.effort import PAPER, effort_of

    effort_of(effort)
    return PAPER if paper else {"effort": effort}


def _solver(name: str, options: list[str] | None) -> Any:
    from dode.solvers import solver

    values = {}
    for text in options or []:
        key, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"an option of the solver is written NAME=VALUE, got {text!r}")
        values[key.strip()] = _value(value.strip())
    return solver(name, **values)


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _grid(text: str | None) -> Any:
    """A grid by name, or times; None where nothing is said."""
    from dode.grids import family

    if text is None:
        return None
    if "," not in text:
        return family(text)
    try:
        return [float(t) for t in text.split(",")]
    except ValueError:
        raise ValueError(f"--grid takes a name or times separated by commas, got {text!r}") from None


def _integers(text: str, what: str) -> list[int]:
    """Whole numbers and ranges separated by commas, e.g. 0,5-9."""
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise ValueError(f"{what} takes whole numbers separated by commas, got {text!r}") from None
    if not numbers:
        raise ValueError(f"{what} is empty: {text!r}")
    return numbers


def _labels(classes: str | None) -> list[int] | None:
    return None if classes is None else _integers(classes, "--classes")


def _axis_values(texts: list[str] | None) -> dict[str, Any]:
    """Values of axes of a study, written AXIS=V,V,...; all but the guidance scales are whole numbers."""
    found: dict[str, Any] = {}
    for text in texts or []:
        axis, separator, listed = (part.strip() for part in text.partition("="))
        if not separator:
            raise ValueError(f"--values takes AXIS=V,V,..., got {text!r}")
        if axis == "classes":
            found[axis] = [name.strip() for name in listed.split(",")]
        elif axis == "guidance":
            try:
                found[axis] = [float(value) for value in listed.split(",")]
            except ValueError:
                raise ValueError(f"--values guidance takes numbers separated by commas, got {listed!r}") from None
        else:
            found[axis] = _integers(listed, f"--values {axis}")
    return found


def _condition(denoiser: Any, labels: list[int] | None) -> dict[str, Any]:
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
