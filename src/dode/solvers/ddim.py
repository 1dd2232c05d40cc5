"""DDIM (Song, Meng, Ermon 2021, arXiv 2010.02502, eq. 12 with sigma = 0): first order, exact for a constant epsilon.

x' = alpha' D + sigma' eps. It equals Euler's method in rho = sigma / alpha, DPM-Solver-1 and DEIS-0.
"""

from collections.abc import Iterator

from dode.rows import Evaluation, Row, multistep_row
from dode.solvers.base import Family, Path


def rows(path: Path) -> Iterator[Row]:
    for k in range(path.steps):
        yield multistep_row(Evaluation(k, path.points[k]), path.points[k + 1], "epsilon", {})


FAMILY = Family("ddim", rows, "DDIM: first order in epsilon", ("song2021ddim",))
