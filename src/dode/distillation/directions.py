"""Directions: rows of coefficients along which a solver's rows may be corrected. The fit neither knows nor cares what they mean."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dode.names import unknown_name
from dode.schedules import Array
from dode.tableau import Coefficients, Tableau

# Differences of successive outputs that "multistep" goes back by; more of them gained nothing.
_DIFFERENCES = 3


@dataclass(frozen=True, eq=False)
class Directions:
    """P directions for each of a tableau's R rows.

    Attributes:
        names: (P,) for people.
        a, b: (P, R, R) coefficients over the tableau's x_j and D_j; row k of each may use what is known at row k.

    Raises:
        ValueError: on making, if shapes disagree, a number is not finite (the direction is named), or a row uses what comes after it.
    """

    names: tuple[str, ...]
    a: Array
    b: Array

    def __post_init__(self) -> None:
        for part in (self.a, self.b):
            if part.ndim != 3 or len(part) != len(self.names) or part.shape[1] != part.shape[2] or part.shape != self.a.shape:
                raise ValueError(f"{len(self.names)} directions need shape ({len(self.names)}, rows, rows), got {part.shape}")
        for name, a, b in zip(self.names, self.a, self.b, strict=True):
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise ValueError(f"the direction {name!r} is not finite")
            if np.triu(a, 1).any() or np.triu(b, 1).any():
                raise ValueError(f"the direction {name!r} uses what comes after its row: it must be lower triangular")

    def __len__(self) -> int:
        return len(self.names)


DirectionsLike = str | Directions | Sequence[Coefficients]


def make_directions(spec: DirectionsLike, tableau: Tableau) -> Directions:
    """Directions by name ("paper", "multistep"), the user's own rows, or as they are.

    Raises:
        ValueError: an unknown name, or rows that are no directions of this tableau.
    """
    if isinstance(spec, str):
        if spec not in NAMED:
            raise unknown_name("directions", spec, NAMED)
        return NAMED[spec](tableau)
    if not isinstance(spec, Directions):
        rows = list(spec)
        if not rows:
            raise ValueError("directions are empty: give at least one")
        names = tuple(f"direction {i + 1}" for i in range(len(rows)))
        size = (tableau.rows, tableau.rows)
        for name, row in zip(names, rows, strict=True):
            if len(row) != 2 or any(np.shape(part) != size for part in row):
                raise ValueError(f"{name} must be a pair (a, b) of {size} matrices, got {[np.shape(part) for part in row]}")
        for name, (a, b) in zip(names, rows, strict=True):
            if not (np.any(a) or np.any(b)):
                raise ValueError(f"{name} is zero in every row")
        spec = Directions(names, np.array([r[0] for r in rows], np.float64), np.array([r[1] for r in rows], np.float64))
    if spec.a.shape[1] != tableau.rows:
        raise ValueError(f"the directions have {spec.a.shape[1]} rows, the tableau has {tableau.rows}")
    return spec


def paper(tableau: Tableau) -> Directions:
    """The D-ODE paper's direction of each row, c_k (O_k - O_{k-1}).

    O_{-1} is the initial noise for solvers in epsilon; solvers in the denoised sample have no direction in row 0
    (Kim, Tang, Yu 2024, arXiv 2309.16421, eqs. 9, 10 and section 3.3).

    Raises:
        ValueError: the tableau does not say what its rows integrate.
    """
    part = tableau.integrand
    if part is None:
        raise ValueError("this tableau does not say what its rows integrate, so it has no direction to be corrected in")
    a, b = part.a.copy(), part.b.copy()
    a[1:] -= part.a[:-1]
    b[1:] -= part.b[:-1]
    if part.kind == "epsilon":
        a[0, 0] -= 1 / tableau.noise_scale
    else:
        a[0], b[0] = 0.0, 0.0
    factors = part.factors[:, np.newaxis]
    return Directions(("O_k - O_{k-1}",), (a * factors)[np.newaxis], (b * factors)[np.newaxis])


def multistep(tableau: Tableau) -> Directions:
    """The state itself, the newest output, and the differences of the last outputs: all that a multistep rule can combine.

    Outputs are of the kind that the tableau integrates. A difference that reaches before the first row is zero there.
    """
    rows = tableau.rows
    outputs = _outputs(tableau)
    identity, nothing = np.eye(rows), np.zeros((rows, rows))
    named: dict[str, tuple[Array, Array]] = {"x_k": (identity, nothing), "O_k": outputs}
    for i in range(1, _DIFFERENCES + 1):
        if rows > i:
            named[f"O_{{k-{i - 1}}} - O_{{k-{i}}}" if i > 1 else "O_k - O_{k-1}"] = (
                _shifted(outputs[0], i - 1, i) - _shifted(outputs[0], i, i),
                _shifted(outputs[1], i - 1, i) - _shifted(outputs[1], i, i),
            )
    return Directions(tuple(named), np.array([a for a, _ in named.values()]), np.array([b for _, b in named.values()]))


NAMED: dict[str, Callable[[Tableau], Directions]] = {"paper": paper, "multistep": multistep}


def _outputs(tableau: Tableau) -> tuple[Array, Array]:
    """Row k: the k-th evaluation's epsilon or D, by what the tableau integrates."""
    rows = tableau.rows
    a, b = np.zeros((rows, rows)), np.eye(rows)
    if tableau.integrand is not None and tableau.integrand.kind == "epsilon":
        for k, point in enumerate(tableau.points[:-1]):
            a[k, k], b[k, k] = 1 / point.sigma, -point.alpha / point.sigma
    return a, b


def _shifted(matrix: Array, by: int, first: int) -> Array:
    """Row k is row k - by of the matrix, from row `first` on; zero before."""
    result = np.zeros_like(matrix)
    result[first:] = matrix[first - by : len(matrix) - by]
    return result
