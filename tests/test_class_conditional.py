"""The pipeline of bundled networks: as dode samples them, saved and read, refused in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small_unet import CONFIG
from torch import Tensor

import dode
from dode.models import BUNDLED
from dode.noise import standard_noise

diffusers = pytest.importorskip("diffusers")
class_conditional = pytest.importorskip("dode.integrations.diffusers.class_conditional")
ClassConditionalPipeline = class_conditional.ClassConditionalPipeline

LABELS = [0, 3, 5, 9]
# Rounding of float32, eight steps of it, under guidance.
TOLERANCE = 3e-5


def small_pipeline(scheduler: Any = None, null_class: int | None = 5, **config: Any) -> Any:
    """Random weights, pictures (1, 16, 16), labels 0 to 5."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet = diffusers.UNet2DModel.from_config(CONFIG | config).eval()
    pipe = ClassConditionalPipeline(
        unet, scheduler or diffusers.DDIMScheduler(clip_sample=False), null_class=null_class, space_to_depth=2
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def noise_of(batch: int) -> Tensor:
    return standard_noise(0, batch, (1, 16, 16))


def latents_of(pipe: Any, *args: Any, **options: Any) -> Tensor:
    images: Tensor = pipe(*args, **{"output_type": "latent", "num_inference_steps": 3} | options).images
    return images


@pytest.fixture(scope="module")
def fashion() -> Any:
    pipe = class_conditional.fashion_pipeline()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_it_samples_as_dode_does(fashion: Any, guidance_scale: float) -> None:
    denoiser = dode.load("fashion", guidance_scale=guidance_scale)
    assert fashion.sample_shape == denoiser.shape
    noise = standard_noise(1, len(LABELS), fashion.sample_shape)
    expected = dode.sample(
        denoiser, dode.solver("ddim").tableau(denoiser.schedule, 8, grid="trailing"), noise, class_labels=LABELS
    )
    found = fashion(LABELS, guidance_scale, num_inference_steps=8, latents=noise, output_type="latent").images
    torch.testing.assert_close(found, expected, atol=TOLERANCE, rtol=0)


def test_flow_matching_samples_as_dode_does() -> None:
    pipe = class_conditional.fashion_pipeline("fashion-flow")
    pipe.set_progress_bar_config(disable=True)
    denoiser = dode.load("fashion-flow")
    noise = standard_noise(1, 2, pipe.sample_shape)
    sigmas = [1.0, 0.7, 0.4, 0.1]
    tableau = dode.solver("ddim").tableau(denoiser.schedule, grid=[1000 * sigma for sigma in [*sigmas, 0]])
    found = pipe(num_images_per_label=2, sigmas=sigmas, latents=noise, output_type="latent").images
    torch.testing.assert_close(found, dode.sample(denoiser, tableau, noise), atol=TOLERANCE, rtol=0)


def test_edm_samples_as_dode_does() -> None:
    pipe = class_conditional.fashion_pipeline("fashion-edm")
    pipe.set_progress_bar_config(disable=True)
    denoiser = dode.load("fashion-edm")
    noise = standard_noise(1, len(LABELS), pipe.sample_shape)
    tableau = dode.solver("edm", method="euler").tableau(denoiser.schedule, 6)
    found = pipe(LABELS, num_inference_steps=6, latents=noise, output_type="latent").images
    # The states begin at 80, and so does their rounding: measured 4e-4.
    torch.testing.assert_close(found, dode.sample(denoiser, tableau, noise, class_labels=LABELS), atol=2e-3, rtol=0)


@pytest.mark.parametrize("name", BUNDLED)
def test_saved_and_read_it_makes_the_same_pictures(name: str, tmp_path: Path) -> None:
    pipe = class_conditional.fashion_pipeline(name)
    pipe.save_pretrained(tmp_path)
    other, in_file = (ClassConditionalPipeline.from_pretrained(tmp_path) for _ in range(2))
    # Numbers that stay in the file do not lie in memory as oneDNN likes them to, which moves the last bit.
    for parameter in other.unet.parameters():
        parameter.data = parameter.data.clone()
    assert type(other.scheduler) is type(pipe.scheduler)
    assert (other.config.null_class, other.config.space_to_depth) == (pipe.config.null_class, 2)
    ask = {"class_labels": 3, "guidance_scale": 2.0} if BUNDLED[name].classes else {}
    images = []
    for each in (pipe, other, in_file):
        each.set_progress_bar_config(disable=True)
        images.append(each(**ask, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="np").images)
    assert np.array_equal(*images[:2])
    np.testing.assert_allclose(images[2], images[0], atol=TOLERANCE)


def test_guidance_doubles_the_batch_and_no_guidance_does_not() -> None:
    pipe = small_pipeline()
    asked: list[list[int]] = []
    pipe.unet.register_forward_pre_hook(
        lambda module, args, options: asked.append(options["class_labels"].tolist()), with_kwargs=True
    )
    latents_of(pipe, [1, 2], latents=noise_of(2))
    latents_of(pipe, [1, 2], 0.0, latents=noise_of(2))
    assert asked == [[1, 2]] * 3 + [[5, 5, 1, 2]] * 3


def test_no_weight_on_the_label_is_the_null_class() -> None:
    pipe = small_pipeline()
    torch.testing.assert_close(
        latents_of(pipe, [1, 2], 0.0, latents=noise_of(2)), latents_of(pipe, [5, 5], latents=noise_of(2))
    )


SCHEDULERS = {
    "DDIMScheduler": {},
    "DDPMScheduler": {},
    "DEISMultistepScheduler": {},
    "DPMSolverMultistepScheduler": {},
    "DPMSolverSinglestepScheduler": {},
    "EulerAncestralDiscreteScheduler": {},
    "EulerDiscreteScheduler": {"use_karras_sigmas": True},
    "FlowMatchEulerDiscreteScheduler": {},
    "HeunDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "PNDMScheduler": {"skip_prk_steps": True},
    "UniPCMultistepScheduler": {},
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_does(name: str) -> None:
    pipe = small_pipeline(getattr(diffusers, name)(**SCHEDULERS[name]))
    generator = torch.Generator()
    images = [latents_of(pipe, [1, 2], 3.0, generator=generator.manual_seed(0)) for _ in range(2)]
    assert images[0].shape == (2, 1, 16, 16) and images[0].isfinite().all()
    assert torch.equal(*images)


def test_given_noise_is_scaled_as_the_scheduler_asks() -> None:
    # Both are DDIM; one has states of unit variance, the other x_0 + sigma eps, from sigma in place of sqrt(1 + sigma^2).
    ddim = diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    euler = diffusers.EulerDiscreteScheduler(timestep_spacing="trailing")
    # DDIM's steps have a whole length only where their number divides 1000.
    found = [latents_of(small_pipeline(s), 1, latents=noise_of(1), num_inference_steps=5) for s in (ddim, euler)]
    torch.testing.assert_close(*found, atol=1e-4 * found[0].abs().max(), rtol=0)


def test_times_of_the_caller() -> None:
    pipe = small_pipeline(diffusers.EulerDiscreteScheduler())
    times = []
    pipe(1, timesteps=[900, 500, 20], callback_on_step_end=lambda pipe, i, t, tensors: times.append(int(t)) or {})
    assert times == [900, 500, 20] and pipe.num_timesteps == 3
    with pytest.raises(ValueError, match="DDIMScheduler takes no sigmas of the caller"):
        small_pipeline()(1, sigmas=[3.0, 1.0])
    with pytest.raises(ValueError, match="timesteps or sigmas, not both"):
        pipe(1, sigmas=[3.0, 1.0], timesteps=[900, 500])


def test_output_types() -> None:
    pipe = small_pipeline()
    ask = {"class_labels": [1, 2], "num_inference_steps": 2, "latents": noise_of(2)}
    raw = pipe(**ask, output_type="latent").images
    assert raw.shape == (2, 1, 16, 16)
    tensor = pipe(**ask, output_type="pt").images
    torch.testing.assert_close(tensor, (raw / 2 + 0.5).clamp(0, 1))
    array = pipe(**ask, output_type="np").images
    assert array.shape == (2, 16, 16, 1) and np.array_equal(array[..., 0], tensor[:, 0].numpy())
    pictures = pipe(**ask).images
    assert [(picture.size, picture.mode) for picture in pictures] == [((16, 16), "L")] * 2
    (pictured,) = pipe(**ask, return_dict=False)
    assert np.array_equal(np.asarray(pictured[0]), np.asarray(pictures[0]))


def test_half_precision_is_kept() -> None:
    pipe = small_pipeline().to(torch.bfloat16)
    found = latents_of(pipe, [1, 2], 2.0, latents=noise_of(2))
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), latents_of(small_pipeline(), [1, 2], 2.0, latents=noise_of(2)), atol=1, rtol=0.1)
    assert pipe(1, num_inference_steps=2, output_type="np").images.dtype == np.float32


def test_several_pictures_of_a_label() -> None:
    pipe = small_pipeline()
    noise = noise_of(4)
    found = latents_of(pipe, [1, 2], num_images_per_label=2, latents=noise)
    assert torch.equal(found, latents_of(pipe, torch.tensor([1, 1, 2, 2]), latents=noise))
    assert torch.equal(latents_of(pipe, np.int64(2), latents=noise[:1]), latents_of(pipe, [2], latents=noise[:1]))


def test_a_callback_may_change_the_latents() -> None:
    pipe = small_pipeline()
    seen: list[tuple[int, float]] = []

    def zeros_at_the_end(pipe: Any, step: int, t: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        seen.append((step, pipe.guidance_scale))
        return {"latents": tensors["latents"] * 0} if step == 2 else {}

    found = latents_of(pipe, 1, 2.0, callback_on_step_end=zeros_at_the_end)
    assert not found.any() and seen == [(0, 2.0), (1, 2.0), (2, 2.0)]
    with pytest.raises(ValueError, match="prompt_embeds"):
        pipe(1, callback_on_step_end_tensor_inputs=["prompt_embeds"])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (6, r"class labels go from 0 to 5 \(5 is the null class\), got 6"),
        ([0, -1], "got -1"),
        (None, "class-conditional: give class_labels, 0 to 5"),
        (1.0, "must be an integer or a list of integers, got 1.0"),
        (True, "got True"),
        ("coat", "got coat"),
        (["coat"], "must be an integer"),
        ([[1], [2]], "must be an integer"),
    ],
)
def test_bad_labels_are_refused_in_one_line(labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        small_pipeline()(labels)
    assert "\n" not in str(caught.value)


def test_what_does_not_fit_is_refused() -> None:
    pipe = small_pipeline()
    with pytest.raises(ValueError, match=r"latents must have shape \(2, 1, 16, 16\), one a picture, got \(2, 4, 8, 8\)"):
        pipe([1, 2], latents=torch.zeros(2, 4, 8, 8))
    with pytest.raises(ValueError, match="output_type"):
        pipe(1, output_type="jpeg")
    with pytest.raises(ValueError, match="one a picture, 2, got 1"):
        pipe([1, 2], generator=[torch.Generator()])
    with pytest.raises(ValueError, match="num_images_per_label must be at least 1, got 0"):
        pipe(1, num_images_per_label=0)
    with pytest.raises(ValueError, match="needs a null class"):
        small_pipeline(null_class=None)(1, guidance_scale=2.0)
    free = small_pipeline(null_class=None, num_class_embeds=None)
    assert latents_of(free, num_images_per_label=2).shape == (2, 1, 16, 16)
    with pytest.raises(ValueError, match="no classes: leave class_labels out"):
        free(1)
    with pytest.raises(ValueError, match="fashion-flow"):
        class_conditional.fashion_pipeline("fashion-flo")


def test_its_network_is_loaded_with_its_null_class_and_layout():
    pipe = class_conditional.fashion_pipeline()
    denoiser, bundled = dode.load(pipe, guidance_scale=3.0), dode.load("fashion", guidance_scale=3.0)
    assert denoiser.shape == bundled.shape == pipe.sample_shape
    x = standard_noise(0, 2, pipe.sample_shape)
    torch.testing.assert_close(*(d(x, 500.0, class_labels=[1, 2]) for d in (denoiser, bundled)), atol=3e-5, rtol=0)
