"""States of a teacher at any time: exact where it stopped, of fourth order between, and refused where it was not."""

from __future__ import annotations

import functools
import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from mixture import Mixture, double_noise, mixture_denoiser
from scipy.integrate import solve_ivp
from torch import Tensor

import dode
from dode.cache import Cache
from dode.distillation.batch import Batch
from dode.grids import Point
from dode.noise import standard_noise
from dode.schedules import EDM, VP, ContinuousVP, Flow, NoiseSchedule
from dode.solvers import REGISTRY
from dode.teacher import States, Teacher, make_teacher, teacher_states

# Rounding of float64 over some hundred steps.
ROUNDING = 1e-10

SCHEDULES = [VP.linear(), EDM(), Flow(), ContinuousVP()]
every_schedule = pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda schedule: schedule.kind)


def at(schedule: NoiseSchedule, t: float) -> Point:
    return Point(float(t), float(schedule.alpha(t)), float(schedule.sigma(t)))


def polar(point: Point) -> tuple[float, float]:
    """phi and r: alpha = r cos(phi), sigma = r sin(phi)."""
    return math.atan2(point.sigma, point.alpha), math.hypot(point.alpha, point.sigma)


def slope(schedule: NoiseSchedule, phi: float, y: Tensor) -> Tensor:
    """d (x / r) / d phi = cos(phi) eps - sin(phi) D of the mixture, at y = x / r."""
    alpha, sigma = math.cos(phi), math.sin(phi)
    D = Mixture(schedule).posterior_mean(y, alpha, sigma)
    return alpha * (y - alpha * D) / sigma - sigma * D


def exact_run(schedule: NoiseSchedule, steps: int) -> States:
    """The ODE of the mixture with four noises, solved in phi by scipy: states and slopes at even steps, down to where
    sigma / alpha = 0.02, far below the mixture's own width of 0.3."""
    top, _ = polar(at(schedule, schedule.t_max))
    inner = np.linspace(top, math.atan(0.02), steps + 1)[1:]
    times = [schedule.t_max, *schedule.time(2 * np.log(1 / np.tan(inner)))]
    points = [at(schedule, t) for t in times]
    noise = double_noise(4, seed=1)
    x = noise * schedule.noise_scale(schedule.t_max)
    solution = solve_ivp(
        lambda phi, y: slope(schedule, phi, torch.from_numpy(y.reshape(4, 4))).numpy().ravel(),
        (top, inner[-1]),
        (x / polar(points[0])[1]).numpy().ravel(),
        method="DOP853",
        t_eval=[polar(point)[0] for point in points],
        rtol=1e-11,
        atol=1e-12,
    )
    inside = [torch.from_numpy(y.reshape(4, 4)) for y in solution.y.T]
    values = [y * polar(point)[1] for y, point in zip(inside, points, strict=True)]
    slopes = [slope(schedule, polar(point)[0], y) for y, point in zip(inside, points, strict=True)]
    return States(tuple(points), tuple(values), tuple(slopes))


@functools.cache
def fine_run(index: int) -> States:
    return exact_run(SCHEDULES[index], 256)


def every(states: States, stride: int) -> States:
    return States(states.points[::stride], states.values[::stride], states.slopes[::stride])


def largest_error(states: States, reference: States) -> float:
    return max(float((states.at(p) - x).abs().max() / polar(p)[1]) for p, x in zip(reference.points, reference.values))


# Interpolation of exact states with exact slopes.


@every_schedule
def test_states_at_their_own_times_are_given_to_the_last_bit(schedule: NoiseSchedule) -> None:
    states = every(fine_run(SCHEDULES.index(schedule)), 16)
    for point, value in zip(states.points, states.values, strict=True):
        assert torch.equal(states.at(point), value)


@every_schedule
def test_between_its_times_the_error_falls_with_the_fourth_power_of_the_steps(schedule: NoiseSchedule) -> None:
    fine = fine_run(SCHEDULES.index(schedule))
    errors = np.array([largest_error(every(fine, stride), fine) for stride in (16, 8, 4, 2)])
    orders = np.log2(errors[:-1] / errors[1:])
    # Sixteen steps are still coarse for the turn that the states take where the mixture's parts separate.
    assert 3.7 < orders[-1] < 4.3
    assert orders.min() > 3
    assert errors[-1] < 1e-6


@every_schedule
def test_the_last_step_without_a_slope_at_its_end_is_of_third_order(schedule: NoiseSchedule) -> None:
    """A parabola through both states with the slope at its start, as for the step to the clean sample."""
    fine = fine_run(SCHEDULES.index(schedule))
    errors = []
    for length in (32, 16, 8):
        first = 256 - 64
        pair = (first, first + length)
        states = States(tuple(fine.points[i] for i in pair), tuple(fine.values[i] for i in pair), (fine.slopes[first], None))
        middle = first + length // 2
        errors.append(float((states.at(fine.points[middle]) - fine.values[middle]).abs().max()))
    order = np.log2(errors[-2] / errors[-1])
    assert 2.7 < order < 3.5


def test_of_single_point_data_the_error_is_below_the_bound_of_a_cubic() -> None:
    """x / r = cos(phi) D + sin(phi) eps, whose fourth derivative is itself: h^4 / 384 (|D| + |eps|) at most. From pure noise on."""
    schedule = Flow()
    D, eps = standard_noise(1, 2, (3, 4), dtype=torch.float64)
    denoiser = dode.Denoiser(lambda x, t: D.expand_as(x), schedule, "sample", shape=(4,))
    states = teacher_states(denoiser, Teacher(dode.solver("ddim").tableau(schedule, 20), ()), eps, {}, dense=True)
    for first, last in pairwise(states.points[:-1]):
        bound = (polar(first)[0] - polar(last)[0]) ** 4 / 384 * (D.abs() + eps.abs())
        for share in (0.2, 0.5, 0.9):
            point = at(schedule, first.t + share * (last.t - first.t))
            error = (states.at(point) - point.alpha * D - point.sigma * eps).abs() / polar(point)[1]
            assert (error < bound + ROUNDING).all()


# The teacher's own run.


@every_schedule
@pytest.mark.parametrize("name", ["ddim", "edm", "dpm-solver"])
def test_a_dense_run_keeps_every_distinct_time_with_the_slope_of_the_ode(schedule: NoiseSchedule, name: str) -> None:
    """Heun's second state at a time is the one that counts, and DPM-Solver's inner stages are states as well."""
    denoiser = mixture_denoiser(schedule, "sample")
    noise = double_noise(5)
    teacher = Teacher(dode.solver(name).tableau(schedule, 21), ())
    states = teacher_states(denoiser, teacher, noise, {}, dense=True)
    tableau = teacher.tableau
    assert [point.t for point in states.points] == sorted(set(tableau.times), reverse=True)
    assert len(states) == 5
    assert denoiser.evaluations == 5 * tableau.nfe
    run = dode.sample(denoiser, tableau, noise, return_trajectory=True)
    last = {t: k for k, t in enumerate(tableau.times)}
    for point, value in zip(states.points, states.values, strict=True):
        torch.testing.assert_close(value, run.states[last[point.t]], rtol=0, atol=0)
    *slopes, end = states.slopes
    assert end is None
    for point, value, found in zip(states.points, states.values, slopes):
        phi, r = polar(point)
        torch.testing.assert_close(found, slope(schedule, phi, value / r), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_dense_run_ends_where_sampling_does(name: str) -> None:
    denoiser = mixture_denoiser(SCHEDULES[0])
    noise = double_noise(3)
    teacher = Teacher(dode.solver(name).tableau(SCHEDULES[0], 21), ())
    states = teacher_states(denoiser, teacher, noise, {}, dense=True)
    torch.testing.assert_close(states.values[-1], dode.sample(denoiser, teacher.tableau, noise), rtol=0, atol=ROUNDING)


def test_between_its_times_a_run_is_about_as_accurate_as_at_them() -> None:
    """Of a third-order solver whose steps are halved, against a much finer run at times of its own."""
    schedule = ContinuousVP()
    denoiser = mixture_denoiser(schedule)
    noise = double_noise(4)
    solver = dode.solver("unipc", order=3)

    def run(steps: int) -> States:
        times = schedule.time(np.linspace(*schedule.log_snr([1.0, 1e-2]), steps + 1))
        times[0], times[-1] = 1.0, 1e-2
        return teacher_states(denoiser, Teacher(solver.tableau(schedule, grid=times), ()), noise, {}, dense=True)

    reference = run(1400)
    between, known = [], []
    for steps in (30, 60, 120):
        states = run(steps)
        between.append(largest_error(states, every(reference, 7)))  # mostly at times between its own
        known.append(max(float((x - reference.at(p)).abs().max()) for p, x in zip(states.points, states.values)))
    assert np.log2(between[-2] / between[-1]) > 2.5
    assert between[-1] < 2 * known[-1]


def test_students_on_other_grids_find_their_targets_in_one_run() -> None:
    schedule = VP.linear()
    denoiser = mixture_denoiser(schedule)
    noise = double_noise(4)
    solver = dode.solver("dpm-solver++", order=3)
    dense = teacher_states(denoiser, Teacher(solver.tableau(schedule, 400), ()), noise, {}, dense=True)
    for grid in ("uniform", "quadratic", "log-snr", "trailing"):
        student = dode.solver("ddim").tableau(schedule, 6, grid)
        own = make_teacher(solver, solver.path(schedule, 6, grid), student, scale=60)
        expected = teacher_states(denoiser, own, noise, {})
        targets = Batch(noise, {}, dense).targets(student)
        assert len(targets) == 6
        for point, found in zip(student.points[1:], targets, strict=True):
            torch.testing.assert_close(found, expected.at(point), rtol=0, atol=5e-3)


def test_a_part_of_the_samples_has_their_states() -> None:
    states = every(fine_run(0), 32)
    part = states.part(slice(1, 3))
    assert len(part) == 2
    point = at(SCHEDULES[0], 432.1)
    assert torch.equal(part.at(point), states.at(point)[1:3])
    without = States(states.points, states.values, (None,) * len(states.points)).part(slice(0, 1))
    assert without.slopes == (None,) * len(states.points)


def test_a_dense_run_is_kept_and_read_again(tmp_path: Path) -> None:
    denoiser = mixture_denoiser(SCHEDULES[0], batch_size=3)
    noise = double_noise(7)
    teacher = Teacher(dode.solver("edm").tableau(SCHEDULES[0], 11), ())
    plain = teacher_states(denoiser, teacher, noise, {}, dense=True)
    first = teacher_states(denoiser, teacher, noise, {}, dense=True, cache=Cache(tmp_path))
    assert len(list(tmp_path.iterdir())) == 3
    before = denoiser.evaluations
    again = teacher_states(denoiser, teacher, noise, {}, dense=True, cache=Cache(tmp_path))
    # Each part of 3, 3 and 1 samples is probed at five times.
    assert denoiser.evaluations - before == 7 * 5
    for states in (first, again):
        assert states.points == plain.points
        for found, expected in zip((*states.values, *states.slopes[:-1]), (*plain.values, *plain.slopes[:-1]), strict=True):
            assert found is not None and expected is not None
            assert torch.equal(found[:], expected[:])
        assert states.slopes[-1] is None


# Refusals.


def test_times_outside_the_run_are_refused() -> None:
    states = every(fine_run(0), 32)
    first, last = states.points[0].t, states.points[-1].t
    for t in (first + 1, last - 0.5):
        with pytest.raises(ValueError, match=rf"t = {t:g} is outside the teacher's times 999 \.\. {last:g}"):
            states.at(at(SCHEDULES[0], t))


def test_a_run_for_the_students_own_times_knows_no_others() -> None:
    schedule, solver = SCHEDULES[0], dode.solver("ddim")
    student = solver.tableau(schedule, 5)
    teacher = make_teacher(solver, solver.path(schedule, 5), student, scale=2)
    states = teacher_states(mixture_denoiser(schedule), teacher, standard_noise(0, 2, (4,)), {})
    assert [p.t for p in states.points] == student.times[1:].tolist()
    with pytest.raises(ValueError, match="the teacher has no state at t = 500: it was run for the student's own times"):
        states.at(at(schedule, 500.0))


def test_a_dense_run_that_diverges_says_where() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        return x * (math.inf if float(t[0]) < 500 else 1.0)

    denoiser = dode.Denoiser(net, SCHEDULES[0], shape=(4,))
    teacher = Teacher(dode.solver("ddim").tableau(SCHEDULES[0], 10), ())
    with pytest.raises(FloatingPointError, match=r"the teacher's state at t = 399 \(step 6 of 10\) is not finite"):
        teacher_states(denoiser, teacher, standard_noise(0, 2, (4,)), {}, dense=True)
