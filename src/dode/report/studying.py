"""The sensitivity study: how the held-out error depends on samples, teacher, seed, guidance, classes and budget.

Two methods are fitted again and again, the paper's lambda alone and the end-to-end fit, each axis departing from one fit at home. Errors
are taken on the noise stream that nothing is fitted to, against one fine reference for each guidance scale and set of classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from dode.conditions import Condition, as_condition
from dode.denoisers import Denoiser
from dode.grids import GridLike
from dode.names import unknown_name
from dode.report.axes import AXES
from dode.report.bench import Bench, class_labels
from dode.report.outcomes import Fit, Outcome
from dode.report.reference import reference_run, report_noise
from dode.report.results import Setting
from dode.report.setting import condition_words, device_words, guidance_words, versions
from dode.report.study_results import Study
from dode.solvers import Solver
from dode.solvers import solver as make_solver

OnResult = Callable[[str, Outcome, int, int], None]


def study(
    denoiser: Denoiser,
    solver: str | Solver = "deis",
    nfe: int = 5,
    axes: Iterable[str] = tuple(AXES),
    *,
    values: Mapping[str, Sequence[Any]] | None = None,
    samples: int = 100,
    teacher_scale: int = 10,
    repeats: int = 3,
    held_out: int = 128,
    reference_nfe: int = 100,
    grid: GridLike | None = None,
    seed: int = 0,
    records: str | Path | None = None,
    restart: bool = False,
    earlier: Study | None = None,
    command: str = "",
    on_result: OnResult | None = None,
    **cond: Any,
) -> Study:
    """Fit and measure along each axis.

    Args:
        denoiser: the network; its `shape` must be known. Its guidance scale is the one that is fitted at.
        solver: a name, or a solver with options.
        nfe: number of network evaluations, but for the axis "nfe".
        axes: of `AXES`; one that the model does not have is left out, and the study says why.
        values: other values of an axis, by its name.
        samples: fitting samples, but for the axis "samples".
        teacher_scale: but for the axis "teacher-scale".
        repeats: fits with different noise at each number of samples.
        held_out: samples that errors are measured on.
        reference_nfe: evaluations of the reference; see `dode.report.reference`.
        grid: as `distill`.
        seed: of the noise.
        records: a file, JSON lines, that keeps what each fit and each measurement gave; what is there is not done again.
        restart: forget what the records hold.
        earlier: a study whose axes and values belong to this one too: what the records hold of it is not done again.
        command: what makes the study, to be given again.
        on_result: called with the axis's name, each result, how many are there and how many there will be.
        cond: the condition, as `distill`.

    Raises:
        ValueError: an unknown axis or value, a budget that the solver does not have, a reference that is no finer than what is
            measured; an earlier study of something else. A budget or number of samples on an axis that cannot be only skips its case.
        FloatingPointError: the reference is not finite.
    """
    cond = as_condition(cond)
    chosen = make_solver(solver) if isinstance(solver, str) else solver
    wanted = _wanted(axes, values or {}, earlier)
    counts = {"samples": samples, "teacher_scale": teacher_scale, "repeats": repeats, "nfe": nfe}
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    noise = report_noise(denoiser, held_out, seed)
    chosen.tableau(denoiser.schedule, nfe, grid)
    if not isinstance(denoiser.guidance_scale, float):
        raise ValueError(
            "a study varies guidance_scale as one number, got a list or a function of t: give the denoiser a number"
        )
    home = Fit("lambda", nfe, samples, teacher_scale, seed, denoiser.guidance_scale)
    reasons = {name: _missing(name, denoiser, cond) for name in wanted}
    skipped = {name: reason for name, reason in reasons.items() if reason}
    plans = {name: list(AXES[name].plan(home, v, repeats)) for name, v in wanted.items() if name not in skipped}
    if not plans:
        raise ValueError("no axis is left: " + "; ".join(f"{name}: {reason}" for name, reason in skipped.items()))
    finest = max((fit.nfe for cases in plans.values() for case in cases for fit in case.fits), default=nfe)
    if reference_nfe <= finest:
        raise ValueError(f"the reference must take more evaluations than the {finest} that are measured, got {reference_nfe}")
    bench = Bench(
        denoiser=denoiser,
        solver=chosen,
        grid=grid,
        cond=cond,
        noise=noise,
        seed=seed,
        reference_nfe=reference_nfe,
        path=None if records is None else Path(records),
        restart=restart,
    )
    found = _unmeasured(bench, home, skipped, command)
    if earlier is not None:
        _check_same(found, earlier)
        found = replace(found, setting=replace(found.setting, command=_commands(earlier, command)))
    reference_error = bench.reference_error(home.place)
    results: dict[str, list[Outcome]] = {name: [] for name in plans}
    total, done = sum(map(len, plans.values())), 0
    for name, cases in plans.items():
        for case in cases:
            results[name].append(bench.outcome(case))
            done += 1
            if on_result is not None:
                on_result(name, results[name][-1], done, total)
    return replace(
        found,
        results={name: tuple(each) for name, each in results.items()},
        reference_error=reference_error,
        evaluations=sum(r["evaluations"] for r in bench.records.used.values()),
        seconds=sum(r["seconds"] for r in bench.records.used.values()),
    )


def _wanted(axes: Iterable[str], values: Mapping[str, Sequence[Any]], earlier: Study | None) -> dict[str, list[Any]]:
    """The values of each axis, those of an earlier study with them: axes in the order of `AXES`, numbers in their own."""
    asked = _checked_axes(axes, values)
    found = {}
    for name, axis in AXES.items():
        both = set(asked.get(name, ()))
        if earlier is not None:
            both.update(axis.values if name in earlier.skipped else earlier.values(name))
        if both:
            found[name] = sorted(both, key=axis.values.index if name == "classes" else None)
    return found


def _checked_axes(axes: Iterable[str], values: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
    """The values of each axis asked for."""
    names = list(dict.fromkeys(axes))
    for name in [*names, *values]:
        if name not in AXES:
            raise unknown_name("axis", name, AXES)
    for name, given in values.items():
        if name not in names:
            raise ValueError(f"values of {name} are of no use: the axis is not among {', '.join(names) or 'none'}")
        if not given:
            raise ValueError(f"values of {name} are empty: leave them out for {', '.join(map(str, AXES[name].values))}")
    if not names:
        raise ValueError(f"no axis: name some of {', '.join(AXES)}")
    return {name: [_value(name, value) for value in values.get(name, AXES[name].values)] for name in names}


def _value(axis: str, value: Any) -> Any:
    """A value of an axis, checked."""
    if axis == "classes":
        if value not in AXES[axis].values:
            raise unknown_name("set of classes", str(value), AXES[axis].values)
        return value
    if axis == "guidance":
        if not math.isfinite(value):
            raise ValueError(f"values of guidance must be finite, got {value}")
        return float(value)
    least = 0 if axis == "seeds" else 1
    if int(value) != value or value < least:
        raise ValueError(f"values of {axis} must be whole numbers of at least {least}, got {value}")
    return int(value)


def _unmeasured(bench: Bench, home: Fit, skipped: Mapping[str, str], command: str) -> Study:
    """What a study says of itself before anything is measured."""
    setting = Setting(
        model=bench.denoiser.name,
        samples=len(bench.noise),
        seed=bench.seed,
        guidance=guidance_words(bench.denoiser),
        condition=condition_words(bench.cond),
        device=device_words(bench.denoiser),
        command=command,
        versions=versions(),
        hashes={"network, condition and noise": bench.context[:16]} if bench.context else {},
    )
    grid = "" if bench.grid is None else str(bench.grid)
    reference = str(reference_run(bench.reference_nfe))
    return Study({}, skipped, setting, str(bench.solver), grid, home, bench.effort.validation, reference, math.nan)


def _check_same(study: Study, earlier: Study) -> None:
    """Raise ValueError if an earlier study is not of the same model, solver, home and noise."""
    pairs: dict[str, tuple[Any, Any]] = {
        "model": (earlier.setting.model, study.setting.model),
        "solver": (earlier.solver, study.solver),
        "grid": (earlier.grid or "of its own", study.grid or "of its own"),
        **{name: (value, getattr(study.home, name)) for name, value in asdict(earlier.home).items()},
        "held_out": (earlier.setting.samples, study.setting.samples),
        "reference": (earlier.reference, study.reference),
    }
    other = [f"{name} {old} instead of {new}" for name, (old, new) in pairs.items() if old != new]
    if not other and earlier.setting.hashes != study.setting.hashes:
        other = ["another network or condition of the same name"]
    if other:
        raise ValueError(f"the earlier study has {', '.join(other)}: choose another folder, or start over (--force)")


def _commands(earlier: Study, command: str) -> str:
    """Those that made both, a line each."""
    return "\n".join(dict.fromkeys(line for line in (*earlier.setting.command.splitlines(), command) if line))


def _missing(axis: str, denoiser: Denoiser, cond: Condition) -> str:
    """Why a model does not have an axis; "" if it does."""
    if axis == "guidance":
        if denoiser.null_condition is None:
            return f"{denoiser.name} has no null condition to be guided away from"
        lacking = [key for key in denoiser.null_condition if key not in cond]
        return f"guidance needs the condition {', '.join(lacking)}" if lacking else ""
    if axis == "classes" and class_labels(cond) is None:
        return f"{denoiser.name} was given no two class labels, one a sample"
    return ""
