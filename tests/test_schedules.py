"""Noise schedules: their values, their inverses, and what tells one from another."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from dode.schedules import EDM, VE, VP, ContinuousVP, CosineVP, Flow, NoiseSchedule

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

# A few operations in float64.
ROUNDING = 1e-12
# Times through a log-SNR and back, relative to the range of times: the log-SNR is steep at the ends.
INVERSE = 1e-8
# diffusers makes its betas and their product in float32.
FLOAT32 = 2e-6

SCHEDULES: dict[str, NoiseSchedule] = {
    "linear": VP.linear(),
    "linear in alphas_cumprod": VP.linear(interpolation="alphas_cumprod"),
    "linear in sigma": VP.linear(interpolation="sigma"),
    "scaled linear": VP.scaled_linear(),
    "squared cosine": VP.squared_cosine(),
    "zero snr": VP.scaled_linear().rescaled_zero_terminal_snr(),
    "zero snr in alphas_cumprod": VP.scaled_linear(interpolation="alphas_cumprod").rescaled_zero_terminal_snr(),
    "zero snr in sigma": VP.scaled_linear(interpolation="sigma").rescaled_zero_terminal_snr(),
    "continuous": ContinuousVP(),
    "continuous of a constant rate": ContinuousVP(1.0, 1.0, t_max=10.0),
    "cosine": CosineVP(),
    "cosine to pure noise": CosineVP(s=0.0, t_max=1.0),
    "edm": EDM(),
    "ve": VE(),
    "flow": Flow(),
    "shifted flow": Flow(shift=3.0),
    "flow of unit time": Flow(time_scale=1.0),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
VARIANCE_PRESERVING = {name: s for name, s in SCHEDULES.items() if isinstance(s, VP | ContinuousVP | CosineVP)}


def times(schedule: NoiseSchedule, n: int = 301) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.linspace(schedule.t_max, schedule.t_clean, n)


@every_schedule
def test_noise_falls_and_signal_rises_to_the_clean_sample(schedule: NoiseSchedule) -> None:
    t = times(schedule)
    assert schedule.t_clean <= schedule.t_min < schedule.t_max
    assert (np.diff(schedule.sigma(t)) < 0).all()
    assert (np.diff(schedule.alpha(t)) >= 0).all()
    assert schedule.alpha(schedule.t_clean) == 1
    assert schedule.sigma(schedule.t_clean) == 0
    assert schedule.sigma(schedule.t_min) > 0
    assert schedule.log_snr(schedule.t_clean) == math.inf


@every_schedule
def test_rho_and_log_snr_are_what_they_are_called(schedule: NoiseSchedule) -> None:
    t = np.linspace(schedule.t_min, schedule.t_max, 50)[:-1]
    np.testing.assert_allclose(schedule.rho(t), schedule.sigma(t) / schedule.alpha(t), rtol=ROUNDING)
    np.testing.assert_allclose(np.exp(schedule.log_snr(t)), (schedule.alpha(t) / schedule.sigma(t)) ** 2, rtol=ROUNDING)


@pytest.mark.parametrize("schedule", VARIANCE_PRESERVING.values(), ids=list(VARIANCE_PRESERVING))
def test_variance_is_preserved(schedule: NoiseSchedule) -> None:
    t = times(schedule)
    np.testing.assert_allclose(schedule.alpha(t) ** 2 + schedule.sigma(t) ** 2, 1, atol=ROUNDING)
    assert schedule.noise_scale(schedule.t_max) == 1


def test_noise_scale_is_sigma_where_variance_is_not_preserved() -> None:
    assert EDM().noise_scale(80.0) == 80
    assert VE().noise_scale(1.0) == pytest.approx(50)
    assert Flow().noise_scale(500.0) == 0.5


@every_schedule
def test_time_inverts_log_snr(schedule: NoiseSchedule) -> None:
    t = times(schedule)
    np.testing.assert_allclose(schedule.time(schedule.log_snr(t)), t, atol=INVERSE * schedule.t_max)


@every_schedule
def test_time_is_clamped(schedule: NoiseSchedule) -> None:
    np.testing.assert_allclose(schedule.time([-1e4, 1e4]), [schedule.t_max, schedule.t_clean], atol=ROUNDING)
    np.testing.assert_allclose(schedule.time([-math.inf, math.inf]), [schedule.t_max, schedule.t_clean], atol=ROUNDING)


@every_schedule
def test_uniform_share_inverts_uniform_time(schedule: NoiseSchedule) -> None:
    u = np.linspace(0, 1, 101)
    t = schedule.uniform_time(u)
    np.testing.assert_allclose(schedule.uniform_share(t), u, atol=ROUNDING)
    np.testing.assert_allclose(t[[0, -1]], [schedule.t_clean, schedule.t_max], atol=ROUNDING * schedule.t_max)
    assert (np.diff(t) > 0).all()


@every_schedule
def test_any_shape_and_any_number_are_taken(schedule: NoiseSchedule) -> None:
    t = times(schedule, 6).reshape(2, 3)
    for function in (schedule.alpha, schedule.sigma, schedule.rho, schedule.log_snr):
        assert function(t).shape == (2, 3)
        assert function(t).dtype == np.float64
        assert float(function(float(t[0, 1]))) == function(t)[0, 1]
    assert schedule.time(schedule.log_snr(t)).shape == (2, 3)


DISCRETE: dict[str, tuple[Callable[..., VP], dict[str, Any]]] = {
    "linear": (VP.linear, {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}),
    "scaled_linear": (VP.scaled_linear, {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}),
    "squaredcos_cap_v2": (VP.squared_cosine, {"beta_schedule": "squaredcos_cap_v2"}),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_values_are_diffusers(name: str) -> None:
    make, config = DISCRETE[name]
    scheduler = diffusers.DDIMScheduler(**config)
    expected = scheduler.alphas_cumprod.double().numpy()
    t = np.arange(1000)
    np.testing.assert_allclose(make().alpha(t) ** 2, expected, rtol=0, atol=FLOAT32)
    np.testing.assert_allclose(VP(scheduler.betas).alpha(t) ** 2, expected, rtol=0, atol=FLOAT32)
    np.testing.assert_allclose(VP(alphas_cumprod=scheduler.alphas_cumprod).alpha(t) ** 2, expected, rtol=ROUNDING)


@pytest.mark.parametrize("name", DISCRETE)
def test_zero_terminal_snr_is_diffusers(name: str) -> None:
    make, config = DISCRETE[name]
    expected = diffusers.DDIMScheduler(**config, rescale_betas_zero_snr=True).alphas_cumprod.double().numpy()
    rescaled = make().rescaled_zero_terminal_snr()
    np.testing.assert_allclose(rescaled.alpha(np.arange(1000)) ** 2, expected, rtol=0, atol=FLOAT32)
    assert rescaled.alpha(999) == 0
    assert rescaled.sigma(999) == 1
    assert rescaled.log_snr(999) == -math.inf
    assert 0 < rescaled.alpha(998.5) < rescaled.alpha(998)


@pytest.mark.parametrize(
    ("interpolation", "node"),
    [
        ("log-alpha", lambda s, t: np.log(s.alpha(t))),
        ("alphas_cumprod", lambda s, t: s.alpha(t) ** 2),
        ("sigma", lambda s, t: s.rho(t)),
    ],
)
def test_interpolation_is_linear_in_what_it_names(interpolation: str, node: Any) -> None:
    schedule = VP.scaled_linear(interpolation=interpolation)
    for t in (-1, 0, 1, 500, 998):
        low, middle, high = (float(node(schedule, t + share)) for share in (0.0, 0.3, 1.0))
        assert middle == pytest.approx(0.7 * low + 0.3 * high, rel=1e-9)
    integers = np.arange(1000)
    np.testing.assert_allclose(schedule.alpha(integers), VP.scaled_linear().alpha(integers), rtol=ROUNDING)


def test_sigma_interpolation_is_diffusers() -> None:
    """Its sigma-space schedulers take sigma / alpha linearly at a fractional time."""
    scheduler = diffusers.EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    scheduler.set_timesteps(7)
    assert (scheduler.timesteps % 1 != 0).any()
    rho = VP.scaled_linear(interpolation="sigma").rho(scheduler.timesteps.double().numpy())
    np.testing.assert_allclose(rho, scheduler.sigmas[:-1].double().numpy(), rtol=20 * FLOAT32)


def test_continuous_vp_is_its_integral() -> None:
    """By log alpha = - integral of beta / 2."""
    schedule, t = ContinuousVP(), 0.7
    s = np.linspace(0, t, 100_001)
    beta = schedule.beta_min + s * (schedule.beta_max - schedule.beta_min)
    assert math.log(schedule.alpha(t)) == pytest.approx(-0.5 * np.trapezoid(beta, s), rel=1e-9)


def test_continuous_vp_of_a_constant_rate_is_an_exponential() -> None:
    schedule, t = ContinuousVP(1.0, 1.0, t_max=10.0), np.linspace(0, 10, 101)
    np.testing.assert_allclose(schedule.alpha(t), np.exp(-t / 2), rtol=ROUNDING)
    np.testing.assert_allclose(schedule.time(schedule.log_snr(t)), t, rtol=ROUNDING)


def test_ve_is_geometric() -> None:
    np.testing.assert_allclose(VE(0.01, 50.0).sigma([0, 0.5, 1]), [0.01, math.sqrt(0.5), 50], rtol=ROUNDING)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_shift_is_diffusers(shift: float) -> None:
    """FlowMatchEuler shifts the even sigmas that it is given."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    even = np.linspace(1, 1 / 8, 8)
    scheduler.set_timesteps(sigmas=even.tolist())
    found = Flow(shift=shift).uniform_time(even)
    np.testing.assert_allclose(found, scheduler.timesteps.double().numpy(), rtol=FLOAT32)
    np.testing.assert_allclose(Flow(shift=shift).sigma(found), scheduler.sigmas[:-1].double().numpy(), rtol=FLOAT32)


def test_shift_moves_the_grid_and_not_the_schedule() -> None:
    assert Flow(shift=3.0).sigma(500.0) == Flow().sigma(500.0) == 0.5
    assert Flow(shift=3.0).uniform_time(0.5) == 750
    assert Flow(shift=3.0).fingerprint == Flow().fingerprint


@every_schedule
def test_no_scale_is_a_negative_zero(schedule: NoiseSchedule) -> None:
    ends = [schedule.t_clean, schedule.t_max]
    assert not np.signbit(schedule.sigma(ends)).any()
    assert not np.signbit(schedule.alpha(ends)).any()


# Whole times.


def test_whole_times_are_a_fact_about_the_network_and_not_another_schedule() -> None:
    for schedule in (VP.linear(10, 0.01, 0.6), VP.squared_cosine(), Flow(shift=3.0)):
        whole = schedule.with_integer_times()
        assert whole.integer_times
        assert not schedule.integer_times
        assert whole.fingerprint == schedule.fingerprint
        assert (whole.t_max, whole.t_min, whole.t_clean) == (schedule.t_max, schedule.t_min, schedule.t_clean)
        t = times(schedule)
        np.testing.assert_array_equal(whole.alpha(t), schedule.alpha(t))
        np.testing.assert_array_equal(whole.sigma(t), schedule.sigma(t))
        assert whole.with_integer_times() is whole
        assert "whole times" in repr(whole)
    assert VP.linear().with_integer_times().rescaled_zero_terminal_snr().integer_times


def test_whole_times_are_those_with_noise_within_the_schedules() -> None:
    assert VP.linear(10).most_evaluations is None
    assert VP.linear(10).with_integer_times().most_evaluations == 10
    assert Flow().with_integer_times().most_evaluations == 1000
    assert Flow(t_min=0.0).with_integer_times().t_min == 1  # at 0 there is no noise left
    continuous = ContinuousVP(1.0, 1.0, t_max=10.5, t_min=0.5).with_integer_times()
    assert (continuous.t_min, continuous.t_max, continuous.most_evaluations) == (1, 10, 10)


@pytest.mark.parametrize("schedule", [ContinuousVP(), CosineVP(), Flow(time_scale=1.0)])
def test_a_schedule_without_whole_times_says_so(schedule: NoiseSchedule) -> None:
    with pytest.raises(ValueError, match="integer_times needs at least two whole times, and this schedule runs from"):
        schedule.with_integer_times()


# Fingerprints.


def test_fingerprint_is_the_same_for_float32_and_float64() -> None:
    betas = np.linspace(1e-4, 0.02, 1000)
    scheduler = diffusers.DDIMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    same = [
        VP.linear(),
        VP(betas),
        VP(betas.tolist()),
        VP(torch.tensor(betas)),
        VP(betas.astype(np.float32)),
        VP(scheduler.betas),
        VP(alphas_cumprod=scheduler.alphas_cumprod),
    ]
    assert len({schedule.fingerprint for schedule in same}) == 1


@pytest.mark.parametrize("name", DISCRETE)
def test_fingerprint_is_the_same_as_of_diffusers_float32_product(name: str) -> None:
    make, config = DISCRETE[name]
    scheduler = diffusers.DDIMScheduler(**config)
    assert VP(alphas_cumprod=scheduler.alphas_cumprod).fingerprint == VP(scheduler.betas).fingerprint == make().fingerprint


def test_fingerprints_differ_where_schedules_do() -> None:
    others = [
        VP.linear(),
        VP.linear(500),
        VP.linear(beta_end=0.0201),
        VP.scaled_linear(),
        VP.scaled_linear().rescaled_zero_terminal_snr(),
        VP.squared_cosine(),
        ContinuousVP(),
        ContinuousVP(beta_max=19.9),
        ContinuousVP(t_min=1e-4),
        CosineVP(),
        EDM(),
        EDM(sigma_max=81.0),
        VE(),
        Flow(),
        Flow(time_scale=1.0),
    ]
    assert len({schedule.fingerprint for schedule in others}) == len(others)
    assert VP.linear().fingerprint.startswith("vp:")
    assert "vp:" in repr(VP.linear())


# Errors.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VP(), "VP takes either betas or alphas_cumprod, got neither"),
        (lambda: VP([0.1, 0.2], alphas_cumprod=[0.9, 0.8]), "VP takes either betas or alphas_cumprod, got both"),
        (lambda: VP([0.1, 1.5]), r"betas must lie in \[0, 1\], got 0\.1 \.\. 1\.5"),
        (lambda: VP([0.1]), r"betas must be a vector of at least 2 values, got shape \(1,\)"),
        (lambda: VP([[0.1, 0.2]]), r"betas must be a vector of at least 2 values, got shape \(1, 2\)"),
        (lambda: VP([0.1, math.nan]), "betas must be finite"),
        (lambda: VP(alphas_cumprod=[0.5, 0.9]), r"alphas_cumprod must decrease strictly within \[0, 1\)"),
        (lambda: VP(alphas_cumprod=[1.0, 0.9]), r"alphas_cumprod must decrease strictly within \[0, 1\)"),
        (lambda: VP([0.0, 0.1]), "decrease strictly"),
        (lambda: VP.linear(interpolation="log"), "interpolation must be one of log-alpha, alphas_cumprod, sigma, got 'log'"),
        (lambda: ContinuousVP(beta_min=20, beta_max=10), "0 < beta_min <= beta_max is needed, got 20 and 10"),
        (lambda: ContinuousVP(t_min=1.0), "0 <= t_min < t_max, got t_min=1, t_max=1"),
        (lambda: CosineVP(t_max=1.1), "t_max of a cosine schedule is at most 1, got 1.1"),
        (lambda: EDM(sigma_min=0.0), "sigma_min must be above 0"),
        (lambda: EDM(sigma_min=90.0), "0 <= t_min < t_max, got t_min=90, t_max=80"),
        (lambda: VE(sigma_min=60.0), "0 < sigma_min < sigma_max is needed, got 60.0 and 50.0"),
        (lambda: Flow(shift=0.0), "shift must be above 0, got 0.0"),
        (lambda: Flow(time_scale=-1.0), "time_scale must be above 0, got -1.0"),
        (lambda: Flow(t_min=1.0), "0 <= t_min < t_max"),
    ],
)
def test_bad_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
