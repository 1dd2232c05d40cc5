"""diffusers' own pipelines around networks of a few thousand random parameters: nothing is downloaded, nothing mocked."""

from __future__ import annotations

import functools
import json
import string
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

SIZE = 8  # of the latents, or of the images where the network works on pixels
PIXELS = 2 * SIZE  # of the images: the autoencoders halve them once
WORDS = 16  # tokens of a prompt
WIDTH = 8  # of a token's embedding

STABLE_DIFFUSION = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@dataclass(frozen=True)
class Tiny:
    """How one pipeline is made and called.

    make: gives the pipeline, its progress bar off, with the scheduler that its checkpoints come with.
    call: n -> the arguments of one call that gives n samples, all but num_inference_steps, generator, latents and output_type.
        Sample i is asked for in the same way whatever n is.
    scheduler: the class of that scheduler.
    calls_by: the argument that multiplies the samples of a call, or that holds one entry a sample.
    output_type: the one nearest to the states that the scheduler gave.
    latents: whether a call takes `latents`.
    text: whether a call takes strings as `prompt`.
    """

    make: Callable[[], Any]
    call: Callable[[int], dict[str, Any]]
    scheduler: str
    calls_by: str
    output_type: str = "latent"
    latents: bool = True
    text: bool = False


def drawn(network: torch.nn.Module) -> Any:
    """Draw every parameter anew, so that none stays zero (a ControlNet would do nothing) or is left as memory held it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(noise / parameter[0].numel() ** 0.5)
            else:
                parameter.copy_(0.1 * noise + float(name.endswith("weight")))
    return network.eval().requires_grad_(False)


def seeded(kind: type, **config: Any) -> Any:
    with torch.random.fork_rng():
        return drawn(kind(**config))


def quiet(pipeline: Any) -> Any:
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def rows(n: int, *shape: int, seed: int = 0) -> Tensor:
    """Give n rows of normal numbers, (n, *shape); row i is the same whatever n is."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(1000 * seed + row)) for row in range(n)])


def images(n: int, seed: int = 0) -> Tensor:
    """Give n images, (n, 3, PIXELS, PIXELS), in [0, 1]."""
    return rows(n, 3, PIXELS, PIXELS, seed=seed).sigmoid()


def prompts(n: int) -> list[str]:
    return [("a cat", "the sun over a lake", "old stone bridge", "")[row % 4] for row in range(n)]


def text(n: int, **more: Any) -> dict[str, Any]:
    return {"prompt": prompts(n), "negative_prompt": ["ugly"] * n, **more}


def embeddings(n: int, **shapes: tuple[int, ...]) -> dict[str, Any]:
    return {name: rows(n, *shape, seed=index) for index, (name, shape) in enumerate(shapes.items(), 1)}


@functools.cache
def tokenizer() -> Any:
    """CLIP's tokenizer of single letters and one merge."""
    symbols = [*string.ascii_lowercase, *(f"{letter}</w>" for letter in string.ascii_lowercase), "th", "the</w>"]
    vocabulary = {symbol: index for index, symbol in enumerate([*symbols, "<|startoftext|>", "<|endoftext|>"])}
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "vocab.json").write_text(json.dumps(vocabulary))
        Path(folder, "merges.txt").write_text("#version: 0.2\nt h\nth e</w>\n")
        return transformers.CLIPTokenizer.from_pretrained(folder, model_max_length=WORDS)


def text_encoder(kind: type = transformers.CLIPTextModel) -> Any:
    config = transformers.CLIPTextConfig(
        vocab_size=len(tokenizer()),
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_hidden_layers=2,  # SDXL reads the last but one
        num_attention_heads=2,
        max_position_embeddings=WORDS,
        projection_dim=WIDTH,
        bos_token_id=tokenizer().bos_token_id,
        eos_token_id=tokenizer().eos_token_id,
        pad_token_id=tokenizer().pad_token_id,
    )
    return seeded(kind, config=config)


def autoencoder(channels: int = 4, **config: Any) -> Any:
    """Images of PIXELS, latents of SIZE."""
    return seeded(
        diffusers.AutoencoderKL,
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=PIXELS,
        **config,
    )


UNET = {
    "sample_size": SIZE,
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attention_head_dim": 2,
}


def pixel_unet() -> Any:
    blocks = {"down_block_types": ("DownBlock2D", "AttnDownBlock2D"), "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}
    return seeded(diffusers.UNet2DModel, **UNET, **blocks)


def unet(channels: int = 4, **config: Any) -> Any:
    return seeded(
        diffusers.UNet2DConditionModel,
        **UNET,
        in_channels=channels,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        **{"cross_attention_dim": WIDTH, **config},
    )


def ddpm() -> Any:
    return quiet(diffusers.DDPMPipeline(pixel_unet(), diffusers.DDPMScheduler()))


def ddim() -> Any:
    return quiet(diffusers.DDIMPipeline(pixel_unet(), diffusers.DDIMScheduler()))


def dit() -> Any:
    transformer = seeded(
        diffusers.DiTTransformer2DModel,
        sample_size=SIZE,
        in_channels=4,
        out_channels=8,  # with the learned variance, which the pipeline drops
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        patch_size=2,
    )
    return quiet(diffusers.DiTPipeline(transformer, autoencoder(), diffusers.DDIMScheduler(clip_sample=False)))


def pndm() -> Any:
    return diffusers.PNDMScheduler(**STABLE_DIFFUSION, skip_prk_steps=True, steps_offset=1)


def stable_diffusion(
    kind: type = diffusers.StableDiffusionPipeline, channels: int = 4, scheduler: Any = None, **more: Any
) -> Any:
    parts = {"vae": autoencoder(), "text_encoder": text_encoder(), "tokenizer": tokenizer(), "unet": unet(channels)}
    checked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return quiet(kind(**parts, **checked, scheduler=scheduler or pndm(), **more))


def inpainting(channels: int) -> Any:
    return stable_diffusion(diffusers.StableDiffusionInpaintPipeline, channels)


def masked(n: int) -> dict[str, Any]:
    mask = torch.zeros(n, 1, PIXELS, PIXELS)
    mask[..., PIXELS // 2 :] = 1
    return text(n, image=images(n), mask_image=mask, height=PIXELS, width=PIXELS)


PIPELINES: dict[str, Tiny] = {
    "ddpm": Tiny(ddpm, lambda n: {"batch_size": n}, "DDPMScheduler", "batch_size", output_type="pt", latents=False),
    "ddim": Tiny(ddim, lambda n: {"batch_size": n}, "DDIMScheduler", "batch_size", output_type="np", latents=False),
    "dit": Tiny(
        dit, lambda n: {"class_labels": list(range(n))}, "DDIMScheduler", "class_labels", output_type="pt", latents=False
    ),
    "sd": Tiny(stable_diffusion, text, "PNDMScheduler", "num_images_per_prompt", text=True),
    "sd-img2img": Tiny(
        functools.partial(stable_diffusion, diffusers.StableDiffusionImg2ImgPipeline),
        lambda n: text(n, image=images(n)),
        "PNDMScheduler",
        "num_images_per_prompt",
        latents=False,
        text=True,
    ),
    "sd-inpaint-4": Tiny(functools.partial(inpainting, 4), masked, "PNDMScheduler", "num_images_per_prompt", text=True),
    "sd-inpaint-9": Tiny(functools.partial(inpainting, 9), masked, "PNDMScheduler", "num_images_per_prompt", text=True),
}
