"""PNDM and iPNDM: Adams-Bashforth weights for even steps in t, then DDIM's step with the combined epsilon.

PNDM: Liu, Ren, Lin, Zhao 2022, arXiv 2202.09778, eqs. 9-13. iPNDM, which warms up with lower orders: Zhang, Chen 2023, arXiv
2204.13902.
The step with the averaged epsilon makes both second order in all, whatever the order of the weights.
"""

from collections.abc import Iterator, Sequence

from dode.grids import Point
from dode.rows import Combination, Evaluation, Row, multistep_row, step_factor, transfer
from dode.solvers.base import Family, Path, check_choice

# Weights of the newest output, the one before it ... for orders 1 to 4, on even steps.
ADAMS_BASHFORTH = {
    1: (1.0,),
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}


def ipndm_rows(path: Path, order: int = 4, bounded: bool = True) -> Iterator[Row]:
    """iPNDM: order 1, 2, ... up to `order`.

    bounded: from t_min to the clean sample D is taken, whatever the order; False: as in the paper and in diffusers.
    """
    check_choice("order of ipndm", order, ADAMS_BASHFORTH)
    past: list[Evaluation] = []
    for k in range(path.steps):
        past = [Evaluation(k, path.points[k]), *past][:order]
        yield _adams_bashforth_row(past, path.points[k + 1], path, bounded)


def pndm_rows(path: Path, warm_up: str = "plms", bounded: bool = True) -> Iterator[Row]:
    """PNDM with either of its starts.

    warm_up: "plms" (diffusers' `skip_prk_steps=True`): the first step is taken twice, the second time with the mean of the
    epsilons at its two ends; NFE = steps + 1. "runge-kutta": the first three steps are fourth-order Runge-Kutta, four
    evaluations each; NFE = steps + 9.
    bounded: as for `ipndm`.
    """
    check_choice("warm_up of pndm", warm_up, ("plms", "runge-kutta"))
    return _with_plms(path, bounded) if warm_up == "plms" else _with_runge_kutta(path, bounded)


def _with_plms(path: Path, bounded: bool) -> Iterator[Row]:
    start, end = path.points[:2]
    first = Evaluation(0, start)
    yield multistep_row(first, end, "epsilon", {})
    if path.nfe == path.steps == 1:
        return
    if end.sigma == 0:
        raise ValueError("pndm takes its first step twice, which needs a second step: nfe 1 or at least 3")
    again = Evaluation(1, end)
    mean = (first.eps + again.eps) / 2
    # From pure noise (alpha = 0) the factor of epsilon is infinite; there D is averaged instead.
    kind = "epsilon" if start.alpha else "sample"
    change = step_factor(kind, start, end) / 2 * (again.output(kind) - first.output(kind))
    yield Row(end, transfer(first, end) + change, mean, step_factor("epsilon", start, end), "epsilon")
    past = [first]
    for k in range(1, path.steps):
        past = [Evaluation(k + 1, path.points[k]), *past][:4]
        yield _adams_bashforth_row(past, path.points[k + 1], path, bounded)


def _with_runge_kutta(path: Path, bounded: bool) -> Iterator[Row]:
    if path.steps < 3:
        raise ValueError(f"pndm's Runge-Kutta start takes 3 steps and 12 evaluations, got {path.steps} steps")
    if path.points[0].alpha == 0:
        raise ValueError('pndm\'s Runge-Kutta start cannot begin at alpha = 0: use warm_up="plms"')
    past: list[Evaluation] = []
    for i in range(path.steps):
        k = 4 * i if i < 3 else 9 + i
        start, end = path.points[i : i + 2]
        first = Evaluation(k, start)
        past = [first, *past][:4]
        if i < 3:
            if end.sigma == 0:
                raise ValueError("pndm's Runge-Kutta steps cannot end at the clean sample: take more steps")
            yield from _runge_kutta_rows(first, path.at((start.t + end.t) / 2), end)
        else:
            yield _adams_bashforth_row(past, end, path, bounded)


def _runge_kutta_rows(first: Evaluation, middle: Point, end: Point) -> Iterator[Row]:
    """Four rows: two at the middle, two at the end."""
    second, third, fourth = (Evaluation(first.k + i, p) for i, p in ((1, middle), (2, middle), (3, end)))

    def step(to: Point, integrand: Combination) -> Row:
        factor = step_factor("epsilon", first.point, to)
        return Row(to, transfer(first, to) + factor * (integrand - first.eps), integrand, factor, "epsilon")

    yield step(middle, first.eps)
    yield step(middle, second.eps)
    yield step(end, third.eps)
    yield step(end, (first.eps + 2 * second.eps + 2 * third.eps + fourth.eps) / 6)


def _adams_bashforth_row(past: Sequence[Evaluation], end: Point, path: Path, bounded: bool) -> Row:
    """The row over the past evaluations, newest first."""
    if bounded and path.denoises(past[0].point, end):
        past = past[:1]
    factor = step_factor("epsilon", past[0].point, end)
    weights = ADAMS_BASHFORTH[len(past)]
    return multistep_row(past[0], end, "epsilon", {e: factor * w for e, w in zip(past[1:], weights[1:], strict=True)})


def _pndm_steps(nfe: int, clean: bool, warm_up: str, bounded: bool) -> int:
    if warm_up == "runge-kutta":
        fewest = 13 if clean else 12
        if nfe < fewest:
            raise ValueError(f"pndm's Runge-Kutta start takes 12 evaluations: nfe must be at least {fewest} here, got {nfe}")
        return nfe - 9
    if nfe == 2 and clean:
        raise ValueError("pndm takes its first step twice, which needs a second step: nfe 1 or at least 3, got 2")
    return max(1, nfe - 1)


def _pndm_nfe(steps: int, clean: bool, warm_up: str, bounded: bool) -> int:
    if warm_up == "runge-kutta":
        return steps + 9
    return 1 if steps == 1 and clean else steps + 1


IPNDM = Family(
    "ipndm", ipndm_rows, "iPNDM: Adams-Bashforth in epsilon, orders 1-4, even steps", ("zhang2023deis", "liu2022pndm")
)
PNDM = Family(
    "pndm",
    pndm_rows,
    "PNDM: Adams-Bashforth in epsilon with the paper's warm-up or PLMS",
    ("liu2022pndm",),
    steps=_pndm_steps,
    nfe=_pndm_nfe,
    between=lambda warm_up, **options: warm_up == "runge-kutta",
)
