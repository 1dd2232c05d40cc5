"""One network of `benchmarks/paper.py`: its noise, its reference, and how a cell is made and measured on them.

Mean square distances to a fine reference are those of the first samples, in float32. Frechet distances are those of all samples, which on a
GPU are made with TF32 arithmetic; what that moves is a row of the results.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from graphed import Graphed, arithmetic, faster_layout
from paper_cells import Cell, solver_of
from torch import Tensor

import dode
from dode import statistics
from dode.conditions import Condition, take
from dode.distances import mean_square_distance
from dode.distillation import PAPER, Directions, make_plan
from dode.distillation.execution import carry_out
from dode.distillation.ledger import Ledger
from dode.fine import PAIR, FineRun, whole_span
from dode.grids import Grid, Karras, LogSNR, Mixed, Power, Quadratic, Shifted, Uniform
from dode.metrics import Moments, frechet_distance
from dode.models import BUNDLED, fashion_classifier
from dode.noise import REPORT, standard_noise
from dode.report.reference import reference_run
from dode.searched_grids import gits_times, oss_times
from dode.tableau import Tableau

SEED = 0
# Samples of the end-point errors, and of the choice of a peer's grid.
PAIRED, FEW = 1000, 500
# Evaluations of the reference.
FINE = 200
# Samples in a call of the network.
PART = 2500
GRIDS: tuple[Grid, ...] = (Uniform(), Power(exponent=1.5), Quadratic(), Shifted(), LogSNR(), Mixed(), Karras())


class Images:
    """The classifier that judges images, and the photographs of the test set."""

    def __init__(self, photographs: Callable[[str], Tensor], device: torch.device) -> None:
        self._classifier = fashion_classifier().to(device)
        self._device, self._photographs = device, photographs

    @cached_property
    def test(self) -> Moments:
        return Moments.of(self.features(self._photographs("test"))[0])

    def distance(self, features: np.ndarray) -> float:
        """The Frechet distance of features (n, 128) to those of the test photographs."""
        found = Moments.of(features)
        return frechet_distance(found.mean, found.covariance, self.test.mean, self.test.covariance)

    @torch.inference_mode()
    def features(self, images: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """(n, 128) features and (n,) classes of images (n, 1, 28, 28)."""
        found, classes = [], []
        with arithmetic(tf32=False):
            for part in images.split(PART):
                features = self._classifier.features(part.to(self._device).clamp(-1, 1))
                found.append(features.cpu().double().numpy())
                classes.append(self._classifier.head(features).argmax(1).cpu().numpy())
        return np.concatenate(found), np.concatenate(classes)

    def spread(self, features: np.ndarray, draws: int = 20) -> float:
        """The standard deviation that chance in the samples gives the distance, by drawing them again with replacement."""
        generator = np.random.default_rng(0)
        return float(
            np.std([self.distance(features[generator.integers(0, len(features), len(features))]) for _ in range(draws)])
        )

    def photographs(self, size: int) -> list[np.ndarray]:
        """Features of two sets of so many photographs of the training set."""
        return [self.features(part)[0] for part in self._photographs("train")[: 2 * size].split(size)]


class Bench:
    """A network with its report noise and its reference.

    Args:
        name: of a bundled network.
        images: what judges images.
        samples: of the Frechet distances.
        fine: evaluations of the reference; half as many make the images of its Frechet distance.
        device: where all of it runs.
        work: a folder that keeps each cell's errors, sample by sample.
    """

    def __init__(self, name: str, images: Images, samples: int, fine: int, device: torch.device, work: Path) -> None:
        denoiser = dode.load(name, device=device)
        self.name, self.images, self.samples, self.fine, self.device = name, images, samples, fine, device
        self.noise = standard_noise(SEED, samples, denoiser.shape, stream=REPORT).to(device)
        self.cond: Condition = {}
        if BUNDLED[name].classes:
            self.cond = {"class_labels": torch.arange(samples, device=device) % len(BUNDLED[name].classes)}
        self.speed = ""
        self._work = work
        if device.type == "cuda":
            few = slice(0, min(PART, samples))
            with arithmetic(tf32=True, search=True):
                t = torch.full((len(self.noise[few]),), denoiser.schedule.t_max / 2, device=device)
                self.speed = faster_layout(denoiser.net, self.noise[few], t, **take(self.cond, few))
            denoiser = denoiser.replace(net=Graphed(denoiser.net))
        # Fits choose their own batches; long runs are cut.
        self.denoiser = denoiser
        self._in_parts = denoiser.replace(batch_size=PART)
        self.paired = min(PAIRED, samples)

    @cached_property
    def reference(self) -> Tensor:
        """End points of the first samples by a fine run of a solver and grid that nothing here has."""
        return self.end(
            reference_run(self.fine).tableau(self.denoiser.schedule, whole_span(self.denoiser.schedule)), self.paired
        )

    def end(self, tableau: Tableau, samples: int, *, tf32: bool = False) -> Tensor:
        """The end points of the first samples: (samples, 1, 28, 28), on the device."""
        rows = slice(0, samples)
        with arithmetic(tf32=tf32, search=True):
            x: Tensor = dode.sample(self._in_parts, tableau, self.noise[rows], **take(self.cond, rows))
        return x

    def rows(self, cell: Cell) -> list[dict[str, Any]]:
        """What a cell comes to; nothing where its solver has no such budget."""
        if cell.part == "reference":
            return self._reference_rows(cell)
        began = time.perf_counter()
        try:
            with arithmetic(tf32=False):
                tableau, made = self._made(cell)
        except (ValueError, FloatingPointError) as error:
            return [{"note": str(error)}]
        seconds = time.perf_counter() - began
        return [made | {"made_seconds": round(seconds, 3)} | self._measured(cell, tableau)]

    def _measured(self, cell: Cell, tableau: Tableau) -> dict[str, Any]:
        """Errors in float32 of the first samples, and the Frechet distance of all."""
        try:
            errors = mean_square_distance(self.end(tableau, self.paired), self.reference)
        except FloatingPointError as failed:
            return {"note": str(failed)}
        np.save(self._errors_of(cell), errors.astype(np.float32))
        mean = statistics.mean(errors)
        found: dict[str, Any] = {"error": mean.value, "low": mean.low, "high": mean.high, "median": np.median(errors)}
        base = self._errors_of(Cell("main", self.name, cell.solver, "base", cell.nfe))
        if cell.method == "D" and base.exists():
            ratio = statistics.ratio(errors, np.load(base).astype(np.float64))
            found |= {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
        if cell.images:
            _wait(self.device)
            began = time.perf_counter()
            try:
                x = self.end(tableau, self.samples, tf32=True)
            except FloatingPointError as failed:
                return found | {"note": str(failed)}
            _wait(self.device)
            found["sample_seconds"] = round(time.perf_counter() - began, 3)
            found |= self._judged(x)
        return found

    def _judged(self, x: Tensor, *, spread: bool = False) -> dict[str, Any]:
        """The Frechet distance, and the share of samples that are taken for the class that was asked for."""
        features, classes = self.images.features(x)
        judged = {"fid": self.images.distance(features)} | ({"fid_spread": self.images.spread(features)} if spread else {})
        if self.cond:
            judged["recognised"] = float((classes == self.cond["class_labels"].cpu().numpy()).mean())
        return judged

    def _reference_rows(self, cell: Cell) -> list[dict[str, Any]]:
        """The reference's own error and images, as fine as they come and in TF32, and the photographs of the training set."""
        schedule = self.denoiser.schedule
        span = whole_span(schedule)
        few = min(250, self.paired)
        other = FineRun(*PAIR[0], self.fine).tableau(schedule, span)
        own = mean_square_distance(self.end(other, few), self.reference[:few])
        run = reference_run(self.fine // 2)
        fine = run.tableau(schedule, span)
        wide, narrow = self.end(fine, self.paired), self.end(fine, self.paired, tf32=True)
        moved = mean_square_distance(narrow, wide)
        x = self.end(fine, self.samples, tf32=True)
        features = [self.images.features(images)[0] for images in (wide, narrow)]
        parts = self.images.photographs(self.samples)
        return [
            {"what": f"own error of the reference, {self.fine} evaluations", "error": own.mean(), "median": np.median(own)},
            {
                "what": f"the reference at {run.nfe} evaluations",
                "error": mean_square_distance(wide, self.reference).mean(),
                "median": np.median(mean_square_distance(wide, self.reference)),
                **self._judged(x, spread=True),
            },
            {"what": "TF32 in place of float32", "error": moved.mean(), "median": np.median(moved)},
            {"what": f"{self.paired} samples in float32", "fid": self.images.distance(features[0])},
            {"what": f"{self.paired} samples in TF32", "fid": self.images.distance(features[1])},
            *({"what": f"{len(part)} training photographs", "fid": self.images.distance(part)} for part in parts),
        ]

    def _made(self, cell: Cell) -> tuple[Tableau, dict[str, Any]]:
        """The cell's tableau, and what it took to make it."""
        solver, schedule = solver_of(cell.solver), self.denoiser.schedule
        if cell.method == "base":
            tableau = solver.tableau(schedule, cell.nfe)
            return tableau, {"grid": tableau.grid}
        if cell.method == "best grid":
            tableau = self._best_grid(cell)
            return tableau, {"grid": tableau.grid}
        if cell.method in ("gits", "oss"):
            find = {"gits": gits_times, "oss": oss_times}[cell.method]
            times = find(self.denoiser, cell.nfe, **self._some_labels())
            return solver.tableau(schedule, cell.nfe, times), {"grid": cell.method}
        options: dict[str, Any] = {"effort": cell.method}
        if cell.method == "D":
            options = PAPER | {"samples": cell.batch, "teacher_scale": cell.scale}
        if cell.form != "difference":
            options |= {"directions": directions_of(solver.tableau(schedule, cell.nfe), cell.form), "teacher": solver}
        plan = make_plan(self.denoiser, solver, cell.nfe, seed=cell.seed, **options, **self._some_labels())
        # `distill` without its measurement, which is done here for all alike; what an earlier fit keeps is not this one's.
        ledger, self.denoiser.memo = Ledger(self.denoiser), {}
        tableau = carry_out(plan, ledger).outcome.tableau
        return tableau, {"grid": tableau.grid, "cost": ledger.charged}

    def _errors_of(self, cell: Cell) -> Path:
        """The file of a cell's errors, sample by sample."""
        return self._work / f"{'_'.join(cell.key)}.npy"

    def _some_labels(self) -> Condition:
        """The condition of what is fitted: all classes in turn."""
        return {"class_labels": torch.arange(10)} if self.cond else {}

    def _best_grid(self, cell: Cell) -> Tableau:
        """The solver on the grid that is best on the very samples that are reported."""
        found: list[tuple[float, Tableau]] = []
        few = min(FEW, self.paired)
        for grid in GRIDS:
            try:
                tableau = solver_of(cell.solver).tableau(self.denoiser.schedule, cell.nfe, grid)
                found.append((float(mean_square_distance(self.end(tableau, few), self.reference[:few]).mean()), tableau))
            except (ValueError, FloatingPointError):  # a grid that it does not have here, or on which it diverges
                continue
        return min(found, key=lambda pair: pair[0])[1]


def directions_of(tableau: Tableau, form: str) -> Directions:
    """What is fitted in a row beside the paper's c_k (O_k - O_{k-1}), whose coefficients of outputs sum to 0.

    "scale": c_k O_k, one number that scales the output; "two weights": c_k O_k and c_k O_{k-1}, each with its own; "two differences":
    c_k (O_k - O_{k-1}) and c_k (O_{k-1} - O_{k-2}).
    """
    part = tableau.integrand
    assert part is not None
    newest = np.stack([part.a, part.b])

    def shifted(rows: np.ndarray) -> np.ndarray:
        back = np.zeros_like(rows)
        back[:, 1:] = rows[:, :-1]
        return back

    before = shifted(newest)
    if part.kind == "epsilon":
        before[0, 0, 0] = 1 / tableau.noise_scale
    else:
        before[:, 0] = newest[:, 0]
    earlier = shifted(before)
    earlier[:, 0] = before[:, 0]
    named = {
        "scale": {"O_k": newest},
        "two weights": {"O_k": newest, "O_{k-1}": before},
        "two differences": {"O_k - O_{k-1}": newest - before, "O_{k-1} - O_{k-2}": before - earlier},
    }[form]
    factors = part.factors[:, np.newaxis]
    return Directions(
        tuple(named),
        np.array([rows[0] * factors for rows in named.values()]),
        np.array([rows[1] * factors for rows in named.values()]),
    )


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
