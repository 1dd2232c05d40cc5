"""EDM's deterministic sampler: Euler and Heun in rho = sigma / alpha.

Karras, Aittala, Aila, Laine 2022, arXiv 2206.00364, algorithm 1.

y = x / alpha, dy / d rho = eps = (y - D) / rho. Heun averages the slopes at both ends; the step to sigma = 0 is Euler's.
What a row integrates is the denoised sample, as in the D-ODE paper's D-EDM.
"""

from collections.abc import Iterator

from dode.grids import Point
from dode.rows import Combination, Evaluation, Row, step_factor, transfer
from dode.solvers.base import Family, Path, check_choice


def rows(path: Path, method: str = "heun") -> Iterator[Row]:
    """EDM's own by default.

    method: "heun" (NFE = 2 steps - 1 to the clean sample; of an even budget the last but one step is Euler's too), or "euler".
    """
    check_choice("method of edm", method, ("heun", "euler"))
    # The step to the clean sample cannot be Heun's: there is no slope at sigma = 0.
    most = path.steps - (path.points[-1].sigma == 0)
    heun_steps = min(path.nfe - path.steps, most) if method == "heun" else 0
    k = 0
    for i in range(path.steps):
        start, end = path.points[i : i + 2]
        first = Evaluation(k, start)
        stage = transfer(first, end)
        yield _row(end, stage, k)
        k += 1
        if i < heun_steps:
            second = Evaluation(k, end)
            # From pure noise (alpha = 0) the step in rho is infinite; there the average is taken of D, over 1 / rho.
            kind = "epsilon" if start.alpha else "sample"
            change = step_factor(kind, start, end) / 2 * (second.output(kind) - first.output(kind))
            yield _row(end, stage + change, k)
            k += 1


def _row(end: Point, base: Combination, k: int) -> Row:
    return Row(end, base, Combination(D={k: 1.0}), base.D.get(k, 0.0), "sample")


def _steps(nfe: int, clean: bool, method: str) -> int:
    if method == "euler":
        return nfe
    return nfe // 2 + 1 if clean else (nfe + 1) // 2


def _nfe(steps: int, clean: bool, method: str) -> int:
    return steps if method == "euler" else 2 * steps - clean


FAMILY = Family("edm", rows, "EDM: Euler or Heun in sigma / alpha, Karras grid", ("karras2022edm",), "karras", _steps, _nfe)
