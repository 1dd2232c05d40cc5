"""Guidance that changes from time to time, by evaluation, and rescaled."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dode
from dode.distillation import PAPER
from dode.guidance import Interval
from dode.noise import standard_noise
from dode.schedules import VP, Flow
from dode.solvers import REGISTRY

SCHEDULE = VP.linear()
KIND = {"kind": [0, 1, 0]}


class Net:
    """Two networks by kind; counts the rows of each call."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def __call__(self, x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
        self.rows.append(len(x))
        return torch.where(kind[:, None] == 0, torch.tanh(x), 0.5 * torch.sin(2 * x + t[:, None] / 500))


def guided(**options: Any) -> dode.Denoiser:
    return dode.Denoiser(Net(), SCHEDULE, shape=(4,), null_condition={"kind": 2}, **options)


def noise_of(batch: int = 3) -> Tensor:
    return standard_noise(0, batch, (4,), dtype=torch.float64)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_list_and_a_function_of_the_same_scales_are_the_same_as_each_other(name: str) -> None:
    # Single-step methods ask twice at one time, so their lists repeat a scale.
    tableau = dode.solver(name).tableau(SCHEDULE, 6)
    by_time = {t: 1.5 + i for i, t in enumerate(sorted(set(tableau.times[:-1].tolist())))}
    listed = guided(guidance_scale=[by_time[t] for t in tableau.times[:-1].tolist()])
    found = dode.sample(listed, tableau, noise_of(), **KIND)
    assert torch.equal(found, dode.sample(guided(guidance_scale=by_time.__getitem__), tableau, noise_of(), **KIND))
    assert not torch.equal(found, dode.sample(guided(guidance_scale=1.5), tableau, noise_of(), **KIND))


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor], ids=lambda f: f.__name__)
def test_a_constant_list_is_that_number(form: Any) -> None:
    tableau = dode.solver("deis").tableau(SCHEDULE, 5)
    expected = dode.sample(guided(guidance_scale=2.5), tableau, noise_of(), **KIND)
    assert torch.equal(dode.sample(guided(guidance_scale=form([2.5] * 5)), tableau, noise_of(), **KIND), expected)


def test_outside_the_interval_the_condition_alone_is_asked_for() -> None:
    denoiser = guided(guidance_scale=Interval(3.0, 200, 700))
    tableau = dode.solver("ddim").tableau(SCHEDULE, grid=[999.0, 700.0, 400.0, 199.0, -1.0])
    x = noise_of() * tableau.noise_scale
    found = dode.sample(denoiser, tableau, noise_of(), **KIND)
    assert denoiser.net.rows == [3, 6, 6, 3]
    assert denoiser.evaluations == 3 * 4
    for k, scale in enumerate((1.0, 3.0, 3.0, 1.0)):
        D = guided(guidance_scale=scale)(x, float(tableau.times[k]), **KIND)
        x = tableau.a[k, k] * x + tableau.b[k, k] * D
    torch.testing.assert_close(found, x, rtol=1e-10, atol=1e-10)


def test_a_function_is_given_the_networks_time_whatever_the_prediction_and_the_schedule() -> None:
    for schedule, prediction in ((SCHEDULE, "edm"), (Flow(), "flow")):
        seen: list[float] = []
        denoiser = dode.Denoiser(
            Net(), schedule, prediction, null_condition={"kind": 2}, guidance_scale=lambda t, seen=seen: seen.append(t) or 2.0
        )
        tableau = dode.solver("ddim").tableau(schedule, 4)
        dode.sample(denoiser, tableau, noise_of(), **KIND)
        assert seen == tableau.times[:-1].tolist()


def test_a_shared_first_output_needs_no_scale_of_the_list() -> None:
    import dataclasses

    tableau = dataclasses.replace(dode.solver("ddim").tableau(SCHEDULE, 4), first="zero")
    found = dode.sample(guided(guidance_scale=[2.0, 3.0, 4.0]), tableau, noise_of(), **KIND)
    times = tableau.times.tolist()
    expected = dode.sample(
        guided(guidance_scale=dict(zip(times[1:], (2.0, 3.0, 4.0), strict=False)).get), tableau, noise_of(), **KIND
    )
    assert torch.equal(found, expected)


def test_a_distillation_learns_an_interval_and_refuses_a_list() -> None:
    settings: dict[str, Any] = {"samples": 8, "held_out": 4, "teacher_scale": 4, **PAPER}
    inside = dode.distill(guided(guidance_scale=Interval(3.0, 300, 700)), "ddim", 3, **settings, **KIND)
    alone = dode.distill(guided(), "ddim", 3, **settings, **KIND)
    assert not np.array_equal(inside.tableau.b, alone.tableau.b)
    listed = guided(guidance_scale=[1.0, 2.0, 3.0])
    assert listed.guidance_by_step and not guided(guidance_scale=Interval(3.0, 0, 1)).guidance_by_step
    with pytest.raises(ValueError, match="function of t"):
        dode.distill(listed, "ddim", 3, **settings, **KIND)


@pytest.mark.parametrize("phi", [0.3, 1.0])
def test_rescaled_guidance_is_that_of_diffusers(phi: float) -> None:
    theirs = pytest.importorskip("diffusers.guiders.guider_utils")
    net = Net()
    x = standard_noise(1, 3, (4, 5, 6))

    def wide(x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
        return net(x.flatten(1), t, kind).reshape(x.shape)

    denoiser = dode.Denoiser(wide, SCHEDULE, "sample", guidance_scale=4.0, guidance_rescale=phi, null_condition={"kind": 2})
    found = denoiser(x, 400.0, **KIND)
    t = torch.full((3,), 400.0)
    given, null = wide(x, t, torch.tensor(KIND["kind"])), wide(x, t, torch.full((3,), 2))
    expected = theirs.rescale_noise_cfg(null + 4 * (given - null), given, guidance_rescale=phi)
    torch.testing.assert_close(found, expected)
    if phi == 1:
        torch.testing.assert_close(found.std(dim=(1, 2, 3)), given.std(dim=(1, 2, 3)))


def test_a_constant_prediction_is_not_rescaled() -> None:
    net = lambda x, t, level: x * 0 + level[:, None]  # noqa: E731
    denoiser = dode.Denoiser(net, SCHEDULE, "sample", guidance_scale=3.0, guidance_rescale=0.7, null_condition={"level": 1.0})
    assert (denoiser(noise_of(), 400.0, level=[2.0, 2.0, 2.0]) == 4).all()


def test_wrong_guidance_is_refused_in_one_line() -> None:
    tableau = dode.solver("ddim").tableau(SCHEDULE, 4)
    with pytest.raises(
        ValueError, match="has 3 numbers, one an evaluation, for a run of 4 evaluations: give 4, or a function of t"
    ):
        dode.sample(guided(guidance_scale=[1, 2, 3]), tableau, noise_of(), **KIND)
    with pytest.raises(ValueError, match="outside a run: give a function of t"):
        guided(guidance_scale=[1, 2, 3])(noise_of(), 400.0, **KIND)
    with pytest.raises(ValueError, match=r"as a function of t, gave None at t = 400: it must give a number"):
        guided(guidance_scale=lambda t: None)(noise_of(), 400.0, **KIND)
    for wrong, error in (("3", TypeError), (None, TypeError), ([], ValueError), (float("nan"), ValueError)):
        with pytest.raises(error, match="guidance_scale"):
            guided(guidance_scale=wrong)
    for needs in ([1.0, 2.0], lambda t: 1.0, 2.0):
        with pytest.raises(ValueError, match="needs null_condition"):
            dode.Denoiser(Net(), SCHEDULE, guidance_scale=needs)
    dode.Denoiser(Net(), SCHEDULE, guidance_scale=[1, 1.0])
    with pytest.raises(ValueError, match=r"guidance_rescale must lie in \[0, 1\], got 1.5"):
        guided(guidance_rescale=1.5)
    with pytest.raises(ValueError, match="from a lower to a higher time, got 700 .. 200"):
        Interval(3.0, 700, 200)


def test_a_study_refuses_what_is_not_one_number() -> None:
    from dode.report import study

    for scale in ([1.0, 2.0], Interval(3.0, 0, 500)):
        with pytest.raises(ValueError, match="a study varies guidance_scale as one number"):
            study(guided(guidance_scale=scale), "ddim", 2, ["samples"], held_out=4, **KIND)
