"""Directions: rows of coefficients along which a solver's rows may be corrected."""

from __future__ import annotations

import numpy as np

from dode.tableau import Coefficients, Tableau


def paper(tableau: Tableau) -> Coefficients:
    """The D-ODE paper's direction of each row, c_k (O_k - O_{k-1}): coefficients over (x_j, D_j), (K, K) each.

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
    return Coefficients(a * factors, b * factors)
