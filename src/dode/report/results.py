"""What a comparison found, as plain data: what the page, the files and notebooks are made of.

A *cell* is one tableau at one budget: a solver as it is (the base), distilled with an effort or by the paper's method, or a saved
tableau. Every cell starts from the same noise and is measured against the same reference, so that cells differ in their tableau alone.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dode.schedules import Array
from dode.statistics import Figure
from dode.tableau import Tableau

# The methods that are no effort and no file.
BASE, PAPERS = "base", "paper"


class Metric(NamedTuple):
    """What a figure of a cell is.

    Attributes:
        label: words for an axis or a column.
        meaning: one sentence for a reader.
        lower: lower is better.
        log: shown on a logarithmic axis.
    """

    label: str
    meaning: str
    lower: bool = True
    log: bool = True


METRICS: Mapping[str, Metric] = {
    "error": Metric("error", "mean square distance of the end point to the reference's, per element, from the same noise"),
    "median": Metric("median error", "the median of that distance over the samples, which a few far ones do not carry"),
    "relative": Metric("relative error", "the mean of that distance over each sample's own mean square"),
    "psnr": Metric("PSNR, dB", "peak signal-to-noise ratio to the reference's image from the same noise", False, False),
    "feature_distance": Metric(
        "feature distance", "mean square distance of an image's features to those of the reference's image"
    ),
    "same_class": Metric("same class", "share of samples that a classifier puts where it puts the reference's", False, False),
    "fid": Metric("Frechet distance", "distance of two Gaussians fitted to features of the images"),
    "kid": Metric(
        "kernel distance", "kernel inception distance (squared MMD of a cubic kernel) of features of the images", True, False
    ),
    "inception_score": Metric("inception score", "how sure and how varied the classes of the images are", False, False),
    "precision": Metric("precision", "share of images within the manifold of those they are compared with", False, False),
    "recall": Metric("recall", "share of those they are compared with within the manifold of the images", False, False),
}


@dataclass(frozen=True)
class Cell:
    """What is measured.

    Attributes:
        solver: its name with options, as `str(solver)`.
        nfe: number of network evaluations.
        method: `BASE`, an effort ("fast", "balanced", "thorough"), `PAPERS`, or the name of a tableau's file.
        grid: of a base, the grid that it stops on, where one was named; "" for the solver's own, and of all others.
    """

    solver: str
    nfe: int
    method: str
    grid: str = ""

    @property
    def base(self) -> bool:
        """Undistilled."""
        return self.method == BASE

    def __str__(self) -> str:
        return " ".join(part for part in (self.solver, self.grid, self.method, f"NFE {self.nfe}") if part)


@dataclass(frozen=True, eq=False)
class Course:
    """Where a run goes from the first noises: of a cell with K evaluations or of the reference.

    Attributes:
        t: (K + 1,) network times of the states, the first where the noise is.
        log_snr: (K + 1,) log(alpha^2 / sigma^2) there; what is infinite is cut to the schedule's own range.
        errors: (K + 1,) mean square distance per element of the states to the reference's at these times, the mean of the first noises.
        plane: (m, K + 1, 2) the states of m noises in the plane of the two principal directions of that noise's reference states.
        denoised: a picture (WebP) of the K denoised samples D_k of the first noise, side by side; b"" of what is no image.
    """

    t: Array
    log_snr: Array
    errors: Array
    plane: Array
    denoised: bytes = b""


@dataclass(frozen=True, eq=False)
class Result:
    """A cell with what was measured.

    Attributes:
        cell: it.
        tableau: what was run; None where it was skipped.
        errors: (n,) mean square distance of each sample's end point to the reference's, over its elements; infinite where it diverged.
        figures: by name, of `METRICS`, with 90 % intervals (nan where there is none).
        course: where it goes; None where it was skipped or diverged.
        pictures: the first samples side by side (WebP); b"" of what is no image.
        lambdas: (K,) of the paper's method with their standard errors (K,): two rows; None of others.
        evaluations: network evaluations of one sample that the distillation took; 0 of a base.
        seconds: wall time of the distillation; 0 of a base.
        sampling_seconds: wall time of the samples.
        notes: what was warned of on the way.
        skipped: why there are no numbers; the errors are empty then.
    """

    cell: Cell
    tableau: Tableau | None
    errors: Array
    figures: Mapping[str, Figure] = field(default_factory=dict)
    course: Course | None = None
    pictures: bytes = b""
    lambdas: Array | None = None
    evaluations: int = 0
    seconds: float = 0.0
    sampling_seconds: float = 0.0
    notes: tuple[str, ...] = ()
    skipped: str = ""

    @property
    def diverged(self) -> int:
        """Samples whose end point is not finite."""
        return int((~np.isfinite(self.errors)).sum())


@dataclass(frozen=True, eq=False)
class Reference:
    """The run that errors are distances to.

    Attributes:
        name: words for it.
        nfe: its evaluations.
        error: mean square distance of its end point to that of another solver's run that is as fine, on a few of the noises.
        power: (n,) mean square of each of its samples.
        figures: of its own images, where they are compared with others: the floor of what a cell can reach.
        course, pictures: as of a `Result`.
        seconds: wall time of its samples.
    """

    name: str
    nfe: int
    error: float
    power: Array
    figures: Mapping[str, Figure] = field(default_factory=dict)
    course: Course | None = None
    pictures: bytes = b""
    seconds: float = 0.0


@dataclass(frozen=True)
class Setting:
    """What all cells have in common.

    Attributes:
        model: the network's or the pipeline's name.
        samples: n, the noises that everything is measured on.
        seed: of the noise.
        guidance: words for the guidance scale.
        condition: words for the condition; "" for none.
        images: what image metrics compare with: words for the reference's samples or for a set of images; "" for no image metrics.
        extractor: the name of the feature extractor; "".
        shown: how many of the samples are shown.
        device: where it ran, with the number of threads.
        command: what made it, to be given again; "" from Python.
        versions: of Python and of the libraries, by name.
        hashes: of the network, of the noise, by name.
        notes: what a reader has to know, e.g. too few samples for a Frechet distance.
    """

    model: str
    samples: int
    seed: int
    guidance: str
    condition: str = ""
    images: str = ""
    extractor: str = ""
    shown: int = 0
    device: str = "cpu"
    command: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    hashes: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Comparison:
    """All cells, what they have in common, and the reference.

    Attributes:
        results: in the order in which they were asked for.
        setting, reference: as they say.
        evaluations: network evaluations of one sample in all, those of interrupted runs included; guidance does not count twice.
        seconds: wall time in all, likewise.
        network_share: the network's part of the wall time of what this run made itself; nan where all was kept.
    """

    results: tuple[Result, ...]
    setting: Setting
    reference: Reference
    evaluations: int = 0
    seconds: float = 0.0
    network_share: float = math.nan

    @property
    def budgets(self) -> list[int]:
        """The numbers of evaluations, in order."""
        return sorted({result.cell.nfe for result in self.results})

    @property
    def solvers(self) -> list[str]:
        """As asked for."""
        return list(dict.fromkeys(result.cell.solver for result in self.results))

    @property
    def metrics(self) -> list[str]:
        """The names of the figures that any cell has, in the order of `METRICS`."""
        found = {name for result in self.results for name in result.figures}
        return [name for name in METRICS if name in found]

    @property
    def measured(self) -> list[Result]:
        """Those that were not skipped."""
        return [result for result in self.results if not result.skipped]

    def base_of(self, result: Result) -> Result | None:
        """The undistilled solver on its own grid at the same budget; None where it is not among the results."""
        wanted = Cell(result.cell.solver, result.cell.nfe, BASE)
        return next((other for other in self.measured if other.cell == wanted), None)

    def best_base(self, nfe: int, metric: str = "error") -> Result | None:
        """The best undistilled result at a budget, over solvers and grids."""
        there = [r for r in self.measured if r.cell.base and r.cell.nfe == nfe and metric in r.figures]
        sign = 1 if METRICS[metric].lower else -1
        return min(there, key=lambda r: sign * r.figures[metric].value, default=None)

    def save(self, folder: str | Path, *, overwrite: bool = False) -> list[Path]:
        """Write index.html, plots/, results.csv, results.json and tableaux/ into a folder, which is made where it is not there.

        Returns:
            The files, the page first.

        Raises:
            FileExistsError: there are such files, and `overwrite` is False.
            FileNotFoundError: the folder that it is to be made in is not there.
            ImportError: the extra `report` is not installed.
            OSError: a file cannot be written.
        """
        from dode.report.files import save

        return save(self, Path(folder), overwrite=overwrite)

    def to_frame(self) -> Any:
        """A pandas DataFrame with a row a cell: what results.csv has.

        Raises:
            ImportError: pandas is not installed.
        """
        from dode.report.notebook import to_frame

        return to_frame(self)

    def plot(self, metric: str = "error") -> Any:
        """An altair chart of a metric against NFE, a panel a solver.

        Raises:
            ValueError: no cell has this metric.
            ImportError: altair is not installed.
        """
        from dode.report.notebook import plot

        return plot(self, metric)

    def _repr_html_(self) -> str:
        """In notebooks: what was found in a sentence, and a table."""
        from dode.report.notebook import html

        return html(self)


def to_json(value: Any) -> Any:
    """Results as JSON has them: arrays as nested lists, pictures in base64, what is not finite as words."""
    if isinstance(value, Tableau):
        return value.to_json()
    if isinstance(value, Figure):
        return [_number(v) for v in value]
    if isinstance(value, np.ndarray):
        return to_json(value.tolist())
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Mapping):
        return {key: to_json(each) for key, each in value.items()}
    if isinstance(value, float):
        return _number(value)
    if hasattr(value, "__dataclass_fields__"):
        return {each.name: to_json(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_json(each) for each in value]
    return value


def result_from_json(data: Mapping[str, Any]) -> Result:
    """The result that `to_json` gave.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    return Result(
        **{
            **data,
            "cell": Cell(**data["cell"]),
            "tableau": None if data["tableau"] is None else Tableau.from_json(data["tableau"]),
            "errors": _array(data["errors"]),
            "figures": _figures(data["figures"]),
            "course": _course(data["course"]),
            "pictures": base64.b64decode(data["pictures"]),
            "lambdas": None if data["lambdas"] is None else _array(data["lambdas"]),
            "notes": tuple(data["notes"]),
        }
    )


def reference_from_json(data: Mapping[str, Any]) -> Reference:
    """The reference that `to_json` gave; errors as `result_from_json`."""
    return Reference(
        **{
            **data,
            "error": float(data["error"]),
            "power": _array(data["power"]),
            "figures": _figures(data["figures"]),
            "course": _course(data["course"]),
            "pictures": base64.b64decode(data["pictures"]),
        }
    )


def comparison_from_json(data: Mapping[str, Any]) -> Comparison:
    """The comparison that `to_json` gave; errors as `result_from_json`."""
    setting = Setting(**{**data["setting"], "notes": tuple(data["setting"]["notes"])})
    results = tuple(result_from_json(each) for each in data["results"])
    rest = {"evaluations": data["evaluations"], "seconds": data["seconds"], "network_share": float(data["network_share"])}
    return Comparison(results, setting, reference_from_json(data["reference"]), **rest)


def _number(value: float) -> float | str:
    """A float; "nan", "inf" or "-inf", which JSON does not have and `float` reads."""
    return float(value) if math.isfinite(value) else str(float(value))


def _array(data: Any) -> Array:
    return np.array(data, np.float64) if len(data) else np.empty(0)


def _figures(data: Mapping[str, Any]) -> dict[str, Figure]:
    return {name: Figure(*map(float, values)) for name, values in data.items()}


def _course(data: Mapping[str, Any] | None) -> Course | None:
    if data is None:
        return None
    arrays = {name: _array(data[name]) for name in ("t", "log_snr", "errors", "plane")}
    return Course(**arrays, denoised=base64.b64decode(data["denoised"]))
