"""How much a tableau magnifies the rounding of the numbers that it works on.

Every product of a row, a[k,j] x_j and n[k,j] N_j, is rounded by a share u of itself (N_j by the network as well). Along a linear network
what row k errs by reaches the result multiplied by carry[k+1], so that the result errs, over its own size, by u times

    amplification = sqrt(sum_k carry[k+1]^2 sum_j ((a[k,j] |x_j|)^2 + (n[k,j] |N_j|)^2)) / |x_K|

    carry[K] = 1,   carry[j] = sum_k M[k,j] carry[k+1],   M[k,j] = a[k,j] + b[k,j] J_j

with a, n the coefficients over the network's own output, b those over D, and J_j = dD/dx at the j-th time: for Gaussian data of variance
v, alpha v / (alpha^2 v + sigma^2). The sizes |x_j| are those of unit data at their noise level, hypot(alpha, sigma), or those that the run
itself comes to where it is unstable. The largest over several v is taken, from data of a single point to unit variance: an error dies out
in one and lives on in another.

Runs in float32 lose what this says within an order of magnitude (tests/test_amplification.py).
"""

from __future__ import annotations

import math

import numpy as np
import torch

from dode.compiling import at_compilation
from dode.schedules import Array
from dode.tableau import Tableau

# Variances of the data.
_VARIANCES = (0.0, 0.01, 0.1, 1.0)
# Rounding that is magnified more than this is worth a word: in float32 a thousandth of the result.
MOST = 1e4


def amplification(tableau: Tableau, prediction: str) -> float:
    """About how many times the rounding of a run's numbers its result errs by; see above.

    Args:
        tableau: the run.
        prediction: of the network.

    Raises:
        ValueError: as `Tableau.for_prediction`.
    """
    key = f"amplification {prediction}"
    if key not in tableau.memo:
        tableau.memo[key] = max(_for_variance(tableau, prediction, variance) for variance in _VARIANCES)
    found: float = tableau.memo[key]
    return found


def rounding_note(tableau: Tableau, prediction: str, dtype: torch.dtype) -> str | None:
    """What a user should know of a tableau that magnifies rounding too much for states of this precision; None where it does not."""
    if dtype == torch.float64:
        return None
    times = amplification(tableau, prediction)
    if not times > MOST:
        return None
    return (
        f"{tableau.title}: its coefficients magnify rounding about {times:.0e} times for a network that predicts {prediction}, about "
        f"{min(times * torch.finfo(dtype).eps / 2, 1.0):.0e} of the samples in {dtype}: take another solver, more steps or a grid that "
        "starts at less noise"
    )


@at_compilation
def warn_of_rounding(tableau: Tableau, prediction: str, dtype: torch.dtype) -> None:
    """Warn of such a tableau, once for each that is made or read."""
    note = rounding_note(tableau, prediction, dtype)
    if note is not None:
        tableau.warn_once(note)


def _for_variance(tableau: Tableau, prediction: str, variance: float) -> float:
    rows = tableau.rows
    alphas, sigmas = tableau.alphas[:rows], tableau.sigmas[:rows]
    coefficients = tableau.for_prediction(prediction)
    u, w = np.array([tableau.conversion(j, prediction) for j in range(rows)]).T
    slope = alphas * variance / np.maximum(alphas**2 * variance + sigmas**2, np.finfo(np.float64).tiny)
    if tableau.first != "network":
        slope[0] = 0.0
    linear = tableau.a + tableau.b * slope
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        walked = np.abs(_walk(linear, math.sqrt(tableau.alphas[0] ** 2 * variance + tableau.sigmas[0] ** 2)))
        states = np.maximum(np.hypot(tableau.alphas, tableau.sigmas), walked)
        # N = (D - u x) / w, of D and eps that are about 1, or of D = J x; where w = 0 it has no coefficient.
        output = np.maximum(np.hypot(1 - u * alphas, u * sigmas), np.abs(slope - u) * walked[:rows])
        outputs = np.where(w == 0, 0.0, output / np.abs(w))
        rounded = coefficients.a**2 @ states[:rows] ** 2 + coefficients.b**2 @ outputs**2
        found = np.sqrt((_carry(linear)[1:] ** 2 * rounded).sum()) / states[-1]
    return float(found) if np.isfinite(found) else math.inf


def _walk(linear: Array, first: float) -> Array:
    """(R + 1) states of the linear run from a first one."""
    states = np.zeros(len(linear) + 1)
    states[0] = first
    for k, row in enumerate(linear):
        states[k + 1] = row @ states[:-1]
    return states


def _carry(linear: Array) -> Array:
    """(R + 1) what the result changes by with each state."""
    carry = np.zeros(len(linear) + 1)
    carry[-1] = 1.0
    for j in reversed(range(len(linear))):
        carry[j] = linear[:, j] @ carry[1:]
    return carry
