"""The canonical form of a tableau: it samples the same, and a state moves along what its own output says."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from mixture import double_noise, mixture_denoiser
from torch import Tensor

import dode
from dode.distillation.student import Student
from dode.grids import Point
from dode.sampling import start
from dode.schedules import EDM, VP, ContinuousVP, Flow, NoiseSchedule
from dode.solvers import REGISTRY

SCHEDULE = VP.linear()
PREDICTIONS = ("epsilon", "v", "flow", "sample", "score")
# float64 over tens of rows. Where a row keeps little of its state, going back through it costs as many digits.
ROUNDING = 1e-9


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


def run(student: Student, denoiser: dode.Denoiser, x: Tensor, first: Tensor | None = None) -> list[Tensor]:
    """x_{k+1} = p_k x_k + sum_j q[k,j] N_j, as the form is defined: the states after x."""
    outputs, states = [], []
    with denoiser.evaluator(x, {}) as evaluate:
        for k, point in enumerate(student.points[:-1]):
            outputs.append(evaluate(x, point) if k or first is None else first)
            x = x * student.p[k] + sum(output * q for output, q in zip(outputs, student.q[k]))
            states.append(x)
    return states


SOLVERS = [
    *(dode.solver(name) for name in REGISTRY),
    dode.solver("pndm", warm_up="runge-kutta"),
    dode.solver("dpm-solver", order=3, stages="log-snr"),
    dode.solver("dpm-solver++", order=3),
    dode.solver("dpm-solver++", order=2, method="singlestep", solver_type="heun"),
]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("solver", SOLVERS, ids=str)
def test_the_form_and_its_tableau_sample_what_the_tableau_does(solver: dode.Solver, prediction: str) -> None:
    denoiser, x = mixture_denoiser(SCHEDULE, prediction), double_noise(6)
    tableau = solver.tableau(SCHEDULE, 14)
    student = Student.of(tableau, denoiser.output)
    assert not np.triu(student.q, 1).any()
    expected = dode.sample(denoiser, tableau, x, return_trajectory=True).states[1:]
    found = run(student, denoiser, start(denoiser, tableau, x))
    back = student.tableau()
    states = dode.sample(denoiser, back, x, return_trajectory=True).states[1:]
    for k in range(14):
        assert_close(found[k], expected[k])
        assert_close(states[k], expected[k])
    # Of older states the form names none; in the network's own outputs its tableau does not either.
    rows = back.for_prediction(prediction).a
    np.testing.assert_allclose(rows, np.diag(student.p), atol=ROUNDING * max(1.0, np.abs(student.p).max()))
    assert (back.times.tolist(), back.noise_scale, back.solver, back.schedule) == (
        tableau.times.tolist(),
        tableau.noise_scale,
        tableau.solver,
        tableau.schedule,
    )


@pytest.mark.parametrize("name", ["ddim", "dpm-solver++", "edm", "unipc"])
@pytest.mark.parametrize(
    ("schedule", "prediction"), [(EDM(), "sample"), (Flow(3.0), "flow"), (ContinuousVP(), "v")], ids=["edm", "flow", "cvp"]
)
def test_other_schedules_sample_the_same(name: str, schedule: NoiseSchedule, prediction: str) -> None:
    """A flow starts at alpha = 0, where its own output still says what D is."""
    denoiser, x = mixture_denoiser(schedule, prediction), double_noise(6)
    tableau = dode.solver(name).tableau(schedule, 7)
    assert_close(
        dode.sample(denoiser, Student.of(tableau, prediction).tableau(), x),
        dode.sample(denoiser, tableau, x),
    )


@pytest.mark.parametrize("first", ["zero", "mean"])
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_a_shared_first_output_is_taken_as_the_denoised_sample(first: str, prediction: str) -> None:
    denoiser, x = mixture_denoiser(SCHEDULE, prediction), double_noise(6)
    tableau = dataclasses.replace(dode.solver("deis").tableau(SCHEDULE, 6), first=first)
    student = Student.of(tableau, prediction)
    expected = dode.sample(denoiser, tableau, x, return_trajectory=True)
    assert student.tableau().first == first
    assert_close(dode.sample(denoiser, student.tableau(), x), expected.final)
    assert_close(run(student, denoiser, x, expected.denoised[0])[-1], expected.final)


def test_the_form_of_the_form_is_itself() -> None:
    student = Student.of(dode.solver("dpm-solver").tableau(SCHEDULE, 6), "v")
    again = Student.of(student.tableau(), "v")
    np.testing.assert_allclose(again.p, student.p, rtol=ROUNDING, atol=ROUNDING)
    np.testing.assert_allclose(again.q, student.q, rtol=ROUNDING, atol=ROUNDING)


def test_changed_adds_to_the_coefficients_and_leaves_the_student_as_it_was() -> None:
    student = Student.of(dode.solver("deis").tableau(SCHEDULE, 4), "epsilon")
    p, q = student.p.copy(), student.q.copy()
    more = student.changed(np.full(4, 0.1), np.tril(np.full((4, 4), -0.2)))
    np.testing.assert_allclose(more.p - p, 0.1, rtol=1e-12)
    np.testing.assert_allclose(more.q - q, np.tril(np.full((4, 4), -0.2)), atol=1e-12)
    assert (student.p == p).all()
    assert (student.q == q).all()


# Moving a state to another time.


def at(schedule: NoiseSchedule, t: float) -> Point:
    return Point(t, float(schedule.alpha(t)), float(schedule.sigma(t)))


MOVES = [(1, 870.0), (1, 610.0), (2, 410.0), (3, 590.0), (4, 0.0)]


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("name", ["ddim", "deis", "dpm-solver++"])
@pytest.mark.parametrize(("k", "t"), MOVES)
def test_a_moved_state_goes_along_what_its_own_output_says(name: str, prediction: str, k: int, t: float) -> None:
    """By (alpha' - alpha) D_{k-1} + (sigma' - sigma) eps_{k-1}; the states before it stay."""
    denoiser, x = mixture_denoiser(SCHEDULE, prediction), double_noise(6)
    student = Student.of(dode.solver(name).tableau(SCHEDULE, 5), prediction)
    old, new = student.points[k], at(SCHEDULE, t)
    moved = student.moved(k, new)
    before = dode.sample(denoiser, student.tableau(), x, return_trajectory=True)
    after = dode.sample(denoiser, moved.tableau(), x, return_trajectory=True)
    for earlier in range(k):
        assert_close(after.states[earlier], before.states[earlier])
    point, D = student.points[k - 1], before.denoised[k - 1]
    eps = (before.states[k - 1] - point.alpha * D) / point.sigma
    expected = before.states[k] + (new.alpha - old.alpha) * D + (new.sigma - old.sigma) * eps
    assert_close(after.states[k], expected)
    assert float((expected - before.states[k]).abs().max()) > 1e-3
    assert moved.points == (*student.points[:k], new, *student.points[k + 1 :])
    # Only the row before it is another.
    others = [row for row in range(5) if row != k - 1]
    assert (moved.p[others] == student.p[others]).all()
    assert (moved.q[others] == student.q[others]).all()


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_moving_back_and_in_two_steps_is_the_same(prediction: str) -> None:
    student = Student.of(dode.solver("deis").tableau(SCHEDULE, 5), prediction)
    there = student.moved(2, at(SCHEDULE, 510.0))
    for other, expected in (
        (student.moved(2, student.points[2]), student),
        (there.moved(2, student.points[2]), student),
        (student.moved(2, at(SCHEDULE, 640.0)).moved(2, at(SCHEDULE, 510.0)), there),
    ):
        assert other.points == expected.points
        np.testing.assert_allclose(other.p, expected.p, rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(other.q, expected.q, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_moved_state_of_ddim_is_where_ddim_on_the_other_grid_has_it(prediction: str) -> None:
    student = Student.of(dode.solver("ddim").tableau(SCHEDULE, grid=(999.0, 700, 400, 100)), prediction)
    expected = Student.of(dode.solver("ddim").tableau(SCHEDULE, grid=(999.0, 700, 300, 100)), prediction)
    moved = student.moved(2, expected.points[2])
    assert moved.p[1] == pytest.approx(expected.p[1], rel=ROUNDING)
    np.testing.assert_allclose(moved.q[1], expected.q[1], rtol=ROUNDING)


def test_a_state_may_move_after_a_shared_first_output() -> None:
    denoiser, x = mixture_denoiser(SCHEDULE), double_noise(6)
    tableau = dataclasses.replace(dode.solver("ddim").tableau(SCHEDULE, 4), first="zero")
    student = Student.of(tableau, "epsilon")
    new = at(SCHEDULE, 600.0)
    states = dode.sample(denoiser, student.moved(1, new).tableau(), x, return_trajectory=True).states
    # D_0 = 0, so the first state is all noise: x_0 = sigma eps.
    assert_close(states[1], states[0] * (new.sigma / tableau.sigmas[0]))


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_direction_in_state_and_output_is_that_combination_of_sample_and_noise(prediction: str) -> None:
    denoiser, x = mixture_denoiser(SCHEDULE, prediction), double_noise(6)
    student = Student.of(dode.solver("ddim").tableau(SCHEDULE, 3), prediction)
    point = student.points[1]
    with denoiser.evaluator(x, {}) as evaluate:
        output = evaluate(x, point)
    D = denoiser.denoised(x, output, point)
    c_x, c_n = student.direction(1, 0.7, -1.3)
    assert_close(c_x * x + c_n * output, 0.7 * D - 1.3 * (x - point.alpha * D) / point.sigma)


# What has no such form.


def dropping(needed: float) -> dode.Tableau:
    """Row 1 is D_1 alone; row 2 takes `needed` of x_1."""
    base = dode.solver("ddim").tableau(SCHEDULE, 3)
    a = np.array([[1.0, 0, 0], [0, 0, 0], [0, needed, 0.5]])
    b = np.array([[0.1, 0, 0], [0, 1, 0], [0, 0.3, 0.2]])
    return dataclasses.replace(base, a=a, b=b, integrand=None)


def test_a_state_that_is_needed_after_it_was_dropped_is_refused() -> None:
    with pytest.raises(ValueError, match="row 2 needs the state 1, which no later state keeps a part of"):
        Student.of(dropping(0.4), "sample")


def test_a_dropped_state_that_nothing_needs_is_no_obstacle() -> None:
    denoiser, x = mixture_denoiser(SCHEDULE, "sample"), double_noise(6)
    tableau = dropping(0.0)
    student = Student.of(tableau, "sample")
    assert student.p.tolist() == [1.0, 0.0, 0.5]
    assert_close(dode.sample(denoiser, student.tableau(), x), dode.sample(denoiser, tableau, x))
