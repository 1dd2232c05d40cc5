"""Directions: what the named ones are as functions of states and outputs, and what is refused."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pytest
import torch
from mixture import double_noise, mixture_denoiser
from torch import Tensor

import dode
from dode.distillation.directions import NAMED, Directions, make_directions, multistep, paper
from dode.schedules import EDM, VP, Array, NoiseSchedule
from dode.solvers import REGISTRY
from dode.tableau import Coefficients

SCHEDULE = VP.linear()
# float64 over a few rows; coefficients reach 160 = 1 / alpha at the first time.
ROUNDING = 1e-9


def vectors(tableau: dode.Tableau, a: Array, b: Array, run: dode.sampling.Trajectory) -> list[Tensor]:
    """sum_j a[k,j] x_j + b[k,j] D_j of each row on a run."""
    states, denoised = torch.stack(run.states[:-1]), torch.stack(run.denoised)
    return list(torch.tensordot(torch.tensor(a), states, 1) + torch.tensordot(torch.tensor(b), denoised, 1))


def a_run(tableau: dode.Tableau, schedule: NoiseSchedule = SCHEDULE) -> tuple[dode.sampling.Trajectory, Tensor]:
    noise = double_noise(20)
    denoiser = mixture_denoiser(schedule, "sample")
    return dode.sample(denoiser, tableau, noise, return_trajectory=True), noise


def assert_close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=ROUNDING, atol=ROUNDING)


# The paper's.


@pytest.mark.parametrize("name", REGISTRY)
def test_papers_direction_is_the_change_of_the_integrand_times_its_factor(name: str) -> None:
    tableau = dode.solver(name).tableau(SCHEDULE, 6)
    run, noise = a_run(tableau)
    part = tableau.integrand
    assert part is not None
    directions = paper(tableau)
    (found,) = (vectors(tableau, a, b, run) for a, b in zip(directions.a, directions.b))
    integrands = vectors(tableau, part.a, part.b, run)
    for k in range(1, 6):
        assert_close(found[k], part.factors[k] * (integrands[k] - integrands[k - 1]))
    # Before the first epsilon stands the noise that the run started from; before the first sample nothing.
    expected = part.factors[0] * (integrands[0] - noise) if part.kind == "epsilon" else torch.zeros_like(noise)
    assert_close(found[0], expected)


def test_papers_direction_takes_the_scale_out_of_the_noise() -> None:
    """EDM's first state is 80 times the noise."""
    tableau = dode.solver("ddim").tableau(EDM(), 4)
    run, noise = a_run(tableau, EDM())
    direction = vectors(tableau, paper(tableau).a[0], paper(tableau).b[0], run)[0]
    eps = (run.states[0] - run.denoised[0]) / 80
    assert_close(direction, (tableau.sigmas[1] - 80) * (eps - noise))


def test_papers_direction_needs_to_know_what_the_rows_integrate() -> None:
    unknown = dataclasses.replace(dode.solver("ddim").tableau(SCHEDULE, 4), integrand=None)
    with pytest.raises(ValueError, match="does not say what its rows integrate"):
        make_directions("paper", unknown)


# The multistep ones.


@pytest.mark.parametrize(("name", "kind"), [("deis", "epsilon"), ("dpm-solver++", "sample")])
def test_multistep_directions_are_the_state_the_newest_output_and_the_last_differences(name: str, kind: str) -> None:
    tableau = dode.solver(name).tableau(SCHEDULE, 6)
    run, _ = a_run(tableau)
    outputs = list(run.denoised)
    if kind == "epsilon":
        outputs = [(x - p.alpha * D) / p.sigma for x, D, p in zip(run.states, run.denoised, tableau.points)]
    directions = multistep(tableau)
    found = [vectors(tableau, a, b, run) for a, b in zip(directions.a, directions.b)]
    assert directions.names == ("x_k", "O_k", "O_k - O_{k-1}", "O_{k-1} - O_{k-2}", "O_{k-2} - O_{k-3}")
    for k in range(6):
        assert_close(found[0][k], run.states[k])
        assert_close(found[1][k], outputs[k])
        for i in range(3):
            if k > i:
                assert_close(found[2 + i][k], outputs[k - i] - outputs[k - i - 1])
            else:  # it would reach before the first row
                assert_close(found[2 + i][k], torch.zeros_like(outputs[k]))


@pytest.mark.parametrize("rows", [1, 2, 3, 4])
def test_few_rows_have_as_many_differences_as_they_can(rows: int) -> None:
    directions = multistep(dode.solver("ddim").tableau(SCHEDULE, rows))
    assert len(directions) == len(directions.names) == 1 + rows
    assert directions.a.shape == directions.b.shape == (1 + rows, rows, rows)
    for a, b in zip(directions.a, directions.b):
        assert a.any() or b.any()


def test_of_a_first_order_solver_the_papers_direction_is_a_multiple_of_the_newest_difference() -> None:
    for solver in (dode.solver("ddim"), dode.solver("dpm-solver++", order=1)):
        tableau = solver.tableau(SCHEDULE, 5)
        several = multistep(tableau)
        i = several.names.index("O_k - O_{k-1}")
        one = paper(tableau)
        factors = tableau.integrand.factors
        for k in range(1, 5):
            np.testing.assert_allclose(one.a[0, k], factors[k] * several.a[i, k], atol=ROUNDING)
            np.testing.assert_allclose(one.b[0, k], factors[k] * several.b[i, k], atol=ROUNDING)


def span_distance(tableau: dode.Tableau, k: int) -> float:
    """How far row k of the paper's direction is from the span of the multistep directions, of its own length."""
    one, several = paper(tableau), multistep(tableau)
    target = np.concatenate([one.a[0, k], one.b[0, k]])
    basis = np.concatenate([several.a[:, k], several.b[:, k]], axis=1).T
    coefficients, *_ = np.linalg.lstsq(basis, target, rcond=None)
    return float(np.linalg.norm(target - basis @ coefficients) / np.linalg.norm(target))


@pytest.mark.parametrize(
    "solver", [dode.solver("ddim"), dode.solver("deis", order=2), dode.solver("dpm-solver++", order=2)], ids=str
)
def test_multistep_directions_span_the_papers_of_solvers_with_up_to_three_outputs(solver: dode.Solver) -> None:
    tableau = solver.tableau(SCHEDULE, 8)
    for k in range(1, 8):
        assert span_distance(tableau, k) < ROUNDING
    # Four outputs and their shift are five, one more than the multistep directions know.
    assert span_distance(dode.solver("ipndm", order=4).tableau(SCHEDULE, 8), 6) > 1e-3


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("kind", NAMED)
def test_named_directions_exist_for_every_solver_also_from_pure_noise(name: str, kind: str) -> None:
    for schedule in (SCHEDULE, EDM(), VP.scaled_linear().rescaled_zero_terminal_snr()):
        tableau = dode.solver(name).tableau(schedule, 7)
        directions = make_directions(kind, tableau)
        assert directions.a.shape == directions.b.shape == (len(directions), 7, 7)
        # Every row has somewhere to go but those from the first state: PNDM has two of these.
        assert (np.abs(directions.a) + np.abs(directions.b)).sum((0, 2))[2:].all()


# The user's own.


def rows(size: int, a: float = 0.0, b: float = 0.0) -> Coefficients:
    return Coefficients(a * np.eye(size), b * np.eye(size))


def test_ones_own_rows_are_directions_and_made_ones_are_taken_as_they_are() -> None:
    tableau = dode.solver("ddim").tableau(SCHEDULE, 4)
    own = make_directions([rows(4, a=1.0), (np.zeros((4, 4)), np.tril(np.ones((4, 4))))], tableau)
    assert own.names == ("direction 1", "direction 2")
    assert (own.a == [np.eye(4), np.zeros((4, 4))]).all()
    assert (own.b == [np.zeros((4, 4)), np.tril(np.ones((4, 4)))]).all()
    assert make_directions(own, tableau) is own


def test_lists_of_numbers_do_as_well_as_arrays() -> None:
    tableau = dode.solver("ddim").tableau(SCHEDULE, 2)
    own = make_directions([([[1, 0], [2, 3]], [[0, 0], [0, 4]])], tableau)
    assert own.a.dtype == own.b.dtype == np.float64
    assert own.a.tolist() == [[[1, 0], [2, 3]]]
    assert own.b.tolist() == [[[0, 0], [0, 4]]]


def test_an_unknown_name_says_which_there_are() -> None:
    with pytest.raises(ValueError, match="unknown directions 'multistp': did you mean 'multistep'"):
        make_directions("multistp", dode.solver("ddim").tableau(SCHEDULE, 3))


def test_what_is_no_direction_is_named() -> None:
    tableau = dode.solver("ddim").tableau(SCHEDULE, 3)
    late, infinite = rows(3, a=1.0), rows(3, b=1.0)
    late.a[0, 2] = 1.0
    infinite.b[1, 1] = np.nan
    good = rows(3, b=1.0)
    for spec, message in (
        ([], "directions are empty: give at least one"),
        ([good, rows(3)], "direction 2 is zero in every row"),
        ([good, late], "the direction 'direction 2' uses what comes after its row: it must be lower triangular"),
        ([infinite, good], "the direction 'direction 1' is not finite"),
        ([rows(4, a=1.0)], "direction 1 must be a pair (a, b) of (3, 3) matrices, got [(4, 4), (4, 4)]"),
        (multistep(dode.solver("ddim").tableau(SCHEDULE, 5)), "the directions have 5 rows, the tableau has 3"),
    ):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            make_directions(spec, tableau)


def test_shapes_that_disagree_are_refused() -> None:
    square = np.zeros((2, 3, 3))
    for names, a, b, got in (
        (("one",), square, square, (2, 3, 3)),
        (("one", "two"), square, square[:1], (1, 3, 3)),
        (("one", "two"), square[:, :, :2], square, (2, 3, 2)),
        (("one", "two"), square[0], square[0], (3, 3)),
    ):
        message = f"{len(names)} directions need shape ({len(names)}, rows, rows), got {got}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            Directions(names, a, b)


def test_a_and_b_have_one_shape() -> None:
    with pytest.raises(ValueError, match="shape"):
        Directions(("d",), np.zeros((1, 3, 3)), np.zeros((1, 4, 4)))
    with pytest.raises(ValueError, match="direction 1 must be a pair"):
        make_directions([(np.eye(3), np.eye(4))], dode.solver("ddim").tableau(SCHEDULE, 3))  # type: ignore[list-item]
