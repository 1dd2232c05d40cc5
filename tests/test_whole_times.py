"""Networks of whole times: asked at no others, with the coefficients of the times that are asked."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from gaussian import exact_state, gaussian_denoiser
from torch import Tensor, nn

import dode
from dode.grids import FAMILIES, Explicit, LogSNR, Uniform, nearest_whole, whole_times
from dode.schedules import VP, Array, Flow, NoiseSchedule
from dode.teacher import make_teacher

FEW = VP.linear(10, 0.01, 0.6).with_integer_times()
FIFTY = VP.linear(50, 2e-3, 0.15).with_integer_times()
COSINE = VP.squared_cosine().with_integer_times()
ZERO_SNR = VP.linear(50, 2e-3, 0.15).rescaled_zero_terminal_snr().with_integer_times()
FLOW = Flow(shift=3.0).with_integer_times()
SCHEDULES: dict[str, NoiseSchedule] = {"few": FEW, "fifty": FIFTY, "cosine": COSINE, "zero-snr": ZERO_SNR, "flow": FLOW}
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=list(SCHEDULES))
every_family = pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))


def is_whole(times: Array) -> bool:
    return bool((times == np.rint(times)).all())


def exact_sample(schedule: NoiseSchedule, noise: Tensor) -> Tensor:
    """Where sigma = 0: the limit of the exact state."""
    return exact_state(schedule, noise, schedule.t_clean)


# The nearest whole times.


def test_nearest_whole_times_are_the_nearest_there_are() -> None:
    """By trying all."""
    generator = np.random.default_rng(0)
    for n in (1, 2, 3, 4):
        for _ in range(40):
            times = np.sort(generator.uniform(0, 6, n))[::-1]
            choices = [c for c in np.ndindex(*[7] * n) if all(a > b for a, b in itertools.pairwise(c))]
            best = min(float(np.square(np.array(c) - times).sum()) for c in choices)
            found = nearest_whole(times, 0, 6)
            assert is_whole(found)
            assert (np.diff(found) < 0).all()
            assert float(np.square(found - times).sum()) == pytest.approx(best)


def test_whole_times_that_differ_stay() -> None:
    for times in ([9.0, 5.0, 4.0, 0.0, -1.0], [9.0, 8.0], [3.0, -1.0]):
        np.testing.assert_array_equal(whole_times(np.array(times), FEW), times)


@every_family
@every_schedule
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
def test_every_grid_asks_at_whole_times_in_the_budget(family: Any, schedule: NoiseSchedule, final: str) -> None:
    most = schedule.most_evaluations
    assert most is not None
    for steps in {1, 2, 3, 5, 7, 9, 20, min(most, 300) - 1, most - (final == "sigma_min")}:
        if steps + (final == "sigma_min") > most:
            continue
        times = family(final=final).times(schedule, steps)
        asked = times[:-1] if final == "zero" else times
        assert len(times) == steps + 1
        assert is_whole(asked)
        assert (np.diff(times) < 0).all()
        assert schedule.t_min <= asked[-1] < asked[0] <= schedule.t_max or len(asked) == 1
        assert times[-1] == (schedule.t_clean if final == "zero" else schedule.t_min)


@every_family
def test_all_whole_times_are_there_to_be_asked_and_no_more(family: Any) -> None:
    assert family().times(FEW, 10).tolist() == [*range(9, -2, -1)]
    message = "grid with 11 steps asks the network at 11 times, and from 9 down to 0 there are 10 whole ones: take fewer"
    with pytest.raises(ValueError, match=message):
        dode.solver("ddim").tableau(FEW, 11, family())


def test_a_start_is_never_passed() -> None:
    assert Uniform(start=499.6).times(COSINE, 5)[0] == 500
    assert LogSNR(start=5.0).times(COSINE, 6)[:-1].tolist() == [5, 4, 3, 2, 1, 0]
    with pytest.raises(ValueError, match="from 5 down to 0 there are 6 whole ones: take fewer"):
        LogSNR(start=5.0).times(COSINE, 7)
    assert Uniform(strength=0.5).times(COSINE, 4)[0] == 499


def test_times_that_are_whole_already_are_the_same_as_without() -> None:
    for grid in ("leading", "trailing", "linspace"):
        plain, whole = VP.squared_cosine(), COSINE
        assert dode.solver("deis").tableau(plain, 7, grid) == dode.solver("deis").tableau(whole, 7, grid)


# Explicit times.


def test_explicit_times_go_to_the_nearest_whole_ones() -> None:
    tableau = dode.solver("deis").tableau(COSINE, grid=[998.7, 500.2, 30.4, -1])
    assert tableau.times.tolist() == [999, 500, 30, -1]
    assert tableau == dode.solver("deis").tableau(VP.squared_cosine(), grid=[999, 500, 30, -1])


def test_explicit_times_that_come_twice_are_refused() -> None:
    message = "the network takes whole times only, and 500.2 and 499.9 are both 500 then: leave one out"
    with pytest.raises(ValueError, match=message):
        dode.solver("deis").tableau(COSINE, grid=[999, 500.2, 499.9, -1])


def test_fractional_times_with_scales_of_their_own_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"takes whole times only, got t = 500\.2: round the times that have alphas and sigmas"
    ):
        dode.solver("ddim").tableau(COSINE, grid=Explicit((999.0, 500.2, -1.0), (0.1, 0.5, 1.0), (0.9, 0.5, 0.0)))


# Solvers with stages of their own.

STAGED = [
    ("dpm-solver", {"stages": "log-snr"}),
    ("dpm-solver", {"stages": "log-snr", "order": 3}),
    ("dpm-solver++", {"stages": "log-snr", "order": 3, "method": "singlestep"}),
    ("pndm", {"warm_up": "runge-kutta"}),
    ("edm", {}),
]


@pytest.mark.parametrize(("name", "options"), STAGED)
@pytest.mark.parametrize("reverse", [False, True])
def test_stages_are_at_whole_times(name: str, options: dict[str, Any], reverse: bool) -> None:
    solver = dode.solver(name, **options)
    for schedule in (FIFTY, COSINE, FLOW):
        if name == "pndm" and (schedule is FLOW or reverse):
            continue
        for grid in ("uniform", "quadratic"):
            tableau = solver.tableau(schedule, 14, grid, reverse=reverse)
            assert tableau.nfe == 14
            assert is_whole(tableau.times[:-1])
            np.testing.assert_array_equal(tableau.sigmas, schedule.sigma(tableau.times))
            np.testing.assert_array_equal(tableau.alphas, schedule.alpha(tableau.times))
            if name != "edm" and not options.get("warm_up"):
                assert (np.diff(tableau.times) != 0).all()


def test_a_stage_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="no whole time for a stage between t = 9 and 8: take fewer steps or another grid"):
        dode.solver("pndm", warm_up="runge-kutta").tableau(FEW, 19, "uniform")


# What it is for: the numbers.


@pytest.mark.parametrize(
    ("schedule", "nfe", "solver", "grid", "right"),
    [
        (FEW, 3, "deis", "uniform", 0.012),
        (FEW, 3, "deis", "log-snr", 0.0083),
        (FEW, 3, "deis", "karras", 0.012),
        (FEW, 3, "dpm-solver++", "karras", 0.013),
        (FEW, 4, "deis", "uniform", 0.0052),
        (FEW, 4, "deis", "log-snr", 0.0012),
        (FEW, 4, "deis", "karras", 0.0017),
        (FEW, 4, "dpm-solver++", "karras", 0.0033),
        (FIFTY, 6, "deis", "uniform", 0.0015),
        (FIFTY, 6, "deis", "log-snr", 0.00081),
        (FIFTY, 6, "deis", "karras", 0.00096),
        (FIFTY, 6, "dpm-solver++", "karras", 3.3e-05),
        (COSINE, 10, "deis", "uniform", 1.3e-05),
        (COSINE, 10, "deis", "log-snr", 0.0015),
        (COSINE, 10, "deis", "karras", 0.15),
        (COSINE, 10, "dpm-solver++", "karras", 0.00026),
        (COSINE, 10, "ipndm", "log-snr", 3.6e-4),
        (COSINE, 10, "ipndm", "karras", 9e-4),
    ],
)
def test_the_error_is_that_of_the_times_that_are_asked(
    schedule: NoiseSchedule, nfe: int, solver: str, grid: str, right: float
) -> None:
    """Coefficients of fractional times beside a network that is asked at rounded ones: up to 4.7e10 on these."""
    denoiser = gaussian_denoiser(schedule, shape=(2,))
    assert denoiser.integer_times
    x = torch.randn(4096, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    # The right values are those of solvers that go their own way to the clean sample.
    options = {"bounded": False} if solver in ("deis", "ipndm") else {}
    found = dode.sample(denoiser, dode.solver(solver, **options).tableau(denoiser.schedule, nfe, grid), x)
    assert float((found - exact_sample(schedule, x)).square().mean()) < 1.1 * right


class Embedded(nn.Module):
    """A network that can be asked at no other times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.table, self.layer = nn.Embedding(times, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        result: Tensor = torch.tanh(self.layer(x) + self.table(t))
        return result


def test_an_embedding_of_times_is_sampled_and_distilled() -> None:
    torch.manual_seed(0)
    denoiser = dode.Denoiser(Embedded(50), VP.linear(50, 2e-3, 0.15), integer_times=True, shape=(4,))
    for grid in FAMILIES:
        dode.sample(denoiser, dode.solver("deis").tableau(denoiser.schedule, 6, grid), torch.randn(3, 4))
    result = dode.distill(denoiser, "ddim", 4, effort="fast", samples=16, validation=8, held_out=4)
    assert is_whole(result.tableau.times[:-1])


# The denoiser and its tableaux.


def test_the_denoiser_and_its_schedule_say_the_same() -> None:
    told = gaussian_denoiser(VP.squared_cosine(), integer_times=True)
    assert told.schedule.integer_times
    assert gaussian_denoiser(COSINE).integer_times
    assert told.replace(clip=1.0).integer_times
    assert not gaussian_denoiser(VP.squared_cosine()).schedule.integer_times


def test_a_tableau_of_fractional_times_is_not_run_at_rounded_ones() -> None:
    denoiser, x = gaussian_denoiser(COSINE), torch.randn(3, 4)
    other = dode.solver("deis").tableau(VP.squared_cosine(), 6, "log-snr")
    with pytest.raises(
        ValueError, match=r"asks the network at t = 9\d\d\.\d+, and it takes whole times only: make the tableau with"
    ):
        dode.sample(denoiser, other, x)
    assert torch.isfinite(dode.sample(denoiser, other, x, strict=False)).all()
    dode.sample(denoiser, dode.solver("deis").tableau(denoiser.schedule, 6, "log-snr"), x)
    dode.sample(denoiser, dode.solver("deis").tableau(VP.squared_cosine(), 6, "trailing"), x)


def test_times_are_whole_up_to_a_grids_arithmetic() -> None:
    """An even grid of ten steps over ten times has one at 5.000000000000001."""
    tableau = dode.solver("deis").tableau(VP.linear(10, 0.01, 0.6), 10)
    assert (tableau.times != np.rint(tableau.times)).any()
    denoiser, x = gaussian_denoiser(VP.linear(10, 0.01, 0.6), integer_times=True), torch.randn(3, 4)
    np.testing.assert_allclose(
        dode.sample(denoiser, tableau, x),
        dode.sample(denoiser, dode.solver("deis").tableau(denoiser.schedule, 10), x),
        atol=1e-5,
    )


def test_the_denoiser_is_not_asked_between_its_times() -> None:
    denoiser = gaussian_denoiser(FEW)
    assert denoiser(torch.zeros(1, 4), 5.0).shape == (1, 4)
    with pytest.raises(ValueError, match=r"takes whole times only, got t = 5\.5"):
        denoiser(torch.zeros(1, 4), 5.5)
    with pytest.raises(ValueError, match='the prediction "edm" is asked at sigma / alpha, no whole time'):
        gaussian_denoiser(FEW, "edm")


# Finer grids.


@every_schedule
@pytest.mark.parametrize("family", ["uniform", "log-snr", "karras", "quadratic"])
def test_refined_grids_stay_whole_and_never_ask_twice(schedule: NoiseSchedule, family: str) -> None:
    for final in ("zero", "sigma_min"):
        grid = FAMILIES[family](final=final)
        times = grid.times(schedule, 6)
        for parts in ([1] * 6, [3] * 6, [10] * 6, [10**4] * 6):
            fine = grid.refine(schedule, times, parts)
            assert set(times) <= set(fine)
            assert is_whole(fine[:-1])
            assert (np.diff(fine) < 0).all()
            assert len(fine) <= sum(parts) + 1
        # Cut as far as may be, every whole time is there.
        asked = times[-2] if final == "zero" else times[-1]
        assert len(fine) == round(times[0] - asked) + 1 + (final == "zero") * (round(asked - schedule.t_min) + 1)


@pytest.mark.parametrize("name", ["ddim", "deis", "unipc", "dpm-solver++", "edm"])
def test_a_teacher_asks_at_whole_times_too(name: str) -> None:
    solver = dode.solver(name)
    for schedule in (FEW, FIFTY, COSINE):
        path, student = solver.path(schedule, 5), solver.tableau(schedule, 5)
        teacher = make_teacher(solver, path, student, scale=10)
        times = teacher.tableau.times
        assert is_whole(times[:-1])
        assert times[[k + 1 for k in teacher.rows]].tolist() == student.times[1:].tolist()
        assert len(set(times[:-1])) <= schedule.most_evaluations  # type: ignore[operator]


def test_a_teacher_whose_stages_have_no_room_is_refused() -> None:
    solver = dode.solver("dpm-solver", order=3, stages="log-snr")
    path, student = solver.path(COSINE, 8, "uniform"), solver.tableau(COSINE, 8, "uniform")
    with pytest.raises(ValueError, match=r'has no state at t = 981 of the student: take teacher="deis"'):
        make_teacher(solver, path, student, scale=1)
    assert is_whole(make_teacher(dode.solver("deis"), path, student, scale=1).tableau.times[:-1])


def test_inversion_asks_at_whole_times() -> None:
    denoiser = gaussian_denoiser(FLOW, "flow")
    for grid in ("uniform", "log-snr", "trailing"):
        tableau = dode.solver("unipc").tableau(denoiser.schedule, 8, grid, reverse=True)
        assert is_whole(tableau.times)
        assert tableau.times[0] == 1
        assert math.isfinite(float(dode.invert(denoiser, tableau, torch.full((1, 4), 0.5, dtype=torch.float64)).sum()))
