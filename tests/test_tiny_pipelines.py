"""Every tiny pipeline runs with the scheduler that it comes with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tiny_pipelines import PIPELINES, Tiny, rows

STEPS = 3
SAMPLES = 2

every = pytest.mark.parametrize("tiny", [pytest.param(tiny, id=name) for name, tiny in PIPELINES.items()])


def samples(tiny: Tiny, pipeline: Any, n: int = SAMPLES, **more: Any) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    call = {**tiny.call(n), "output_type": tiny.output_type, **more}
    output = pipeline(**call, num_inference_steps=STEPS, generator=generator)
    return torch.as_tensor(output if torch.is_tensor(output) else output[0])


@every
def test_runs_with_its_own_scheduler(tiny: Tiny) -> None:
    pipeline = tiny.make()
    found = samples(tiny, pipeline)
    assert type(pipeline.scheduler).__name__ == tiny.scheduler
    assert len(found) == SAMPLES
    assert bool(torch.isfinite(found).all())
    assert not torch.equal(found[0], found[1])
    assert torch.equal(found, samples(tiny, pipeline))


@every
def test_latents_and_number_of_samples(tiny: Tiny) -> None:
    pipeline = tiny.make()
    if tiny.calls_by.startswith("num_"):
        assert len(samples(tiny, pipeline, 1, **{tiny.calls_by: SAMPLES})) == SAMPLES
    if tiny.latents:
        found = samples(tiny, pipeline, latents=rows(SAMPLES, *tiny.shape))
        assert torch.equal(found, samples(tiny, pipeline, latents=rows(SAMPLES, *tiny.shape)))
        assert not torch.equal(found, samples(tiny, pipeline, latents=rows(SAMPLES, *tiny.shape, seed=1)))
