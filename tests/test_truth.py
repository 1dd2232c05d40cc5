"""What is given out and what is said of it, against the truth: Gaussian data, whose end points are known exactly.

The truth is the exact state at the lowest time at which the network may be asked, then D there. In a test run every schedule meets one
effort and one solver; all of them with DODE_TRUTH=all.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from gaussian import exact_end, gaussian_denoiser
from torch import Tensor

import dode
from dode.distillation import PAPER
from dode.noise import HELD_OUT, standard_noise
from dode.schedules import EDM, VP, ContinuousVP, Flow, NoiseSchedule

# Narrow and wide directions of the data.
MU, SD = [0.5, -0.3, 0.1, 0.8], [0.01, 0.1, 0.3, 0.8]
# What a summary says is within this factor of the truth.
FACTOR = 1.5
# Two results may differ by chance and by float32 rounding: relative, and of the data's own power.
ROUNDING = 1e-3, 1e-11

SCHEDULES: dict[str, tuple[NoiseSchedule, str]] = {
    **{f"linear, T={T}": (VP.linear(T, 0.1 / T, min(20 / T, 0.6)), "epsilon") for T in (20, 50, 100, 1000)},
    "linear, T=10": (VP.linear(10, 0.01, 0.6), "epsilon"),
    **{f"cosine, T={T}": (VP.squared_cosine(T), "v") for T in (10, 20, 50, 100, 1000)},
    "continuous": (ContinuousVP(), "epsilon"),
    "exp(-t/2)": (ContinuousVP(1.0, 1.0, t_max=10.0), "epsilon"),
    "flow": (Flow(), "flow"),
    "flow, shift 3": (Flow(shift=3.0), "flow"),
    "edm": (EDM(), "sample"),
}
EFFORTS = ("fast", "balanced", "thorough", "paper")
SOLVERS = ("ddim", "deis", "dpm-solver++", "unipc")
NFE = 5


def cases() -> Iterator[tuple[str, bool, str, str]]:
    """Schedule, whole times, effort, solver."""
    settings = [
        (name, whole) for name, (s, _) in SCHEDULES.items() for whole in (False, True) if isinstance(s, VP) or not whole
    ]
    if os.environ.get("DODE_TRUTH") == "all":
        yield from ((*setting, effort, solver) for setting in settings for effort in EFFORTS for solver in SOLVERS)
        return
    # Times of the three efforts are as 1, 3 and 8: most of a test run has the first.
    efforts = itertools.cycle(("fast", "balanced", "fast", "thorough", "paper"))
    yield from ((*setting, next(efforts), solver) for setting, solver in zip(settings, itertools.cycle(SOLVERS)))
    # Ten whole times leave no teacher that is nearer to the truth than this base.
    yield ("linear, T=10", True, "fast", "deis")


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.mark.parametrize(("name", "whole", "effort", "solver"), list(cases()))
def test_the_true_error_is_no_worse_than_the_bases_and_is_what_is_said(
    name: str, whole: bool, effort: str, solver: str
) -> None:
    schedule, prediction = SCHEDULES[name]
    denoiser = gaussian_denoiser(schedule, prediction, mu=MU, sd=SD, shape=(4,), integer_times=whole)
    how = PAPER if effort == "paper" else {"effort": effort}
    result = dode.distill(denoiser, solver, NFE, seed=1, **how)
    assert result.held_out is not None and result.reference is not None
    noise = standard_noise(1, result.held_out.samples, (4,), stream=HELD_OUT)
    truth = exact_end(denoiser.schedule, noise, mu=MU, sd=SD)

    def true_error(tableau: dode.Tableau) -> np.ndarray:
        end: Tensor = dode.sample(denoiser, tableau, noise)
        return np.asarray((end.double() - truth).square().mean(1))

    base, distilled = true_error(result.base), true_error(result.tableau)
    relative, least = ROUNDING
    if effort != "paper":  # which promises nothing
        for figure in (np.mean, np.median):
            assert figure(distilled) <= (1 + relative) * figure(base) + least
    said = result.held_out.end[1]
    low, high = result.reference.range(said)
    true = float(distilled.mean())
    assert said / FACTOR <= true <= said * FACTOR or low / FACTOR <= true <= high * FACTOR or max(true, said) < least
    # Where the figure alone is not within the factor, the doubt is said.
    if not said / FACTOR <= true <= said * FACTOR and max(true, said) >= least:
        assert any("may be off by" in warning for warning in result.warnings)
    assert math.isfinite(true)
