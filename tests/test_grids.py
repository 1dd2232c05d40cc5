"""Grids: strictly decreasing times within what the network may be asked, and the same as others make them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import dode
from dode.grids import (
    FAMILIES,
    Explicit,
    Grid,
    GridFamily,
    Karras,
    Leading,
    Linspace,
    LogSNR,
    Mixed,
    Point,
    Power,
    Quadratic,
    Shifted,
    Trailing,
    Uniform,
    checked_times,
    make_grid,
)
from dode.schedules import EDM, VE, VP, ContinuousVP, CosineVP, Flow, NoiseSchedule

diffusers = pytest.importorskip("diffusers")
pytestmark = [pytest.mark.filterwarnings("error"), pytest.mark.filterwarnings("ignore::DeprecationWarning")]

# A few operations in float64, relative.
ROUNDING = 1e-10

SCHEDULES: dict[str, NoiseSchedule] = {
    "vp": VP.linear(),
    "zero-snr": VP.scaled_linear().rescaled_zero_terminal_snr(),
    "continuous": ContinuousVP(),
    "cosine": CosineVP(),
    "edm": EDM(),
    "ve": VE(),
    "flow": Flow(),
    "shifted-flow": Flow(shift=3.0),
    "flow-of-unit-time": Flow(time_scale=1.0),
}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
VP_LINEAR = VP.linear()
STEPS = (1, 2, 3, 5, 7, 10, 19, 20, 50)


@every_family
@every_schedule
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_times_decrease_strictly_where_the_network_may_be_asked(
    family: type[GridFamily], schedule: NoiseSchedule, final: str
) -> None:
    for steps in STEPS:
        times = family(final=final).times(schedule, steps)
        assert times.shape == (steps + 1,)
        assert (np.diff(times) < 0).all()
        assert times[0] <= schedule.t_max
        assert times[-2] >= schedule.t_min
        assert times[-1] == (schedule.t_clean if final == "zero" else schedule.t_min)
        if family is not Leading:
            assert times[0] == schedule.t_max


@every_family
def test_many_steps_never_ask_below_the_lowest_time(family: type[GridFamily]) -> None:
    """Even steps to the clean sample would: t_min is 1 of 1000 here, and a step 0.5."""
    times = family().times(Flow(), 2000)
    assert times[-2] >= Flow().t_min
    assert (np.diff(times) < 0).all()


@pytest.mark.parametrize("family", [Leading, Linspace])
def test_the_lowest_time_of_a_spacing_is_the_schedules_to_the_last_bit(family: type[GridFamily]) -> None:
    """Else it comes twice, a rounding apart."""
    for shift in np.linspace(0.3, 12, 100):
        schedule = Flow(shift=float(shift), time_scale=40.0, t_min=0.01)
        for final in ("zero", "sigma_min"):
            times = family(final=final).times(schedule, 4)
            assert schedule.t_min in times
            assert np.diff(times).max() < -1e-3


@every_family
def test_start_is_the_first_time(family: type[GridFamily]) -> None:
    if family in (Leading, Trailing, Linspace):
        with pytest.raises(ValueError, match="grid has no other start than the schedule's"):
            family(start=600.0).times(VP_LINEAR, 5)
    else:
        assert family(start=600.0).times(VP_LINEAR, 5)[0] == 600


# A part of the grid.


@every_family
@every_schedule
def test_strength_one_is_the_whole_grid(family: type[GridFamily], schedule: NoiseSchedule) -> None:
    np.testing.assert_array_equal(family(strength=1.0).times(schedule, 7), family().times(schedule, 7))


@pytest.mark.parametrize("family", [Uniform, Quadratic, Power, Shifted])
@every_schedule
def test_strength_is_the_last_steps_of_a_longer_grid(family: type[GridFamily], schedule: NoiseSchedule) -> None:
    if isinstance(schedule, VE) and issubclass(family, Power):
        pytest.skip("the last of ten steps would begin below the lowest time, so these are others")
    for final in ("zero", "sigma_min"):
        found = family(final=final, strength=0.4).times(schedule, 4)
        np.testing.assert_allclose(found, family(final=final).times(schedule, 10)[-5:], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("family", [LogSNR, Karras])
def test_strength_is_a_share_of_the_coordinate(family: type[GridFamily]) -> None:
    full = family().times(VP_LINEAR, 11)
    for steps in (1, 2, 6):
        assert family(strength=0.5).times(VP_LINEAR, steps)[0] == pytest.approx(full[5], rel=ROUNDING)
    # From the middle of 11 evaluations there are 6.
    np.testing.assert_allclose(family(strength=0.5).times(VP_LINEAR, 6), full[5:], rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("steps", "strength"), [(50, 0.3), (50, 0.75), (20, 0.6), (10, 0.5), (30, 0.95), (7, 0.8), (4, 0.3)])
@pytest.mark.parametrize(
    ("grid", "config"),
    [
        (Leading, {"timestep_spacing": "leading"}),
        (Trailing, {"timestep_spacing": "trailing"}),
        (Linspace, {"timestep_spacing": "linspace"}),
    ],
    ids=["leading", "trailing", "linspace"],
)
def test_strength_is_diffusers_image_to_image(
    grid: type[GridFamily], config: dict[str, Any], steps: int, strength: float
) -> None:
    """Its pipelines' `get_timesteps` takes the last int(N strength) of N times."""
    scheduler = stable_diffusion("DDIMScheduler", **config)
    scheduler.set_timesteps(steps)
    nfe = int(steps * strength)
    expected = scheduler.timesteps[steps - nfe :]
    named = grid(strength=nfe / steps).times(VP.scaled_linear(), nfe)
    np.testing.assert_array_equal(named, [*expected.numpy(), -1])
    # By the strength itself where this is the shortest of diffusers' runs that come to as many evaluations.
    if steps == math.ceil(nfe / strength - 1e-9):
        np.testing.assert_array_equal(grid(strength=strength).times(VP.scaled_linear(), nfe), named)


# The same as others make them.


def stable_diffusion(name: str, **config: Any) -> Any:
    return getattr(diffusers, name)(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", **config)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize(
    ("grid", "config"),
    [
        (Leading(), {"timestep_spacing": "leading"}),
        (Leading(steps_offset=1), {"timestep_spacing": "leading", "steps_offset": 1}),
        (Trailing(), {"timestep_spacing": "trailing"}),
        (Linspace(), {"timestep_spacing": "linspace"}),
    ],
    ids=["leading", "leading-offset", "trailing", "linspace"],
)
def test_spacing_is_diffusers(grid: Grid, config: dict[str, Any], steps: int) -> None:
    scheduler = stable_diffusion("DDIMScheduler", **config)
    scheduler.set_timesteps(steps)
    expected = scheduler.timesteps.numpy()
    if steps == 1 and isinstance(grid, Linspace):
        expected = np.array([999])  # numpy's linspace of one point upwards is 0: a step without effect
    np.testing.assert_array_equal(grid.times(VP.scaled_linear(), steps), [*expected, -1])


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("spacing", ["leading", "linspace"])
def test_spacing_to_sigma_min_is_diffusers_multistep(spacing: str, steps: int) -> None:
    """DPM-Solver's, DEIS' and UniPC's: of N + 1 times the lowest is the result's."""
    scheduler = stable_diffusion("DPMSolverMultistepScheduler", timestep_spacing=spacing, final_sigmas_type="sigma_min")
    scheduler.set_timesteps(steps)
    times = FAMILIES[spacing](final="sigma_min").times(VP.scaled_linear(), steps)
    np.testing.assert_array_equal(times, [*scheduler.timesteps.numpy(), 0])


@pytest.mark.parametrize("steps", [2, 5, 18])
def test_karras_is_edm(steps: int) -> None:
    """Karras et al. 2022, eq. 5."""
    i = np.arange(steps)
    sigmas = (80 ** (1 / 7) + i / (steps - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(Karras().times(EDM(), steps), [*sigmas, 0], rtol=ROUNDING)


@pytest.mark.parametrize("steps", [2, 5, 20])
def test_karras_is_diffusers_on_a_discrete_schedule(steps: int) -> None:
    scheduler = stable_diffusion("EulerDiscreteScheduler", use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    schedule = VP(alphas_cumprod=scheduler.alphas_cumprod)
    rho = schedule.rho(Karras().times(schedule, steps))
    np.testing.assert_allclose(rho, scheduler.sigmas.double().numpy(), rtol=1e-5, atol=1e-12)  # it has them in float32


def test_log_snr_is_even_in_log_snr() -> None:
    times = LogSNR(final="sigma_min").times(VP_LINEAR, 8)
    steps = np.diff(VP_LINEAR.log_snr(times))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-6)


def test_uniform_is_even_in_time() -> None:
    np.testing.assert_allclose(Uniform().times(VP_LINEAR, 10), np.linspace(999, -1, 11), rtol=ROUNDING)


def test_uniform_of_a_flow_is_shifted() -> None:
    u = np.linspace(1, 0, 6)
    np.testing.assert_allclose(Uniform().times(Flow(shift=3.0), 5), 1000 * 3 * u / (1 + 2 * u), rtol=ROUNDING)


def test_quadratic_is_even_in_the_root_of_time() -> None:
    times = Quadratic().times(VP_LINEAR, 10)
    np.testing.assert_allclose(np.sqrt(times + 1), np.sqrt(1000) * np.linspace(1, 0, 11), rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_array_equal(times, Power(exponent=2.0).times(VP_LINEAR, 10))
    np.testing.assert_allclose(Power(exponent=1.0).times(VP_LINEAR, 10), Uniform().times(VP_LINEAR, 10), rtol=ROUNDING)


@pytest.mark.parametrize("family", [LogSNR, Karras])
def test_grids_in_sigma_start_from_pure_noise(family: type[GridFamily]) -> None:
    """From alpha = 0 and then from diffusers' stand-in for it, alpha-bar = 2^-24: no coordinate is infinite."""
    times = family().times(Flow(), 20)
    assert times[0] == 1000
    assert Flow().rho(times[1]) < 2**12


# Refinement.


@every_family
@every_schedule
def test_refined_grid_keeps_the_given_times_exactly(family: type[GridFamily], schedule: NoiseSchedule) -> None:
    for final in ("zero", "sigma_min"):
        grid = family(final=final)
        times = grid.times(schedule, 5)
        for parts in ([1] * 5, [10] * 5, [3, 1, 2, 5, 4]):
            fine = grid.refine(schedule, times, parts)
            assert set(times) <= set(fine)
            assert (np.diff(fine) < 0).all()
            assert fine[-2] >= schedule.t_min
            if final == "sigma_min" or times[-2] > schedule.t_min:
                assert len(fine) == sum(parts) + 1


@pytest.mark.parametrize(
    ("grid", "schedule"),
    [(Uniform(), VP_LINEAR), (Quadratic(), VP_LINEAR), (LogSNR(final="sigma_min"), VP_LINEAR), (Uniform(), Flow(shift=3.0))],
    ids=["uniform", "quadratic", "log-snr", "shifted"],
)
def test_refined_grid_belongs_to_the_same_family(grid: Grid, schedule: NoiseSchedule) -> None:
    fine = grid.refine(schedule, grid.times(schedule, 5), [4] * 5)
    np.testing.assert_allclose(fine, grid.times(schedule, 20), rtol=1e-8, atol=1e-8)


def test_refined_step_from_the_lowest_time_is_not_cut() -> None:
    times = Karras().times(EDM(), 5)
    fine = Karras().refine(EDM(), times, [3] * 5)
    assert len(fine) == 3 * 4 + 2
    assert list(fine[-2:]) == [0.002, 0]


# Explicit times, points, names.


def test_explicit_scales_take_the_place_of_the_schedules() -> None:
    grid = Explicit((900.0, 500.0, -1.0), (0.1, 0.5, 1.0), (0.9, 0.6, 0.0))
    points = grid.points(VP_LINEAR, grid.times(VP_LINEAR, 2))
    assert points == (Point(900, 0.1, 0.9), Point(500, 0.5, 0.6), Point(-1, 1, 0))


def test_points_are_the_schedules() -> None:
    points = Uniform().points(VP_LINEAR, [999.0, 500.0, -1.0])
    assert [p.t for p in points] == [999, 500, -1]
    assert [p.alpha for p in points] == list(VP_LINEAR.alpha([999, 500, -1]))
    assert points[1].rho == pytest.approx(float(VP_LINEAR.rho(500)))
    assert points[1].lam == pytest.approx(float(VP_LINEAR.log_snr(500)) / 2)
    assert points[2].lam == math.inf
    assert Point(1000, 0.0, 1.0).lam == -math.inf
    assert Point(1000, 0.0, 1.0).rho == math.inf


@pytest.mark.parametrize("schedule", [EDM(), ContinuousVP(), Flow(t_min=0.1)], ids=str)
def test_the_ends_of_a_schedule_in_float32_are_its_ends(schedule: NoiseSchedule) -> None:
    """Times often come from a float32 tensor, half of whose roundings lie outside."""
    times = [schedule.t_max, (schedule.t_max + schedule.t_min) / 3, schedule.t_min, schedule.t_clean]
    rounded = np.float32(times).astype(float).tolist()
    found = make_grid(rounded, schedule).times(schedule, 3)
    assert found[[0, 2, 3]].tolist() == [times[0], times[2], times[3]]
    assert found[1] == rounded[1]
    with pytest.raises(ValueError, match="leaves the schedule|below its lowest"):
        make_grid([*times[:2], schedule.t_min * (1 - 1e-5), schedule.t_clean], schedule).times(schedule, 3)


def test_a_grid_is_made_from_a_name_times_a_grid_or_nothing() -> None:
    assert make_grid("karras", VP_LINEAR) == Karras()
    assert make_grid([999, 500, -1], VP_LINEAR) == Explicit((999.0, 500.0, -1.0))
    assert make_grid(np.array([999, 500, -1]), VP_LINEAR) == Explicit((999.0, 500.0, -1.0))
    assert make_grid(Quadratic(start=500.0), VP_LINEAR) == Quadratic(start=500.0)
    assert make_grid(None, VP_LINEAR) == Uniform()
    assert make_grid(None, EDM()) == Karras()


# Errors.


@every_family
@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(family: type[GridFamily], steps: int) -> None:
    with pytest.raises(ValueError, match=f"a grid needs at least 1 step, got {steps}"):
        family().times(VP_LINEAR, steps)


@pytest.mark.parametrize(
    ("times", "message"),
    [
        ([999, 999, -1], "must decrease strictly, got 999 then 999: take fewer steps or another grid"),
        ([500, 999, -1], "must decrease strictly, got 500 then 999"),
        ([1000, 500, -1], r"leaves the schedule's times 999 \.\. -1: got 1000 \.\. -1"),
        ([999, 500, -2], r"leaves the schedule's times 999 \.\. -1: got 999 \.\. -2"),
        ([999, -0.5, -1], r"would ask the network at t = -0\.5, below its lowest time 0"),
        ([999], "needs at least 2 times, got 1"),
        ([], "needs at least 2 times, got 0"),
        ([math.inf, 0], "has times that are not finite"),
        ([math.nan, 0], "has times that are not finite"),
        ([999, 500, 500 - 1e-8, -1], "has times too close to tell apart, 500 then 499.99999999"),
        ([999, 0, -1e-7], "has times too close to tell apart, 0 then -1e-07"),
    ],
)
def test_bad_times_are_refused(times: list[float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked_times(np.array(times, np.float64), VP_LINEAR)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: make_grid("karas", VP_LINEAR), "unknown grid 'karas': did you mean 'karras'"),
        (lambda: Uniform(final="none"), 'final must be "zero" or "sigma_min", got \'none\''),
        (lambda: Karras(rho=0.0), "rho of a Karras grid must be above 0, got 0.0"),
        (lambda: Power(exponent=-1.0), "exponent of a power grid must be above 0, got -1.0"),
        (lambda: Uniform(start=0.0).times(VP_LINEAR, 3), "must start above the lowest time 0, got 0"),
        (lambda: LogSNR(start=0.0).times(VP_LINEAR, 3), "log-snr must start above the lowest time 0, got 0"),
        (lambda: LogSNR().times(Flow(t_min=0.0), 3), "log-snr grid ends at the schedule's t_min, and sigma = 0 at 0: make the"),
        (lambda: Karras().times(ContinuousVP(t_min=0.0), 3), "karras grid ends at the schedule's t_min, and sigma = 0 at 0"),
        (lambda: Uniform(start=2000.0).times(VP_LINEAR, 3), "leaves the schedule's times"),
        (lambda: Trailing().times(VP_LINEAR, 1500), "the trailing grid with 1500 steps must decrease strictly"),
        (lambda: Leading().times(VP_LINEAR, 1001), "the leading grid with 1001 steps must decrease strictly"),
        (lambda: Explicit((9.0, 0.0), (1.0, 1.0)), "alphas and sigmas come together, or neither"),
        (lambda: Explicit((9.0, 0.0), (1.0,), (1.0,)), "need one value for each of the 2 times"),
        (lambda: Explicit((9.0, 0.0)).times(VP_LINEAR, 3), "3 steps need 4 times, got 2"),
        (lambda: Explicit((9.0, 0.0), (0.5, math.nan), (0.5, 0.0)), "alphas and sigmas must be finite and not negative"),
        (
            lambda: Explicit((9.0, 5.0, 0.0), (0.5, 0.5, 0.6), (0.5, 0.5, 0.4)),
            "sigma / alpha must fall from each time to the next",
        ),
        (
            lambda: Explicit((9.0, 5.0, 0.0), (0.5, 0.6, 0.5), (0.5, 0.4, 0.5)),
            "sigma / alpha must fall from each time to the next",
        ),
        (lambda: Uniform(strength=0.0), r"strength must lie in \(0, 1\], got 0\.0"),
        (lambda: Trailing(strength=1.5), r"strength must lie in \(0, 1\], got 1\.5"),
        (lambda: Uniform(start=500.0, strength=0.5), "give a start or a strength, not both"),
        (lambda: Uniform(strength=1e-4).times(VP_LINEAR, 3), "uniform must start above the lowest time 0, got -0.9"),
    ],
)
def test_bad_arguments_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@every_schedule
def test_a_mixed_grid_has_its_shares_of_log_snr_and_of_even_points(schedule: NoiseSchedule) -> None:
    steps, share = 400, 0.7
    times = Mixed(share=share).times(schedule, steps)[:-1]
    # The number of points above a time is the weighted mean of what the two grids have there.
    counted = [np.searchsorted(-grid.times(schedule, steps)[:-1], -times) for grid in (LogSNR(), Uniform())]
    expected = share * counted[0] + (1 - share) * counted[1]
    assert np.abs(expected - np.arange(steps)).max() <= 2


def test_scales_too_close_to_tell_apart_are_refused() -> None:
    for alphas, sigmas in (((0.5, 0.5, 1.0), (0.5, 0.5 - 1e-12, 0.0)), ((1.0, 1.0, 1.0), (1e-38, 1e-38 * (1 - 1e-9), 0.0))):
        with pytest.raises(ValueError, match="alphas and sigmas are too close to tell apart at 9 and 5: leave one out"):
            Explicit((9.0, 5.0, 0.0), alphas, sigmas)


@pytest.mark.parametrize("schedule", [VP_LINEAR, Flow(), EDM()])
def test_times_too_close_to_tell_apart_are_refused(schedule: NoiseSchedule) -> None:
    middle, clean = 0.5 * schedule.t_max, schedule.t_clean
    for close in ([middle, middle - 1e-9 * schedule.t_max], [schedule.t_min + 1e-38, schedule.t_min]):
        with pytest.raises(ValueError, match="too close|decrease strictly"):
            dode.solver("deis", variable="rho").tableau(schedule, grid=[schedule.t_max, *close, clean])
