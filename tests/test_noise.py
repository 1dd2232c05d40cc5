"""Noise by seed and stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dode.noise import FITTING, HELD_OUT, REPORT, SHARED, VALIDATION, standard_noise


@pytest.mark.parametrize("shape", [(1,), (3,), (1, 5, 7), (3, 64, 64), (0,)])
def test_the_first_samples_do_not_depend_on_how_many_are_made(shape: tuple[int, ...]) -> None:
    whole = standard_noise(3, 131, shape, stream=2)
    assert whole.shape == (131, *shape)
    for batch in (0, 1, 2, 7, 15, 16, 17, 130):
        assert torch.equal(standard_noise(3, batch, shape, stream=2), whole[:batch])


def test_dtypes_agree_up_to_rounding() -> None:
    exact = standard_noise(0, 9, (4, 5), dtype=torch.float64)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        assert torch.equal(standard_noise(0, 9, (4, 5), dtype=dtype), exact.to(dtype))


def test_it_is_the_same_for_ever() -> None:
    found = standard_noise(0, 2, (2,), dtype=torch.float64)
    expected = [[0.4802034081078841, -0.5244748809650239], [-0.9184219050570678, -0.33953394628240585]]
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_it_is_standard_normal_and_seeds_and_streams_are_independent() -> None:
    streams = (FITTING, HELD_OUT, REPORT, VALIDATION, SHARED)
    # A seed of more than 32 bits is no other seed's stream.
    keys = [(seed, stream) for seed in (0, 1, 2, 2**32) for stream in streams]
    count = 20_000
    noise = torch.stack([standard_noise(seed, count, (1,), stream=stream)[:, 0] for seed, stream in keys]).double()
    error = 5 / count**0.5
    assert noise.mean(1).abs().max() < error
    assert (noise.square().mean(1) - 1).abs().max() < error * 2**0.5
    assert (noise.pow(4).mean(1) - 3).abs().max() < error * 96**0.5
    correlations = noise @ noise.T / count - torch.eye(len(keys))
    assert correlations.fill_diagonal_(0).abs().max() < error
