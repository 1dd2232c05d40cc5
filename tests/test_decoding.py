"""Latents of a pipeline as images, and a pipeline compared: what it decodes itself, by prompts and guided."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import dode

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tiny_pipelines import PIPELINES, prompts
from toy_pipeline import Toy

from dode.integrations.diffusers.decoding import decoder_of

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
LITTLE = {"efforts": (), "samples": 3, "reference_nfe": 6, "shown": 2}


@pytest.mark.parametrize("name", ["sd", "pixart", "sd3", "playground", "flux"])
def test_latents_are_decoded_as_the_pipeline_does(name: str) -> None:
    tiny = PIPELINES[name]
    pipe, call = tiny.make(), tiny.call(2)
    made = {}
    for kind in ("latent", "pt"):
        generators = [torch.Generator().manual_seed(i) for i in range(2)]
        made[kind] = pipe(**call, num_inference_steps=2, output_type=kind, generator=generators).images
    latents = made["latent"]
    decode = decoder_of(pipe, tuple(latents.shape[1:]), call)
    assert decode is not None
    images = decode(latents)
    assert images.shape[1] == 3 and images.dtype == torch.float32
    np.testing.assert_allclose(images.clamp(-1, 1), made["pt"].float() * 2 - 1, atol=2e-4)


def test_samples_that_are_images_are_not_decoded() -> None:
    pipe = PIPELINES["ddpm"].make()
    assert decoder_of(pipe, (3, 8, 8), {}) is None
    found = dode.compare(pipe, ["ddim"], [2], **LITTLE)
    assert found.results[0].pictures and found.setting.shown == 2


def test_a_pipeline_is_compared_by_its_prompts_and_its_images(tmp_path: Path) -> None:
    pipe, texts = PIPELINES["sd"].make(), prompts(2)
    options = {**LITTLE, "extractor": lambda images: images.flatten(1)[:, :3], "guidance_scale": 2.0, "cache": tmp_path}
    found = dode.compare(pipe, ["ddim"], [2], prompts=texts, **options, batch_size=2)
    (base,) = found.results
    assert base.figures.keys() >= {"error", "psnr", "feature_distance"} and base.pictures and base.course is not None
    assert (found.setting.guidance, found.setting.condition) == ("2", "2 prompts, in turn")
    # Other prompts are another network's.
    other = dode.compare(pipe, ["ddim"], [2], prompts=[texts[0], texts[1] + " again"], **options, batch_size=2)
    assert other.setting.hashes["network"] != found.setting.hashes["network"]
    assert other.setting.hashes["noise"] == found.setting.hashes["noise"]


def test_a_tableau_that_a_comparison_distils_knows_what_it_was_fitted_for() -> None:
    found = dode.compare(Toy(lambda x, t: torch.tanh(x)), ["ddim"], [2], **{**LITTLE, "efforts": ("paper",)}, batch_size=50)
    tableau = found.results[1].tableau
    assert tableau is not None and tableau.meta["fitted_for"]["pipeline"] == "Toy"
    assert not found.results[0].pictures  # four channels are no image
