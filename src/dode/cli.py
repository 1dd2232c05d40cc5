"""The command line `dode`."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

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

Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A bundled network (see `dode models`), a diffusers folder, or package.module:function that returns a Denoiser.",
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
Seed = Annotated[int, typer.Option(help="Of the noise: same seed, same result.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite files that exist.")]


@app.command()
def distill(
    context: typer.Context,
    model: Model,
    solver: Annotated[str, typer.Option(help="The solver; `dode models --solvers` lists them; auto tries them all.")],
    nfe: Annotated[int, typer.Option(help="Number of network evaluations of the distilled solver.")],
    out: Annotated[Path, typer.Option(help="The file to write, JSON.")],
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
    classes: Classes = None,
    guidance_scale: Guidance = None,
    guidance_interval: GuidanceInterval = None,
    guidance_rescale: GuidanceRescale = None,
    seed: Seed = 0,
    batch_size: BatchSize = None,
    device: Device = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="A folder for the teacher's states and the end-to-end fit: an interrupted run goes on from there."),
    ] = None,
    force: Force = False,
) -> None:
    """Distil a solver for a network and save it.

    For example: dode distill fashion --solver deis --nfe 8 --out deis-8.json
    """
    from dode.files import check_folder
    from dode.locks import output_file

    context.with_resource(output_file(out, overwrite=force))
    if cache is not None:
        check_folder(cache)
    how = _method(effort, paper)
    grids = {"grid": _grid(grid), "teacher_grid": _grid(teacher_grid)}
    if solver == "auto" and option:
        raise ValueError(
            f"--solver auto tries all solvers as they are, got --option {option[0]}: leave it out, or name the solver"
        )
    chosen = solver if solver == "auto" else _solver(solver, option)
    if teacher is not None:
        _solver(teacher, None)
    labels = _labels(classes)
    denoiser = _load(model, _guidance(guidance_scale, guidance_interval, guidance_rescale), batch_size, device)

    from dode.distillation import make_plan, run

    plan = make_plan(
        denoiser,
        chosen,
        nfe,
        **grids,
        **how,
        samples=samples,
        validation=validation,
        held_out=held_out,
        teacher=teacher,
        teacher_nfe=teacher_nfe,
        teacher_scale=teacher_scale,
        budget=budget,
        seed=seed,
        cache=cache,
        progress=True,
        **_condition(denoiser, labels),
    )
    result = run(plan)
    result.save(out, overwrite=force)
    console.print(result.summary())
    console.print(f"wrote {out}", highlight=False, soft_wrap=True)
    if result.diverged:
        raise typer.Exit(_DIVERGED)


@app.command()
def sample(
    model: Model,
    out: Annotated[Path, typer.Option(help="The file to write: .png (one picture of all) or .npy (the numbers).")],
    tableau: Annotated[Path | None, typer.Option(help="A file from `dode distill`.")] = None,
    solver: Annotated[str | None, typer.Option(help="A solver as it is, in place of a file.")] = None,
    nfe: Annotated[int | None, typer.Option(help="With --solver: the number of network evaluations.")] = None,
    option: Options = None,
    grid: GridName = None,
    n: Annotated[int, typer.Option("-n", help="How many samples.")] = 64,
    classes: Classes = None,
    guidance_scale: GuidanceList = None,
    guidance_interval: GuidanceInterval = None,
    guidance_rescale: GuidanceRescale = None,
    seed: Seed = 0,
    columns: Annotated[int | None, typer.Option(help="Pictures in a row.")] = None,
    batch_size: BatchSize = None,
    device: Device = None,
    strict: Annotated[bool, typer.Option(help="Refuse a file that was made for another schedule.")] = True,
    force: Force = False,
) -> None:
    """Sample with a saved tableau, or with a solver as it is.

    For example: dode sample fashion --tableau deis-8.json -n 64 --seed 0 --out grid.png
    """
    from dode.files import check_writable
    from dode.images import check_ending, save_samples
    from dode.tableau import Tableau

    check_ending(out)
    check_writable(out, overwrite=force)
    if (tableau is None) == (solver is None):
        raise ValueError("give either --tableau FILE or --solver NAME --nfe N")
    if n < 1:
        raise ValueError(f"-n must be at least 1, got {n}")
    saved = None if tableau is None else Tableau.load(tableau)
    chosen, stops = None if solver is None else _solver(solver, option), _grid(grid)
    labels = _labels(classes)
    denoiser = _load(
        model, _guidance(guidance_scale, guidance_interval, guidance_rescale, by_evaluation=True), batch_size, device
    )

    from dode.conditions import cycle
    from dode.noise import standard_noise
    from dode.progress import evaluation_progress
    from dode.sampling import sample as run

    if saved is None:
        assert chosen is not None
        saved = chosen.tableau(denoiser.schedule, nfe, stops)
    if denoiser.shape is None:
        raise ValueError("the denoiser does not say the shape of a sample: make it with shape=...")
    condition = cycle(_condition(denoiser, labels), 0, n)
    with evaluation_progress(denoiser, saved.nfe * n, "sampling", show=True):
        samples = run(denoiser, saved, standard_noise(seed, n, denoiser.shape), strict=strict, **condition)
    save_samples(samples, out, columns, overwrite=force)
    console.print(f"wrote {out}: {n} samples, {saved.nfe} NFE", highlight=False, soft_wrap=True)


@app.command()
def show(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A tableau.", show_default=False)],
    numbers: Annotated[bool, typer.Option("--numbers", help="Also print the rows' coefficients.")] = False,
) -> None:
    """Show what a saved tableau is, how it was made and what it gained."""
    from dode.distillation.summary import summary
    from dode.tableau import Tableau

    tableau = Tableau.load(file)
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
    from dode.loading import load

    if device is not None:
        _check_device(device)
    # What is not given stays as the model has it.
    given = {name: value for name, value in (guidance | {"batch_size": batch_size}).items() if value is not None}
    denoiser = load(model, device=device, **given)  # PyTorch is imported after the folder is read
    if device is None:
        import torch

        if torch.cuda.is_available() and isinstance(denoiser.net, torch.nn.Module):
            denoiser.net.to("cuda")
    return denoiser


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
