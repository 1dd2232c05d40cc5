"""`dode.distill` and `dode.compare`: for a network or for a pipeline."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from dode.denoisers import Denoiser
from dode.distillation import Distilled, DistilledSet, in_order, make_plan, run, run_together
from dode.grids import GridLike
from dode.solvers import Solver

if TYPE_CHECKING:
    from torch import Tensor

    from dode.report.cells import TableauLike
    from dode.report.results import Comparison

_PLANNED = [name for name, each in inspect.signature(make_plan).parameters.items() if each.kind is each.KEYWORD_ONLY]


@overload
def distill(model: Any, solver: str | Solver, nfe: int | None = None, **options: Any) -> Distilled: ...


@overload
def distill(model: Any, solver: str | Solver, nfe: Sequence[int], **options: Any) -> DistilledSet: ...


def distill(
    model: Any,
    solver: str | Solver,
    nfe: int | Sequence[int] | None = None,
    *,
    prompts: Sequence[str] | None = None,
    calls: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> Distilled | DistilledSet:
    """Distil a solver: make a few-step run of it follow a many-step run.

        result = dode.distill(dode.load("fashion"), "deis", nfe=8)
        result = dode.distill(pipe, "deis", nfe=(4, 6, 8), prompts=[...], guidance_scale=5.0)

    A pipeline of diffusers is driven whole and as it is, with its own prompts, guidance and controls; see
    `dode.integrations.diffusers.driver.drive`. Of the first outputs that cost no call only "zero" is tried there, in pipelines that pass
    their states through `scale_model_input`: others have no place for it.

    The paper's method, one lambda a step, is `directions="paper", shrink=False, refine=0` (`PAPER`).

    Args:
        model: a `Denoiser` or a pipeline; it is only run.
        solver: a name, `dode.solver(name, **options)`, or "auto": all solvers and grids are tried and the best is taken.
        nfe: number of network evaluations of the student; may be left out where `times` are given. Several numbers are taught by one run
            of a teacher that is fine enough for the largest.
        effort: "fast" (the paper's cost: the best grid and first output, closed form with several directions, chosen on validation
            noise), "balanced" (and the end-to-end fit of all coefficients), "thorough" (and of the times, from several starts).
        learn: "coefficients" of the solver's rows; or "times": the solver keeps its own rule, and only where it stops is found, end to
            end, from the best grids of all families. For programs that bring the solver and take a list of times or sigmas (`dode export
            --to sigmas`); the base then is the best of these grids, where none is named, and the result is never worse than that.
        move_start: with `learn="times"`, learn the first time too, which then is below the schedule's highest: the noise has to be scaled
            for it, as `dode.sample`, k-diffusion and ComfyUI do. False for programs that hand it over as it is: pipelines of flow models
            in diffusers, for which False is the default.
        directions: of the closed form: "multistep", "paper", or rows of coefficients; see `dode.distillation.directions`.
        shrink: choose on validation noise among the base, the fit and weaker forms of it, so that the result is never worse than
            the base; False gives out the fit.
        refine: accepted steps of the end-to-end fit at the most; 0 for none; by effort if None.
        samples: fitting samples, >= 1; by effort if None (100 for "balanced").
        validation: samples that choose; by effort if None. Neither fitted nor measured on. Up to four times as many are drawn where the
            gain is within its doubt and the budget allows it.
        held_out: samples of fresh noise on which base and distilled are compared, against a reference that is finer than the teacher and
            of another solver; up to four times as many where chance leaves open which is better; 0 for none. None are used with `targets`.
        seed: of the noise: same seed, same result.
        grid: where the student stops. By default that is chosen, with the first output; the base then is on the solver's or the schedule's
            own grid.
        times: explicit times in place of a grid, decreasing, the last one that of the result; K of them with nfe=K are those of the K
            calls, and the clean sample follows.
        start: a time at which the student begins in the middle, between the schedule's ends: for image-to-image, or for a network that goes
            on from another's states. It is fitted on states that a fine run from noise has there.
        teacher: the teacher's solver, a name or a `Solver`. By default solver, grid and evaluations of the teacher are found by
            measurement: two different solvers are made finer until they agree to a tenth of what the student's error will be, and
            again where the result has come nearer than that. What is named here is kept. For the paper's directions the teacher is
            the student's own solver, ten parts a step.
        teacher_grid: the teacher's grid.
        teacher_nfe: how many evaluations the teacher takes.
        teacher_scale: a teacher on the student's own grid, as in the paper: into how many parts it cuts a step.
        noise: (samples, *shape), standard normal, in place of the seed's fitting noise; or a function from a number of samples to so many
            of them, new ones with every call, which then serves all sets.
        targets: for each row the states to reach, (K, samples, *shape), in place of a teacher; needs `noise`. The last fifth of the
            samples then is the validation set, if one is needed.
        budget: network evaluations of one sample for all but the measurement; by effort if None.
        cache: a folder that keeps the teacher's states and the end-to-end fit: an interrupted run goes on from there, and comes to the
            same to the last bit. What is damaged in it is made again, with a warning.
        firsts: first outputs that are tried, "network" among them; by effort if None: "zero" and "mean" cost no call, as all samples share
            them.
        progress: show a progress bar.
        prompts: for a pipeline: texts; sample i takes the i-th modulo their number.
        calls: for a pipeline, in place of prompts: the arguments of a call for each kind of sample.
        batch_size: for a pipeline: samples in one call at the most; 4 if None.
        cond: the condition of a network. Tensors have a row a sample; sample i takes row i modulo their number, other sets go on counting.
            For a pipeline: further arguments of its calls, such as guidance_scale, height or image.

    Returns:
        A `Distilled`; a `DistilledSet` for several numbers of evaluations.

    Raises:
        TypeError: neither a network nor a pipeline, or an argument of the one for the other.
        ValueError: a budget, grid, option or shape that cannot be; fewer samples than directions; a teacher that is coarser than
            the student.
        FloatingPointError: the network gave NaN or infinite values; the message names the step.
        OSError: files cannot be made in the folder of the cache.
    """
    if isinstance(model, Denoiser):
        _refuse_of_pipeline(prompts=prompts, calls=calls, batch_size=batch_size)
        return _distilled(model, solver, nfe, options)
    _check_pipeline("distill", model)
    from dode.integrations.diffusers.pipeline import distilling

    planned = {name: options.pop(name) for name in _PLANNED if name in options}
    with distilling(model, prompts=prompts, calls=calls, batch_size=batch_size, **options) as (denoiser, options, finish):
        made = _distilled(denoiser, solver, nfe, {**options, **planned})
        return finish(made)


def compare(
    model: Any,
    solvers: Sequence[str | Solver],
    nfe: Sequence[int],
    *,
    efforts: Sequence[str] = ("fast",),
    samples: int = 256,
    tableaux: Sequence[TableauLike] | Mapping[str, TableauLike] = (),
    grids: Sequence[GridLike] = (),
    extractor: Any = None,
    images: Any = None,
    decode: Callable[[Tensor], Tensor] | None = None,
    seed: int = 0,
    reference_nfe: int = 200,
    shown: int = 8,
    cache: str | Path | None = None,
    restart: bool = False,
    told: Callable[[str, int, int], None] | None = None,
    command: str = "",
    prompts: Sequence[str] | None = None,
    calls: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int | None = None,
    **options: Any,
) -> Comparison:
    """Compare solvers as they are, distilled, and saved tableaux, all from the same noise, with one fine reference.

        found = dode.compare(dode.load("fashion"), ["ddim", "deis"], [4, 6, 8], extractor="fashion", cache="kept")
        found.save("report")

    Each cell is made once. With a cache an interrupted comparison goes on where it was, and one with more solvers, budgets, efforts or
    tableaux makes what is missing alone; a cell is the same to the last bit whatever else is compared with it. Memory does not grow with
    the samples: noise and samples are there a part at a time, and the reference is in files.

    Args:
        model: a `Denoiser` or a pipeline; it is only run.
        solvers: names, or solvers with options.
        nfe: numbers of network evaluations.
        efforts: how each solver is distilled, beside its base: "fast", "balanced", "thorough", or "paper" for the paper's method; none for
            bases alone. One tableau is distilled for each solver, number and effort, on noise that nothing here is measured on.
        samples: noises that all are measured on, >= 2.
        tableaux: saved tableaux: files and folders, `Tableau` and `TableauSet` objects, or these by name. Of a set those of `nfe` are
            compared, all where there are none.
        grids: bases are run on these grids too.
        extractor: of features, for image metrics: as `dode.metrics.extractor_of`. Without one images are compared pixel by pixel alone.
        images: what images are compared with, as `dode.metrics.statistics_of`; the reference's own samples if None.
        decode: from samples (n, *shape) to images (n, 1 or 3, height, width) in [-1, 1], where samples are latents; a pipeline's own
            autoencoder if None.
        seed: of the noise, that of the distillations with it.
        reference_nfe: evaluations of the reference.
        shown: how many of the samples are pictured.
        cache: a folder that keeps all that is made; one that goes at the end if None.
        restart: forget what the cache holds.
        told: called before each piece of work with words for it, how many cells are done and how many there are; and at the end.
        command: what makes this, for readers of the report.
        prompts, calls, batch_size: for a pipeline, as `distill`.
        options: the condition of a network: sample i takes row i modulo the rows. For a pipeline: further arguments of its calls.

    Returns:
        A `Comparison`; its `save` writes tables, plots and the page.

    Raises:
        TypeError: neither a network nor a pipeline, or an argument of the one for the other; a condition whose content cannot be told
            from another's.
        ValueError: an argument that cannot be, or a tableau of another schedule. A budget that a solver does not have only skips its cell.
        FloatingPointError: the reference is not finite. A cell that diverges has infinite errors.
        OSError: a file that cannot be read, or a cache that cannot be written; what it held is whole.
    """
    from dode.report.comparing import compare as run
    from dode.report.making import Subject

    asked: dict[str, Any] = {
        "efforts": efforts,
        "samples": samples,
        "tableaux": tableaux,
        "grids": grids,
        "extractor": extractor,
        "images": images,
        "seed": seed,
        "reference_nfe": reference_nfe,
        "shown": shown,
        "cache": cache,
        "restart": restart,
        "told": told,
        "command": command,
    }
    if isinstance(model, Denoiser):
        _refuse_of_pipeline(prompts=prompts, calls=calls, batch_size=batch_size)
        return run(model, solvers, nfe, subject=Subject(decode=decode), **asked, **options)
    _check_pipeline("compare", model)
    from dode.integrations.diffusers.pipeline import comparing

    with comparing(model, prompts=prompts, calls=calls, batch_size=batch_size, decode=decode, **options) as (
        denoiser,
        cond,
        subject,
    ):
        return run(denoiser, solvers, nfe, subject=subject, **asked, **cond)


def _refuse_of_pipeline(**given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise TypeError(
                f"{name} belongs to a pipeline, got a Denoiser: give its condition as keywords, and batch_size to the Denoiser"
            )


def _check_pipeline(what: str, model: Any) -> None:
    if not (callable(model) and hasattr(model, "scheduler")):
        raise TypeError(f"{what} takes a Denoiser (see dode.load) or a pipeline of diffusers, got {type(model).__name__}")


def _distilled(
    denoiser: Denoiser, solver: str | Solver, nfe: int | Sequence[int] | None, options: Mapping[str, Any]
) -> Distilled | DistilledSet:
    if nfe is None or not isinstance(nfe, Sequence):
        return run(make_plan(denoiser, solver, nfe, **options))
    return run_together([make_plan(denoiser, solver, each, **options) for each in in_order(nfe)])


def _signature() -> inspect.Signature:
    """That of a plan, and what a pipeline takes, for those who look."""
    own = inspect.signature(distill, eval_str=False)
    _, *others = inspect.signature(make_plan).parameters.values()
    *planned, cond = others
    pipelines = [own.parameters[name] for name in ("prompts", "calls", "batch_size")]
    return own.replace(parameters=[own.parameters["model"], *planned, *pipelines, cond])


distill.__signature__ = _signature()  # type: ignore[attr-defined]
