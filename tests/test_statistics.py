"""Figures of errors with heavy tails: intervals that cover, gains that hang on a few samples, doubts that grow where samples are few."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from dode import statistics
from dode.statistics import LEVEL, Figure, carriers, doubt_factor, figures, mean, quantile, ratio


def lognormal(spread: float, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.exp(spread * np.random.default_rng(seed).standard_normal(shape))


@pytest.mark.parametrize("spread", [0.5, 1.0])
@pytest.mark.parametrize("n", [64, 256])
def test_intervals_of_a_mean_cover_it_nearly_as_often_as_they_say(n: int, spread: float) -> None:
    truth = math.exp(spread**2 / 2)
    found = [mean(errors) for errors in lognormal(spread, (400, n))]
    covered = np.mean([figure.low <= truth <= figure.high for figure in found])
    assert LEVEL - 0.05 <= covered <= LEVEL + 0.05


def test_intervals_of_a_ratio_use_the_pairs() -> None:
    """Samples differ far more than the two methods do: the ratio is known far better than either mean."""
    base = lognormal(1.5, (64,))
    distilled = 0.3 * base * lognormal(0.1, (64,), seed=1)
    found = ratio(distilled, base)
    assert found.low < 0.3 * math.exp(0.005) < found.high
    assert found.high / found.low < 1.1 < mean(base).high / mean(base).low


def test_intervals_of_a_ratio_cover_it() -> None:
    base, factor = lognormal(1.0, (300, 64)), 0.4 * lognormal(0.5, (300, 64), seed=1)
    truth = 0.4 * math.exp(0.125)
    found = [ratio(b * f, b) for b, f in zip(base, factor)]
    assert LEVEL - 0.06 <= np.mean([figure.low <= truth <= figure.high for figure in found]) <= LEVEL + 0.06


def test_quantiles_are_numpys_and_lie_in_their_intervals() -> None:
    errors = lognormal(1.0, (200,))
    for share in (0.5, 0.95):
        found = quantile(errors, share)
        assert found.value == np.quantile(errors, share)
        assert found.low < found.value < found.high
    assert quantile(errors, 0.95).high / quantile(errors, 0.95).low > quantile(errors, 0.5).high / quantile(errors, 0.5).low


def test_the_same_errors_have_the_same_figures() -> None:
    errors = lognormal(1.0, (50,))
    assert figures(errors, errors + 1) == figures(errors.copy(), errors + 1)


def test_what_cannot_be_told_is_nan() -> None:
    assert all(math.isnan(bound) for bound in mean(np.array([2.0]))[1:])
    assert mean(np.array([1.0, math.inf])).value == math.inf
    assert mean(np.zeros(5)) == Figure(0.0, 0.0, 0.0)
    assert mean(np.full(5, 3.0)) == Figure(3.0, 3.0, 3.0)
    assert math.isnan(ratio(np.ones(4), np.zeros(4)).value)
    assert ratio(np.zeros(4), np.ones(4)).value == 0
    assert "relative" not in figures(np.ones(3), np.array([1.0, 0.0, 1.0]))
    assert Figure(math.nan, math.nan, 2.0).to_json() == [None, None, 2.0]


def test_carriers_are_the_fewest_samples_without_which_a_gain_is_gone() -> None:
    assert carriers(np.array([5.0, -1.0, -1.0, -1.0])) == 1
    assert carriers(np.array([2.0, 2.0, -1.0, -1.5])) == 1
    assert carriers(np.array([2.0, 2.0, 1.0, -1.0, -1.5])) == 2
    assert carriers(np.ones(7)) == 7
    assert carriers(np.array([1.0, -2.0])) is None
    assert carriers(np.array([math.inf, 1.0])) is None


@pytest.mark.parametrize("samples", [2, 3, 5, 8, 32, 400])
def test_the_doubt_of_few_samples_is_students(samples: int) -> None:
    exact = stats.t.ppf(stats.norm.cdf(1), samples - 1)
    assert doubt_factor(samples) == pytest.approx(exact, rel=0.02)
    assert doubt_factor(1) == math.inf


def test_large_sets_are_drawn_in_blocks() -> None:
    errors = lognormal(1.0, (12_600,))
    assert len(list(statistics._draws(len(errors)))) > 3
    found = mean(errors)
    assert found.low < found.value < found.high < 1.1 * found.low
