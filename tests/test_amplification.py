"""How much of its accuracy a run loses to rounding, against runs in float64."""

from __future__ import annotations

import dataclasses
import math
import warnings
from typing import Any

import pytest
import torch
from gaussian import gaussian_denoiser

import dode
from dode.amplification import MOST, amplification
from dode.noise import standard_noise
from dode.schedules import EDM, VP, ContinuousVP, Flow, NoiseSchedule

MU = torch.tensor([0.5, -0.2, 0.0, 1.0], dtype=torch.float64)
SD = torch.tensor([0.01, 0.1, 0.3, 0.8], dtype=torch.float64)
NOISE = standard_noise(0, 64, (4,))
HALF_EPS = 2**-24  # what a product in float32 is rounded by at the most
# Betas up to 0.5 over a few training times: alpha falls to 1e-6 and below.
STEEP, SHORT = VP.linear(100, 0.001, 0.5), VP.linear(50, 0.001, 0.3)


def loss(denoiser: dode.Denoiser, tableau: dode.Tableau) -> float:
    """Of a float32 run, relative to the result: root mean square."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found, right = (dode.sample(denoiser, tableau, noise).double() for noise in (NOISE, NOISE.double()))
    return math.sqrt(float((found - right).square().mean() / right.square().mean()))


CASES: list[tuple[str, dict[str, Any], NoiseSchedule, int, str, str]] = [
    ("deis", {}, STEEP, 5, "trailing", "epsilon"),
    ("deis", {"variable": "t", "bounded": False}, STEEP, 16, "karras", "flow"),
    ("pndm", {}, SHORT, 5, "trailing", "epsilon"),
    ("pndm", {"bounded": False}, VP.linear(), 23, "quadratic", "score"),
    ("dpm-solver", {}, STEEP, 4, "log-snr", "epsilon"),
    ("dpm-solver", {"order": 3}, STEEP, 10, "leading", "flow"),
    ("dpm-solver++", {}, STEEP, 6, "log-snr", "epsilon"),
    ("ipndm", {}, STEEP, 6, "uniform", "flow"),
    ("ddim", {}, STEEP, 5, "uniform", "epsilon"),
    ("ddim", {}, VP.linear(), 10, "uniform", "epsilon"),
    ("ddim", {}, VP.squared_cosine(), 1, "trailing", "epsilon"),
    ("unipc", {}, ContinuousVP(), 8, "log-snr", "v"),
    ("deis", {"bounded": False}, Flow(3.0), 18, "log-snr", "v"),
    ("edm", {}, EDM(), 9, "karras", "sample"),
    ("unipc", {}, EDM(), 9, "karras", "epsilon"),
]


@pytest.mark.parametrize(("name", "options", "schedule", "nfe", "grid", "prediction"), CASES)
def test_it_foretells_what_a_run_in_float32_loses(
    name: str, options: dict[str, Any], schedule: NoiseSchedule, nfe: int, grid: str, prediction: str
) -> None:
    tableau = dode.solver(name, **options).tableau(schedule, nfe, grid)
    foretold = amplification(tableau, prediction) * HALF_EPS
    measured = loss(gaussian_denoiser(schedule, prediction, MU, SD), tableau)
    # More than the whole cannot be lost.
    assert 0.1 * min(foretold, 1) < min(measured, 1) < 10 * foretold


@pytest.mark.parametrize("first", ["zero", "mean"])
def test_a_first_output_that_is_no_evaluation_is_no_rounding_of_the_network(first: str) -> None:
    tableau = dataclasses.replace(dode.solver("deis").tableau(STEEP, 6), first=first)
    assert amplification(tableau, "epsilon") < amplification(dode.solver("deis").tableau(STEEP, 6), "epsilon")


def test_what_people_use_is_far_from_the_limit() -> None:
    for schedule, prediction in ((VP.linear(), "epsilon"), (VP.scaled_linear(), "v"), (EDM(), "edm"), (Flow(3.0), "flow")):
        for name in ("ddim", "pndm", "ipndm", "deis", "dpm-solver++", "unipc"):
            for nfe in (4, 10, 30):
                assert amplification(dode.solver(name).tableau(schedule, nfe), prediction) < MOST / 10


def steep() -> tuple[dode.Denoiser, dode.Tableau]:
    return gaussian_denoiser(STEEP, "epsilon"), dode.solver("dpm-solver++").tableau(STEEP, 5, "log-snr")


def test_a_tableau_that_magnifies_rounding_is_warned_of_once_in_one_line() -> None:
    denoiser, tableau = steep()
    with pytest.warns(
        UserWarning, match=r"magnify rounding about .* times for a network that predicts epsilon, .* take another"
    ) as seen:
        dode.sample(denoiser, tableau, NOISE)
    assert "\n" not in str(seen[0].message) and seen[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dode.sample(denoiser, tableau, NOISE)
        for _ in dode.iterate(denoiser, tableau, NOISE):
            pass
        # In float64 there is nothing to lose.
        other = steep()[1]
        dode.sample(denoiser, other, NOISE.double())
        dode.sample(gaussian_denoiser(VP.linear()), dode.solver("deis").tableau(VP.linear(), 5), NOISE)
    with pytest.warns(UserWarning, match="magnify rounding"):
        next(iter(dode.iterate(denoiser, other, NOISE)))


def test_a_distillation_says_it_with_its_result_and_not_of_what_it_tries() -> None:
    denoiser, _ = steep()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = dode.distill(
            denoiser, "dpm-solver++", 4, grid="log-snr", effort="fast", samples=16, validation=8, held_out=4, budget=600
        )
    assert any("magnify rounding" in text for text in result.warnings)
