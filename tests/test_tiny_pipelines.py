"""Every tiny pipeline runs with the scheduler that it comes with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tiny_pipelines import PIPELINES

STEPS = 3
SAMPLES = 2


def samples(name: str, pipeline: Any) -> torch.Tensor:
    tiny = PIPELINES[name]
    generator = torch.Generator().manual_seed(0)
    output = pipeline(**tiny.call(SAMPLES), num_inference_steps=STEPS, generator=generator, output_type=tiny.output_type)
    return torch.as_tensor(output if torch.is_tensor(output) else output[0])


@pytest.mark.parametrize("name", PIPELINES)
def test_runs_with_its_own_scheduler(name: str) -> None:
    pipeline = PIPELINES[name].make()
    first = samples(name, pipeline)
    assert type(pipeline.scheduler).__name__ == PIPELINES[name].scheduler
    assert first.shape[0] == SAMPLES
    assert bool(torch.isfinite(first).all())
    assert float((first[0] - first[1]).abs().max()) > 0
    assert torch.equal(first, samples(name, pipeline))
