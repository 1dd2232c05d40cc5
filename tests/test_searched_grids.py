"""Grids that are laid by looking at trajectories."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
import torch
from mixture import mixture_denoiser

import dode
from dode.denoisers import Denoiser
from dode.noise import FITTING, standard_noise
from dode.schedules import EDM, VP, Flow
from dode.searched_grids import _trajectory, cheapest_path, gits_times, oss_times, step_costs

SCHEDULES = (VP.linear(), EDM(), Flow(shift=3.0))


def constant(schedule: dode.schedules.NoiseSchedule) -> Denoiser:
    """All data are one point, so every path is straight and a first-order step is exact."""
    return Denoiser(lambda x, t: torch.full_like(x, 0.5), schedule, "sample", shape=(3,))


@pytest.mark.parametrize("weight", [1.0, 1.3])
@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8])
def test_the_cheapest_path_is_that_of_brute_force(steps: int, weight: float) -> None:
    costs = np.random.default_rng(steps).random((9, 9))

    def total(path: tuple[int, ...]) -> float:
        return sum(weight**k * costs[i, j] for k, (i, j) in enumerate(pairwise(path)))

    every = [(0, *inner, 8) for inner in combinations(range(1, 8), steps - 1)]
    assert tuple(cheapest_path(costs, steps, weight)) == min(every, key=total)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
def test_on_straight_paths_no_step_costs_anything(schedule: dode.schedules.NoiseSchedule) -> None:
    run = _trajectory(constant(schedule), 4, 3, 12, None, 0, {})
    costs = step_costs(run.points, run.states, run.denoised)
    assert np.isinf(costs[np.tril_indices(13)]).all()
    assert costs[np.triu_indices(13, 1)].max() < 1e-4


@pytest.mark.parametrize("find", [gits_times, oss_times])
@pytest.mark.parametrize(
    "denoiser", [mixture_denoiser(schedule, "sample") for schedule in SCHEDULES], ids=lambda d: d.schedule.kind
)
def test_a_found_grid_is_a_grid_and_the_same_again(find, denoiser: Denoiser) -> None:
    times = find(denoiser, 4, samples=4, fine=16)
    assert times.shape == (5,) and times[0] == denoiser.schedule.t_max and times[-1] == denoiser.schedule.t_clean
    assert dode.solver("ddim").tableau(denoiser.schedule, 4, times).nfe == 4
    assert np.array_equal(times, find(denoiser, 4, samples=4, fine=16))
    assert np.array_equal(find(denoiser, 16, samples=2, fine=16), find(denoiser, 16, samples=2, fine=16))


def end_error(denoiser: Denoiser, times: np.ndarray, samples: int, fine: int) -> float:
    """Of DDIM on these times, on the noises of a search, as the search measures it."""
    noise = standard_noise(0, samples, denoiser.shape, stream=FITTING, dtype=denoiser.noise_dtype)
    run = _trajectory(denoiser, 1, samples, fine, None, 0, {})
    end = dode.sample(denoiser, dode.solver("ddim").tableau(denoiser.schedule, grid=times), noise)
    return float((end - run.states[-1]).flatten(1).square().mean(1).sqrt().mean())


def test_two_optimal_steps_are_those_of_brute_force() -> None:
    """With one time to choose there is nothing that dynamic programming leaves out."""
    denoiser = mixture_denoiser(VP.linear(), "epsilon")
    run = _trajectory(denoiser, 2, 6, 12, None, 0, {})
    every = [run.times[[0, i, 12]] for i in range(1, 12)]
    best = min(every, key=lambda times: end_error(denoiser, times, 6, 12))
    assert np.array_equal(oss_times(denoiser, 2, samples=6, fine=12), best)


@pytest.mark.parametrize("find", [gits_times, oss_times])
@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.kind)
def test_it_is_better_than_the_grid_that_it_chooses_from(find, schedule: dode.schedules.NoiseSchedule) -> None:
    """For DDIM, which both lay their grids for."""
    denoiser = mixture_denoiser(schedule, "sample")
    even = dode.solver("ddim").tableau(schedule, 6, dode.grids.Mixed()).times
    assert end_error(denoiser, find(denoiser, 6), 16, 64) < end_error(denoiser, even, 16, 64)


def test_whole_times_stay_whole() -> None:
    denoiser = mixture_denoiser(VP.linear(), "epsilon").replace(integer_times=True)
    for find in (gits_times, oss_times):
        times = find(denoiser, 5, samples=2, fine=20)
        assert np.array_equal(times, np.round(times))


def test_bad_input_is_said() -> None:
    denoiser = constant(EDM())
    with pytest.raises(ValueError, match="20 times cannot be chosen from the 10 of a run"):
        gits_times(denoiser, 20, fine=10)
    with pytest.raises(ValueError, match="samples must be at least 1, got 0"):
        oss_times(denoiser, 4, samples=0)
    with pytest.raises(ValueError, match="nfe must be at least 1"):
        gits_times(denoiser, 0)
    with pytest.raises(ValueError, match="shape of a sample"):
        gits_times(Denoiser(lambda x, t: x, EDM(), "sample"), 2)
