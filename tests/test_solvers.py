"""The common suite of the solvers: every family of the registry, in every variant of its options, has each property."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from mixture import Mixture, mixture_denoiser
from scipy.integrate import solve_ivp
from torch import Tensor

import dode
from dode.grids import FAMILIES, Explicit, Grid, Point, Uniform
from dode.rows import Combination, Evaluation, Row, transfer
from dode.schedules import EDM, VP, Array, ContinuousVP, Flow, NoiseSchedule
from dode.solvers import REGISTRY, Path
from dode.solvers.phi import z_phi

# Rounding of float64 over tens of steps, relative to the largest value.
ROUNDING = 1e-10
# The smallest difference that counts as one: a solver that is not exact misses by far more on these coarse steps.
INEXACT = 1e-6


def variants(*, lower_order_final: bool) -> list[dode.Solver]:
    """Every family with its options; `lower_order_final` as given where there is one."""
    lower = {"lower_order_final": (lower_order_final,)}
    options: dict[str, list[dict[str, Any]]] = {
        "ddim": [{}],
        "pndm": _product(warm_up=("plms", "runge-kutta")),
        "ipndm": _product(order=(1, 2, 3, 4)),
        "deis": _product(order=(1, 2, 3), variable=("t", "rho", "log-rho"), **lower),
        "edm": _product(method=("heun", "euler")),
        "unipc": _product(
            order=(1, 2, 3), variant=("bh1", "bh2"), prediction=("sample", "epsilon"), corrector=(True, False), **lower
        ),
    }
    for name in ("dpm-solver", "dpm-solver++"):
        types = ("dpmsolver", "midpoint", "heun")
        options[name] = [
            *_product(method=("singlestep",), order=(1,), **lower),
            *_product(method=("singlestep",), order=(2, 3), solver_type=types, stages=("grid", "log-snr"), **lower),
            *_product(method=("multistep",), order=(1, 3), **lower),
            *_product(method=("multistep",), order=(2,), solver_type=("midpoint", "heun"), **lower),
        ]
    assert set(options) == set(REGISTRY), "a family without variants here"
    return [dode.solver(name, **chosen) for name, choices in options.items() for chosen in choices]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Keep the tiny tensors off the thread pool, which waits for other processes."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def _product(**values: tuple[Any, ...]) -> list[dict[str, Any]]:
    return [dict(zip(values, chosen, strict=True)) for chosen in itertools.product(*values.values())]


def label(solver: dode.Solver) -> str:
    values = [name if value is True else str(value) for name, value in solver.options.items() if value is not False]
    return "-".join([solver.name, *values])


every_solver = pytest.mark.parametrize("solver", variants(lower_order_final=True), ids=label)
every_solver_at_full_order = pytest.mark.parametrize("solver", variants(lower_order_final=False), ids=label)

VP_LINEAR = VP.linear()
ZERO_SNR = VP.scaled_linear().rescaled_zero_terminal_snr()
CONTINUOUS = ContinuousVP()
# An interior stretch, uneven: no solver may need even steps to be exact.
UNEVEN = (0.8, 0.72, 0.6, 0.51, 0.42, 0.3, 0.2)


def is_runge_kutta(solver: dode.Solver) -> bool:
    return solver.settings.get("warm_up") == "runge-kutta"


def refuses(solver: dode.Solver, nfe: int, schedule: NoiseSchedule, final: str = "zero") -> bool:
    """PNDM takes its first step twice, or in four evaluations, and needs room for it."""
    if is_runge_kutta(solver):
        return nfe < 13 - (final == "sigma_min") or not schedule.alpha(schedule.t_max)
    return solver.name == "pndm" and nfe == 2 and final == "zero"


def budget(solver: dode.Solver) -> int:
    return 14 if is_runge_kutta(solver) else 7


def noise(batch: int = 3) -> Tensor:
    return torch.randn(batch, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def assert_close(found: Tensor, expected: Tensor, tolerance: float = ROUNDING) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=tolerance * max(1.0, float(expected.abs().max())))


# Exactness.


@every_solver
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("schedule", [VP_LINEAR, ZERO_SNR, Flow(), EDM()], ids=["vp", "zero-snr", "flow", "edm"])
def test_single_point_data_is_solved_exactly(solver: dode.Solver, schedule: NoiseSchedule, final: str) -> None:
    if refuses(solver, budget(solver), schedule, final):
        pytest.skip("starts at alpha = 0")
    point = torch.tensor([0.3, -0.5, 0.8, 0.1], dtype=torch.float64)
    denoiser = dode.Denoiser(lambda x, t: point.expand_as(x), schedule, "sample")
    tableau = solver.tableau(schedule, budget(solver), FAMILIES[schedule.default_grid](final=final))
    x = noise()
    start, end = tableau.points[0], tableau.points[-1]
    eps = (x * tableau.noise_scale - start.alpha * point) / start.sigma
    assert_close(dode.sample(denoiser, tableau, x), end.alpha * point + end.sigma * eps)


@every_solver
@pytest.mark.parametrize("schedule", [VP_LINEAR, EDM()], ids=["vp", "edm"])
def test_constant_epsilon_is_solved_exactly(solver: dode.Solver, schedule: NoiseSchedule) -> None:
    eps = torch.tensor([0.3, -0.5, 0.8, 0.1], dtype=torch.float64)
    denoiser = dode.Denoiser(lambda x, t: eps.expand_as(x), schedule, "epsilon")
    tableau = solver.tableau(schedule, budget(solver))
    x = noise()
    start, end = tableau.points[0], tableau.points[-1]
    D = (x * tableau.noise_scale - start.sigma * eps) / start.alpha
    assert_close(dode.sample(denoiser, tableau, x), end.alpha * D + end.sigma * eps)


def polynomial_claim(solver: dode.Solver) -> tuple[str, str, int, slice] | None:
    """Say what a row integrates exactly: (kind of output, variable, degree, the rows that have their full order)."""
    options = solver.settings
    match solver.name:
        case "deis":
            return "epsilon", options["variable"], options["order"], slice(options["order"], None)
        case "edm" if options["method"] == "heun":
            return "epsilon", "rho", 1, slice(1, None, 2)
        case "unipc" if options["order"] == 3 and not options["corrector"]:
            return options["prediction"], "log-rho", 2, slice(2, None)
        case "dpm-solver" | "dpm-solver++":
            kind = "epsilon" if solver.name == "dpm-solver" else "sample"
            order, heun = options["order"], options["solver_type"] == "heun"
            if options["method"] == "singlestep":
                degree = order - 1 if heun else order - 2
                return (kind, "log-rho", degree, slice(order - 1, None, order)) if degree > 0 else None
            # Third order gives the second difference half its weight: exact for a line only.
            return (kind, "log-rho", 1, slice(order - 1, None)) if order == 3 or (order == 2 and heun) else None
    return None


CLAIMS = [(solver, claim) for solver in variants(lower_order_final=False) if (claim := polynomial_claim(solver))]


@pytest.mark.parametrize(("solver", "claim"), CLAIMS, ids=[label(solver) for solver, _ in CLAIMS])
def test_polynomial_outputs_are_integrated_exactly(solver: dode.Solver, claim: tuple[str, str, int, slice]) -> None:
    kind, variable, degree, rows = claim
    errors = row_errors(solver, kind, monomial(variable, degree))[rows]
    assert len(errors)
    assert np.abs(errors).max() < ROUNDING
    assert np.abs(row_errors(solver, kind, monomial(variable, degree + 1))[rows]).max() > INEXACT


@pytest.mark.parametrize("name", ["dpm-solver", "dpm-solver++"])
def test_third_order_multistep_gives_the_second_difference_half_its_weight(name: str) -> None:
    """As the authors' code and diffusers do: what is missing is s z phi_3(z) h^2 for an output of lambda^2."""
    solver = dode.solver(name, order=3, method="multistep", lower_order_final=False)
    kind = "epsilon" if name == "dpm-solver" else "sample"
    points = solver.tableau(CONTINUOUS, grid=UNEVEN).points
    errors = row_errors(solver, kind, monomial("log-rho", 2))
    for k in range(2, len(errors)):
        h = points[k + 1].lam - points[k].lam
        z, scale = (h, points[k + 1].sigma) if kind == "epsilon" else (-h, points[k + 1].alpha)
        assert errors[k] == pytest.approx(scale * z_phi(2, z) * h**2, rel=1e-8)


def monomial(variable: str, degree: int) -> Callable[[Array], Array]:
    """v^degree as a function of u = log rho."""
    if variable == "t":
        return lambda u: CONTINUOUS.time(-2 * u) ** degree
    return lambda u: (np.exp(u) if variable == "rho" else u) ** degree


def row_errors(solver: dode.Solver, kind: str, output: Callable[[Array], Array]) -> Array:
    """Of every row, for an output that depends on time alone, from exact past states.

    d(x / alpha) = eps d rho, or d(x / sigma) = D d(1 / rho), by Gauss-Legendre in u = log rho.
    """
    tableau = solver.tableau(CONTINUOUS, grid=UNEVEN)
    points = tableau.points
    u = np.array([-p.lam for p in points])
    nodes, weights = np.polynomial.legendre.leggauss(40)
    scales = tableau.alphas if kind == "epsilon" else tableau.sigmas
    sign = 1 if kind == "epsilon" else -1
    scaled = [1.0]
    for a, b in itertools.pairwise(u):
        inner = (a + b) / 2 + (b - a) / 2 * nodes
        scaled.append(scaled[-1] + (b - a) / 2 * (weights * output(inner) * sign * np.exp(sign * inner)).sum())
    x = np.array(scaled) * scales
    O = output(u)  # noqa: E741
    D = (x - tableau.sigmas * O) / tableau.alphas if kind == "epsilon" else O
    return tableau.a @ x[:-1] + tableau.b @ D[:-1] - x[1:]


@every_solver
@pytest.mark.parametrize("grid", ["log-snr", "whole times"])
def test_from_the_lowest_time_the_clean_sample_is_the_denoised_one(solver: dode.Solver, grid: str) -> None:
    if solver.settings.get("corrector") and solver.settings["prediction"] == "epsilon":
        pytest.skip("its last step takes epsilon from the state that the corrector made of the one that was asked at")
    schedule = VP.linear(20, 0.005, 0.35)
    # The even grid of all training times asks at the lowest one too, with a step as long as those before.
    tableau = (
        solver.tableau(schedule, 20, "log-snr") if grid == "log-snr" else solver.tableau(schedule, grid=[*range(19, -2, -1)])
    )
    assert tableau.points[-2].t == schedule.t_min and tableau.points[-1].sigma == 0
    others = [*tableau.a[-1], *tableau.b[-1, :-1]]
    assert np.abs(others).max() < ROUNDING
    assert tableau.b[-1, -1] == pytest.approx(1, abs=ROUNDING)


# Order of convergence.

START, END = 0.8, 0.2
COARSE = 48
# The measured order at this number of steps and twice as many is this close to the claim. Furthest off is DPM-Solver++(3M),
# 0.34 above its 2: its error has little of the second-order term.
ORDER_TOLERANCE = 0.4
# Steps within the first one, and how much longer each is than the one before: less than what lowers the order of DEIS.
STARTING_STEPS, GROWTH = 10, 2.5


def claimed_order(solver: dode.Solver) -> int:
    options = solver.settings
    match solver.name:
        case "ddim":
            return 1
        case "ipndm":
            # One transfer step with an averaged epsilon: second order, whatever the order of the average.
            return min(int(options["order"]), 2)
        case "pndm":
            return 2
        case "deis":
            return int(options["order"]) + 1
        case "edm":
            return 2 if options["method"] == "heun" else 1
        case "unipc":
            return int(options["order"]) + int(options["corrector"])
        case "dpm-solver" | "dpm-solver++":
            # The halved second difference of the multistep form leaves second order.
            order = int(options["order"])
            return min(order, 2) if options["method"] == "multistep" else order
    raise AssertionError(f"no claim for {solver}")


@every_solver_at_full_order
def test_order_of_convergence(solver: dode.Solver) -> None:
    denoiser = mixture_denoiser(CONTINUOUS)
    x = noise(6)
    errors = [
        float((dode.sample(denoiser, solver.tableau(CONTINUOUS, grid=times(solver, n)), x) - exact_end()).abs().mean())
        for n in (COARSE, 2 * COARSE)
    ]
    assert math.log2(errors[0] / errors[1]) == pytest.approx(claimed_order(solver), abs=ORDER_TOLERANCE)


def times(solver: dode.Solver, n: int) -> list[float]:
    """Make n even steps, the first of them cut into steps that grow from so short a one that starting with lower orders costs nothing.

    Not for Adams-Bashforth on even steps, and of no use to single steps.
    """
    even = list(np.linspace(START, END, n + 1))
    if solver.name in ("ddim", "pndm", "ipndm", "edm") or solver.settings.get("method") == "singlestep":
        return even
    step = even[0] - even[1]
    return [even[0], *(even[0] - step * GROWTH**-k for k in range(STARTING_STEPS, 0, -1)), *even[1:]]


@functools.cache
def exact_end() -> Tensor:
    """Solve dy = eps d rho, y = x / alpha, by scipy's Runge-Kutta of order 8 in log rho."""
    mixture, x = Mixture(CONTINUOUS), noise(6)

    def slope(u: float, y: Array) -> Array:
        t = CONTINUOUS.time(-2 * u)
        state = torch.tensor(y * float(CONTINUOUS.alpha(t))).reshape(x.shape)
        eps: Array = mixture(state, torch.tensor([float(t)], dtype=torch.float64)).flatten().numpy()
        return eps * math.exp(u)

    ends = np.log(CONTINUOUS.rho([START, END]))
    first = (x / float(CONTINUOUS.alpha(START))).flatten().numpy()
    result = solve_ivp(slope, ends, first, method="DOP853", rtol=1e-11, atol=1e-12)
    return torch.tensor(result.y[:, -1]).reshape(x.shape) * float(CONTINUOUS.alpha(END))


# The limits: alpha = 0 at the start, sigma = 0 at the end.

NOISE_STARTS = {"zero-snr": (ZERO_SNR, "v"), "flow": (Flow(), "flow"), "shifted-flow": (Flow(shift=3.0), "flow")}
LIMIT_NFES = (1, 3, 4, 5, 6, 7, 8, 13)
# Mean absolute distance to the fine solution, of samples of about 1: Heun's 20 long steps from zero SNR have the most, 0.047;
# first order has 0.031, the median is 0.011. A wrong limit leaves tenths.
CLOSE = 0.06


@every_solver
@pytest.mark.parametrize("case", NOISE_STARTS)
def test_finite_from_pure_noise(solver: dode.Solver, case: str) -> None:
    schedule, prediction = NOISE_STARTS[case]
    denoiser, x = mixture_denoiser(schedule, prediction), noise()
    for nfe in LIMIT_NFES:
        if not refuses(solver, nfe, schedule):
            # A tableau checks that its numbers are finite, sampling that the result is.
            tableau = solver.tableau(schedule, nfe)
            assert tableau.alphas[0] == tableau.sigmas[-1] == 0
            assert float(dode.sample(denoiser, tableau, x).abs().max()) < 10


@every_solver
@pytest.mark.parametrize("case", NOISE_STARTS)
def test_close_to_the_solution_from_pure_noise(solver: dode.Solver, case: str) -> None:
    schedule, prediction = NOISE_STARTS[case]
    if is_runge_kutta(solver):
        pytest.skip("starts below alpha = 0")
    tableau = solver.tableau(schedule, 40)
    found = dode.sample(mixture_denoiser(schedule, prediction), tableau, noise(16))
    assert float((found - fine_end(case)).abs().mean()) < CLOSE


@functools.cache
def fine_end(case: str) -> Tensor:
    schedule, prediction = NOISE_STARTS[case]
    tableau = dode.solver("edm").tableau(schedule, 399, "uniform")
    result: Tensor = dode.sample(mixture_denoiser(schedule, prediction), tableau, noise(16))
    return result


@pytest.mark.parametrize("order", [2, 3])
def test_stages_from_pure_noise_do_not_extrapolate(order: int) -> None:
    """On a Karras grid rho falls by orders of magnitude within the first step."""
    solver = dode.solver("dpm-solver++", order=order, method="singlestep")
    assert np.abs(solver.tableau(Flow(), 6, "karras").b[:order]).max() <= 1


def test_edm_walks_the_karras_grid_unless_it_starts_from_pure_noise() -> None:
    solver = dode.solver("edm")
    assert solver.tableau(VP_LINEAR, 7).grid == "karras"
    assert solver.tableau(Flow(), 7).grid == "uniform"


def test_runge_kutta_refuses_pure_noise() -> None:
    with pytest.raises(ValueError, match="cannot begin at alpha = 0"):
        dode.solver("pndm", warm_up="runge-kutta").tableau(Flow(), 14)


@every_solver
@pytest.mark.parametrize("schedule", [VP_LINEAR, ZERO_SNR, Flow(), EDM()], ids=["vp", "zero-snr", "flow", "edm"])
def test_upward_tableaux_are_finite(solver: dode.Solver, schedule: NoiseSchedule) -> None:
    tableau = solver.tableau(schedule, budget(solver), reverse=True)
    assert tableau.nfe == budget(solver)
    assert (np.diff(tableau.times) >= 0).all()
    assert tableau.sigmas[0] > 0
    assert tableau.times[-1] == schedule.t_max


# The budget.


@every_solver
def test_budget_is_met_exactly(solver: dode.Solver) -> None:
    denoiser = dode.Denoiser(lambda x, t: x * 0.5, VP_LINEAR, "epsilon")
    for nfe in range(1, 14):
        if refuses(solver, nfe, VP_LINEAR):
            with pytest.raises(ValueError, match="pndm"):
                solver.tableau(VP_LINEAR, nfe)
            continue
        before = denoiser.evaluations
        dode.sample(denoiser, solver.tableau(VP_LINEAR, nfe), noise(2))
        assert denoiser.evaluations - before == 2 * nfe


@every_solver
@pytest.mark.parametrize("grid", [family(final="sigma_min") for family in FAMILIES.values()], ids=lambda grid: grid.name)
def test_budget_is_met_on_every_grid(solver: dode.Solver, grid: Grid) -> None:
    for schedule, nfe in ((VP_LINEAR, 6), (VP_LINEAR, 13), (Flow(), 8)):
        if not refuses(solver, nfe, schedule, "sigma_min"):
            tableau = solver.tableau(schedule, nfe, grid)
            assert tableau.nfe == nfe
            assert tableau.times[-1] == schedule.t_min


# What the rows say of themselves.


def rows_of(solver: dode.Solver) -> list[tuple[Row, Point]]:
    path = solver.path(VP_LINEAR, budget(solver))
    tableau = solver.tableau(VP_LINEAR, budget(solver))
    return list(zip(solver.rows(path), tableau.points, strict=False))


def assert_equal(found: Combination, expected: Combination) -> None:
    for j in {*found.x, *expected.x, *found.D, *expected.D}:
        assert found.x.get(j, 0.0) == pytest.approx(expected.x.get(j, 0.0), abs=ROUNDING)
        assert found.D.get(j, 0.0) == pytest.approx(expected.D.get(j, 0.0), abs=ROUNDING)


def is_multistep(solver: dode.Solver) -> bool:
    options = solver.settings
    if solver.name in ("dpm-solver", "dpm-solver++"):
        return bool(options["method"] == "multistep")
    return solver.name in ("ddim", "ipndm", "deis") or (solver.name == "unipc" and not options["corrector"])


@every_solver
def test_row_is_the_first_order_step_with_its_integrand(solver: dode.Solver) -> None:
    """Multistep: base = first-order step + factor (O_k - newest output). All: factor O_k has all of the newest output."""
    corrects = solver.settings.get("corrector")
    for k, (row, point) in enumerate(rows_of(solver)):
        newest = Evaluation(k, point)
        if is_multistep(solver):
            assert_equal(row.base - transfer(newest, row.point), row.factor * (row.integrand - newest.output(row.kind)))
        if not corrects:  # a corrector uses the newest output for the last step too
            assert row.base.D.get(k, 0.0) == pytest.approx(row.factor * row.integrand.D.get(k, 0.0), abs=ROUNDING)


@every_solver
def test_integrand_of_a_constant_output_is_the_constant(solver: dode.Solver) -> None:
    rows = rows_of(solver)
    for row, _ in rows:
        points = [point for _, point in rows]
        if row.kind == "epsilon":  # epsilon is 1 where x = sigma and D = 0
            value = sum(c * points[j].sigma for j, c in row.integrand.x.items())
        else:
            assert not any(row.integrand.x.values())
            value = sum(row.integrand.D.values())
        assert value == pytest.approx(1.0, abs=ROUNDING)


ALL_ROWS = slice(None)
# Without the warm-up and the end, where second order has UniPC's own weight of 1/2.
THIRD_ORDER_ROWS = slice(2, -2)
UNIP3 = {"order": 3, "corrector": False}
DEIS2 = {"order": 2, "variable": "log-rho", "lower_order_final": True}
EQUALS: dict[str, tuple[tuple[str, Any], tuple[str, Any], slice]] = {
    "dpm-solver-1 is ddim": (("dpm-solver", {"order": 1}), ("ddim", {}), ALL_ROWS),
    "dpm-solver++-1 is ddim": (("dpm-solver++", {"order": 1}), ("ddim", {}), ALL_ROWS),
    "deis-0 is ddim": (("deis", {"order": 0}), ("ddim", {}), ALL_ROWS),
    "ipndm-1 is ddim": (("ipndm", {"order": 1}), ("ddim", {}), ALL_ROWS),
    "euler is ddim": (("edm", {"method": "euler"}), ("ddim", {}), ALL_ROWS),
    "unip-1 is ddim": (("unipc", {"order": 1, "corrector": False}), ("ddim", {}), ALL_ROWS),
    "unip-2 with bh2 is dpm-solver++ 2m": (
        ("unipc", {"order": 2, "corrector": False}),
        ("dpm-solver++", {"order": 2}),
        ALL_ROWS,
    ),
    "deis-1 in log rho is dpm-solver 2m with heun": (
        ("deis", {"order": 1, "variable": "log-rho", "lower_order_final": True}),
        ("dpm-solver", {"order": 2, "method": "multistep", "solver_type": "heun"}),
        ALL_ROWS,
    ),
    "deis-2 in log rho is unip-3 in epsilon": (
        ("deis", DEIS2),
        ("unipc", {**UNIP3, "prediction": "epsilon"}),
        THIRD_ORDER_ROWS,
    ),
    "unip-3 with bh1 is unip-3 with bh2": (
        ("unipc", {**UNIP3, "variant": "bh1"}),
        ("unipc", {**UNIP3, "variant": "bh2"}),
        THIRD_ORDER_ROWS,
    ),
}


@pytest.mark.parametrize(("one", "other", "rows"), EQUALS.values(), ids=list(EQUALS))
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_families_agree_where_theory_says(one: tuple[str, Any], other: tuple[str, Any], rows: slice, final: str) -> None:
    grid = FAMILIES["karras"](final=final)
    first, second = (dode.solver(name, **options).tableau(VP_LINEAR, 7, grid) for name, options in (one, other))
    size = np.abs(first.a).max() + np.abs(first.b).max()
    np.testing.assert_allclose(first.a[rows], second.a[rows], rtol=0, atol=ROUNDING * size)
    np.testing.assert_allclose(first.b[rows], second.b[rows], rtol=0, atol=ROUNDING * size)


# Errors.


def test_unknown_solver_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown solver 'dpmsolver\+\+': did you mean 'dpm-solver\+\+'\? known: ddim"):
        dode.solver("dpmsolver++")


def test_unknown_option_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"unknown option of deis 'ordre': did you mean 'order'\? known: order, variable"):
        dode.solver("deis", ordre=2)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deis", {"order": 4}, "order of deis must be one of 0, 1, 2, 3, got 4"),
        ("deis", {"variable": "log_rho"}, "variable of deis must be one of 't', 'rho', 'log-rho', got 'log_rho'"),
        ("ipndm", {"order": 0}, "order of ipndm must be one of 1, 2, 3, 4, got 0"),
        ("pndm", {"warm_up": "rk"}, "warm_up of pndm must be one of 'plms', 'runge-kutta', got 'rk'"),
        ("edm", {"method": "rk4"}, "method of edm must be one of 'heun', 'euler', got 'rk4'"),
        ("dpm-solver", {"order": 4}, "order of DPM-Solver must be one of 1, 2, 3, got 4"),
        ("dpm-solver", {"method": "single"}, "method of DPM-Solver must be one of 'singlestep', 'multistep', got 'single'"),
        ("dpm-solver++", {"solver_type": "taylor"}, "solver_type of DPM-Solver must be one of 'dpmsolver', 'midpoint', 'heun'"),
        ("dpm-solver++", {"stages": "even"}, "stages of DPM-Solver must be one of 'grid', 'log-snr', got 'even'"),
        ("unipc", {"order": 0}, "order of unipc must be one of 1, 2, 3, got 0"),
        ("unipc", {"variant": "bh3"}, "variant of unipc must be one of 'bh1', 'bh2', got 'bh3'"),
        ("unipc", {"prediction": "x0"}, "prediction of unipc must be one of 'sample', 'epsilon', got 'x0'"),
    ],
)
def test_bad_option_lists_what_is_allowed(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        dode.solver(name, **options).tableau(VP_LINEAR, 6)


@every_solver
def test_bad_budgets_are_refused(solver: dode.Solver) -> None:
    with pytest.raises(ValueError, match="nfe must be at least 1, got 0"):
        solver.tableau(VP_LINEAR, 0)
    with pytest.raises(TypeError, match=r"nfe must be an integer, got 4\.0"):
        solver.tableau(VP_LINEAR, 4.0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="nfe is needed"):
        solver.tableau(VP_LINEAR)


@every_solver
@pytest.mark.parametrize("nfe", [1, 100])
def test_budget_that_explicit_times_do_not_take_is_refused(solver: dode.Solver, nfe: int) -> None:
    times = [999.0, 800.0, 600.0, 400.0, 200.0, -1.0]
    with pytest.raises(ValueError, match=f"evaluations on 5 steps, not {nfe}: leave nfe out"):
        solver.tableau(VP_LINEAR, nfe, times)
    assert solver.tableau(VP_LINEAR, grid=times).times[-1] == -1


# Lists of times.


TEN = (999.0, 850.0, 736.0, 645.0, 545.0, 455.0, 343.0, 233.0, 124.0, 24.0)


def test_as_many_times_as_evaluations_are_those_of_the_calls() -> None:
    """As others write a list of times: the clean sample follows."""
    for name in ("ddim", "dpm-solver++", "deis", "unipc"):
        solver = dode.solver(name)
        assert (
            solver.tableau(VP_LINEAR, 10, TEN)
            == solver.tableau(VP_LINEAR, 10, [*TEN, -1])
            == solver.tableau(VP_LINEAR, grid=[*TEN, -1])
        )
        assert solver.tableau(VP_LINEAR, 10, TEN).sigmas[-1] == 0
    one = dode.solver("ddim").tableau(VP_LINEAR, 1, [999.0])
    assert one.times.tolist() == [999, -1]


def test_a_list_of_its_own_scales_is_finished_too() -> None:
    sigmas = (0.99, 0.7, 0.3)
    grid = Explicit((999.0, 500.0, 100.0), tuple(np.sqrt(1 - np.square(sigmas))), sigmas)
    tableau = dode.solver("ddim").tableau(VP_LINEAR, 3, grid)
    assert (tableau.times[-1], tableau.alphas[-1], tableau.sigmas[-1]) == (-1, 1, 0)
    assert tableau.sigmas[:-1].tolist() == list(sigmas)


def test_the_last_of_a_list_is_the_results_where_no_number_of_calls_says_otherwise() -> None:
    solver = dode.solver("dpm-solver++")
    assert solver.tableau(VP_LINEAR, grid=TEN) == solver.tableau(VP_LINEAR, 9, TEN)
    assert solver.tableau(VP_LINEAR, grid=TEN).times[-1] == 24


def test_a_list_that_does_not_fit_its_number_of_calls_says_what_would() -> None:
    solver = dode.solver("dpm-solver++")
    message = (
        r"takes 9 evaluations on 9 steps, not 12: leave nfe out for a result at the last time, t = 24 \(sigma 0\.\d+\); for a"
    )
    with pytest.raises(ValueError, match=message + " clean sample end the times with -1 too"):
        solver.tableau(VP_LINEAR, 12, TEN)
    with pytest.raises(ValueError, match="takes 10 evaluations on 10 steps, not 12: leave nfe out$"):
        solver.tableau(VP_LINEAR, 12, [*TEN, -1])


def test_a_list_down_to_the_lowest_time_is_inverted_from_there() -> None:
    solver = dode.solver("ddim")
    assert solver.tableau(VP_LINEAR, grid=[999, 500, 0, -1], reverse=True).times.tolist() == [0, 500, 999]
    assert solver.tableau(VP_LINEAR, grid=[999, 500, 100, -1], reverse=True).times.tolist() == [0, 100, 500, 999]
    assert solver.tableau(VP_LINEAR, grid=[999, 500, 100], reverse=True).times.tolist() == [100, 500, 999]
    with pytest.raises(ValueError, match="the grid of an inversion has times too close to tell apart, 1e-09 then 0"):
        solver.tableau(VP_LINEAR, grid=[999, 500, 1e-9, -1], reverse=True)


@every_solver
def test_no_scale_of_a_tableau_is_a_negative_zero(solver: dode.Solver) -> None:
    for schedule, last in ((VP_LINEAR, -1.0), (Flow(), -0.0)):
        if not refuses(solver, 14, schedule):
            assert not np.signbit(solver.tableau(schedule, 14).sigmas).any()
            assert not np.signbit(solver.tableau(schedule, grid=[*np.linspace(999, 100, 14), last]).sigmas).any()


@pytest.mark.parametrize(("name", "options"), [("unipc", {}), ("dpm-solver++", {}), ("deis", {"bounded": False})])
def test_a_row_that_has_no_coefficients_is_named(name: str, options: dict[str, Any]) -> None:
    """As two outputs at one time give it, which no grid does."""
    start, middle, end = (Point(t, float(VP_LINEAR.alpha(t)), float(VP_LINEAR.sigma(t))) for t in (999.0, 500.0, 200.0))
    path = Path((start, middle, middle, end, end), 4, VP_LINEAR, Uniform())
    with pytest.raises(
        ValueError, match=rf"^{re.escape(name)}\S* has no coefficients for row [234], from t = \d+ on \(.*\): take"
    ):
        list(dode.solver(name, **options).rows(path))
