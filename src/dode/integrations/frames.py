"""The frames in which other programs keep states and noise levels.

    "edm"    y = x / alpha = x_0 + s eps,        level s = sigma / alpha        k-diffusion, ComfyUI, EDM, diffusers' `sigmas=`
    "flow"   y = x = (1 - s) x_0 + s eps,        level s = sigma = 1 - alpha    flow matching, everywhere

A noise level is called sigma by all of them.
"""

from __future__ import annotations

import numpy as np

from dode.schedules import Array
from dode.tableau import Coefficients, Tableau

# How far alpha + sigma of a flow may be from 1, by rounding.
_ONE = 1e-9


def frame_of(tableau: Tableau) -> str:
    """The frame of a tableau's model: "flow" where alpha + sigma = 1 at all of its times, else "edm"."""
    return "flow" if (np.abs(tableau.alphas + tableau.sigmas - 1) <= _ONE).all() else "edm"


def levels(tableau: Tableau) -> Array:
    """(K+1,) the noise level of each state in the tableau's frame; 0 of a clean sample.

    Raises:
        ValueError: a state of pure noise, alpha = 0, which the frame "edm" has no finite level for.
    """
    found: Array = tableau.sigmas / scales(tableau)
    return found


def scales(tableau: Tableau) -> Array:
    """(K+1,) what a state of the frame is multiplied by to be dode's own: 1 in the frame "flow", alpha in "edm". Errors as `levels`."""
    if frame_of(tableau) == "flow":
        return np.ones(tableau.rows + 1)
    if (tableau.alphas == 0).any():
        t = tableau.times[tableau.alphas == 0][0]
        raise ValueError(
            f"the state at t = {t:g} is pure noise (alpha = 0), whose sigma / alpha is infinite: no list of sigmas begins there; "
            "distil with a grid that starts lower"
        )
    found: Array = tableau.alphas.copy()
    return found


def in_frame(tableau: Tableau) -> Coefficients:
    """The rows over the frame's states and denoised samples D, which are the same in every frame. Errors as `levels`.

    y_{k+1} = sum_j (a[k,j] c_j / c_{k+1}) y_j + (b[k,j] / c_{k+1}) D_j, with x = c y.
    """
    c = scales(tableau)
    return Coefficients(tableau.a * c[:-1] / c[1:, None], tableau.b / c[1:, None])
