"""The end-to-end fit against what can be computed otherwise: least squares, automatic derivatives, scipy, its own uninterrupted run."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mixture import Mixture, double_noise, mixture_denoiser
from scipy.optimize import least_squares
from torch import Tensor

import dode
from dode.cache import Cache, Entry
from dode.distillation import end_to_end, linearisation
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.distillation.end_to_end import Refined, refine
from dode.distillation.student import Student
from dode.noise import FITTING, VALIDATION, standard_noise
from dode.sampling import start
from dode.schedules import EDM, VP, Array, ContinuousVP, Flow, NoiseSchedule

SCHEDULE = VP.linear()
# Rounding of float64 over a few rows, relative.
ROUNDING = 1e-9
# A forward difference with step h is off by h/2 times the curvature along it: with h = 2e-3 of the state, and 5e-3 in a time, this
# leaves room for a curvature of 10 over the length of the state, more than the mixture has.
FORWARD_DIFFERENCE = {"state": 1e-2, "output": 1e-2, "time": 2.5e-2}
ALL = 1000


def teacher_batch(denoiser: dode.Denoiser, samples: int, stream: int = FITTING, seed: int = 0, **cond: Tensor) -> Batch:
    """Noise in float64 with the end points of a run of many steps."""
    noise = standard_noise(seed, samples, (4,), stream=stream, dtype=torch.float64)
    schedule = denoiser.schedule
    teacher = dode.solver("dpm-solver++", order=3).tableau(schedule, 60)
    return Batch(noise, cond, [dode.sample(denoiser, teacher, noise, **cond)])


def ddim(nfe: int, schedule: NoiseSchedule = SCHEDULE, grid: str | None = None) -> dode.Tableau:
    return dode.solver("ddim").tableau(schedule, nfe, grid)


# Where the end point is linear in what is fitted, the fit is least squares.


def best_in_span(columns: list[Tensor], batch: Batch) -> float:
    """Mean square distance of the end points to the span of the columns."""
    matrix = torch.stack([column.flatten() for column in columns], dim=1).numpy()
    target = batch.end.flatten().numpy()
    coefficients, *_ = np.linalg.lstsq(matrix, target, rcond=1e-12)
    return float(np.mean((target - matrix @ coefficients) ** 2))


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_one_row_is_solved_as_least_squares(prediction: str) -> None:
    denoiser = mixture_denoiser(SCHEDULE, prediction)
    fit, validation = teacher_batch(denoiser, 24), teacher_batch(denoiser, 24, VALIDATION)
    tableau = ddim(1)
    with denoiser.evaluator(fit.noise, {}) as evaluate:
        output = evaluate(fit.noise, tableau.points[0])
    expected = best_in_span([fit.noise, output], fit)
    result = refine(denoiser, tableau, fit, validation)
    assert result.fitting[1] == pytest.approx(expected, rel=ROUNDING)
    assert result.fitting[0] > 1.1 * expected
    assert result.unknowns == 2
    # Chosen on the very samples of the fit, its last step is the tableau that is given out.
    own = refine(denoiser, tableau, fit, fit).tableau
    assert end_errors(denoiser, own, fit).mean() == pytest.approx(expected, rel=ROUNDING)


def constant(x: Tensor, t: Tensor) -> Tensor:
    """The same for every sample, another vector at every time, in no smaller space than there are times."""
    u = float(t[0]) / 999
    powers = torch.tensor([1.0, u, u**2, math.sin(6 * u)], dtype=torch.float64)
    return powers.expand_as(x)


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("net", [constant, lambda x, t: torch.zeros_like(x)], ids=["constant", "zero"])
@pytest.mark.parametrize("outputs", [4, 2])
def test_outputs_that_do_not_depend_on_the_state_are_combined_as_least_squares_would(
    outputs: int, net: Callable[[Tensor, Tensor], Tensor], prediction: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end point is then a combination of the noise and the outputs, any of which the four rows can reach: the last row alone
    if it may name all outputs; with two, the earlier rows have to put the older ones into the state, in several steps."""
    monkeypatch.setattr(end_to_end, "_CONVERGED", 1e-13)
    mixture, denoiser = mixture_denoiser(SCHEDULE), dode.Denoiser(net, SCHEDULE, prediction, shape=(4,))
    fit, validation = teacher_batch(mixture, 24), teacher_batch(mixture, 24, VALIDATION)
    tableau = dataclasses.replace(ddim(4), a=ddim(4).a * 1.2)
    columns = [net(fit.noise, torch.full((24,), point.t)) for point in tableau.points[:-1]]
    expected = best_in_span([fit.noise, *columns], fit)
    result = refine(denoiser, tableau, fit, validation, outputs=outputs, jacobian_samples=ALL, patience=ALL, iterations=ALL)
    assert result.fitting[1] == pytest.approx(expected, rel=ROUNDING)
    assert result.fitting[0] > 1.1 * expected


@pytest.mark.parametrize("weight", [0.0, 0.3])
def test_the_last_row_is_solved_exactly_for_all_samples(weight: float) -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE, "v"), ddim(4)
    noise = double_noise(12)
    targets = [standard_noise(0, 12, (4,), stream=k + 1, dtype=torch.float64) for k in range(4)]
    batch = Batch(noise, {}, targets)
    problem = linearisation.Problem(
        denoiser, Student.of(tableau, denoiser.output), tuple(linearisation.unknowns(tableau, 2, True)), batch, weight
    )
    student = Student.of(tableau, "v")
    settled, error = problem.settled(student)
    assert error == pytest.approx(problem.error(settled), rel=ROUNDING)
    assert (settled.p[:3] == student.p[:3]).all()
    assert (settled.q[:3] == student.q[:3]).all()
    run = dode.sample(denoiser, tableau, noise, return_trajectory=True)
    with denoiser.evaluator(noise, {}) as evaluate:
        outputs = [evaluate(run.states[k], tableau.points[k]) for k in range(4)]
    expected = best_in_span([run.states[3], *outputs], Batch(noise, {}, [targets[3]]))
    inner = sum(float((x - target).square().mean()) for x, target in zip(run.states[1:4], targets))
    assert error == pytest.approx(expected + weight * inner, rel=ROUNDING)


# The Jacobian.


def conditional(prediction: str = "epsilon") -> dode.Denoiser:
    """The mixture's network, its output scaled by a sample's own number."""
    net = Mixture(SCHEDULE, prediction)
    return dode.Denoiser(lambda x, t, scale: net(x, t) * scale[:, None], SCHEDULE, prediction, shape=(4,))


@pytest.fixture(params=["epsilon", "v", "condition", "first-zero", "first-mean"])
def problem(request: pytest.FixtureRequest) -> linearisation.Problem:
    """Five samples and all unknowns of four rows, times included."""
    case = request.param
    tableau, cond = ddim(4), {}
    denoiser = mixture_denoiser(SCHEDULE, "v" if case == "v" else "epsilon")
    if case == "condition":
        denoiser, cond = conditional(), {"scale": torch.linspace(0.5, 1.5, 5, dtype=torch.float64)}
    elif case.startswith("first"):
        tableau = dataclasses.replace(tableau, first=case.removeprefix("first-"))
    batch = teacher_batch(denoiser, 5, **cond)
    return linearisation.Problem(
        denoiser, Student.of(tableau, denoiser.output), tuple(linearisation.unknowns(tableau, 3, True)), batch, 0.0
    )


def test_unknowns_are_all_states_the_newest_outputs_and_the_inner_times() -> None:
    def kinds(tableau: dode.Tableau, outputs: int, times: bool) -> dict[str, list[tuple[int, int]]]:
        found: dict[str, list[tuple[int, int]]] = {"state": [], "output": [], "time": []}
        for unknown in linearisation.unknowns(tableau, outputs, times):
            found[unknown.kind].append((unknown.row, unknown.output))
        return found

    # The last row may change all.
    newest = [(k, j) for k in range(5) for j in range(max(0, k - 1) if k < 4 else 0, k + 1)]
    inner = [(k, -1) for k in range(1, 5)]
    assert kinds(ddim(5), 2, True) == {"state": [(k, -1) for k in range(5)], "output": newest, "time": inner}
    assert kinds(ddim(5), 2, False)["time"] == []
    # An output that is zero has no coefficient worth fitting.
    zero = dataclasses.replace(ddim(5), first="zero")
    assert kinds(zero, 2, False)["output"] == [(k, j) for k, j in newest if j]


def later_states(problem: linearisation.Problem, student: Student, p: Tensor, q: Tensor) -> Tensor:
    """x_1 .. x_R of a student with these coefficients, differentiable: (R, n, 4)."""
    x, states, outputs = start(problem.denoiser, problem.tableau, problem.batch.noise), [], []
    for k, point in enumerate(student.points[:-1]):
        t = torch.full((len(x),), point.t, dtype=torch.float64)
        shared = problem.first if k == 0 else None
        outputs.append(problem.denoiser.net(x, t, **problem.batch.cond) if shared is None else shared)
        x = p[k] * x + sum(q[k, j] * outputs[j] for j in range(k + 1))
        states.append(x)
    return torch.stack(states)


def derivatives(problem: linearisation.Problem, student: Student) -> list[Tensor]:
    """Of x_1 .. x_R in every unknown, (R, n, 4) each: automatic in the coefficients, central differences in the times."""
    p, q = torch.tensor(student.p), torch.tensor(student.q)

    def moved(k: int, change: float) -> Tensor:
        point = linearisation.moved_point(problem.denoiser, student.points[k], change)
        other = student.moved(k, point)
        return later_states(problem, other, torch.tensor(other.p), torch.tensor(other.q))

    by_p, by_q = torch.autograd.functional.jacobian(lambda p, q: later_states(problem, student, p, q), (p, q))
    found = []
    for unknown in problem.unknowns:
        if unknown.kind == "state":
            found.append(by_p[..., unknown.row])
        elif unknown.kind == "output":
            found.append(by_q[..., unknown.row, unknown.output])
        else:
            h = 1e-5
            found.append((moved(unknown.row, h) - moved(unknown.row, -h)) / (2 * h))
    return found


# A thousandth of the steps leaves a thousandth of their error; below it is the rounding of the differences.
SMALL_STEPS, SMALL_STEPS_ERROR = 1e-3, 1e-4


@pytest.mark.parametrize("small", [False, True])
def test_columns_are_the_derivatives_of_all_states(problem: linearisation.Problem, small: bool) -> None:
    usual = linearisation.Differences()
    scale = SMALL_STEPS if small else 1.0
    differences = linearisation.Differences(usual.state * scale, usual.time * scale)
    student = Student.of(problem.tableau, problem.denoiser.output)
    ((_, run),) = problem.runs(student, 0, 5)
    states = run.forward()
    columns = run.columns(problem.unknowns, states, differences, all_rows=True)
    ends = run.columns(problem.unknowns, states, differences, all_rows=False)
    assert len(columns) == len(problem.unknowns)
    for unknown, found, expected in zip(problem.unknowns, columns, derivatives(problem, student), strict=True):
        assert len(found) == 4
        (end,) = ends[problem.unknowns.index(unknown)]
        assert end is not None and found[-1] is not None and torch.equal(end, found[-1])
        scale = float(expected.norm())
        for k, state in enumerate(found):
            if state is None:  # a state before the unknown
                assert k < unknown.row - (unknown.kind == "time")
                assert float(expected[k].norm()) == 0
                continue
            error = float((state - expected[k]).norm()) / scale
            assert error < (SMALL_STEPS_ERROR if small else FORWARD_DIFFERENCE[unknown.kind]), (unknown, k)
        if unknown.kind != "time":  # the row itself is linear in its coefficients
            torch.testing.assert_close(found[unknown.row], expected[unknown.row], rtol=ROUNDING, atol=ROUNDING)


def assert_normal_equations(problem: linearisation.Problem, derivatives: list[Tensor], residual: Tensor) -> None:
    """Those of the problem, of columns scaled to unit length, against those of these derivatives."""
    model = problem.linearised(Student.of(problem.tableau, problem.denoiser.output), ALL, 0)
    normal, gradient = model.normal, model.gradient
    columns = torch.stack([d.flatten() for d in derivatives]).numpy()
    lengths = np.linalg.norm(columns, axis=1)
    columns /= lengths[:, None]
    errors = np.array([FORWARD_DIFFERENCE[unknown.kind] for unknown in problem.unknowns])
    assert (np.abs(normal / np.outer(lengths, lengths) - columns @ columns.T) < errors + errors[:, None]).all()
    size = float(residual.norm())
    assert (np.abs(gradient / lengths / size - columns @ residual.flatten().numpy() / size) < errors).all()


def test_normal_equations_are_those_of_the_derivatives(problem: linearisation.Problem) -> None:
    student = Student.of(problem.tableau, problem.denoiser.output)
    end = later_states(problem, student, torch.tensor(student.p), torch.tensor(student.q))[-1]
    assert_normal_equations(problem, [d[-1] for d in derivatives(problem, student)], problem.batch.end - end)


def test_inner_states_enter_the_error_and_the_normal_equations_with_their_weight() -> None:
    denoiser, tableau, weight = mixture_denoiser(SCHEDULE), ddim(3), 0.3
    noise = double_noise(5)
    targets = [torch.full_like(noise, value) for value in (0.2, -0.1, 0.4)]
    unknowns = tuple(linearisation.unknowns(tableau, 3, False))
    problem = linearisation.Problem(denoiser, Student.of(tableau, denoiser.output), unknowns, Batch(noise, {}, targets), weight)
    student = Student.of(tableau, "epsilon")
    states = dode.sample(denoiser, tableau, noise, return_trajectory=True).states[1:]
    weights = torch.tensor([weight, weight, 1.0], dtype=torch.float64)
    distances = torch.stack([target - x for target, x in zip(targets, states, strict=True)])
    expected = float((weights * distances.square().mean((1, 2))).sum())
    assert problem.error(student) == pytest.approx(expected, rel=ROUNDING)
    root = weights.sqrt()[:, None, None]
    assert_normal_equations(problem, [root * d for d in derivatives(problem, student)], root * distances)


def test_chunks_of_any_size_give_the_same_normal_equations(monkeypatch: pytest.MonkeyPatch) -> None:
    """To rounding for a network that is linear in x, whose differences are exact whatever their step."""
    matrix = torch.randn(4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    linear = dode.Denoiser(lambda x, t: x @ matrix * float(t[0]) / 999, SCHEDULE, shape=(4,))
    curved = mixture_denoiser(SCHEDULE)
    tableau = ddim(4)
    unknowns = tuple(linearisation.unknowns(tableau, 5, False))
    for denoiser, tolerance in ((linear, ROUNDING), (curved, 2 * FORWARD_DIFFERENCE["output"])):
        problem = linearisation.Problem(
            denoiser, Student.of(tableau, denoiser.output), unknowns, teacher_batch(curved, 11), 0.0
        )
        student = Student.of(tableau, "epsilon")
        model = problem.linearised(student, ALL, 0)
        whole, gradient = model.normal, model.gradient
        scale = np.sqrt(np.diag(whole))
        for chunk in (1, 3, 11):
            monkeypatch.setattr(problem, "_samples_of_columns", lambda chunk=chunk: chunk)
            part = problem.linearised(student, ALL, 0)
            parts, part_gradient = part.normal, part.gradient
            np.testing.assert_allclose(parts / np.outer(scale, scale), whole / np.outer(scale, scale), atol=tolerance)
            size = scale * math.sqrt(11 * 4 * problem.error(student))
            np.testing.assert_allclose(part_gradient / size, gradient / size, atol=tolerance)


def test_jacobians_of_a_part_of_the_samples_go_through_all_of_them() -> None:
    """Each turn takes others, and always as many as it is told to."""
    seen: list[Tensor] = []
    net = Mixture(SCHEDULE)

    def watched(x: Tensor, t: Tensor) -> Tensor:
        seen.append(x)
        return net(x, t)

    tableau, batch = ddim(1), teacher_batch(mixture_denoiser(SCHEDULE), 21)
    unknowns = tuple(linearisation.unknowns(tableau, 4, False))
    student = Student.of(tableau, "epsilon")
    problem = linearisation.Problem(dode.Denoiser(watched, SCHEDULE, shape=(4,)), student, unknowns, batch, 0.0)
    taken = []
    for turn in range(15):
        seen.clear()
        problem.linearised(student, 7, turn)
        (x,) = seen
        (first,) = (batch.noise == x[0]).all(1).nonzero().flatten().tolist()
        assert torch.equal(batch.noise[first : first + 7], x)
        taken.append(first)
    assert taken[0] != taken[1] != taken[2]
    assert set().union(*(range(first, first + 7) for first in taken)) == set(range(21))


@pytest.mark.parametrize("batch_size", [None, 1, 4, 6])
@pytest.mark.parametrize("columns", [1, 3, 7, 20])
def test_no_call_of_a_jacobian_has_more_samples_than_a_call_of_a_plain_run(
    batch_size: int | None, columns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Perturbed runs are evaluated together, however many samples have their columns formed at once."""
    sizes: list[int] = []
    net = Mixture(SCHEDULE)

    def watched(x: Tensor, t: Tensor) -> Tensor:
        sizes.append(len(x))
        return net(x, t)

    denoiser, tableau = dode.Denoiser(watched, SCHEDULE, shape=(4,), batch_size=batch_size), ddim(4)
    unknowns = tuple(linearisation.unknowns(tableau, 2, True))
    problem = linearisation.Problem(
        denoiser, Student.of(tableau, denoiser.output), unknowns, teacher_batch(mixture_denoiser(SCHEDULE), 20), 0.0
    )
    of_one = (len(unknowns) + 4 * 4) * 4 * 8
    monkeypatch.setattr(linearisation, "_CHUNK_BYTES", columns * of_one + 1)
    # Whole calls, where the columns of more than one call of samples fit.
    whole = columns if columns < problem.at_once else columns - columns % problem.at_once
    assert problem._samples_of_columns() == whole
    problem.linearised(Student.of(tableau, "epsilon"), ALL, 0)
    assert max(sizes) <= (batch_size or 20)
    assert sum(sizes) == problem.jacobian_cost(ALL) == denoiser.evaluations


def test_what_differences_err_by_their_step_cancels_in_the_sums() -> None:
    """Of samples that are all the same half of the derivatives are too long and half are too short: the gradient errs in second order."""
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(4)
    unknowns = tuple(linearisation.unknowns(tableau, 3, True))
    noise = double_noise(1).expand(6, 4)
    one = teacher_batch(denoiser, 6)
    batch = Batch(noise, {}, [one.end])
    problem = linearisation.Problem(denoiser, Student.of(tableau, denoiser.output), unknowns, batch, 0.0)
    student = Student.of(tableau, "epsilon")

    def columns(scale: float) -> Tensor:
        usual = linearisation.Differences()
        ((_, run),) = problem.runs(student, 0, 6)
        made = run.columns(
            unknowns, run.forward(), linearisation.Differences(usual.state * scale, usual.time * scale), all_rows=False
        )
        ends = [end for (end,) in made]
        return torch.stack([end for end in ends if end is not None])

    exact = columns(1e-3)
    single, mean = [], []
    for scale in (5.0, 10.0):
        errors = columns(scale) - exact
        single.append(float(errors[:, 0].norm()))
        mean.append(float(errors.mean(1).norm()))
    assert np.log2(single[1] / single[0]) == pytest.approx(1, abs=0.2)
    assert np.log2(mean[1] / mean[0]) == pytest.approx(2, abs=0.3)
    assert mean[0] < 0.2 * single[0]


# What the fit comes to.


# Both solvers end on a flat bottom; scipy's own three methods agree to 1e-7 here.
SAME_MINIMUM = 1e-3


@pytest.mark.parametrize("rows", [2, 3])
def test_a_small_nonlinear_problem_has_the_minimum_that_scipy_finds(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All coefficients of two or three rows, from DDIM's. The valley of three rows is so narrow that forward differences with the
    usual step, and ending at the usual gain, stay a little up its side."""
    if rows == 3:
        monkeypatch.setattr(linearisation, "_STATE_STEP", 1e-5)
        monkeypatch.setattr(end_to_end, "_CONVERGED", 1e-6)
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(rows)
    fit = teacher_batch(denoiser, 12, seed=1)
    problem = linearisation.Problem(denoiser, Student.of(tableau, denoiser.output), (), fit, 0.0)
    start = Student.of(tableau, "epsilon")
    lower = np.tril_indices(rows)

    def residuals(values: Array) -> Array:
        q = np.zeros((rows, rows))
        q[lower] = values[rows:]
        end = later_states(problem, start, torch.tensor(values[:rows]), torch.tensor(q))[-1]
        return np.asarray((end - fit.end).flatten() / math.sqrt(fit.end.numel()))

    values = np.concatenate([start.p, start.q[lower]])
    expected = 2 * least_squares(residuals, values, x_scale="jac", xtol=1e-10, ftol=1e-10).cost
    result = refine(denoiser, tableau, fit, fit, jacobian_samples=ALL, iterations=ALL)
    assert result.unknowns == len(values)
    assert result.fitting[0] == pytest.approx(float((residuals(values) ** 2).sum()), rel=ROUNDING)
    assert result.fitting[0] > 100 * expected
    assert result.fitting[1] == pytest.approx(expected, rel=SAME_MINIMUM)


def recorder() -> tuple[list[tuple[float, float]], Callable[[int, float, float], None]]:
    """A list, and an `on_step` that adds the fitting and the validation error of each step to it."""
    seen: list[tuple[float, float]] = []
    return seen, lambda iteration, error, validation: seen.append((error, validation))


def scores(seen: list[tuple[float, float]], samples: int, unknowns: int) -> list[float]:
    """Of steps on samples of four numbers: the larger of the validation error and what the fitting error lets expect of new samples."""
    equations = 4 * samples
    return [max(error * (equations + unknowns) / (equations - unknowns), validation) for error, validation in seen]


@pytest.mark.parametrize("times", [False, True])
def test_what_is_given_out_is_the_best_step_on_both_sets_and_never_worse_than_the_start(times: bool) -> None:
    """Three samples of four numbers for 9 or 11 unknowns: the fit goes on to fit what other noise does not have."""
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(3)
    overfitted = 0
    for seed in range(4):
        fit, validation = teacher_batch(denoiser, 3, seed=seed), teacher_batch(denoiser, 20, VALIDATION, seed)
        seen, on_step = recorder()
        result = refine(denoiser, tableau, fit, validation, times=times, jacobian_samples=ALL, on_step=on_step)
        start, end = (float(end_errors(denoiser, t, validation).mean()) for t in (tableau, result.tableau))
        assert result.validation == pytest.approx((start, end), rel=ROUNDING)
        found = [max(result.fitting[0], start), *scores(seen, 3, result.unknowns)]
        assert result.score == pytest.approx((found[0], min(found)), rel=ROUNDING)
        assert result.validation[1] == pytest.approx([start, *(v for _, v in seen)][int(np.argmin(found))], rel=ROUNDING)
        assert result.better == (min(found) < found[0])
        assert result.fitting[1] <= result.fitting[0]
        assert len(seen) == result.iterations
        overfitted += found[-1] > min(found)
    assert overfitted > 0


def test_a_far_sample_that_only_the_fitting_set_holds_has_a_say_in_the_best_step() -> None:
    """By validation alone, whose samples are all near, the start would be given back."""
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(3)
    whole = teacher_batch(denoiser, 400)
    errors = end_errors(denoiser, tableau, whole)
    near = whole.part(np.argsort(errors)[:20].tolist())  # type: ignore[arg-type]
    fit = whole.part(slice(0, 40))
    result = refine(denoiser, tableau, fit, near, jacobian_samples=ALL)
    assert result.score[0] == result.fitting[0] > result.validation[0]
    assert result.fitting[1] < result.fitting[0] / 2
    assert result.better


def test_patience_ends_a_fit_whose_last_steps_were_no_better() -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(3)
    fit, validation = teacher_batch(denoiser, 3), teacher_batch(denoiser, 20, VALIDATION)
    for patience in (1, 2, 4):
        seen, on_step = recorder()
        result = refine(
            denoiser, tableau, fit, validation, jacobian_samples=ALL, patience=patience, iterations=ALL, on_step=on_step
        )
        assert result.stopped == "the last steps were no better"
        found = [result.score[0], *scores(seen, 3, result.unknowns)]
        for i in range(len(found) - patience, len(found)):
            assert found[i] >= min(found[:i]) * (1 - end_to_end._CONVERGED)


def test_a_start_that_diverges_is_given_back() -> None:
    denoiser = dode.Denoiser(lambda x, t: x * math.inf, SCHEDULE, shape=(4,))
    batch = teacher_batch(mixture_denoiser(SCHEDULE), 8)
    result = refine(denoiser, ddim(3), batch, batch)
    assert result.stopped == "the Jacobian is not finite"
    assert result.iterations == 0
    assert result.validation == (math.inf, math.inf)
    np.testing.assert_allclose(result.tableau.b, ddim(3).b, rtol=ROUNDING, atol=ROUNDING)


# Its budget.


def spent(tableau: dode.Tableau, fit: Batch, validation: Batch, budget: float, **options: object) -> tuple[Refined, int]:
    denoiser = mixture_denoiser(SCHEDULE)
    result = refine(denoiser, tableau, fit, validation, budget=budget, **options)  # type: ignore[arg-type]
    return result, denoiser.evaluations


@pytest.mark.parametrize("times", [False, True])
def test_no_more_is_spent_than_the_budget_and_no_more_is_left_than_a_step(times: bool) -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(4)
    fit, validation = teacher_batch(denoiser, 16), teacher_batch(denoiser, 8, VALIDATION)
    unknowns = tuple(linearisation.unknowns(tableau, 4, times))
    problem = linearisation.Problem(denoiser, Student.of(tableau, denoiser.output), unknowns, fit, 0.0)
    step = problem.jacobian_cost(ALL) + tableau.nfe * (16 + 8)
    iterations = []
    for budget in (1000, 2000, 3000, 4000):
        result, evaluations = spent(
            tableau, fit, validation, budget, times=times, jacobian_samples=ALL, patience=ALL, iterations=ALL
        )
        assert result.stopped == "the budget is spent"
        assert budget - step < evaluations <= budget
        iterations.append(result.iterations)
    assert iterations == sorted(iterations)
    assert 0 < iterations[0] < iterations[-1]


def test_a_budget_too_small_for_a_step_gives_the_start_back() -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), dode.solver("dpm-solver++").tableau(SCHEDULE, 4)
    fit, validation = teacher_batch(denoiser, 16), teacher_batch(denoiser, 8, VALIDATION)
    # What measuring the start takes, which any fit has to.
    measured = tableau.nfe * (16 + 8)
    for budget in (0, measured, measured + 50):
        result, evaluations = spent(tableau, fit, validation, budget)
        assert evaluations == measured
        assert result.stopped == "the budget is spent"
        assert result.iterations == 0
        assert result.fitting[0] == result.fitting[1]
        assert result.validation[0] == result.validation[1]
        torch.testing.assert_close(
            dode.sample(denoiser, result.tableau, fit.noise), dode.sample(denoiser, tableau, fit.noise), rtol=0, atol=ROUNDING
        )


def test_the_jacobian_of_a_small_budget_is_taken_from_fewer_samples() -> None:
    """So that it lasts for more than a step or two."""
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(3)
    fit = teacher_batch(denoiser, 90)
    problem = linearisation.Problem(
        denoiser, Student.of(tableau, denoiser.output), tuple(linearisation.unknowns(tableau, 4, False)), fit, 0.0
    )
    step = tableau.nfe * (90 + 20)
    budgets = (0, 4000, 5000, 10**6, math.inf)
    taken = [problem.affordable(budget, step) for budget in budgets]
    assert taken == sorted(taken)
    assert taken[0] < taken[2] < taken[-1] == 90
    assert 8 * (problem.jacobian_cost(taken[2]) + step) <= budgets[2]
    # Enough equations whatever the budget.
    assert taken[0] * 4 >= len(problem.unknowns)


# Interruption.


def interrupted(at: int) -> Callable[[int, float, float], None]:
    def on_step(iteration: int, error: float, validation: float) -> None:
        if iteration == at:
            raise KeyboardInterrupt

    return on_step


def assert_same_fit(found: Refined, expected: Refined) -> None:
    """To the last bit, but for what a checkpoint saved."""
    assert vars(found) | {"saved": 0} == vars(expected) | {"saved": 0}


@pytest.mark.parametrize(
    ("prediction", "times"), [("epsilon", False), ("v", False), ("sample", False), ("epsilon", True), ("v", True)]
)
def test_an_interrupted_fit_goes_on_to_the_same_end(prediction: str, times: bool, tmp_path: Path) -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE, prediction), ddim(4)
    fit, validation = teacher_batch(denoiser, 16), teacher_batch(denoiser, 16, VALIDATION)
    denoiser.evaluations = 0
    whole = refine(denoiser, tableau, fit, validation, times=times, iterations=6)
    assert whole.iterations > 3
    spent_on_whole = denoiser.evaluations

    folder = tmp_path / "folder"
    checkpoint = Cache(folder).entry("fit.json")
    with pytest.raises(KeyboardInterrupt):
        refine(denoiser, tableau, fit, validation, times=times, iterations=6, checkpoint=checkpoint, on_step=interrupted(2))
    assert (folder / "fit.json").is_file()
    before, steps = denoiser.evaluations, []
    resumed = refine(
        denoiser,
        tableau,
        fit,
        validation,
        times=times,
        iterations=6,
        checkpoint=checkpoint,
        on_step=lambda iteration, error, best: steps.append(iteration),
    )
    assert_same_fit(resumed, whole)
    assert steps == list(range(3, whole.iterations + 1))
    # What the first two steps took is not taken again, and is said.
    assert resumed.saved > 0
    assert denoiser.evaluations - before + resumed.saved == spent_on_whole


@pytest.mark.parametrize("at", [1, 2])
@pytest.mark.parametrize(
    ("budget", "patience", "stopped"),
    [(math.inf, 3, "the last steps were no better"), (700, ALL, "the budget is spent")],
    ids=["patience", "budget"],
)
def test_patience_and_budget_are_those_of_the_whole_fit(
    budget: float, patience: int, stopped: str, at: int, tmp_path: Path
) -> None:
    denoiser, tableau, checkpoint = mixture_denoiser(SCHEDULE), ddim(3), Cache(tmp_path).entry("fit.json")
    fit, validation = teacher_batch(denoiser, 3, seed=1), teacher_batch(denoiser, 20, VALIDATION, seed=1)

    def run(checkpoint: Entry | None, on_step: Callable[[int, float, float], None] | None = None) -> Refined:
        options = {"jacobian_samples": ALL, "budget": budget, "patience": patience}
        return refine(denoiser, tableau, fit, validation, **options, checkpoint=checkpoint, on_step=on_step)  # type: ignore[arg-type]

    whole = run(None)
    assert whole.stopped == stopped
    assert whole.iterations > at
    with pytest.raises(KeyboardInterrupt):
        run(checkpoint, interrupted(whole.iterations - at))
    assert_same_fit(run(checkpoint), whole)


def test_a_finished_fit_is_kept_and_costs_nothing_again(tmp_path: Path) -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(3)
    fit, validation = teacher_batch(denoiser, 8), teacher_batch(denoiser, 8, VALIDATION)
    plain = refine(denoiser, tableau, fit, validation, iterations=3)
    kept = refine(denoiser, tableau, fit, validation, iterations=3, checkpoint=Cache(tmp_path).entry("fit.json"))
    assert kept.tableau == plain.tableau
    assert [path.name for path in tmp_path.iterdir()] == ["fit.json"]
    before = denoiser.evaluations
    again = refine(denoiser, tableau, fit, validation, iterations=3, checkpoint=Cache(tmp_path).entry("fit.json"))
    assert denoiser.evaluations == before
    assert_same_fit(again, plain)


# Times.


@pytest.mark.parametrize(
    ("schedule", "start"),
    [
        *((schedule, start) for schedule in (SCHEDULE, Flow(3.0), ContinuousVP()) for start in ("uniform", "karras")),
        (EDM(), "karras"),
    ],
    ids=str,
)
def test_learned_times_fall_strictly_within_the_schedule(schedule: NoiseSchedule, start: str) -> None:
    denoiser = mixture_denoiser(schedule, "sample" if isinstance(schedule, EDM) else "v")
    fit, validation = teacher_batch(denoiser, 12), teacher_batch(denoiser, 12, VALIDATION)
    tableau = ddim(4, schedule, start)
    result = refine(denoiser, tableau, fit, validation, times=True, jacobian_samples=ALL, iterations=8)
    times = result.tableau.times
    assert (np.diff(times) < 0).all()
    assert schedule.t_min <= times[-2]
    assert (times[0], times[-1]) == (tableau.times[0], tableau.times[-1])
    assert (times[1:-1] != tableau.times[1:-1]).any()
    np.testing.assert_allclose(result.tableau.alphas, schedule.alpha(times), rtol=ROUNDING)
    np.testing.assert_allclose(result.tableau.sigmas, schedule.sigma(times), rtol=ROUNDING)
    assert result.validation[1] < result.validation[0]


def test_steps_that_would_cross_times_are_not_taken() -> None:
    """From an even grid in sigma the first steps want the times to pass each other."""
    schedule = EDM()
    denoiser = mixture_denoiser(schedule, "sample")
    fit, validation = teacher_batch(denoiser, 12), teacher_batch(denoiser, 12, VALIDATION)
    result = refine(denoiser, ddim(4, schedule, "uniform"), fit, validation, times=True, jacobian_samples=ALL)
    assert (np.diff(result.tableau.times) < 0).all()
    assert result.validation[1] <= result.validation[0]
    assert math.isfinite(result.fitting[1])


@pytest.mark.parametrize("schedule", [SCHEDULE, EDM(), Flow(3.0), ContinuousVP()], ids=lambda s: s.kind)
def test_a_moved_time_changes_log_rho_by_so_much_and_stays_where_the_network_may_be_asked(schedule: NoiseSchedule) -> None:
    denoiser = mixture_denoiser(schedule, "sample")
    inner = ddim(4, schedule, "uniform").points[2]
    for change in (-0.2, -1e-6, 1e-6, 0.2):
        point = linearisation.moved_point(denoiser, inner, change)
        assert math.log(point.rho / inner.rho) == pytest.approx(change, rel=1e-6)
        assert (point.alpha, point.sigma) == (float(schedule.alpha(point.t)), float(schedule.sigma(point.t)))
    assert linearisation.moved_point(denoiser, inner, -50.0).t == schedule.t_min
    assert linearisation.moved_point(denoiser, inner, 50.0).t == pytest.approx(schedule.t_max)


def test_a_time_at_the_lowest_has_its_derivative_from_above() -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(4, grid="karras")
    lowest = linearisation.Unknown("time", 3)
    assert tableau.times[3] == SCHEDULE.t_min
    problem = linearisation.Problem(denoiser, Student.of(tableau, denoiser.output), (lowest,), teacher_batch(denoiser, 5), 0.0)
    student = Student.of(tableau, "epsilon")
    ((_, run),) = problem.runs(student, 0, 5)
    states = run.forward()
    found = run._moved(3, states, problem.differences, all_rows=False)[-1]
    moved = student.moved(3, linearisation.moved_point(denoiser, student.points[3], 1e-5))
    end = later_states(problem, moved, torch.tensor(moved.p), torch.tensor(moved.q))[-1]
    expected = (end - states[-1]) / 1e-5
    assert float((found - expected).norm() / expected.norm()) < FORWARD_DIFFERENCE["time"]


def test_times_stay_where_they_are_unless_they_are_fitted() -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(4)
    batch = teacher_batch(denoiser, 12)
    result = refine(denoiser, tableau, batch, batch, iterations=3)
    assert result.iterations == 3
    assert result.tableau.times.tolist() == tableau.times.tolist()


def test_a_network_of_whole_times_is_given_whole_times() -> None:
    asked: list[Tensor] = []
    net = Mixture(SCHEDULE)

    def watched(x: Tensor, t: Tensor) -> Tensor:
        asked.append(t)
        return net(x, t)

    tableau = ddim(4, grid="trailing")
    fit, validation = (teacher_batch(mixture_denoiser(SCHEDULE), 12, stream) for stream in (FITTING, VALIDATION))
    denoiser = dode.Denoiser(watched, SCHEDULE, integer_times=True, shape=(4,))
    result = refine(denoiser, tableau, fit, validation, times=True, jacobian_samples=ALL, iterations=6)
    times = result.tableau.times
    assert (times[1:-1] != tableau.times[1:-1]).all()
    assert (times == np.round(times)).all()
    assert (np.diff(times) < 0).all()
    assert {t.dtype for t in asked} == {torch.int64}
    # What the fit measured is what a sampler gets that asks the network at the tableau's own times.
    exact = mixture_denoiser(SCHEDULE)
    assert end_errors(exact, result.tableau, validation).mean() == pytest.approx(result.validation[1], rel=ROUNDING)


# Refusals.


def test_fewer_equations_than_unknowns_are_refused_with_the_number_that_would_do() -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(4)
    validation = teacher_batch(denoiser, 4, VALIDATION)
    # 4 states and 1 + 2 + 3 + 4 outputs; with times 3 more.
    for times, unknowns, need in ((False, 14, 4), (True, 17, 5)):
        message = f"{unknowns} unknowns need at least {need} fitting samples of 4 numbers, got {need - 1}"
        with pytest.raises(ValueError, match=message):
            refine(denoiser, tableau, teacher_batch(denoiser, need - 1), validation, times=times)
        result = refine(denoiser, tableau, teacher_batch(denoiser, need), validation, times=times, iterations=1)
        assert result.unknowns == unknowns


def test_inner_targets_and_learned_times_do_not_go_together() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    batch = teacher_batch(denoiser, 12)
    with pytest.raises(ValueError, match="take inner_weight=0 or times=False"):
        refine(denoiser, ddim(3), batch, batch, times=True, inner_weight=0.1)


# What once went wrong.


def test_times_that_clash_do_not_stop_the_coefficients() -> None:
    denoiser = mixture_denoiser(EDM(), "sample")
    fit = teacher_batch(denoiser, 12)
    result = refine(denoiser, ddim(4, EDM(), "uniform"), fit, fit, times=True, jacobian_samples=ALL)
    assert result.fitting[1] < 0.1 * result.fitting[0]


# Seeds whose fit ends so; most end for other reasons.
@pytest.mark.parametrize("seed", [7, 8, 9, 14])
def test_converged_means_converged(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    fit = teacher_batch(denoiser, 3, seed=seed)
    usual = refine(denoiser, ddim(3), fit, fit, jacobian_samples=ALL, iterations=300, patience=ALL)
    assert usual.stopped == "converged"
    monkeypatch.setattr(end_to_end, "_CONVERGED", 1e-9)
    longer = refine(denoiser, ddim(3), fit, fit, jacobian_samples=ALL, iterations=300, patience=ALL)
    assert usual.fitting[1] < 10 * longer.fitting[1]


@pytest.mark.parametrize("n", [20, 32, 80])
def test_every_sample_has_its_turn_in_the_jacobian(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), ddim(2)
    unknowns = tuple(linearisation.unknowns(tableau, 4, False))
    problem = linearisation.Problem(denoiser, Student.of(tableau, denoiser.output), unknowns, teacher_batch(denoiser, n), 0.0)
    seen: set[int] = set()
    runs = problem.runs

    def watched(student: Student, first: int, end: int, chunk: int | None = None) -> object:
        seen.update(range(first, end))
        return runs(student, first, end, chunk)

    monkeypatch.setattr(problem, "runs", watched)
    for turn in range(4):
        problem.linearised(Student.of(tableau, "epsilon"), math.ceil(n / 3), turn)
    assert seen == set(range(n))


def test_a_checkpoint_leaves_no_trace_in_the_result(tmp_path: Path) -> None:
    denoiser, tableau, checkpoint = mixture_denoiser(SCHEDULE), ddim(4), Cache(tmp_path).entry("fit.json")
    fit, validation = teacher_batch(denoiser, 16), teacher_batch(denoiser, 16, VALIDATION)
    with pytest.raises(KeyboardInterrupt):
        refine(denoiser, tableau, fit, validation, iterations=8, checkpoint=checkpoint, on_step=interrupted(2))
    assert refine(denoiser, tableau, fit, validation, iterations=8, checkpoint=checkpoint).tableau.meta == tableau.meta


def test_a_tiny_change_leaves_whole_times_where_they_are() -> None:
    student = Student.of(ddim(4, grid="trailing"), "epsilon")
    unknowns = tuple(linearisation.unknowns(student.base, 4, True))
    denoiser = mixture_denoiser(SCHEDULE, integer_times=True)
    moved = linearisation.changed(student, unknowns, np.full(len(unknowns), 1e-9), denoiser)
    assert moved is not None
    assert moved.points == student.points


def test_the_shared_mean_is_paid_from_the_budget() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    fit, validation = teacher_batch(denoiser, 16), teacher_batch(denoiser, 8, VALIDATION)
    before = denoiser.evaluations
    shared = dataclasses.replace(ddim(4), first="mean")
    refine(denoiser, shared, fit, validation, jacobian_samples=ALL, patience=ALL, iterations=ALL, budget=1200)
    assert denoiser.evaluations - before <= 1200
