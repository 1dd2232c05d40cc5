"""Fine runs by measurement: two different solvers on different grids agree near the truth, and no sooner."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from gaussian import exact_end, gaussian_denoiser
from torch import Tensor

import dode
from dode.distances import mean_square_distance
from dode.fine import PAIR, REFERENCE, FineRun, agreed, other_than, undistilled_errors, whole_span
from dode.grids import Explicit, LogSNR, Uniform
from dode.noise import standard_noise
from dode.schedules import EDM, VP, ContinuousVP, Flow, NoiseSchedule

MU, SD = [0.5, -0.3, 0.1, 0.8], [0.01, 0.1, 0.3, 0.8]
SCHEDULES: dict[str, tuple[NoiseSchedule, str]] = {
    "linear, T=10": (VP.linear(10, 0.01, 0.6), "epsilon"),
    "linear, T=1000": (VP.linear(), "epsilon"),
    "cosine, T=20": (VP.squared_cosine(20), "v"),
    "exp(-t/2)": (ContinuousVP(1.0, 1.0, t_max=10.0), "epsilon"),
    "flow, shift 3": (Flow(shift=3.0), "flow"),
    "edm": (EDM(), "sample"),
}
every_schedule = pytest.mark.parametrize(("schedule", "prediction"), SCHEDULES.values(), ids=list(SCHEDULES))


def found(schedule: NoiseSchedule, prediction: str, tolerance: float, most: int = 256) -> tuple[dode.Denoiser, Tensor, object]:
    denoiser = gaussian_denoiser(schedule, prediction, mu=MU, sd=SD)
    noise = standard_noise(0, 8, (4,), dtype=torch.float64)
    how = {"span": whole_span(schedule), "least": 8, "most": most}
    return denoiser, noise, agreed(denoiser, noise, {}, PAIR, lambda end: tolerance, **how)


def true_error(denoiser: dode.Denoiser, run: FineRun, noise: Tensor) -> float:
    schedule = denoiser.schedule
    end = dode.sample(denoiser, run.tableau(schedule, whole_span(schedule)), noise)
    return float(mean_square_distance(end, exact_end(schedule, noise, mu=MU, sd=SD)).mean())


@every_schedule
@pytest.mark.parametrize("tolerance", [1e-3, 1e-5, 1e-7])
def test_what_agrees_is_as_near_to_the_truth_as_was_asked_for(
    schedule: NoiseSchedule, prediction: str, tolerance: float
) -> None:
    denoiser, noise, agreement = found(schedule, prediction, tolerance)
    assert agreement.enough
    assert agreement.error <= tolerance
    # Roots of mean squares add at the most.
    truth = true_error(denoiser, agreement.run, noise)
    assert math.sqrt(truth) <= math.sqrt(agreement.error) + math.sqrt(true_error(denoiser, agreement.against, noise))
    assert truth <= 4 * tolerance


@every_schedule
def test_less_is_spent_where_less_is_asked_for(schedule: NoiseSchedule, prediction: str) -> None:
    runs = [found(schedule, prediction, tolerance)[2].run.nfe for tolerance in (1e-2, 1e-4, 1e-8)]
    assert runs == sorted(runs)
    assert runs[0] < runs[-1]


@every_schedule
def test_the_reference_is_right_too(schedule: NoiseSchedule, prediction: str) -> None:
    denoiser, noise, _ = found(schedule, prediction, 1.0)
    assert true_error(denoiser, FineRun(*REFERENCE, 200), noise) < 1e-8


def test_what_is_not_fine_enough_is_said() -> None:
    schedule = EDM()
    denoiser, noise, agreement = found(schedule, "sample", 1e-12, most=16)
    assert not agreement.enough
    assert agreement.run.nfe == 16
    assert true_error(denoiser, agreement.run, noise) > 1e-12


def test_a_network_of_whole_times_has_no_finer_run_than_its_times() -> None:
    schedule = VP.linear(10, 0.01, 0.6).with_integer_times()
    denoiser = gaussian_denoiser(schedule, mu=MU, sd=SD)
    noise = standard_noise(0, 4, (4,), dtype=torch.float64)
    agreement = agreed(denoiser, noise, {}, PAIR, lambda end: 0.0, span=whole_span(schedule), least=8, most=64)
    assert agreement.run.nfe <= 10
    assert FineRun(*PAIR[0], 64).tableau(schedule, whole_span(schedule)).times.tolist() == [*range(9, -2, -1)]


def test_runs_begin_and_end_where_a_student_does() -> None:
    schedule = VP.linear()
    for span in ((999.0, -1.0), (600.0, -1.0), (999.0, 24.0), (700.0, 100.0)):
        for s, grid in (*PAIR, REFERENCE):
            times = FineRun(s, grid, 20).tableau(schedule, span).times
            assert (times[0], times[-1]) == span
            assert len(times) == 21
            # The clean sample is D at the lowest time.
            assert span[1] != -1 or times[-2] == schedule.t_min


def test_the_other_run_shares_neither_solver_nor_grid() -> None:
    schedule = VP.linear()
    for s, grid in PAIR:
        other, elsewhere = other_than(FineRun(s, grid, 8), schedule)
        assert other.name != s.name
        assert elsewhere != grid
    for run in (FineRun(dode.solver("deis"), LogSNR(), 8), FineRun(dode.solver("ddim"), Uniform(), 8)):
        assert other_than(run, schedule)[0].name != run.solver.name
    assert other_than(FineRun(dode.solver("ddim"), Explicit((9.0, -1.0)), 1), schedule)[0].name != "ddim"


def test_undistilled_errors_fall_with_the_budget() -> None:
    schedule = VP.linear()
    denoiser = gaussian_denoiser(schedule, mu=MU, sd=SD)
    noise = standard_noise(0, 8, (4,), dtype=torch.float64)
    end = exact_end(schedule, noise, mu=MU, sd=SD)
    errors = [undistilled_errors(denoiser, nfe, whole_span(schedule), noise, {})(end) for nfe in (3, 6, 24)]
    assert errors == sorted(errors, reverse=True)


def test_a_network_that_gives_nan_is_reported_with_its_step() -> None:
    schedule = VP.linear()
    denoiser = gaussian_denoiser(schedule, mu=MU, sd=SD)
    right = denoiser.net
    broken = replace_net(denoiser, lambda x, t: right(x, t) * (float("nan") if float(t[0]) < 300 else 1))
    noise = standard_noise(0, 4, (4,))
    with pytest.raises(FloatingPointError, match="NaN values at step"):
        agreed(broken, noise, {}, PAIR, lambda end: 1.0, span=whole_span(schedule), least=8, most=32)


def replace_net(denoiser: dode.Denoiser, net: object) -> dode.Denoiser:
    return denoiser.replace(net=net)


def test_one_solver_that_diverges_leaves_the_other_in_doubt() -> None:
    schedule = VP.linear()
    denoiser = gaussian_denoiser(schedule, mu=MU, sd=SD)
    wild = replace(dode.solver("ddim"), family=replace(dode.solver("ddim").family, name="wild", rows=_wild))
    noise = standard_noise(0, 4, (4,))
    pair = [(wild, LogSNR()), PAIR[1]]
    agreement = agreed(denoiser, noise, {}, pair, lambda end: 1.0, span=whole_span(schedule), least=8, most=16)
    assert agreement.run.solver == PAIR[1][0]
    assert agreement.error == math.inf
    assert not agreement.enough


def _wild(path):
    for row in dode.solver("ddim").family.rows(path):
        yield replace(row, base=row.base * 1e30)
