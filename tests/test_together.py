"""Several budgets that one teacher's run teaches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mixture import double_noise, mixture_denoiser

import dode
from dode.distances import mean_square_distance
from dode.distillation import PAPER
from dode.fine import PAIR, FineRun, whole_span
from dode.schedules import VP


@pytest.fixture(scope="module")
def denoiser():
    return mixture_denoiser(VP.linear())


@pytest.fixture(scope="module")
def made(denoiser):
    return dode.distill(denoiser, "deis", nfe=(6, 3, 4), effort="fast", seed=2)


def test_there_is_a_result_for_each_number_fewest_first(made):
    assert made.nfe == (3, 4, 6) and len(made) == 3
    assert [result.tableau.nfe for result in made] == [3, 4, 6]
    assert made[4] is made.results[1]
    with pytest.raises(KeyError, match="no result for 5 evaluations: there are 3, 4, 6"):
        made[5]


def test_the_largest_alone_pays_for_teacher_and_reference(made):
    few, _, most = made
    assert most.evaluations["teacher"] > 0 and "teacher" not in few.evaluations
    assert few.settings["teacher"] == most.settings["teacher"]
    assert few.reference is not None and few.reference == most.reference
    assert few.evaluations["measurement"] < most.evaluations["measurement"]


def test_the_largest_is_what_it_is_alone(denoiser, made):
    alone = dode.distill(denoiser, "deis", nfe=6, effort="fast", seed=2)
    assert torch.equal(torch.tensor(alone.tableau.b), torch.tensor(made[6].tableau.b))
    assert np.array_equal(alone.held_out.distilled, made[6].held_out.distilled)


def test_each_is_nearer_to_the_truth_than_its_base(denoiser, made):
    noise = double_noise(1024, seed=9)
    truth = dode.sample(denoiser, FineRun(*PAIR[0], 256).tableau(denoiser.schedule, whole_span(denoiser.schedule)), noise)
    for result in made:
        base, distilled = (
            mean_square_distance(dode.sample(denoiser, tableau, noise), truth).mean()
            for tableau in (result.base, result.tableau)
        )
        assert distilled < 0.7 * base


def test_a_teacher_on_the_students_own_grid_is_not_shared(denoiser):
    both = dode.distill(denoiser, "ddim", nfe=(2, 3), **PAPER)
    for result in both:
        assert result.evaluations["teacher"] > 0
        alone = dode.distill(denoiser, "ddim", nfe=result.tableau.nfe, **PAPER)
        assert np.array_equal(alone.lambdas, result.lambdas)


def test_numbers_that_make_no_set_are_refused(denoiser):
    for nfe, message in (((), "nfe is empty"), ((4, 4), "a number twice: 4, 4"), ((4, 0), "at least 1, got 0")):
        with pytest.raises(ValueError, match=message):
            dode.distill(denoiser, "deis", nfe=nfe)
    with pytest.raises(TypeError, match="integers, got 4.5"):
        dode.distill(denoiser, "deis", nfe=(4.5,))


def test_what_belongs_to_pipelines_is_refused_for_a_network(denoiser):
    with pytest.raises(TypeError, match="prompts belongs to a pipeline"):
        dode.distill(denoiser, "deis", 4, prompts=["a boat"])
    with pytest.raises(TypeError, match="takes a Denoiser .* or a pipeline of diffusers, got int"):
        dode.distill(3, "deis", 4)
