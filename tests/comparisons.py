"""Comparisons to make pages of: real ones of the bundled network, and one with errors as they are asked for."""

from __future__ import annotations

import io
import platform
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

import dode
from dode import statistics
from dode.denoisers import Denoiser
from dode.distances import mean_square
from dode.distillation import PAPER
from dode.fine import PAIR, FineRun, whole_span
from dode.images import to_grid
from dode.noise import REPORT, standard_noise
from dode.report.reference import reference_run, reference_tableau
from dode.report.results import BASE, PAPERS, Cell, Comparison, Course, Reference, Result, Setting
from dode.sampling import Trajectory
from dode.schedules import Array
from dode.statistics import Figure
from dode.tableau import Tableau

TABLEAUX = Path(__file__).parents[1] / "docs" / "benchmarks" / "tableaux" / "fashion"
# Of the paper's method: enough to have numbers.
_SMALL = {"samples": 4, "teacher_scale": 3, "held_out": 0}
# Of a path: noises that are followed.
_FOLLOWED = 3
_LOWEST, _HIGHEST = -12.0, 12.0


def strip(samples: Tensor) -> bytes:
    """Samples side by side, as WebP."""
    buffer = io.BytesIO()
    to_grid(samples, len(samples), gap=0).save(buffer, "WEBP", lossless=True)
    return buffer.getvalue()


def log_snr(tableau: Tableau) -> Array:
    """At the times, cut to what a chart can show."""
    with np.errstate(divide="ignore"):
        return np.clip(2 * np.log(tableau.alphas / tableau.sigmas), _LOWEST, _HIGHEST)


def course(tableau: Tableau, run: Trajectory, fine: tuple[Tableau, Trajectory]) -> Course:
    """A run's way, against the states of a fine run, between which lines are drawn over log-SNR."""
    places, fine_places = log_snr(tableau), log_snr(fine[0])
    states = torch.stack(run.states)[:, :_FOLLOWED].flatten(2).double().numpy()
    truth = torch.stack(fine[1].states)[:, :_FOLLOWED].flatten(2).double().numpy()
    errors, plane = np.zeros(len(places)), []
    for m in range(truth.shape[1]):
        after = np.clip(np.searchsorted(fine_places, places), 1, len(fine_places) - 1)
        part = (places - fine_places[after - 1]) / (fine_places[after] - fine_places[after - 1])
        near = truth[after - 1, m] + part[:, None].clip(0, 1) * (truth[after, m] - truth[after - 1, m])
        errors += ((states[:, m] - near) ** 2).mean(1) / truth.shape[1]
        centre = truth[:, m].mean(0)
        _, _, axes = np.linalg.svd(truth[:, m] - centre, full_matrices=False)
        plane.append((states[:, m] - centre) @ axes[:2].T)
    shown = torch.stack([D[0] for D in run.denoised])
    if len(shown) > 24:
        shown = shown[np.linspace(0, len(shown) - 1, 12).round().astype(int)]
    return Course(tableau.times, places, errors, np.stack(plane), strip(shown))


def figures(errors: Array, power: Array) -> dict[str, Figure]:
    """Those of `METRICS` that errors alone give."""
    found = statistics.figures(errors, power)
    psnr = -10 * np.log10(np.maximum(errors, 1e-12) / 4)
    spread = 1.645 * psnr.std(ddof=1) / np.sqrt(len(psnr))
    return {
        "error": found["mean"],
        "median": found["median"],
        "relative": found["relative"],
        "psnr": Figure(float(psnr.mean()), float(psnr.mean() - spread), float(psnr.mean() + spread)),
    }


def real(
    solvers: Sequence[str] = ("ddim", "deis", "unipc"),
    budgets: Sequence[int] = (4, 5, 6, 8),
    *,
    papers: Sequence[tuple[str, int]] = (("ddim", 5),),
    samples: int = 16,
    shown: int = 8,
    reference_nfe: int = 60,
) -> Comparison:
    """Of the bundled network: bases, the paper's method, and the tableaux of `thorough` that the repository has, on noise that no fit
    saw."""
    denoiser, labels = dode.load("fashion"), torch.arange(10)
    noise = standard_noise(0, samples, denoiser.shape, stream=REPORT, dtype=torch.float32)
    reference, fine = _reference(denoiser, noise, labels, reference_nfe, shown)

    def measured(name: str, nfe: int, method: str, tableau: Tableau) -> Result:
        return _measured(denoiser, Cell(name, nfe, method), tableau, noise, labels, fine, shown)

    results = []
    for name in solvers:
        for nfe in budgets:
            results.append(measured(name, nfe, BASE, dode.solver(name).tableau(denoiser.schedule, nfe)))
            if (name, nfe) in papers:
                made = dode.distill(denoiser, name, nfe=nfe, class_labels=labels, **{**PAPER, **_SMALL})
                lambdas = np.stack([made.lambdas, made.standard_errors[:, 0]])
                cost = {"evaluations": made.cost, "seconds": made.seconds}
                results.append(_with(measured(name, nfe, PAPERS, made.tableau), **cost, lambdas=lambdas))
            kept = TABLEAUX / f"{name}-thorough-{nfe}.json"
            if kept.is_file():
                tableau = Tableau.load(kept)
                about = tableau.meta["distillation"]
                cost = {"evaluations": sum(about["evaluations"].values()), "seconds": about["seconds"]}
                results.append(_with(measured(name, nfe, "thorough", tableau), **cost))
    return Comparison(tuple(results), setting(samples=samples, shown=shown), reference, 123_456, 321.0, 0.93)


def large(
    solvers: Sequence[str] = ("ddim", "ipndm", "pndm", "deis", "dpm-solver", "dpm-solver++", "unipc", "edm"),
    budgets: Sequence[int] = (4, 6, 8, 10, 12, 20),
    factors: dict[str, float] | None = None,
    *,
    samples: int = 1024,
    shown: int = 8,
) -> Comparison:
    """The size of a large comparison: real runs of the bases, and distilled cells that are these runs with errors divided."""
    factors = {"fast": 0.5, "balanced": 0.3, "thorough": 0.2} if factors is None else factors
    few = shown
    denoiser, labels = dode.load("fashion"), torch.arange(10)
    noise = standard_noise(0, few, denoiser.shape, stream=REPORT, dtype=torch.float32)
    reference, fine = _reference(denoiser, noise, labels, 60, shown)
    generator = np.random.default_rng(0)
    spread = generator.lognormal(0, 0.8, samples)
    power = generator.uniform(0.2, 0.6, samples)
    results = []
    for name in solvers:
        for nfe in budgets:
            try:
                base = dode.solver(name).tableau(denoiser.schedule, nfe)
            except ValueError as error:
                results += [Result(Cell(name, nfe, how), None, np.empty(0), skipped=str(error)) for how in (BASE, *factors)]
                continue
            made = _measured(denoiser, Cell(name, nfe, BASE), base, noise, labels, fine, shown)
            mean = made.figures["error"].value
            for how, factor in {BASE: 1.0, **factors}.items():
                errors = mean * factor * spread * generator.lognormal(0, 0.3, samples)
                image = {
                    "fid": Figure(90 * mean * factor + 4, 85 * mean * factor + 3.8, 95 * mean * factor + 4.2),
                    "same_class": Figure(1 - 8 * mean * factor, 0.97 - 8 * mean * factor, 1.0),
                }
                results.append(
                    _with(
                        made,
                        cell=Cell(name, nfe, how),
                        errors=errors,
                        figures=figures(errors, power) | image,
                        evaluations=0 if how == BASE else int(2000 / factor * nfe),
                        seconds=0 if how == BASE else 3 / factor * nfe,
                    )
                )
    return Comparison(tuple(results), setting(samples=samples, shown=shown), reference, 1_234_567, 4321.0, 0.94)


def invented(
    errors: dict[tuple[str, int, str], Array | float], *, model: str = "net", power: float = 1.0, **changes: object
) -> Comparison:
    """Cells (solver, NFE, method) with their samples' errors, or with a mean that samples of the same noise vary about; no pictures."""
    generator = np.random.default_rng(1)
    spread = generator.lognormal(0, 0.5, 200)
    spread /= spread.mean()
    results = []
    for key, given in errors.items():
        own = np.asarray(given) if np.ndim(given) else given * spread * generator.lognormal(0, 0.05, 200)
        tableau = dode.solver("ddim").tableau(dode.schedules.VP.linear(), key[1])
        found = statistics.figures(own, np.full(len(own), power))
        made = {"error": found["mean"], "median": found["median"], "relative": found["relative"]}
        distilled = key[2] != BASE
        results.append(Result(Cell(*key), tableau, own, made, evaluations=500 * key[1] * distilled, seconds=2.0 * distilled))
    reference = Reference("deis with 200 NFE", 200, 1e-9, np.full(200, power))
    return Comparison(tuple(results), setting(model=model, samples=200, shown=0, **changes), reference)


def setting(model: str = "fashion", samples: int = 16, shown: int = 8, **changes: object) -> Setting:
    """Of these comparisons."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "dode": dode.__version__}
    given = {
        "condition": "class_labels: 10 rows",
        "command": "dode compare fashion --solver ddim,deis --nfe 4,6 --effort fast --out report",
        "versions": versions,
        "hashes": {"network": "0f3a" * 8, "noise": "77b1" * 8},
        "device": "cpu, 1 thread",
    }
    return Setting(**{"model": model, "samples": samples, "seed": 0, "guidance": "1", "shown": shown, **given, **changes})


def _reference(
    denoiser: Denoiser, noise: Tensor, labels: Tensor, nfe: int, shown: int
) -> tuple[Reference, tuple[Tableau, Trajectory]]:
    tableau = reference_tableau(denoiser.schedule, nfe)
    fine = tableau, _run(denoiser, tableau, noise, labels)
    way = course(tableau, fine[1], fine)
    power, few = mean_square(fine[1].final), min(8, len(noise))
    other = FineRun(*PAIR[0], nfe).tableau(denoiser.schedule, whole_span(denoiser.schedule))
    off = mean_square(_run(denoiser, other, noise[:few], labels).final - fine[1].final[:few]).mean()
    return Reference(str(reference_run(nfe)), nfe, float(off), power, {}, way, strip(fine[1].final[:shown]), 12.0), fine


def _run(denoiser: Denoiser, tableau: Tableau, noise: Tensor, labels: Tensor) -> Trajectory:
    own = labels.repeat(-(-len(noise) // len(labels)))[: len(noise)]
    return dode.sample(denoiser, tableau, noise, class_labels=own, return_trajectory=True)


def _measured(
    denoiser: Denoiser,
    cell: Cell,
    tableau: Tableau,
    noise: Tensor,
    labels: Tensor,
    fine: tuple[Tableau, Trajectory],
    shown: int,
) -> Result:
    run = _run(denoiser, tableau, noise, labels)
    errors = mean_square(run.final - fine[1].final)
    found = figures(errors, mean_square(fine[1].final))
    return Result(cell, tableau, errors, found, course(tableau, run, fine), strip(run.final[:shown]), sampling_seconds=0.4)


def _with(result: Result, **changes: object) -> Result:
    return Result(**{**vars(result), **changes})
