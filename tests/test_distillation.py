"""Properties of the fit; the numbers of the paper's own code are in test_reference.py."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from mixture import double_noise, mixture_denoiser

import dode
from dode.distillation import PAPER, directions, gram
from dode.distillation.greedy import corrected
from dode.noise import standard_noise
from dode.schedules import EDM, VP, ContinuousVP, Flow
from dode.solvers import REGISTRY
from dode.teacher import make_teacher, teacher_states

SCHEDULE = VP.linear()
SHAPE = (4,)


@pytest.mark.parametrize("name", REGISTRY)
def test_zero_lambda_gives_the_base_to_the_last_bit(name: str) -> None:
    base = dode.solver(name).tableau(SCHEDULE, 6)
    distilled = corrected(base, directions.paper(base), np.zeros((6, 1)))
    assert distilled == base
    denoiser, noise = mixture_denoiser(SCHEDULE), double_noise(8)
    assert torch.equal(dode.sample(denoiser, distilled, noise), dode.sample(denoiser, base, noise))


def test_d_ddim_with_one_half_is_two_step_adams_bashforth_on_even_steps_in_rho() -> None:
    """EDM's time is rho: there DDIM is Euler, and c_k (eps_k - eps_{k-1}) / 2 is what AB2 adds to it."""
    base = dode.solver("ddim").tableau(EDM(), grid=np.linspace(10, 1, 7))
    half = corrected(base, directions.paper(base), np.array([[0.0], *[[0.5]] * 5]))
    a, n = half.for_prediction("epsilon")
    h = -1.5
    np.testing.assert_allclose(a, np.eye(6), atol=1e-14)
    np.testing.assert_allclose(n[0, 0], h, rtol=1e-13)
    for k in range(1, 6):
        np.testing.assert_allclose(n[k, k - 1 : k + 1], [-h / 2, 3 * h / 2], rtol=1e-12)


VARIANTS = [
    *(dode.solver(name) for name in REGISTRY),
    dode.solver("dpm-solver", order=3),
    dode.solver("dpm-solver++", order=3),
    dode.solver("dpm-solver++", order=2, method="singlestep"),
    dode.solver("edm", method="euler"),
]


@pytest.mark.parametrize("solver", VARIANTS, ids=str)
@pytest.mark.parametrize(
    ("schedule", "prediction"), [(SCHEDULE, "epsilon"), (EDM(), "edm"), (Flow(3.0), "flow"), (ContinuousVP(), "v")]
)
def test_row_error_on_the_fitting_set_never_grows(
    solver: dode.Solver, schedule: dode.schedules.NoiseSchedule, prediction: str
) -> None:
    denoiser = mixture_denoiser(schedule, "sample" if prediction == "edm" else prediction)
    noise = double_noise(24)
    base = solver.tableau(schedule, 5)
    path = solver.path(schedule, 5)
    states = teacher_states(denoiser, make_teacher(solver, path, base, scale=4), noise, {})
    targets = [states.at(point) for point in base.points[1:]]
    result = dode.distill(denoiser, solver, 5, noise=noise, targets=targets, **PAPER)

    # Undo one row's lambda at a time: on the states that the fit walked, the row alone is further from its target.
    for k in range(5):
        without = result.lambdas.copy()
        without[k] = 0
        tableau = corrected(base, directions.paper(base), without[:, np.newaxis])
        states = dode.sample(denoiser, tableau, noise, return_trajectory=True).states
        error = (states[k + 1] - targets[k]).square().mean()
        assert result.fitting.distilled[k].mean() <= error * (1 + 1e-9)


@pytest.mark.parametrize("name", REGISTRY)
def test_sampling_with_the_result_walks_the_states_of_the_fit(name: str) -> None:
    denoiser, noise = mixture_denoiser(SCHEDULE), double_noise(16)
    targets = torch.randn(5, 16, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    result = dode.distill(denoiser, name, 5, noise=noise, targets=targets, **PAPER)
    states = dode.sample(denoiser, result.tableau, noise, return_trajectory=True).states[1:]
    errors = np.array([(s - t).square().mean(1).numpy() for s, t in zip(states, targets, strict=True)])
    # The errors come from Gram matrices, |r - lambda g|^2, which cancel to about the root of the precision.
    np.testing.assert_allclose(result.fitting.distilled, errors, rtol=1e-6)


def test_lambda_is_the_least_squares_solution() -> None:
    rng = torch.Generator().manual_seed(0)
    direction, residual = torch.randn(2, 30, 3, 5, generator=rng)
    (found,) = gram.least_squares(gram.grams([direction, residual]))
    expected = (direction * residual).sum() / direction.square().sum()
    assert found == pytest.approx(float(expected), rel=1e-6)
    several = torch.randn(4, 30, 7, generator=rng, dtype=torch.float64)
    target = 2 * several[0] - 3 * several[2] + 0.5 * several[3]
    np.testing.assert_allclose(gram.least_squares(gram.grams([*several, target])), [2, 0, -3, 0.5], atol=1e-12)


def test_a_zero_direction_gets_zero() -> None:
    residual = torch.randn(9, 6, generator=torch.Generator().manual_seed(0))
    assert gram.least_squares(gram.grams([torch.zeros(9, 6), residual])) == 0


def test_jackknife_measures_the_spread_of_lambda_over_samples() -> None:
    """Against the spread over many draws of the samples themselves, within the sampling error of 400 draws."""
    rng = torch.Generator().manual_seed(0)
    found, errors = [], []
    for _ in range(400):
        direction, rest = torch.randn(2, 40, 5, generator=rng)
        matrix = gram.grams([direction, 0.7 * direction + rest])
        found.append(gram.least_squares(matrix)[0])
        errors.append(gram.jackknife(matrix)[0])
    assert np.std(found) == pytest.approx(np.mean(errors), rel=0.15)


def test_same_seed_same_result_and_another_seed_another() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    first, again, other = (dode.distill(denoiser, "deis", 5, samples=20, held_out=8, seed=s, **PAPER) for s in (0, 0, 1))
    assert first.lambdas.tolist() == again.lambdas.tolist()
    assert first.held_out is not None
    assert again.held_out is not None
    assert first.held_out.distilled.tolist() == again.held_out.distilled.tolist()
    assert first.lambdas.tolist() != other.lambdas.tolist()


@pytest.mark.parametrize("batch_size", [1, 7, 100])
def test_micro_batches_of_any_size_give_the_same_lambdas(batch_size: int) -> None:
    noise = double_noise(20)
    whole, parts = (
        dode.distill(mixture_denoiser(SCHEDULE, batch_size=size), "ipndm", 5, noise=noise, held_out=0, **PAPER)
        for size in (None, batch_size)
    )
    np.testing.assert_allclose(parts.lambdas, whole.lambdas, rtol=1e-10, atol=1e-10)


def test_fitting_and_held_out_noise_are_different() -> None:
    streams = [standard_noise(0, 50, SHAPE, stream=s) for s in range(3)]
    for i, first in enumerate(streams):
        for second in streams[:i]:
            assert (first[:, None] - second[None]).abs().sum(-1).min() > 1e-3


def test_evaluations_are_counted_and_are_what_the_method_needs() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    result = dode.distill(denoiser, "ddim", 5, samples=10, held_out=4, teacher_scale=10, **PAPER)
    # The base on the fitting noise; on a few noises undistilled solvers, two fine runs that agree, and the reference, which is one of
    # them; on four noises the teacher twice, and three times its network, for what rounding leaves; and base, distilled and reference on
    # twice as much held-out noise as was asked for, as four samples leave the case open. Four samples are asked for twice, to see whether
    # the network says the same again.
    measurement = 4 * 2 + 10 * 5 + 8 * (4 * 5 + 2 * 32 + 32) + 4 * (2 * 50 + 3) + 2 * 4 * (5 + 5 + 32)
    assert dict(result.evaluations) == {"teacher": 500, "fit": 50, "measurement": measurement}
    assert denoiser.evaluations == sum(result.evaluations.values())


@pytest.mark.parametrize("name", REGISTRY)
def test_teacher_stands_at_the_time_of_every_row(name: str) -> None:
    solver = dode.solver(name)
    for nfe in (5, 6):
        student, path = solver.tableau(SCHEDULE, nfe), solver.path(SCHEDULE, nfe)
        teacher = make_teacher(solver, path, student, scale=10)
        assert [teacher.tableau.times[k + 1] for k in teacher.rows] == student.times[1:].tolist()
        assert teacher.tableau.nfe <= 13 * nfe


def test_teacher_puts_inner_stages_off_the_grid_on_its_grid() -> None:
    for solver in (dode.solver("dpm-solver", order=3, stages="log-snr"), dode.solver("pndm", warm_up="runge-kutta")):
        student, path = solver.tableau(SCHEDULE, 13), solver.path(SCHEDULE, 13)
        teacher = make_teacher(solver, path, student, scale=4)
        assert [teacher.tableau.times[k + 1] for k in teacher.rows] == student.times[1:].tolist()


def test_another_teacher_has_its_own_budget() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    result = dode.distill(denoiser, "ddim", 5, samples=8, held_out=0, teacher="dpm-solver++", teacher_nfe=200, **PAPER)
    assert result.evaluations["teacher"] == 8 * 200
    assert "dpm-solver++" in result.settings["teacher"]


def test_distilled_ddim_is_better_on_held_out_noise() -> None:
    result = dode.distill(mixture_denoiser(SCHEDULE), "ddim", 8, samples=64, **PAPER)
    assert result.held_out is not None
    mean, error = result.held_out.difference
    assert mean < -2 * error
    assert result.held_out.ratio < 0.7


def test_statistics_survive_saving(tmp_path) -> None:
    result = dode.distill(mixture_denoiser(SCHEDULE), "deis", 4, samples=10, held_out=5, **PAPER)
    path = tmp_path / "deis-4.json"
    result.save(path)
    loaded = dode.Tableau.load(path)
    assert loaded == result.tableau
    assert loaded.meta["distillation"]["coefficients"] == result.coefficients.tolist()
    with pytest.raises(FileExistsError, match="exists"):
        result.save(path)
    assert "held-out" in str(result)


def test_teacher_states_are_kept_and_an_interrupted_run_goes_on(tmp_path) -> None:
    denoiser = mixture_denoiser(SCHEDULE, batch_size=4)
    first = dode.distill(denoiser, "ddim", 4, samples=12, held_out=0, cache=tmp_path, **PAPER)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 3
    files[1].unlink()
    again = dode.distill(denoiser, "ddim", 4, samples=12, held_out=0, cache=tmp_path, **PAPER)
    assert again.lambdas.tolist() == first.lambdas.tolist()
    # One part of 4 samples was run again; each part is probed at three samples and five times.
    assert again.evaluations["teacher"] == 4 * 40 + 3 * 15
    other = dode.distill(
        mixture_denoiser(SCHEDULE, batch_size=4, clip=0.5), "ddim", 4, samples=12, held_out=0, cache=tmp_path, **PAPER
    )
    assert other.lambdas.tolist() != first.lambdas.tolist()


def test_network_is_left_as_it_was() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout())
    net.train()
    net[1].eval()
    modes: list[bool] = []
    net.register_forward_hook(lambda module, args, output: modes.append(module.training or torch.is_grad_enabled()))
    denoiser = dode.Denoiser(lambda x, t: net(x), SCHEDULE, shape=SHAPE)
    wrapped = dode.Denoiser(_Timeless(net), SCHEDULE, shape=SHAPE)
    dode.distill(wrapped, "ddim", 2, samples=4, held_out=2, **PAPER)
    assert not any(modes)
    assert (net.training, net[0].training, net[1].training) == (True, True, False)
    assert all(p.grad is None for p in net.parameters())
    assert denoiser.evaluations == 0


class _Timeless(torch.nn.Module):
    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_bad_input_says_what_would_do() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    with pytest.raises(ValueError, match="unknown solver 'dies': did you mean 'deis'"):
        dode.distill(denoiser, "dies", 5, **PAPER)
    with pytest.raises(ValueError, match="nfe must be at least 1, got 0"):
        dode.distill(denoiser, "deis", 0, **PAPER)
    with pytest.raises(ValueError, match="samples must be at least 1"):
        dode.distill(denoiser, "deis", 5, samples=0, **PAPER)
    with pytest.raises(ValueError, match="teacher_scale must be at least 1"):
        dode.distill(denoiser, "deis", 5, teacher_scale=0, **PAPER)
    with pytest.raises(ValueError, match="a grid or times, not both"):
        dode.distill(denoiser, "deis", 5, grid="uniform", times=[999, 0], **PAPER)
    with pytest.raises(ValueError, match=r"targets must have shape \(5, 3, 4\)"):
        dode.distill(denoiser, "deis", 5, noise=double_noise(3), targets=torch.zeros(5, 2, 4), **PAPER)
    with pytest.raises(ValueError, match="shape of a sample is not known"):
        dode.distill(denoiser.replace(shape=None), "deis", 5, **PAPER)


def test_nan_from_the_network_is_reported_with_its_step() -> None:
    def net(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return x * (float("nan") if t[0] < 500 else 1.0)

    denoiser = dode.Denoiser(net, SCHEDULE, shape=SHAPE)
    with pytest.raises(FloatingPointError, match=r"step .* is not finite|step"):
        dode.distill(denoiser, "ddim", 5, samples=4, **PAPER)
    with pytest.raises(FloatingPointError, match=r"the network gave NaN values at step 4 of 5 \(t = 399\)"):
        dode.sample(denoiser, dode.solver("ddim").tableau(SCHEDULE, 5), double_noise(2))


def test_only_the_first_outputs_that_are_named_are_tried():
    denoiser = mixture_denoiser(SCHEDULE)
    result = dode.distill(denoiser, "deis", 3, effort="fast", held_out=0, firsts=("network",))
    assert result.tableau.first == "network" and not any("D0" in trial.name for trial in result.trials)
    for firsts, message in ((("zero",), '"network" among them'), (("network", "nought"), "unknown first output")):
        with pytest.raises(ValueError, match=message):
            dode.distill(denoiser, "deis", 3, firsts=firsts)
