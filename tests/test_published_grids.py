"""Grids that others found, under their names."""

from __future__ import annotations

import numpy as np
import pytest
from diffusers.schedulers.scheduling_utils import AysSchedules

import dode
from dode.grids import AYSSD15, AYSSDXL, AYSSVD, PUBLISHED, family
from dode.schedules import EDM, VP, Flow, NoiseSchedule

STABLE, VIDEO = VP.scaled_linear(), EDM(sigma_min=0.002, sigma_max=700.0)
OF = {"ays-sd15": STABLE, "ays-sdxl": STABLE, "ays-svd": VIDEO}
IN_DIFFUSERS = {
    "ays-sd15": "StableDiffusionSigmas",
    "ays-sdxl": "StableDiffusionXLSigmas",
    "ays-svd": "StableDiffusionVideoSigmas",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_ten_steps_are_the_published_ones(name: str) -> None:
    schedule = OF[name]
    sigmas = schedule.rho(family(name).times(schedule, 10))
    # They are given to three decimals, and the first time is the schedule's own.
    np.testing.assert_allclose(sigmas, AysSchedules[IN_DIFFUSERS[name]], atol=6e-4)


@pytest.mark.parametrize(("grid", "key"), [(AYSSD15(), "StableDiffusionTimesteps"), (AYSSDXL(), "StableDiffusionXLTimesteps")])
def test_whole_times_are_the_published_ones(grid: AYSSD15 | AYSSDXL, key: str) -> None:
    times = grid.times(STABLE.with_integer_times(), 10)
    assert times[-1] == -1
    # One of them is 124 there and 124.56 by its sigma.
    assert np.abs(times[:-1] - AysSchedules[key]).max() <= 1


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("steps", [1, 2, 5, 20, 40])
def test_other_numbers_of_steps_are_log_linear_between(name: str, steps: int) -> None:
    grid, schedule = PUBLISHED[name](), OF[name]
    times = grid.times(schedule, steps)
    assert times[0] == schedule.t_max and times[-1] == schedule.t_clean and (np.diff(times) < 0).all()
    # The share of the published steps that is done, by the logarithm of sigma, is that of these steps.
    published = np.log(grid.SIGMAS)[::-1]
    done = np.interp(np.log(schedule.rho(times[1:-1])), published, np.linspace(1, 0, 11))
    np.testing.assert_allclose(done, np.arange(1, steps) / steps, atol=1e-9)


def test_without_the_clean_sample_it_ends_at_the_lowest_published_sigma() -> None:
    grid = AYSSDXL(final="sigma_min")
    assert STABLE.rho(grid.times(STABLE, 10)[-1]) == pytest.approx(0.029, abs=5e-4)


def test_a_strength_walks_the_end_of_a_longer_grid() -> None:
    whole = AYSSD15().times(STABLE, 10)
    assert np.array_equal(AYSSD15(strength=0.5).times(STABLE, 5), whole[-6:])


@pytest.mark.parametrize(
    ("grid", "schedule"),
    [(AYSSD15(), VP.linear()), (AYSSDXL(), Flow()), (AYSSVD(), EDM()), (AYSSVD(), STABLE), (AYSSD15(), VIDEO)],
    ids=str,
)
def test_on_another_schedule_it_is_refused(grid: AYSSD15, schedule: NoiseSchedule) -> None:
    with pytest.raises(
        ValueError, match=rf"{grid.name} grid is for .* begins at {grid.SIGMAS[0]:g}, and this schedule begins at"
    ):
        grid.times(schedule, 5)


@pytest.mark.parametrize("name", PUBLISHED)
def test_solvers_run_on_it(name: str) -> None:
    for solver in ("ddim", "dpm-solver++", "unipc", "deis"):
        tableau = dode.solver(solver).tableau(OF[name], 6, name)
        assert (tableau.nfe, tableau.grid) == (6, name)


def test_a_teacher_cuts_its_steps_evenly_in_log_snr() -> None:
    grid = AYSSD15()
    times = grid.times(STABLE, 5)
    fine = grid.refine(STABLE, times, [4] * 4 + [1])
    assert set(times) <= set(fine)
    np.testing.assert_allclose(np.diff(STABLE.log_snr(fine[:5]), 2), 0, atol=1e-8)


def test_an_unknown_name_is_told_the_nearest() -> None:
    with pytest.raises(ValueError, match="ays-sdxl"):
        family("ays-sdx")
