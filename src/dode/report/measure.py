"""A tableau on all the noises of a comparison: errors, figures, course and pictures, a part at a time."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from dode import statistics
from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.first_output import first_output
from dode.report.course import Courses
from dode.report.parts import Parts
from dode.report.results import Course
from dode.report.scores import Scores
from dode.report.thumbnails import strip
from dode.sampling import Run, start
from dode.schedules import Array
from dode.statistics import Figure
from dode.tableau import Tableau


@dataclass(frozen=True, eq=False)
class Measured:
    """What a tableau came to; the fields of a `Result`.

    Attributes:
        errors, figures, course, pictures: as there.
        sampling_seconds: wall time of the samples alone.
        notes: what a reader should know.
    """

    errors: Array
    figures: Mapping[str, Figure]
    course: Course | None
    pictures: bytes
    sampling_seconds: float
    notes: tuple[str, ...]


def measured(tableau: Tableau, parts: Parts, power: Array, courses: Courses, scores: Scores, shown: int) -> Measured:
    """Run a tableau on all noises.

    Args:
        tableau: made for the network's schedule.
        parts: the noises with the reference's end points.
        power: (n,) mean square of these.
        courses: what the first few states are compared with.
        scores: what image metrics are made with.
        shown: how many samples are pictured.

    Raises:
        OSError: what was made cannot be kept.
    """
    errors, pictures, seconds = [], [], 0.0
    course: Course | None = None
    scoring = scores.begin() if scores.possible else None
    for part in parts:
        began = time.perf_counter()
        walk = _walked(parts.denoiser, tableau, part.noise, part.cond, courses.noises if part.first == 0 else 0)
        seconds += time.perf_counter() - began
        distances = np.nan_to_num(mean_square_distance(walk.end, part.end), nan=np.inf, posinf=np.inf)
        errors.append(distances)
        if part.first == 0:
            course = courses.of(tableau.points, walk.states, walk.denoised)
        if scoring is None and part.first >= shown:
            continue
        images = (walk.end if parts.decode is None else parts.decode(walk.end)).cpu()
        if part.first < shown and scores.possible:
            pictures.append(images[: shown - part.first])
        if scoring is not None:
            # A figure of images of which some are missing would be one of other samples.
            scoring = scoring if np.isfinite(distances).all() else None
        if scoring is not None:
            scoring.add(images, part)
    found = np.concatenate(errors)
    figures = error_figures(found, power)
    notes = []
    if diverged := int((~np.isfinite(found)).sum()):
        notes.append(
            f"{diverged} of {len(found)} samples diverge: its images have no figures"
            if scores.possible
            else f"{diverged} of {len(found)} samples diverge"
        )
    if scoring is not None:
        figures |= scoring.figures()
    return Measured(found, figures, course, strip(torch.cat(pictures)) if pictures else b"", seconds, tuple(notes))


def error_figures(errors: Array, power: Array) -> dict[str, Figure]:
    """Mean, median and relative error of samples (n,), of which `power` (n,) is the reference's mean square."""
    found = {"error": statistics.mean(errors), "median": statistics.quantile(errors, 0.5)}
    if (power > 0).all():
        found["relative"] = statistics.mean(errors / power)
    return found


@dataclass(frozen=True, eq=False)
class _Walk:
    """A run: its end, and of the first noises all K + 1 states, of the first one all D."""

    end: Tensor
    states: list[Tensor] = field(default_factory=list)
    denoised: list[Tensor] = field(default_factory=list)


def _walked(denoiser: Denoiser, tableau: Tableau, noise: Tensor, cond: Condition, few: int) -> _Walk:
    """The run of a tableau, also where it does not stay finite; `few`: noises whose states are kept."""
    x = start(denoiser, tableau, noise)
    states, denoised = ([x[:few].cpu()], []) if few else ([], [])
    first = first_output(denoiser, tableau, x, cond)
    with denoiser.evaluator(x, cond) as evaluate, torch.no_grad():
        run = Run(denoiser, evaluate, tableau, x, first)
        for k in range(tableau.rows):
            run.evaluate(k)
            if few:
                denoised.append(run.denoised(k)[:1].cpu())
            x = run.advance(k)
            if few:
                states.append(x[:few].cpu())
    return _Walk(x, states, denoised)
