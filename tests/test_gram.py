"""Least squares from Gram matrices: the strength of the ridge, directions that say nothing, units that do not matter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from dode.distillation import gram
from dode.distillation.gram import RIDGES, grams, independent, jackknife, solve, squared_error
from dode.schedules import Array

# Normal equations square the condition number: well-conditioned columns of float64 keep this.
ROUNDING = 1e-9


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def problem(noise: float, directions: int = 3, samples: int = 20, size: int = 6, seed: int = 0) -> list[Tensor]:
    """Directions, and last a residual: their sum with the coefficients 1, 2, 3 ..., and noise."""
    *columns, rest = normal(directions + 1, samples, size, seed=seed)
    return [*columns, sum(i * column for i, column in enumerate(columns, start=1)) + noise * rest]


def prediction(columns: list[Tensor], coefficients: Array) -> Tensor:
    return torch.stack([c * column for c, column in zip(coefficients.tolist(), columns, strict=True)]).sum(0)


# Gram matrices.


def test_grams_are_inner_products_of_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = list(normal(3, 5, 2, 4))
    found = grams(rows)
    for n in range(5):
        vectors = torch.stack([row[n].flatten() for row in rows])
        np.testing.assert_allclose(found[n], vectors @ vectors.T, rtol=ROUNDING)
    for chunk in (1, 50):
        monkeypatch.setattr(gram, "_CHUNK", chunk)
        np.testing.assert_allclose(grams(rows), found, rtol=ROUNDING)


def test_grams_of_half_precision_are_summed_in_double() -> None:
    """4096 times one: float16 would stop counting at 2048."""
    ones = torch.ones(2, 4096, dtype=torch.float16)
    assert grams([ones, ones]).tolist() == [[[4096.0, 4096.0]] * 2] * 2


def test_the_fit_and_its_error_are_those_of_the_whole_vectors() -> None:
    *columns, residual = problem(noise=1.0)
    matrix = torch.stack([c.flatten() for c in columns], dim=1).numpy()
    expected, *_ = np.linalg.lstsq(matrix, residual.flatten().numpy(), rcond=None)
    matrices = grams([*columns, residual])
    solution = solve(matrices)
    assert (solution.kept, solution.ridge) == ((0, 1, 2), 0.0)
    np.testing.assert_allclose(solution.coefficients, expected, rtol=ROUNDING)
    left = (residual - prediction(columns, expected)).square().sum(1)
    np.testing.assert_allclose(squared_error(matrices, solution.coefficients), left, rtol=ROUNDING)


# The ridge.


@pytest.mark.parametrize("seed", range(5))
def test_clean_data_needs_no_ridge(seed: int) -> None:
    for noise in (0.0, 1e-3):
        solution = solve(grams(problem(noise, seed=seed)), RIDGES)
        # At that noise, ridges below are no worse than none: their bias is 1e-5 of the coefficients and less.
        assert solution.ridge <= (0.0 if noise == 0 else 1e-4)
        np.testing.assert_allclose(solution.coefficients, [1, 2, 3], atol=10 * noise + ROUNDING)


def test_a_residual_of_pure_noise_gets_a_strong_ridge() -> None:
    """Whatever is fitted to it is wrong: the strongest one in most draws, a strong one in nearly all."""
    chosen = []
    for seed in range(40):
        *columns, _ = problem(0.0, directions=8, samples=10, seed=seed)
        chosen.append(solve(grams([*columns, normal(10, 6, seed=1000 + seed)]), RIDGES).ridge)
    assert np.median(chosen) == max(RIDGES)
    assert np.mean(np.array(chosen) >= 0.1) > 0.8


def test_the_ridge_chosen_has_the_smallest_error_on_the_samples_left_out() -> None:
    """Computed over whole vectors, one fold after the other."""

    def error(matrix: Array, target: Array, ridge: float) -> float:
        total = 0.0
        for fold in range(4):
            inside = np.arange(len(matrix)) % 4 != fold
            a, y = matrix[inside].reshape(-1, 5), target[inside].reshape(-1)
            # Of a direction's own square norm, over the samples that are fitted.
            penalty = ridge * np.diag((a**2).sum(0))
            coefficients = np.linalg.solve(a.T @ a + penalty, a.T @ y)
            total += float(((target[~inside] - matrix[~inside] @ coefficients) ** 2).sum())
        return total

    chosen = set()
    for seed in range(12):
        *columns, residual = problem(noise=0.1 * 2**seed, directions=5, samples=12, seed=seed)
        matrix, target = torch.stack(columns, dim=-1).numpy(), residual.numpy()
        errors = [error(matrix, target, ridge) for ridge in RIDGES]
        ridge = solve(grams([*columns, residual]), RIDGES, folds=4).ridge
        assert ridge == RIDGES[int(np.argmin(errors))]
        chosen.add(ridge)
    # None, the strongest, and some between.
    assert {0.0, max(RIDGES)} < chosen
    assert len(chosen) >= 4


def test_a_single_strength_is_taken_as_it_is_and_shrinks_the_fit() -> None:
    *columns, residual = problem(noise=0.0, directions=1)
    matrices = grams([*columns, residual])
    for ridge in RIDGES:
        solution = solve(matrices, [ridge])
        assert solution.ridge == ridge
        # One direction: <g, r> / (<g, g> + ridge <g, g>).
        np.testing.assert_allclose(solution.coefficients, 1 / (1 + ridge), rtol=ROUNDING)


def test_one_sample_has_nothing_to_leave_out() -> None:
    assert solve(grams(problem(noise=1.0, samples=1)), RIDGES).ridge == RIDGES[0]
    assert solve(grams(problem(noise=0.0, samples=2)), RIDGES).ridge == 0.0


# Directions that say nothing.


def test_a_zero_direction_gets_zero_and_is_not_kept() -> None:
    first, second, residual = problem(noise=0.5, directions=2)
    without = solve(grams([first, second, residual]))
    solution = solve(grams([first, torch.zeros_like(first), second, residual]))
    assert solution.kept == (0, 2)
    assert solution.coefficients[1] == 0
    np.testing.assert_allclose(solution.coefficients[[0, 2]], without.coefficients, rtol=ROUNDING)
    only = solve(grams([torch.zeros_like(first), residual]), RIDGES)
    assert (only.kept, only.coefficients.tolist()) == ((), [0.0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_direction_in_the_span_of_those_before_it_is_dropped(dtype: torch.dtype) -> None:
    first, second, residual = (t.to(dtype) for t in problem(noise=0.5, directions=2))
    without = solve(grams([first, second, residual]))
    for repeated in (first, -3 * first, 0.7 * first - 2 * second):
        for ridges in ([0.0], RIDGES):
            solution = solve(grams([first, second, repeated, residual]), ridges)
            assert solution.kept == (0, 1)
            assert solution.coefficients[2] == 0
        again = solve(grams([first, second, repeated, residual]))
        np.testing.assert_allclose(again.coefficients[:2], without.coefficients, rtol=ROUNDING)
    # The first of the two is kept, wherever they stand.
    assert solve(grams([first, first, second, residual])).kept == (0, 2)


def test_how_close_to_the_span_a_direction_may_be() -> None:
    """A part outside of a thousandth of its length is kept, of a hundred-thousandth dropped."""
    first, second, residual = problem(noise=0.5, directions=2)
    for share, kept in ((1e-3, (0, 1)), (1e-5, (0,))):
        assert solve(grams([first, first + share * second, residual])).kept == kept


def test_what_is_kept_is_independent_and_spans_the_rest() -> None:
    """Seven directions of rank 4, in any order."""
    base = normal(4, 15, 6)
    mixed = torch.tensordot(normal(7, 4, seed=1), base, 1)
    residual = normal(15, 6, seed=2)
    best = squared_error(grams([*base, residual]), solve(grams([*base, residual])).coefficients).sum()
    for seed in range(5):
        order = torch.randperm(7, generator=torch.Generator().manual_seed(seed))
        matrices = grams([*mixed[order], residual])
        kept = independent(matrices.sum(0))
        assert kept == (0, 1, 2, 3)
        assert squared_error(matrices, solve(matrices).coefficients).sum() == pytest.approx(best, rel=ROUNDING)


# Units.


@pytest.mark.parametrize("ridges", [(0.0,), (0.1,), RIDGES], ids=["none", "one", "chosen"])
@pytest.mark.parametrize("scale", [1e-8, 1e8])
def test_units_of_a_direction_do_not_change_the_prediction(scale: float, ridges: tuple[float, ...]) -> None:
    *columns, residual = problem(noise=3.0)
    plain = solve(grams([*columns, residual]), ridges)
    other = [columns[0], scale * columns[1], columns[2]]
    scaled = solve(grams([*other, residual]), ridges)
    assert (scaled.kept, scaled.ridge) == (plain.kept, plain.ridge)
    assert scaled.coefficients[1] == pytest.approx(plain.coefficients[1] / scale, rel=ROUNDING)
    torch.testing.assert_close(
        prediction(other, scaled.coefficients), prediction(columns, plain.coefficients), rtol=ROUNDING, atol=ROUNDING
    )


def test_units_do_not_decide_what_is_dropped() -> None:
    first, second, residual = problem(noise=0.5, directions=2)
    for scale in (1e-8, 1e8):
        assert solve(grams([first, scale * first, scale * second, residual])).kept == (0, 2)


# Standard errors.


def test_jackknife_leaves_out_one_sample_at_a_time_with_the_ridge_and_the_directions_of_the_fit() -> None:
    *columns, residual = problem(noise=3.0)
    columns.append(columns[0] * 2)
    matrices = grams([*columns, residual])
    solution = solve(matrices, [0.1])
    n = len(matrices)
    without = np.array([solve(np.delete(matrices, i, axis=0), [0.1]).coefficients for i in range(n)])
    expected = np.sqrt((n - 1) / n * ((without - without.mean(0)) ** 2).sum(0))
    found = jackknife(matrices, solution)
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)
    assert found[3] == 0
    assert (found[:3] > 0).all()
    assert np.isnan(jackknife(matrices[:1], solution)).all()
