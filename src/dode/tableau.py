"""Tableau: a solver as a table of numbers.

    D_k     = denoiser(x_k, t_k)                               k = 0 .. K-1
    x_{k+1} = sum_{j<=k} a[k,j] x_j + b[k,j] D_j               the state at time t_{k+1}
    x_0     = noise_scale * noise                              noise standard normal

A tableau may do without the network in its first row: D_0 is then a constant, zero or the network's mean output there for the
condition, made once and shared by all samples (`first`). NFE counts the evaluations that every sample pays.

`D` is the denoised sample. A tableau knows alpha and sigma at its times, so it can be rewritten for what a network really
gives (epsilon, v, flow, score) in float64: see `Tableau.for_prediction`.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from dode.citations import bibtex, of_tableau
from dode.files import write_atomically
from dode.foreign import brief, printable
from dode.grids import Point
from dode.names import unknown_name
from dode.reading import LARGE, checked, failing_as, read_json
from dode.rows import Combination, Row
from dode.schedules import Array, NoiseSchedule

FORMAT = "dode.tableau"
VERSION = 1
# How far the schedule's alpha and sigma may be from the stored ones, of 1 or of a larger sigma: above float32 rounding, far below
# another schedule.
_SAME_SCHEDULE = 1e-4
# A grid of its own scales may have rounded its times to whole ones (diffusers' Karras grid does): they are those of a time less than
# one away. It says nothing where the schedule has fewer whole times than these.
_ROUNDED, _MANY_WHOLE = 1.0, 50
# Beyond the ends of the schedule's times, as a share of all: the digits that a fingerprint keeps of them.
_OUTSIDE = 1e-6
# What float32 holds: states have no less, and a larger coefficient cannot be multiplied with them.
_LARGEST = float(np.finfo(np.float32).max)
# A time is whole up to this share of the largest: a grid's arithmetic gives 5.000000000000001.
_WHOLE = 1e-12
# Coefficients this much smaller than the largest of their row are what rounding left of zero.
_ROUNDING = 1e-14

FIRST = ("network", "mean", "zero")
# Evaluations that a mean first output is made of.
SHARED_EVALUATIONS = 16

PREDICTIONS = ("epsilon", "sample", "v", "flow", "score", "edm")
# What a network gives: by its name, or as u and w of D = u x + w N at a point.
Prediction: TypeAlias = str | Callable[[Point], tuple[float, float]]


class Coefficients(NamedTuple):
    """Coefficients of the states (a) and of the outputs (b): both (K, K), lower triangular, float64."""

    a: Array
    b: Array


@dataclass(frozen=True, eq=False)
class Integrand:
    """What each row integrates: O_k = sum_j a[k,j] x_j + b[k,j] D_j, and the factor c_k before it.

    `kind` says what O_k estimates: "epsilon" or "sample".
    """

    a: Array
    b: Array
    factors: Array
    kind: str


@dataclass(frozen=True, eq=False)
class Tableau:
    """A solver for K network evaluations; frozen.

    Attributes:
        times: (K+1,) the network time of each state; times[K] is that of the result.
        alphas, sigmas: (K+1,) the schedule at these times.
        a, b: (K, K) lower triangular.
        noise_scale: factor from standard normal noise to x_0.
        schedule: fingerprint of the noise schedule it was made for.
        solver: the solver with its options, for people.
        grid: the grid's name.
        first: what D_0 is: "network", as usual; "zero" (the analytical first step of GENIE, arXiv 2210.05475); or "mean", the
            mean of the network's D at the first time for a sample's condition.
        mean: that mean, (*shape), where the network has no condition and it is kept; None where it is made when sampling.
        integrand: what the rows integrate, where known.
        meta: anything JSON can hold; a distilled tableau keeps its statistics here.
        made: the digest in the file that it was read from, where that is not of what the file holds; else "". See `changed`.

    Raises:
        ValueError: on making, if shapes disagree, a number is not finite, a or b is not lower triangular or all zero, times go
            both ways or nowhere, or a scale is negative.
    """

    times: Array
    alphas: Array
    sigmas: Array
    a: Array
    b: Array
    noise_scale: float
    schedule: str
    solver: str = ""
    grid: str = ""
    first: str = "network"
    mean: Array | None = None
    integrand: Integrand | None = None
    meta: Mapping[str, Any] = field(default_factory=dict)
    made: str = ""

    def __post_init__(self) -> None:
        for name in ("times", "alphas", "sigmas", "a", "b"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))
        rows = len(self.a)
        if rows < 1:
            raise ValueError("a tableau needs at least one row")
        _check_square("a", self.a, rows)
        _check_square("b", self.b, rows)
        for name in ("times", "alphas", "sigmas"):
            _check_vector(name, getattr(self, name), rows + 1)
        if (self.alphas < 0).any() or (self.sigmas < 0).any() or (np.maximum(self.alphas, self.sigmas) == 0).any():
            raise ValueError("alphas and sigmas must not be negative, nor both 0 at a time")
        if not (self.a.any() or self.b.any()):
            raise ValueError("the coefficients are all 0: its result would be 0 whatever the noise")
        if self.first not in FIRST:
            raise unknown_name("first output", str(self.first), FIRST)
        if self.mean is not None:
            object.__setattr__(self, "mean", _frozen(self.mean))
            if self.first != "mean" or not np.isfinite(self.mean).all():
                raise ValueError('a stored mean must be finite, and belongs to first="mean"')
        if not (np.isfinite(self.noise_scale) and self.noise_scale > 0):
            raise ValueError(f"noise_scale must be finite and above 0, got {self.noise_scale}")
        steps = np.diff(self.times)
        if not ((steps <= 0).all() or (steps >= 0).all()):
            raise ValueError("times must run one way, down to sample or up to invert")
        if not steps.any():
            raise ValueError(f"times must run from the first state to the result, got {self.times[0]:g} for all")
        if self.integrand is not None:
            part = self.integrand
            part = replace(part, a=_frozen(part.a), b=_frozen(part.b), factors=_frozen(part.factors))
            object.__setattr__(self, "integrand", part)
            _check_square("integrand a", part.a, rows)
            _check_square("integrand b", part.b, rows)
            _check_vector("integrand factors", part.factors, rows)
            if part.kind not in ("epsilon", "sample"):
                raise ValueError(f'integrand kind must be "epsilon" or "sample", got {part.kind!r}')

    @classmethod
    def from_rows(cls, start: Point, rows: Iterable[Row], **fields: Any) -> Tableau:
        """The tableau of a solver's rows; `fields` are the remaining attributes."""
        rows = list(rows)
        if not rows:
            raise ValueError("a tableau needs at least one row")
        points = [start, *(row.point for row in rows)]
        base = _matrices([row.base for row in rows])
        integrand = Integrand(*_matrices([row.integrand for row in rows]), np.array([row.factor for row in rows]), rows[0].kind)
        return cls(
            times=np.array([p.t for p in points]),
            alphas=np.array([p.alpha for p in points]),
            sigmas=np.array([p.sigma for p in points]),
            a=base.a,
            b=base.b,
            integrand=integrand,
            **fields,
        )

    @property
    def rows(self) -> int:
        """The number of rows."""
        return len(self.a)

    @property
    def nfe(self) -> int:
        """The number of network evaluations that every sample pays."""
        return self.rows - (self.first != "network")

    @cached_property
    def points(self) -> tuple[Point, ...]:
        """(K+1) times with alpha and sigma."""
        return tuple(Point(*map(float, p)) for p in zip(self.times, self.alphas, self.sigmas, strict=True))

    @property
    def digest(self) -> str:
        """A hash of the whole, the same in every process."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    @property
    def changed(self) -> bool:
        """Whether the file that it was read from was changed after it was made: its statistics then tell of other numbers."""
        return bool(self.made)

    def warn_if_changed(self) -> None:
        """Say once that what is run is not what was made."""
        if self.changed:
            self.warn_once(
                "this tableau's file was changed after it was made: it is run as it is, and its statistics are those of what it was"
            )

    def warn_once(self, text: str) -> None:
        """A UserWarning about this tableau, which is given the first time alone."""
        said = self.memo.setdefault("said", set())
        if text not in said:
            said.add(text)
            warnings.warn(text, stacklevel=4)

    @cached_property
    def memo(self) -> dict[str, Any]:
        """What is derived from the numbers and need not be made twice; no part of the value."""
        return {}

    def for_prediction(self, prediction: Prediction) -> Coefficients:
        """The same solver over the network's own output N in place of D, in float64.

        D_j = u_j x_j + w_j N_j (see `output_to_sample`), so a[k,j] grows by b[k,j] u_j and b[k,j] is multiplied by w_j. A first
        output that is no evaluation stays D_0.

        Args:
            prediction: a name; or a function from a point to u and w.

        Raises:
            ValueError: an unknown prediction, or epsilon where alpha = 0.
        """
        return self.in_outputs(self.a, self.b, prediction)

    def in_outputs(self, a: Array, b: Array, prediction: Prediction) -> Coefficients:
        """Rows (n, K) over this tableau's (x_j, D_j) as rows over (x_j, N_j); see `for_prediction`."""
        u, w = np.array([self.conversion(j, prediction) for j in range(self.rows)]).T
        states, outputs = a + b * u, b * w
        if self.first == "zero":
            outputs[:, 0] = 0.0
        # A solver in the network's own prediction names old outputs only; what is left of their states is rounding.
        size = np.abs(np.concatenate([states, outputs], axis=1)).max(axis=1, keepdims=True)
        if not (size <= _LARGEST).all():
            named = prediction if isinstance(prediction, str) else "what it does"
            raise ValueError(f"the coefficients are too large for a network that predicts {named}: up to {np.max(size):.1e}")
        return Coefficients(np.where(np.abs(states) > _ROUNDING * size, states, 0.0), outputs)

    def to_numpy(self, prediction: Prediction = "sample") -> dict[str, Array]:
        """All of its numbers as float64 arrays of the caller's own, e.g. for `np.savez(path, **tableau.to_numpy())`.

            x_0 = noise_scale * noise,   x_{k+1} = sum_{j<=k} a[k,j] x_j + b[k,j] N_j

        Args:
            prediction: what the outputs N are, by its name; "sample" for D. See `for_prediction`.

        Returns:
            times, alphas, sigmas: (K+1,); a, b: (K, K); noise_scale: (); where the first output is no evaluation, `first`: D_0, zero,
            shape (), or the stored mean, (*shape).

        Raises:
            ValueError: as `for_prediction`; or the first output is a mean that is made when sampling, which is no number here.
        """
        if self.first == "mean" and self.mean is None:
            raise ValueError(
                "its first output is the network's mean for each condition, made when sampling: distil with firsts=['network']"
            )
        rows = self.for_prediction(prediction)
        found = {name: getattr(self, name).copy() for name in ("times", "alphas", "sigmas")}
        found |= {"a": rows.a.copy(), "b": rows.b.copy(), "noise_scale": np.array(self.noise_scale)}
        if self.first != "network":
            found["first"] = np.array(0.0 if self.mean is None else self.mean)
        return found

    def conversion(self, j: int, prediction: Prediction) -> tuple[float, float]:
        """u and w with D_j = u x_j + w N_j."""
        if j == 0 and self.first != "network":
            return 0.0, 1.0
        return output_to_sample(prediction, self.points[j]) if isinstance(prediction, str) else prediction(self.points[j])

    def cite(self) -> str:
        """BibTeX of the papers of its solver, its grid and its first output, and of the method where it was distilled.

        Each entry stands under a comment that says what it is cited for. A solver that the registry does not know has none.
        """
        return bibtex(of_tableau(self))

    def with_meta(self, **entries: Any) -> Tableau:
        """The tableau with entries added to its meta."""
        return replace(self, meta={**self.meta, **entries})

    def check_schedule(self, schedule: NoiseSchedule, anyway: str = "") -> None:
        """Raise ValueError if this tableau was made for another schedule, has other times, scales or another noise scale than this one,
        or asks at times that the network does not take; `anyway`: what a caller has to run it all the same."""
        if schedule.integer_times:
            asked = self.times[self.first == "zero" : -1]
            between = np.abs(asked - np.rint(asked)) > _WHOLE * np.abs(asked).max(initial=1.0)
            if between.any():
                raise ValueError(
                    f"this tableau asks the network at t = {asked[between][0]:g}, and it takes whole times only: make the tableau with "
                    f"the schedule of the denoiser (denoiser.schedule{f'; {anyway} runs it at the nearest whole times' if anyway else ''})"
                )
        same = self.schedule == schedule.fingerprint
        made_for = f"this tableau was made for the schedule {printable(self.schedule)}, the network has {schedule.fingerprint}"
        instead = "make one for this network" + (f" ({anyway} runs it all the same)" if anyway else "")
        if not same and self._off(schedule, 0.0) is not None:
            raise ValueError(f"{made_for}: {instead}")
        slack = _OUTSIDE * (schedule.t_max - schedule.t_clean)
        if self.times.max() > schedule.t_max + slack or self.times.min() < schedule.t_clean - slack:
            raise ValueError(
                f"this tableau has times from {self.times[0]:g} to {self.times[-1]:g}, and the schedule {schedule.fingerprint} goes from "
                f"{schedule.t_max:g} to {schedule.t_clean:g}: {instead}"
            )
        whole = (self.times == np.rint(self.times)).all() and schedule.t_max - schedule.t_clean >= _MANY_WHOLE
        off = self._off(schedule, _ROUNDED if whole else 0.0)
        if off is not None:
            point = self.points[off]
            raise ValueError(
                f"this tableau has alpha {point.alpha:.6g} and sigma {point.sigma:.6g} at t = {point.t:g}, where the schedule "
                f"{schedule.fingerprint} has {schedule.alpha(point.t):.6g} and {schedule.sigma(point.t):.6g}: {instead}"
            )
        scale = schedule.noise_scale(float(self.times[0])) if self.sigmas[0] else 1.0
        if abs(self.noise_scale - scale) > _SAME_SCHEDULE * scale:
            raise ValueError(f"this tableau scales the noise by {self.noise_scale:g}, and its schedule by {scale:g}: {instead}")

    def _off(self, schedule: NoiseSchedule, rounded: float) -> int | None:
        """The first time whose alpha and sigma are not those of the schedule at any time this near; None if there is none."""
        low, high = (np.clip(self.times + shift, schedule.t_clean, schedule.t_max) for shift in (-rounded, rounded))
        tolerance = _SAME_SCHEDULE * np.maximum(1.0, self.sigmas)
        off = (self.alphas < schedule.alpha(high) - tolerance) | (self.alphas > schedule.alpha(low) + tolerance)
        off |= (self.sigmas < schedule.sigma(low) - tolerance) | (self.sigmas > schedule.sigma(high) + tolerance)
        return int(np.argmax(off)) if off.any() else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Tableau):
            return NotImplemented
        return self is other or self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.a.tobytes(), self.b.tobytes(), self.times.tobytes()))

    @property
    def title(self) -> str:
        """Solver, NFE and grid in a line; with what is shared beside the NFE."""
        mean = f" (D0 = mean, of {SHARED_EVALUATIONS} evaluations once a condition)"
        shared = {"network": "", "zero": " (D0 = 0)", "mean": mean}[self.first]
        return f"{printable(self.solver) or 'tableau'}, NFE {self.nfe}{shared}, grid {printable(self.grid) or '?'}"

    def __str__(self) -> str:
        """Title, then a line a row: time, alpha, sigma, and the row's coefficients."""
        title = f"{self.title}, schedule {printable(self.schedule)}"
        lines = [title, f"{'row':>4} {'t':>9} -> {'t':>9}  x_next ="]
        for k in range(self.rows):
            terms = [
                f"{value:+.5g} {symbol}{j}"
                for symbol, matrix in (("x", self.a), ("D", self.b))
                for j, value in enumerate(matrix[k, : k + 1])
                if value != 0
            ]
            lines.append(f"{k:>4} {self.times[k]:>9.4g} -> {self.times[k + 1]:>9.4g}  {' '.join(terms)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        solver, grid, schedule = map(printable, (self.solver, self.grid, self.schedule))
        return f"Tableau({solver!r}, nfe={self.nfe}, grid={grid!r}, schedule={schedule!r})"

    def _repr_html_(self) -> str:
        """In notebooks: a line an evaluation, its coefficients coloured."""
        from dode.notebooks import tableau_html

        return tableau_html(self)

    def save(self, path: str | Path, *, overwrite: bool = False) -> None:
        """Write JSON; float64 survives exactly. The file has a digest of its content.

        Raises:
            FileExistsError: the file is there and `overwrite` is False.
            FileNotFoundError: the folder is not there.
            ValueError: it is larger than what `load` reads.
        """
        text = json.dumps(self.to_saved(), indent=1) + "\n"
        if len(text) > LARGE:
            raise ValueError(f"{path} would have {len(text) / 2**20:.0f} MB, and a tableau may have {LARGE / 2**20:.0f}")
        write_atomically(Path(path), lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=overwrite)

    @classmethod
    def load(cls, path: str | Path) -> Tableau:
        """Read a tableau.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is not a tableau of a format that this version knows.
        """
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist, or is no file: name a file from `save` or `dode distill`")
        data = read_json(path, LARGE)
        if data.get("format") != FORMAT:
            several = "; TableauSet.load reads files of several" if isinstance(data.get("tableaux"), list) else ""
            raise ValueError(f'{path} is not a tableau: it has no "format": "{FORMAT}"{several}')
        version = data.get("version")
        if version != VERSION or type(version) is not int:
            raise ValueError(f"{path} has format version {brief(version)}, this dode reads version {VERSION}")
        with failing_as(f"{path} is a damaged tableau"):
            return cls.from_json(data)

    def to_json(self) -> dict[str, Any]:
        """The content of what `save` writes."""
        data: dict[str, Any] = {
            "format": FORMAT,
            "version": VERSION,
            "solver": self.solver,
            "grid": self.grid,
            "schedule": self.schedule,
            "noise_scale": self.noise_scale,
            "first": self.first,
            "mean": None if self.mean is None else self.mean.tolist(),
            **{name: getattr(self, name).tolist() for name in ("times", "alphas", "sigmas")},
            "a": _triangle(self.a),
            "b": _triangle(self.b),
            "meta": dict(self.meta),
        }
        if self.integrand is not None:
            part = self.integrand
            data["integrand"] = {
                "kind": part.kind,
                "factors": part.factors.tolist(),
                "a": _triangle(part.a),
                "b": _triangle(part.b),
            }
        return data

    def to_saved(self) -> dict[str, Any]:
        """`to_json` with the digest of what was made, by which `from_json` tells what was changed since."""
        return {**self.to_json(), "digest": self.made or self.digest}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Tableau:
        """The tableau that `to_json` wrote, or that a file holds.

        Raises:
            ValueError: in one line, what it lacks or has wrong.
        """
        from dode.schemas import TableauFile

        found = checked(TableauFile, data)
        part = found.integrand
        tableau = cls(
            times=np.array(found.times),
            alphas=np.array(found.alphas),
            sigmas=np.array(found.sigmas),
            a=_square(found.a),
            b=_square(found.b),
            noise_scale=found.noise_scale,
            schedule=found.schedule,
            solver=found.solver,
            grid=found.grid,
            first=found.first,
            mean=None if found.mean is None else np.array(found.mean, np.float64),
            integrand=None if part is None else Integrand(_square(part.a), _square(part.b), np.array(part.factors), part.kind),
            meta=found.meta,
        )
        if found.digest is None or found.digest == tableau.digest:
            return tableau
        return replace(tableau, made=found.digest)


def output_to_sample(prediction: str, point: Point) -> tuple[float, float]:
    """u and w with D = u x + w N at a point, for a network that predicts N.

    epsilon: (x - sigma N) / alpha; v = alpha eps - sigma x_0; flow = eps - x_0; score = -eps / sigma; sample, edm: N.

    Raises:
        ValueError: an unknown prediction, or one that says nothing about D at this point (epsilon, score and edm at alpha = 0).
    """
    alpha, sigma = point.alpha, point.sigma
    match prediction:
        case "epsilon" | "score" | "edm" if alpha == 0:
            raise ValueError(
                f"a network that predicts {prediction} says nothing about the sample at t = {point.t:g}, where alpha = 0: "
                "start the grid at a lower time"
            )
        case "sample" | "edm":
            return 0.0, 1.0
        case "epsilon":
            return 1 / alpha, -sigma / alpha
        case "score":
            return 1 / alpha, sigma**2 / alpha
        case "v":
            norm = alpha**2 + sigma**2
            return alpha / norm, -sigma / norm
        case "flow":
            return 1 / (alpha + sigma), -sigma / (alpha + sigma)
    raise unknown_name("prediction", prediction, PREDICTIONS)


def _matrices(combinations: list[Combination]) -> Coefficients:
    n = len(combinations)
    a, b = np.zeros((n, n)), np.zeros((n, n))
    for k, combination in enumerate(combinations):
        for matrix, part in ((a, combination.x), (b, combination.D)):
            for j, value in part.items():
                matrix[k, j] = value
    return Coefficients(a, b)


def _frozen(values: Any) -> Array:
    array = np.array(values, np.float64)
    array.setflags(write=False)
    return array


def _check_square(name: str, matrix: Array, n: int) -> None:
    if matrix.shape != (n, n):
        raise ValueError(f"{name} must have shape {(n, n)}, got {matrix.shape}")
    if np.triu(matrix, 1).any():
        raise ValueError(f"{name} must be lower triangular: a row cannot use what comes after it")
    if not (np.abs(matrix) <= _LARGEST).all():
        raise ValueError(f"{name} must be finite, and at most {_LARGEST:.1e} in size")


def _check_vector(name: str, vector: Array, n: int) -> None:
    if vector.shape != (n,):
        raise ValueError(f"{name} must have {n} values, got shape {vector.shape}")
    if not (np.abs(vector) <= _LARGEST).all():
        raise ValueError(f"{name} must be finite, and at most {_LARGEST:.1e} in size")


def _triangle(matrix: Array) -> list[list[float]]:
    return [row[: k + 1].tolist() for k, row in enumerate(matrix)]


def _square(triangle: list[list[float]]) -> Array:
    matrix = np.zeros((len(triangle), len(triangle)))
    for k, row in enumerate(triangle):
        matrix[k, : k + 1] = row
    return matrix
