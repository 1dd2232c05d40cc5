"""The commands whose result is a report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dode.cli.options import (
    AllowPickle,
    BatchSize,
    Call,
    Classes,
    Device,
    Force,
    GridName,
    Guidance,
    GuidanceInterval,
    GuidanceRescale,
    Model,
    Options,
    Precision,
    Prompts,
    Seed,
)
from dode.cli.output import command_line, resumable
from dode.cli.screen import console, errors, failing_in_a_line
from dode.cli.target import (
    arguments_of_calls,
    asked_of,
    condition_of,
    denoiser_of,
    found_of,
    network_of,
    pipeline_of,
)
from dode.cli.values import axis_values, budgets_of, grid_of, guidance_of, labels_of, names_of, precision_of, solver_of

if TYPE_CHECKING:
    from rich.progress import Progress

# What a network may be compared by where nobody says: the bundled ones have a classifier of their data.
_NO_EXTRACTOR = "none"


def compare(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path, typer.Option(help="The folder of the report; made if it is not there. What one has is not made again.")
    ],
    solver: Annotated[str | None, typer.Option(help="Solvers, separated by commas.")] = None,
    nfe: Annotated[str | None, typer.Option(help="Numbers of network evaluations, separated by commas.")] = None,
    effort: Annotated[
        str,
        typer.Option(
            help="How each solver is distilled, separated by commas: fast, balanced, thorough, or paper (the paper's method); none for "
            "undistilled solvers alone."
        ),
    ] = "fast",
    tableau: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE|FOLDER", help="Saved tableaux that are compared too, of a set those of --nfe; may be repeated."
        ),
    ] = None,
    grid: Annotated[
        str | None, typer.Option(help="Undistilled solvers on these grids too, separated by commas; see `dode distill`.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Samples that all are measured on; no fit sees their noise.")] = 256,
    extractor: Annotated[
        str | None,
        typer.Option(
            help="Of features, for image metrics: fashion, a file with Inception's weights, package.module:function, or none. "
            "fashion by default for the bundled networks."
        ),
    ] = None,
    images: Annotated[
        Path | None,
        typer.Option(
            help="A folder of pictures, or .npz, that images are compared with; the reference's own samples by default."
        ),
    ] = None,
    reference_nfe: Annotated[int, typer.Option(help="Network evaluations of the reference.")] = 200,
    shown: Annotated[int, typer.Option(help="How many samples are pictured.")] = 8,
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
    force: Force = False,
) -> None:
    """Compare solvers, as they are and distilled, at several budgets: one page, tables and plots.

    All cells start from the same noise and are measured against one reference. Each is made once: an interrupted comparison goes on where
    it was when the same command is given again, and one with more solvers, budgets, efforts or tableaux makes what is missing alone.
    --force starts over. With --prompts or --call, MODEL is driven as a pipeline.

    For example: dode compare fashion --solver ddim,deis,unipc --nfe 4,6,8 --out report
    """
    from dode.locks import output_folder

    asked = asked_of(prompts, call, classes)
    chosen = [solver_of(name, None) for name in names_of(solver, "--solver")]
    budgets = [] if nfe is None else budgets_of(nfe)
    if bool(chosen) != bool(budgets):
        raise ValueError("--solver and --nfe belong together: give both, or --tableau alone")
    efforts = [] if effort == "none" else names_of(effort, "--effort")
    grids = [grid_of(name) for name in names_of(grid, "--grid")]
    guided = guidance_of(guidance_scale, guidance_interval, guidance_rescale)
    precision = precision_of(dtype)
    context.with_resource(output_folder(out, "*"))

    from dode.report.cells import check_efforts
    from dode.report.folder import check_own
    from dode.report.page import check_installed

    check_installed()
    check_efforts(efforts)
    check_own(out, overwrite=force)
    instead = "give --prompts FILE or --call KEY=VALUE, with which it is run as a whole"
    found = found_of(model, asked.of_pipeline, instead, allow_pickle=allow_pickle)

    import dode
    from dode.models import BUNDLED
    from dode.report.files import KEPT, load, save, tables
    from dode.report.folder import begun_report
    from dode.report.page.evidence import Evidence
    from dode.report.page.words import summary
    from dode.report.study_files import load_study

    subject: Any
    if found.pipeline:
        subject = pipeline_of(context, found, device, precision, asked)
        given = {**arguments_of_calls(asked, guided, _TAKEN), "batch_size": batch_size}
    else:
        asked.refuse(model)
        subject = network_of(found, guided, batch_size, device, precision)
        given = condition_of(subject, asked.classes)
    study = load_study(out)
    for earlier in (study, None if force else load(out)):
        _check_same(earlier, type(subject).__name__ if found.pipeline else subject.name, out)
    looks = extractor or ("fashion" if model in BUNDLED else _NO_EXTRACTOR)
    cache = context.with_resource(begun_report(out))
    if force:  # from here on it is another comparison
        (out / KEPT).unlink(missing_ok=True)
    with _progress() as bar, resumable(cache, bar.console), failing_in_a_line():
        task = bar.add_task("comparing", total=None)

        def told(words: str, done: int, total: int) -> None:
            bar.update(task, description=words, completed=done, total=total)

        result = dode.compare(
            subject,
            chosen,
            budgets,
            efforts=efforts,
            samples=samples,
            tableaux=tableau or (),
            grids=grids,
            extractor=None if looks == _NO_EXTRACTOR else looks,
            images=images,
            seed=seed,
            reference_nfe=reference_nfe,
            shown=shown,
            cache=cache,
            restart=force,
            told=told,
            command=command_line(),
            **given,
        )
        bar.update(task, description="writing the page")
        written = save(result, out, overwrite=True, study=study)
    for table in tables(result):
        console.print(table)
    for line in (summary(Evidence(result)).headline, *result.setting.notes):
        console.print(line, highlight=False, soft_wrap=True)
    console.print(f"wrote {written[0]}", highlight=False, soft_wrap=True)


# Of a pipeline's calls, what are options of this command.
_TAKEN = (
    "efforts",
    "samples",
    "tableaux",
    "grids",
    "extractor",
    "images",
    "decode",
    "reference_nfe",
    "shown",
    "cache",
    "restart",
    "told",
    "command",
)


def _progress() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=errors, transient=True)


def _check_same(earlier: Any, name: str, out: Path) -> None:
    """A report is of one model."""
    if earlier is not None and earlier.setting.model != name:
        raise FileExistsError(
            f"{out} holds a report on {earlier.setting.model}, and this is on {name}: choose another folder, or start over (--force)"
        )


def study(
    context: typer.Context,
    model: Model,
    out: Annotated[
        Path, typer.Option(help="The folder of the report; made if it is not there. What one has is not made again.")
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
    allow_pickle: AllowPickle = False,
    force: Force = False,
) -> None:
    """Study how the error depends on samples, teacher, seed, guidance, classes and budget: a section of the report's page, with plots.

    The paper's method (lambda alone) and the end-to-end fit are studied side by side. The folder may be one of `dode compare`.

    An interrupted study goes on where it was when the same command is given again, and other axes and values are added to those that the
    folder has. --force starts the study over, and leaves a comparison as it is.

    For example: dode study fashion --axes samples,seeds --out report
    """
    from dode.locks import output_folder

    names = [name.strip() for name in axes.split(",")]
    chosen, stops, others = solver_of(solver, option), grid_of(grid), axis_values(values)
    labels = labels_of(classes)
    context.with_resource(output_folder(out, "*"))

    from dode.report.files import load
    from dode.report.folder import begun_report, check_own
    from dode.report.outcomes import NAMES, Outcome
    from dode.report.page import check_installed
    from dode.report.study_files import KEPT, RECORDS, load_study, save_study
    from dode.report.study_tables import tables
    from dode.report.studying import study as run

    check_installed()
    check_own(out, overwrite=force)
    guided = guidance_of(guidance_scale, None, guidance_rescale)
    denoiser = denoiser_of(model, guided, batch_size, device, allow_pickle=allow_pickle)
    comparison, earlier = load(out), None if force else load_study(out)
    _check_same(comparison, denoiser.name, out)
    condition = condition_of(denoiser, labels)
    context.with_resource(begun_report(out))
    with _progress() as bar, resumable(out / RECORDS, bar.console):
        task = bar.add_task("studying", total=None)

        def show(axis: str, outcome: Outcome, done: int, total: int) -> None:
            if force and done == 1:  # all is checked: from here on it is another study
                (out / KEPT).unlink(missing_ok=True)
            case = outcome.case
            where = " ".join(f"{axis} {case.value} {case.series}".split())
            found = outcome.skipped or f"{outcome.error:.3e}, {outcome.gain[0]:.3f} of the base's"
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
            earlier=earlier,
            command=command_line(),
            on_result=show,
            **condition,
        )
        bar.update(task, description="writing the page")
        written = save_study(result, out, comparison=comparison)
    for table in tables(result):
        console.print(table)
    for name, reason in result.skipped.items():
        console.print(f"skipped {name}: {reason}", highlight=False, soft_wrap=True)
    console.print(f"in all {result.cost}", highlight=False, soft_wrap=True)
    console.print(f"wrote {written[0]}", highlight=False, soft_wrap=True)


def report(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="The folder of a report.", show_default=False)],
) -> None:
    """Make the page of a report again, with its tables and plots, from what its folder keeps; no network is run.

    For example: dode report report
    """
    from dode.locks import output_folder

    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} does not exist, or is no folder: name one from `dode compare` or `dode study`")
    with output_folder(folder, "*"):
        from dode.report.files import load, save
        from dode.report.study_files import load_study, save_study, write_tables

        comparison, study = load(folder), load_study(folder)
        if comparison is not None:
            if study is not None:
                write_tables(study, folder)
            written = save(comparison, folder, overwrite=True, study=study)
        elif study is not None:
            written = save_study(study, folder)
        else:
            raise ValueError(f"{folder} holds no finished report: give the command that makes it again")
    console.print(f"wrote {written[0]}", highlight=False, soft_wrap=True)
