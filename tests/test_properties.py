"""Any schedule, any grid, any solver, any budget: refused in one clear line, or right.

Data are Gaussian with an exact network, so that the end of every run is known. `DODE_FUZZ` sets how many settings are drawn for each
property (`make fuzz`); without it some dozens or hundreds, always the same.
"""

from __future__ import annotations

import math
import os
import re
import tempfile
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gaussian import Gaussian, exact_end, exact_state, gaussian_denoiser, point_at
from hypothesis import HealthCheck, assume, event, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor

import dode
from dode.amplification import amplification
from dode.grids import FAMILIES, GridLike, LogSNR
from dode.schedules import EDM, VE, VP, ContinuousVP, CosineVP, Flow, NoiseSchedule
from dode.solvers import REGISTRY
from dode.tableau import PREDICTIONS, Tableau

EXAMPLES = os.environ.get("DODE_FUZZ")


def searched(examples: int) -> settings:
    return settings(
        max_examples=int(EXAMPLES or examples),
        derandomize=EXAMPLES is None,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )


# Rounding of float64 over tens of steps, relative to the largest term of a sum.
ROUNDING = 1e-9
MU = torch.tensor([0.5, -0.2, 0.0, 1.0], dtype=torch.float64)
SD = torch.tensor([0.01, 0.1, 0.3, 0.8], dtype=torch.float64)
NOISE = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

# What may be refused, and why; anything else is a fault.
REFUSALS = (
    r"integer_times needs at least two whole times",
    r"must decrease strictly, got",  # a list's own times, or a spacing with more steps than it has training times for
    r"needs at least 2 times, got 1",  # a list's, of which whole ones are left
    r"grid with \d+ steps asks the network at \d+ times, and from \S+ down to \S+ there are \d+ whole ones",
    r"must start above the lowest time",
    r"leaves the schedule's times",
    r"grid ends at the schedule's t_min, and sigma = 0 at",
    r"times too close to tell apart",
    r"the network takes whole times only",
    r"there is no whole time for a stage between",
    r"takes \d+ evaluations on \d+ steps, not \d+: leave nfe out",
    r"pndm takes its first step twice",
    r"pndm's Runge-Kutta",
    r"this grid has no room to start an inversion",
    r"a network that predicts \w+ says nothing about the sample at",
    r'the prediction "edm" is asked at sigma / alpha, no whole time',
)


@dataclass(frozen=True)
class Setting:
    schedule: NoiseSchedule
    grid: GridLike
    solver: dode.Solver
    nfe: int | None
    reverse: bool
    prediction: str

    def tableau(self) -> Tableau:
        return self.solver.tableau(self.schedule, self.nfe, self.grid, reverse=self.reverse)


def share(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, width=64)


@st.composite
def discrete(draw: st.DrawFn) -> VP:
    steps = draw(st.one_of(st.integers(2, 20), st.integers(2, 1000)))
    options = {"interpolation": draw(st.sampled_from(["log-alpha", "alphas_cumprod", "sigma"]))}
    match draw(st.sampled_from(["linear", "scaled", "cosine"])):
        case "cosine":
            schedule = VP.squared_cosine(steps, **options)
        case kind:
            make = VP.linear if kind == "linear" else VP.scaled_linear
            start = min(draw(share(0.01, 2.0)) / steps, 0.3)
            schedule = make(steps, start, min(draw(share(2.0, 30.0)) / steps, 0.999), **options)
    return schedule.rescaled_zero_terminal_snr() if draw(st.booleans()) and steps > 2 else schedule


@st.composite
def continuous(draw: st.DrawFn) -> NoiseSchedule:
    t_min = draw(st.sampled_from([1e-5, 1e-3, 1e-2]))
    match draw(st.sampled_from(["vp", "constant", "cosine", "ve", "edm", "flow"])):
        case "vp":
            low = draw(share(0.05, 2.0))
            return ContinuousVP(low, low + draw(share(0.0, 30.0)), t_min=t_min)
        case "constant":
            rate, end = draw(share(0.1, 2.0)), draw(st.sampled_from([3.0, 10.0, 12.5]))
            return ContinuousVP(rate, rate, t_max=end, t_min=t_min)
        case "cosine":
            return CosineVP(draw(st.sampled_from([0.0, 0.008, 0.05])), draw(st.sampled_from([0.9, 0.9946, 1.0])), t_min)
        case "ve":
            return VE(draw(share(1e-3, 0.1)), draw(share(1.0, 500.0)))
        case "edm":
            return EDM(draw(share(1e-3, 0.1)), draw(share(1.0, 500.0)))
    return Flow(draw(share(0.3, 12.0)), draw(st.sampled_from([1.0, 40.0, 1000.0])), draw(st.sampled_from([0.0, 1e-3, 1e-2])))


@st.composite
def families(draw: st.DrawFn, schedule: NoiseSchedule) -> GridLike:
    name = draw(st.sampled_from(sorted(FAMILIES)))
    options: dict[str, Any] = {"final": draw(st.sampled_from(["zero", "zero", "sigma_min"]))}
    match name:
        case "power":
            options["exponent"] = draw(share(0.5, 7.0))
        case "shifted":
            options["shift"] = draw(share(0.2, 10.0))
        case "karras":
            options["rho"] = draw(share(0.5, 12.0))
        case "leading":
            options["steps_offset"] = draw(st.integers(0, 1))
    part = draw(st.sampled_from(["all", "all", "start", "strength"]))
    if part == "strength":
        options["strength"] = draw(share(0.05, 1.0))
    elif part == "start" and name not in ("leading", "trailing", "linspace"):
        options["start"] = float(schedule.uniform_time(draw(share(0.05, 1.0))))
    return FAMILIES[name](**options)


@st.composite
def lists(draw: st.DrawFn, schedule: NoiseSchedule) -> list[float]:
    """Times at random, with or without that of the clean sample."""
    places = st.one_of(share(0.0, 1.0), st.integers(0, 1000).map(lambda place: place / 1000))
    shares = draw(st.lists(places, min_size=2, max_size=12, unique=True))
    times = schedule.t_min + (schedule.t_max - schedule.t_min) * np.sort(shares)[::-1]
    if schedule.integer_times and draw(st.integers(0, 3)):
        times = np.unique(np.rint(times))[::-1]
    return [*map(float, times)] + [schedule.t_clean] * draw(st.booleans())


DPM_SOLVER: dict[str, list[Any]] = {
    "order": [1, 2, 3],
    "method": ["singlestep", "multistep"],
    "solver_type": ["dpmsolver", "midpoint", "heun"],
    "stages": ["grid", "log-snr"],
    "lower_order_final": [True, False],
}
OPTIONS: dict[str, dict[str, list[Any]]] = {
    "ddim": {},
    "pndm": {"warm_up": ["plms", "runge-kutta"], "bounded": [True, False]},
    "ipndm": {"order": [1, 2, 3, 4], "bounded": [True, False]},
    "deis": {
        "order": [0, 1, 2, 3],
        "variable": ["t", "rho", "log-rho"],
        "lower_order_final": [True, False],
        "bounded": [True, False],
    },
    "edm": {"method": ["heun", "euler"]},
    "unipc": {
        "order": [1, 2, 3],
        "variant": ["bh1", "bh2"],
        "corrector": [True, False],
        "prediction": ["sample", "epsilon"],
        "lower_order_final": [True, False],
    },
    "dpm-solver": DPM_SOLVER,
    "dpm-solver++": DPM_SOLVER,
}


@st.composite
def solvers(draw: st.DrawFn) -> dode.Solver:
    name = draw(st.sampled_from(sorted(REGISTRY)))
    chosen = {
        option: draw(st.sampled_from(values)) for option, values in OPTIONS[name].items() if option in REGISTRY[name].options
    }
    return dode.solver(name, **chosen)


@st.composite
def any_setting(draw: st.DrawFn) -> Setting:
    schedule: NoiseSchedule = draw(st.one_of(discrete(), continuous()))
    if draw(st.integers(0, 2)) == 0:
        try:
            schedule = schedule.with_integer_times()
        except ValueError as error:
            check_refusal(error)
    nfe: int | None = draw(st.integers(1, 30))
    grid: GridLike = draw(families(schedule))
    if draw(st.integers(0, 4)) == 0:
        grid = draw(lists(schedule))
        nfe = draw(st.sampled_from([None, len(grid)]))
    return Setting(schedule, grid, draw(solvers()), nfe, draw(st.integers(0, 5)) == 0, draw(st.sampled_from(PREDICTIONS)))


def check_refusal(error: ValueError) -> None:
    text = str(error)
    assert type(error) is ValueError
    assert "\n" not in text
    reason = next((reason for reason in REFUSALS if re.search(reason, text)), None)
    assert reason is not None, text
    event(reason)


def is_first_order(solver: dode.Solver) -> bool:
    options = solver.settings
    if solver.name == "unipc":
        return bool(options["order"] == 1 and not options["corrector"])
    if solver.name == "edm":
        return bool(options["method"] == "euler")
    return solver.name == "ddim" or options.get("order") == (0 if solver.name == "deis" else 1)


@searched(400)
@given(any_setting())
def test_any_setting_is_refused_in_a_line_or_right(setting: Setting) -> None:
    try:
        tableau = setting.tableau()
    except ValueError as error:
        check_refusal(error)
        return
    check_times(setting, tableau)
    check_sum_rules(tableau)
    check_samples(setting, tableau)


def check_times(setting: Setting, tableau: Tableau) -> None:
    schedule, times = setting.schedule, tableau.times
    asked = times[:-1]
    assert schedule.t_min <= asked.min()
    assert asked.max() <= schedule.t_max
    assert schedule.t_clean <= times.min()
    if setting.nfe is not None:
        assert tableau.nfe == setting.nfe
    assert (np.diff(times) >= 0).all() if setting.reverse else (np.diff(times) <= 0).all()
    if setting.solver.name not in ("pndm", "edm"):  # which ask twice at a time
        assert (np.diff(times) != 0).all()
    if schedule.integer_times:
        assert (asked == np.rint(asked)).all()
        assert times[-1] == np.rint(times[-1]) or times[-1] < schedule.t_min
    np.testing.assert_array_equal(tableau.alphas, schedule.alpha(times))
    np.testing.assert_array_equal(tableau.sigmas, schedule.sigma(times))


def check_sum_rules(tableau: Tableau) -> None:
    """A constant D beside a constant epsilon, x = alpha D + sigma eps, is carried on exactly by every row."""
    a, b, alphas, sigmas = tableau.a, tableau.b, tableau.alphas, tableau.sigmas
    size = np.abs(a) @ (alphas[:-1] + sigmas[:-1]) + np.abs(b).sum(1)
    assert (np.abs(a @ sigmas[:-1] - sigmas[1:]) <= ROUNDING * size).all()
    assert (np.abs(a @ alphas[:-1] + b.sum(1) - alphas[1:]) <= ROUNDING * size).all()


def check_samples(setting: Setting, tableau: Tableau) -> None:
    schedule, data = setting.schedule, Gaussian(MU, SD)
    try:
        denoiser = gaussian_denoiser(schedule, setting.prediction, MU, SD)
        if setting.reverse:
            first = data.moved(MU + SD * NOISE, point_at(schedule, schedule.t_clean), tableau.points[0])
            found = dode.invert(denoiser, tableau, first)
            assert torch.isfinite(found).all()
            return
        found = dode.sample(denoiser, tableau, NOISE)
    except ValueError as error:
        check_refusal(error)
        return
    assert torch.isfinite(found).all()
    if is_first_order(setting.solver):
        # In y = x / alpha a step multiplies y - mu by (rho rho' + sd^2) / (rho^2 + sd^2), the flow itself by the root of
        # (rho'^2 + sd^2) / (rho^2 + sd^2): never less.
        end = tableau.points[-1]
        deviation = found - end.alpha * MU
        exact = data.moved(NOISE * tableau.noise_scale, tableau.points[0], end) - end.alpha * MU
        assert (deviation * exact >= -1e-9).all()
        assert (deviation.abs() <= exact.abs() + 1e-6).all()


# Numbers of a run may be off by so many times what its tableau is said to make of their rounding: that is worked out for other data, and
# holds within an order of magnitude.
MARGIN = 100


def lost(tableau: Tableau, prediction: str, dtype: torch.dtype = torch.float64) -> float:
    """The share of a result that rounding may take."""
    return MARGIN * amplification(tableau, prediction) * torch.finfo(dtype).eps / 2


def run(setting: Setting, tableau: Tableau, data: Gaussian, noise: Tensor) -> Tensor | None:
    """Samples, or for a run upwards the noise of images; None where it is refused in a line."""
    try:
        denoiser = gaussian_denoiser(setting.schedule, setting.prediction, data.mu, data.sd, tuple(noise.shape[1:]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return dode.invert(denoiser, tableau, noise) if setting.reverse else dode.sample(denoiser, tableau, noise)
    except ValueError as error:
        check_refusal(error)
        return None


def made(setting: Setting) -> Tableau:
    """Its tableau; where it has none there is nothing to test."""
    try:
        tableau = setting.tableau()
        tableau.for_prediction(setting.prediction)
    except ValueError as error:
        check_refusal(error)
        reject()
    return tableau


@searched(30)
@given(any_setting())
def test_a_tableau_is_read_as_it_was_written_to_the_last_bit(setting: Setting) -> None:
    tableau = made(setting)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tableau.json"
        tableau.save(path)
        read = Tableau.load(path)
    assert read == tableau and read.digest == tableau.digest and str(read) == str(tableau)
    for name in ("times", "alphas", "sigmas", "a", "b"):
        assert getattr(read, name).tobytes() == getattr(tableau, name).tobytes()
    assert read.integrand is not None and tableau.integrand is not None
    for name in ("a", "b", "factors"):
        assert getattr(read.integrand, name).tobytes() == getattr(tableau.integrand, name).tobytes()


@searched(60)
@given(any_setting())
def test_data_of_a_single_point_are_exact_whatever_the_solver(setting: Setting) -> None:
    """D is constant, and so is eps along a path: every row carries both on exactly, up to the noise and down to the sample."""
    tableau = made(setting)
    found = run(setting, tableau, Gaussian(MU, 0.0), NOISE)
    if found is None:
        return
    first, last = tableau.points[0], tableau.points[-1]
    x = NOISE * (first.alpha if setting.reverse else tableau.noise_scale)
    # A start that is a single point itself has no eps that could be told.
    assume(first.sigma > 0)
    exact = last.alpha * MU + (x - first.alpha * MU) * (last.sigma / first.sigma)
    size = x.abs().max() + exact.abs().max()
    if setting.reverse:
        exact = exact / setting.schedule.noise_scale(last.t)
        size = size / setting.schedule.noise_scale(last.t)
    assert (found - exact).abs().max() <= (ROUNDING + lost(tableau, setting.prediction)) * size


@searched(25)
@given(any_setting(), st.sampled_from([(4,), (2, 2), (1, 2, 1, 2)]), st.integers(1, 3))
def test_a_sample_depends_on_no_other_and_on_no_shape(setting: Setting, shape: tuple[int, ...], batch_size: int) -> None:
    tableau, data = made(setting), Gaussian(0.5, 0.3)
    whole = run(setting, tableau, data, NOISE)
    if whole is None:
        return
    size = (ROUNDING + lost(tableau, setting.prediction)) * whole.abs().max()
    alone = torch.cat([run(setting, tableau, data, NOISE[i : i + 1]) for i in range(3)])
    assert (alone - whole).abs().max() <= size
    shaped = run(setting, tableau, data, NOISE.reshape(3, *shape))
    assert shaped.shape == (3, *shape) and (shaped.reshape(3, 4) - whole).abs().max() <= size
    denoiser = gaussian_denoiser(setting.schedule, setting.prediction, batch_size=batch_size)
    parts = (dode.invert if setting.reverse else dode.sample)(denoiser, tableau, NOISE)
    assert (parts - whole).abs().max() <= size


@searched(60)
@given(any_setting())
def test_float32_is_as_near_to_float64_as_the_tableau_allows(setting: Setting) -> None:
    tableau, data = made(setting), Gaussian(MU, SD)
    noise = NOISE.float()
    wide = run(setting, tableau, data, noise.double())
    if wide is None:
        return
    narrow = run(setting, tableau, data, noise)
    size = max(float(wide.square().mean()) ** 0.5, math.hypot(tableau.alphas[-1], tableau.sigmas[-1]))
    off = float((narrow.double() - wide).square().mean()) ** 0.5
    assert off <= lost(tableau, setting.prediction, torch.float32) * size


@searched(10)
@given(st.one_of(discrete(), continuous()), st.sampled_from(PREDICTIONS))
def test_an_inversion_comes_back_by_fine_steps(schedule: NoiseSchedule, prediction: str) -> None:
    """DDIM errs by as much as its steps are long: four times as many bring the image back four times as well, up and down."""
    grid = LogSNR(final="sigma_min")
    image = Gaussian(MU, SD).moved(MU + SD * NOISE, point_at(schedule, schedule.t_clean), point_at(schedule, schedule.t_min))
    try:
        denoiser = gaussian_denoiser(schedule, prediction, MU, SD)
        far = []
        for nfe in (40, 160):
            up, down = (dode.solver("ddim").tableau(schedule, nfe, grid, reverse=reverse) for reverse in (True, False))
            back = dode.sample(denoiser, down, dode.invert(denoiser, up, image / up.alphas[0]))
            far.append(float((back - image).abs().max()))
    except ValueError as error:
        check_refusal(error)
        return
    assert far[1] <= max(far[0] / 2, 1e-3) and far[1] < 0.2


@searched(100)
@given(st.one_of(discrete(), continuous()), solvers(), st.integers(24, 30), st.sampled_from(["zero", "sigma_min"]))
def test_with_short_steps_no_solver_is_behind_ddim(schedule: NoiseSchedule, solver: dode.Solver, nfe: int, final: str) -> None:
    grid = LogSNR(final=final)
    # These extrapolate over the last step to the clean sample, which no refinement makes shorter.
    assume(not (final == "zero" and solver.settings.get("bounded") is False))
    # A polynomial in t suits grids even in t. On this one it fails between few training times, where the schedule has kinks, and
    # from pure noise.
    assume(not (solver.settings.get("variable") == "t" and isinstance(schedule, VP)))
    try:
        tableau = solver.tableau(schedule, nfe, grid)
    except ValueError as error:
        check_refusal(error)
        return
    error, ddim = (end_error(schedule, made) for made in (tableau, dode.solver("ddim").tableau(schedule, nfe, grid)))
    # Heun has half as many steps.
    allowed = 3.0 if solver.settings.get("method") == "heun" else 1.0
    assert ddim < 0.2
    assert error < max(allowed * ddim + ROUNDING, 1e-3)


def end_error(schedule: NoiseSchedule, tableau: Tableau) -> float:
    """Of the worst element: to the exact state at the lowest time, or to D there."""
    denoiser = gaussian_denoiser(schedule, "sample", MU, SD)
    exact = exact_end(schedule, NOISE, mu=MU, sd=SD)
    if tableau.sigmas[-1]:
        exact = exact_state(schedule, NOISE, schedule.t_min, mu=MU, sd=SD)
    return float((dode.sample(denoiser, tableau, NOISE) - exact).abs().max())


@pytest.mark.parametrize("name", sorted(REGISTRY))
def test_every_option_of_a_solver_is_drawn(name: str) -> None:
    assert set(OPTIONS[name]) == set(REGISTRY[name].options)
