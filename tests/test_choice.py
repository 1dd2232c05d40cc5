"""The choice between tableaux on validation noise: the base unless another is clearly better."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from mixture import double_noise, mixture_denoiser
from torch import Tensor

import dode
from dode.distillation.batch import Batch
from dode.distillation.choice import FACTORS, Candidate, best, end_errors, hopeful, judge, measure, shrunk
from dode.distillation.directions import Directions, multistep
from dode.distillation.greedy import Fit, corrected, fit
from dode.noise import standard_noise
from dode.schedules import VP, Array
from dode.statistics import doubt_factor

SCHEDULE = VP.linear()
TABLEAU = dode.solver("ddim").tableau(SCHEDULE, 2)
# float64 over a few rows, and sums over a few samples.
ROUNDING = 1e-10


def candidate(name: str, errors: Array | list[float]) -> Candidate:
    return Candidate(name, TABLEAU, np.asarray(errors, np.float64))


def spread(n: int = 25, seed: int = 0) -> Array:
    """Numbers with mean 0 and standard deviation 1, exactly."""
    values = np.random.default_rng(seed).normal(size=n)
    return np.asarray((values - values.mean()) / values.std(ddof=1))


# best


def test_a_base_alone_is_given_out() -> None:
    base = candidate("base", [1.0, 2.0])
    assert best([base]) is base


@pytest.mark.parametrize("n", [4, 25, 400])
@pytest.mark.parametrize(("gain", "chosen"), [(1.01, "other"), (0.99, "base"), (0.0, "base"), (-1.01, "base"), (-5.0, "base")])
def test_leaving_the_base_takes_a_gain_of_more_than_chance(n: int, gain: float, chosen: str) -> None:
    """A standard error for many samples, more of them for few."""
    deviation, errors, chance = 0.3, np.full(n, 10.0), spread(n)
    chance *= math.copysign(1, np.median(chance))  # so that the median is no reason
    gains = gain * doubt_factor(n) * deviation / math.sqrt(n) + deviation * chance
    assert best([candidate("base", errors), candidate("other", errors - gains)]).name == chosen


def test_the_comparison_is_sample_by_sample() -> None:
    """Samples differ a hundred times more than the two tableaux do; on every one of them the other is better."""
    errors = 200 + 100 * spread()
    assert best([candidate("base", errors), candidate("other", errors - 0.5 - 0.1 * spread(seed=1))]).name == "other"
    # The same means on samples in another order show nothing.
    assert best([candidate("base", errors), candidate("other", (errors - 0.5)[::-1])]).name == "base"


def test_of_several_the_leader_is_chosen_in_whatever_order_they_come() -> None:
    errors = 5 + spread()
    others = [candidate(str(gain), errors - gain - 0.01 * spread(seed=1)) for gain in (0.1, 0.7, 0.3, -1.0)]
    for order in itertools.permutations(others):
        assert best([candidate("base", errors), *order]).name == "0.7"


def test_only_the_leader_is_looked_at() -> None:
    """The lowest error, though it is doubtful, and the base then; not the next one that would be sure."""
    errors, chance = np.full(25, 5.0), spread()
    chance *= math.copysign(1, np.median(chance))  # so that the median is no reason
    doubtful, sure = candidate("doubtful", errors - 1.0 - 20 * chance), candidate("sure", errors - 0.5)
    assert best([candidate("base", errors), doubtful, sure]).name == "base"
    assert best([candidate("base", errors), sure]).name == "sure"


def test_a_gain_of_the_mean_that_costs_the_median_is_none() -> None:
    """A few far samples carry the mean: most are worse off."""
    errors = np.array([1.0] * 20 + [100.0] * 5)
    carried = candidate("carried", np.array([1.1] * 20 + [50.0] * 5))
    assert carried.error < errors.mean() / 1.5
    assert best([candidate("base", errors), carried]).name == "base"
    both = candidate("both", np.array([0.9] * 20 + [60.0] * 5))
    assert best([candidate("base", errors), carried, both]).name == "both"


def test_more_noise_is_for_the_leader_or_for_a_smaller_mean_that_the_median_forbids() -> None:
    errors = np.array([1.0] * 20 + [100.0] * 5)
    base, carried = candidate("base", errors), candidate("carried", np.array([1.1] * 20 + [50.0] * 5))
    slight, worse = candidate("slight", errors - 1e-3 * spread() ** 2), candidate("worse", errors + 1)
    assert best([base, carried, worse]) is base and hopeful([base, worse, carried]) is carried
    assert hopeful([base, carried, slight]) is slight
    assert hopeful([base]) is None and hopeful([base, worse]) is None
    assert hopeful([base, replace(carried, superseded=True)]) is None
    assert hopeful([base, candidate("diverging", np.full(25, math.inf))]) is None


def test_a_single_sample_leaves_no_room_for_doubt() -> None:
    assert best([candidate("base", [1.0]), candidate("other", [0.999])]).name == "other"
    assert best([candidate("base", [1.0]), candidate("other", [1.0])]).name == "base"


def test_equal_errors_leave_the_base() -> None:
    errors = 5 + spread()
    assert best([candidate("base", errors), candidate("other", errors)]).name == "base"


def test_what_diverges_is_never_chosen_over_what_does_not() -> None:
    fine, once, always = [9.0, 9.5, 8.0], [0.1, 0.1, math.inf], [math.inf] * 3
    for diverging in (once, always):
        assert best([candidate("base", fine), candidate("other", diverging)]).name == "base"
        assert best([candidate("base", diverging), candidate("other", fine)]).name == "other"
        assert best([candidate("base", fine), candidate("other", diverging), candidate("good", [1.0, 1.1, 0.9])]).name == "good"
    assert best([candidate("base", always), candidate("other", once), candidate("last", always)]).name == "base"


# The errors that it goes by.


def validation(batch: int = 7, seed: int = 0) -> Batch:
    noise = double_noise(batch, seed)
    targets = [standard_noise(seed + i, batch, (4,), stream=1, dtype=torch.float64) for i in range(2)]
    return Batch(noise, {}, targets)


def test_end_errors_are_mean_squares_over_each_sample() -> None:
    denoiser, batch = mixture_denoiser(SCHEDULE), validation()
    end = dode.sample(denoiser, TABLEAU, batch.noise)
    expected = [float(((x - y) ** 2).sum()) / 4 for x, y in zip(end, batch.states[-1])]
    found = end_errors(denoiser, TABLEAU, batch)
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)
    assert found.dtype == np.float64
    judged = judge(denoiser, "ddim", TABLEAU, batch)
    assert (judged.name, judged.tableau) == ("ddim", TABLEAU)
    assert judged.errors.tolist() == found.tolist()
    assert judged.error == pytest.approx(np.mean(expected), rel=ROUNDING)


def test_end_errors_of_a_class_are_those_of_its_samples() -> None:
    """The condition goes along with its sample."""

    def net(x: Tensor, t: Tensor, scale: Tensor) -> Tensor:
        return x * scale[:, None]

    denoiser, batch = dode.Denoiser(net, SCHEDULE, shape=(4,)), validation(3)
    scale = torch.tensor([0.2, 0.5, 0.9], dtype=torch.float64)
    together = end_errors(denoiser, TABLEAU, Batch(batch.noise, {"scale": scale}, batch.states))
    for i in range(3):
        part = batch.part(slice(i, i + 1))
        alone = end_errors(denoiser, TABLEAU, Batch(part.noise, {"scale": scale[i : i + 1]}, part.states))
        assert together[i] == pytest.approx(alone[0], rel=ROUNDING)


def test_a_run_that_diverges_has_infinite_errors() -> None:
    denoiser, batch = dode.Denoiser(lambda x, t: x * math.nan, SCHEDULE, shape=(4,)), validation()
    assert end_errors(denoiser, TABLEAU, batch).tolist() == [math.inf] * 7
    worse = judge(denoiser, "diverges", TABLEAU, batch)
    assert worse.error == math.inf
    fine = judge(mixture_denoiser(SCHEDULE), "fine", TABLEAU, batch)
    assert best([worse, fine]) is fine
    assert best([fine, worse]) is fine


def test_measure_is_the_distance_of_every_row_and_ends_with_the_end_errors() -> None:
    denoiser, batch = mixture_denoiser(SCHEDULE), validation()
    states = dode.sample(denoiser, TABLEAU, batch.noise, return_trajectory=True).states[1:]
    expected = [((x - target) ** 2).mean(1).tolist() for x, target in zip(states, batch.states, strict=True)]
    found = measure(denoiser, TABLEAU, batch)
    np.testing.assert_allclose(found, expected, rtol=ROUNDING)
    np.testing.assert_allclose(found[-1], end_errors(denoiser, TABLEAU, batch), rtol=ROUNDING)


# What may be made of a fit.


def made(rows: int) -> tuple[dode.Tableau, Directions, Fit]:
    """DEIS with a fit of all multistep directions to targets of its own."""
    base = dode.solver("deis").tableau(SCHEDULE, rows)
    noise = double_noise(30)
    targets = [standard_noise(0, 30, (4,), stream=i + 1, dtype=torch.float64) for i in range(rows)]
    directions = multistep(base)
    return base, directions, fit(mixture_denoiser(SCHEDULE), base, directions, Batch(noise, {}, targets))


def test_shrunk_corrections_lie_between_the_base_and_the_fit() -> None:
    base, directions, found = made(5)
    whole = corrected(base, directions, found.coefficients)
    assert np.abs(whole.b - base.b).max() > 0.01
    candidates = shrunk(base, directions, found, dropped_rows=0)
    assert len(candidates) == len(FACTORS)
    for factor, (_, tableau) in zip(FACTORS, candidates, strict=True):
        np.testing.assert_allclose(tableau.a - base.a, factor * (whole.a - base.a), rtol=0, atol=ROUNDING)
        np.testing.assert_allclose(tableau.b - base.b, factor * (whole.b - base.b), rtol=0, atol=ROUNDING)
    assert candidates[0][1] == whole


def test_a_factor_of_zero_is_the_base_to_the_last_bit() -> None:
    base, directions, found = made(4)
    ((_, tableau),) = shrunk(base, directions, found, factors=[0.0], dropped_rows=0)
    assert tableau == base


@pytest.mark.parametrize(("rows", "dropped", "expected"), [(5, 2, 2), (5, 0, 0), (3, 9, 2), (2, 2, 1), (1, 2, 0)])
def test_the_last_rows_may_go_without_a_correction_but_not_all(rows: int, dropped: int, expected: int) -> None:
    base, directions, found = made(rows)
    whole = corrected(base, directions, found.coefficients)
    before = found.coefficients.copy()
    candidates = shrunk(base, directions, found, factors=(), dropped_rows=dropped)
    assert len(candidates) == expected
    for i, (_, tableau) in enumerate(candidates, start=1):
        kept = rows - i
        assert tableau.a[kept:].tolist() == base.a[kept:].tolist()
        assert tableau.b[kept:].tolist() == base.b[kept:].tolist()
        assert tableau.a[:kept].tolist() == whole.a[:kept].tolist()
        assert tableau.b[:kept].tolist() == whole.b[:kept].tolist()
    assert (found.coefficients == before).all()


def test_names_say_what_was_done() -> None:
    names = [name for name, _ in shrunk(*made(5))]
    assert names == [
        "the fit as it is",
        "corrections x 0.75",
        "corrections x 0.5",
        "corrections x 0.25",
        "no correction in the last row",
        "no correction in the last 2 rows",
    ]
