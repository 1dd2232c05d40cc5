"""Students that begin in the middle: at the states of a fine run, towards that run's own end."""

from __future__ import annotations

import pytest
import torch
from mixture import double_noise, mixture_denoiser

import dode
from dode.distances import mean_square_distance
from dode.distillation.data import FIT, Noises
from dode.fine import PAIR, FineRun
from dode.schedules import VP, Flow

CASES = {"vp": (VP.linear(), "epsilon", 600.0), "flow": (Flow(shift=3.0), "flow", 700.0)}

# Teacher and student go on from the very same states, so that these need not be nearer to the run's own.
NEAR = 1e-5


def fine_run(denoiser, first, last, noise):
    return dode.sample(denoiser, FineRun(*PAIR[0], 128).tableau(denoiser.schedule, (first, last)), noise)


@pytest.mark.parametrize("name", CASES)
def test_it_begins_at_the_states_of_a_fine_run(name):
    schedule, prediction, start = CASES[name]
    denoiser = mixture_denoiser(schedule, prediction)
    base = dode.solver("deis").tableau(schedule, 4, dode.grids.Uniform(start=start))
    noises = Noises(denoiser, 0, None, {FIT: 8}, {}, base)
    pure = Noises(denoiser, 0, None, {FIT: 8}, {}).of(FIT)[0]
    states = noises.of(FIT)[0] * base.noise_scale
    assert mean_square_distance(states, fine_run(denoiser, schedule.t_max, start, pure)).max() < NEAR


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_it_comes_nearer_to_the_whole_run_than_its_base(name, effort):
    schedule, prediction, start = CASES[name]
    denoiser = mixture_denoiser(schedule, prediction)
    result = dode.distill(denoiser, "deis", 3, effort=effort, start=start, seed=1)
    assert result.tableau.times[0] == start and result.tableau.first == "network"
    noise = double_noise(512, seed=7)
    states = fine_run(denoiser, schedule.t_max, start, noise)
    truth = fine_run(denoiser, schedule.t_max, schedule.t_clean, noise)
    base, distilled = (
        mean_square_distance(dode.sample(denoiser, tableau, states / tableau.noise_scale), truth).mean()
        for tableau in (result.base, result.tableau)
    )
    assert distilled < 0.5 * base


def test_what_cannot_be_a_start_is_refused():
    denoiser = mixture_denoiser(VP.linear())
    for options, message in (
        ({"start": 999.0}, "start must lie between 0 and 999.*got 999"),
        ({"start": 500.0, "times": [500, 200, -1]}, "leave out times and noise"),
        ({"start": 500.0, "noise": torch.randn(40, 4)}, "leave out times and noise"),
        ({"start": 500.0, "grid": [500, 200, -1]}, "needs a grid by its name"),
    ):
        with pytest.raises(ValueError, match=message):
            dode.distill(denoiser, "deis", 2, **options)
