"""Networks in half precision: how much of their output is rounding, and a fit that does not drown in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from mixture import Mixture, mixture_denoiser
from torch import Tensor

import dode
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.distillation.directions import make_directions
from dode.distillation.end_to_end import refine
from dode.distillation.gram import RIDGES
from dode.distillation.greedy import corrected, fit
from dode.distillation.linearisation import Differences, Problem, combined, orthogonalised, unknowns
from dode.distillation.rounding import differences_for, most_evaluations, rounding_floor, rounding_noise
from dode.distillation.student import Student
from dode.grids import Point
from dode.noise import FITTING, REPORT, VALIDATION, standard_noise
from dode.schedules import VP, Flow
from dode.teacher import Teacher, teacher_states

SCHEDULE = VP.linear()
HALF = [torch.float16, torch.bfloat16]
WIDE = 64


class Rounded:
    """A network whose inputs and outputs are rounded to half precision."""

    def __init__(self, net: Mixture, kind: torch.dtype) -> None:
        self.net, self.kind = net, kind

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        return self.net(x.to(self.kind).to(x.dtype), t).to(self.kind).to(x.dtype)


def wide_mixture(prediction: str = "epsilon") -> Mixture:
    """Five parts in 64 dimensions: half precision rounds enough numbers for statistics."""
    means = torch.randn(5, WIDE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 0.7
    return Mixture(SCHEDULE, prediction, means, (0.3, 0.25, 0.2, 0.15, 0.1))


def denoiser(kind: torch.dtype | None, prediction: str = "epsilon") -> dode.Denoiser:
    net = wide_mixture(prediction)
    return dode.Denoiser(net if kind is None else Rounded(net, kind), SCHEDULE, prediction, shape=(WIDE,))


# How much of an output is rounding.


def at(t: float) -> Point:
    return Point(t, float(SCHEDULE.alpha(t)), float(SCHEDULE.sigma(t)))


@pytest.mark.parametrize("kind", HALF)
@pytest.mark.parametrize("t", [800.0, 400.0, 150.0])
def test_the_rounding_found_is_the_distance_to_the_network_that_is_not_rounded(kind: torch.dtype, t: float) -> None:
    exact, rounded = denoiser(None), denoiser(kind)
    clean = wide_mixture().means[torch.arange(8) % 5].float()
    x = clean * at(t).alpha + standard_noise(0, 8, (WIDE,)) * at(t).sigma
    times = torch.full((8,), t)
    wanted, got = exact.net(x, times), rounded.net(x, times)
    true = float((got - wanted).norm() / wanted.norm())
    found = rounding_noise(rounded, [x], [at(t)], {})
    assert found == pytest.approx(true, rel=0.35)
    assert rounding_noise(exact, [x], [at(t)], {}) < 1e-6


def test_of_few_numbers_none_may_cross_a_rounding_and_the_rounding_is_found_still() -> None:
    small = Rounded(Mixture(SCHEDULE), torch.bfloat16)
    network = dode.Denoiser(small, SCHEDULE, shape=(4,))
    x = standard_noise(0, 2, (4,))
    assert 3e-4 < rounding_noise(network, [x] * 3, [at(600.0), at(500.0), at(300.0)], {}) < 6e-3


def test_of_a_constant_network_there_is_none() -> None:
    network = dode.Denoiser(lambda x, t: torch.zeros_like(x), SCHEDULE, shape=(4,))
    assert rounding_noise(network, [standard_noise(0, 2, (4,))], [at(500.0)], {}) == 0


@pytest.mark.parametrize("kind", HALF)
def test_the_floor_is_how_far_a_rounded_run_ends_from_one_that_is_not(kind: torch.dtype) -> None:
    """Of a flow, whose samples do not part from each other by a little rounding."""
    schedule = Flow()
    net = Mixture(schedule, "flow", wide_mixture().means[:1], (1.0,))
    exact, rounded = (dode.Denoiser(n, schedule, "flow", shape=(WIDE,)) for n in (net, Rounded(net, kind)))
    tableau, noise = dode.solver("dpm-solver++").tableau(schedule, 20), standard_noise(0, 16, (WIDE,))
    true = float((dode.sample(exact, tableau, noise) - dode.sample(rounded, tableau, noise)).square().mean())
    before = rounded.evaluations
    found = rounding_floor(rounded, tableau, noise[:4], {})
    assert rounded.evaluations - before <= (2 * 20 + 7) * 4
    assert true / 3 < found < 3 * true
    assert rounding_floor(exact, tableau, noise[:4], {}) < 1e-10


@pytest.mark.parametrize("kind", [None, torch.bfloat16])
def test_a_result_says_how_much_of_its_teachers_error_is_rounding(kind: torch.dtype | None) -> None:
    schedule = Flow()
    net = Mixture(schedule, "flow", wide_mixture().means[:2], (0.6, 0.4))
    network = dode.Denoiser(net if kind is None else Rounded(net, kind), schedule, "flow", shape=(WIDE,))
    result = dode.distill(network, "ddim", 4, effort="fast", teacher_nfe=128, held_out=32)
    reference = result.reference
    assert reference is not None
    if kind is None:
        assert reference.rounding < 1e-9
        assert "rounding" not in str(result)
    else:
        # Teacher and reference each carry it.
        assert reference.teacher / 6 < reference.rounding < 3 * reference.teacher
        assert f"about {reference.rounding:.1e} of it by rounding in the network" in " ".join(str(result).split())


# Derivatives.


def problem(kind: torch.dtype | None, rows: int = 4) -> tuple[Problem, Student]:
    network, tableau = denoiser(kind), dode.solver("ddim").tableau(SCHEDULE, rows)
    noise = standard_noise(0, 20, (WIDE,))
    made = Problem(
        network, Student.of(tableau, network.output), tuple(unknowns(tableau, 3, True)), Batch(noise, {}, [noise]), 0.0
    )
    return made, Student.of(tableau, network.output)


def test_steps_are_the_usual_ones_without_rounding_and_longer_with_more_of_it() -> None:
    steps = []
    for kind in (None, *HALF):
        made, student = problem(kind)
        before = made.denoiser.evaluations
        found = differences_for(made, student)
        assert made.denoiser.evaluations - before <= most_evaluations(made.tableau)
        steps.append(found.state)
    assert differences_for(*problem(None)) == Differences()
    assert steps == sorted(steps)
    assert 0.01 < steps[1] < steps[2] <= 0.2


@pytest.mark.parametrize("first", ["network", "zero"])
def test_a_single_row_whose_output_is_shared_has_nothing_to_ask(first: str) -> None:
    network = mixture_denoiser(SCHEDULE)
    tableau = dataclasses.replace(dode.solver("ddim").tableau(SCHEDULE, 1), first=first)
    noise = standard_noise(0, 6, (4,))
    made = Problem(
        network, Student.of(tableau, network.output), tuple(unknowns(tableau, 3, False)), Batch(noise, {}, [noise]), 0.0
    )
    assert differences_for(made, Student.of(tableau, network.output)) == Differences()


def test_orthogonal_directions_span_what_they_were_made_of() -> None:
    vectors = [standard_noise(0, 5, (7,), dtype=torch.float64, stream=i) for i in range(3)]
    vectors += [vectors[0] + 1e-4 * vectors[1], torch.zeros_like(vectors[0]), vectors[2].clone()]
    basis, shares = orthogonalised(vectors)
    for i in (0, 1, 2):
        for j in range(i):
            assert abs(float((basis[i] * basis[j]).sum())) < 1e-10
    for vector, share in zip(vectors, shares, strict=True):
        (found,) = combined([[e] for e in basis], share)
        torch.testing.assert_close(found, vector, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", HALF)
def test_what_tells_two_columns_apart_survives_the_rounding(kind: torch.dtype) -> None:
    """Of two vectors that are a hundredth apart, the difference of their derivatives against the derivative along their difference."""
    found, apart, usual = np.mean([_errors_of_a_difference(kind, seed) for seed in range(1, 7)], axis=0)
    # An error of 1 is that of no derivative at all.
    assert found < 0.7
    assert found < 0.2 * apart
    assert found < 0.05 * usual


def _errors_of_a_difference(kind: torch.dtype, seed: int) -> tuple[float, float, float]:
    """Along orthogonal directions; along the vectors themselves; and with the usual steps too."""
    common, small = (standard_noise(seed, 20, (WIDE,), stream=stream) for stream in (FITTING, VALIDATION))
    exact, student = problem(None)
    ((_, run),) = exact.runs(student, 0, 20)
    ((expected,),) = run._along(2, run.forward(), [small], Differences(), all_rows=False)
    rounded, student = problem(kind)
    ((_, run),) = rounded.runs(student, 0, 20)
    states, differences = run.forward(), differences_for(rounded, student)

    def error(along: list[list[Tensor]]) -> float:
        (before,), (after,) = along
        return float(((after - before) / 0.01 - expected).norm() / expected.norm())

    vectors = [common, common + 0.01 * small]
    return (
        error(run._along(2, states, vectors, differences, all_rows=False)),
        error(run._again(2, states, vectors, differences, all_rows=False)),
        error(run._again(2, states, vectors, Differences(), all_rows=False)),
    )


# The fit.


def small_denoiser(kind: torch.dtype | None) -> dode.Denoiser:
    net = Mixture(SCHEDULE)
    return dode.Denoiser(net if kind is None else Rounded(net, kind), SCHEDULE, shape=(4,))


def fitted(kind: torch.dtype | None, seed: int, differences: Differences | None, times: bool) -> tuple[float, float]:
    """The error of the fit from the closed form on noise that nothing saw, on the network itself, and the evaluations."""
    network = small_denoiser(kind)
    teacher = Teacher(dode.solver("deis").tableau(SCHEDULE, 48), ())

    def made(samples: int, stream: int) -> Batch:
        noise = standard_noise(seed, samples, (4,), stream=stream)
        return Batch(noise, {}, teacher_states(network, teacher, noise, {}, dense=True))

    fitting, validation, unseen = made(100, FITTING), made(32, VALIDATION), made(500, REPORT)
    base = dode.solver("deis").tableau(SCHEDULE, 4)
    along = make_directions("multistep", base)
    closed = corrected(base, along, fit(network, base, along, fitting, RIDGES).coefficients)
    before = network.evaluations
    result = refine(network, closed, fitting, validation, budget=11_000, times=times, differences=differences)
    spent = network.evaluations - before
    return float(end_errors(network, result.tableau, unseen).mean()), spent


@pytest.mark.parametrize("times", [False, True])
def test_a_fit_in_bfloat16_does_not_drown_in_the_rounding(times: bool) -> None:
    """With the usual steps it hardly leaves the closed form; with those that are chosen it comes near what float32 comes to, for no
    more evaluations. Geometric means over a few seeds: the budget ends all fits on their way."""

    def errors(kind: torch.dtype | None, differences: Differences | None) -> float:
        found = [fitted(kind, seed, differences, times) for seed in range(4)]
        assert all(spent <= 11_000 for _, spent in found)
        return float(np.exp(np.mean(np.log([error for error, _ in found]))))

    chosen = errors(torch.bfloat16, None)
    assert chosen < 0.6 * errors(torch.bfloat16, Differences())
    assert chosen < 3 * errors(None, None)


def test_of_a_network_without_rounding_the_usual_steps_are_taken() -> None:
    for seed in range(2):
        chosen, usual = (fitted(None, seed, differences, False)[0] for differences in (None, Differences()))
        # What the choice costs is taken from the budget.
        assert chosen == pytest.approx(usual, rel=0.02)
