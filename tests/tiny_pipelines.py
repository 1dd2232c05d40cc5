"""diffusers' own pipelines around networks of a few thousand random parameters: nothing is downloaded, nothing mocked.

What all their loops share (diffusers 0.42), unless the function that makes one says otherwise:

- `set_timesteps(n, device=...)`, then `for i, t in enumerate(timesteps)`, where `timesteps` is `scheduler.timesteps` or a slice of it:
  t is a 0-dimensional view of it, at the storage offset that is its index.
- `init_noise_sigma` multiplies the noise, and the `latents` of a call too.
- `scale_model_input` has the batch that the network gets, doubled by guidance; `step` has the n states, and gets back the very tensor
  that it returned last.
- `step` is given `eta` and `generator` if its signature has them, and `return_dict=False`.
- `scheduler.order` counts the steps of the progress bar, and where a loop starts late.

The flow pipelines (sd3, flux, flux-img2img, qwen-image, z-image, ltx, wan-2.2) read neither `init_noise_sigma` nor
`scale_model_input`, and give `step` no `eta` and no `generator`.
"""

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
    shape: of one sample's state, as `step` gets it and as `latents` holds it.
    output_type: the one nearest to the states that the scheduler gave.
    latents: whether a call takes `latents`.
    text: whether a call takes strings as `prompt`.
    """

    make: Callable[[], Any]
    call: Callable[[int], dict[str, Any]]
    scheduler: str
    calls_by: str
    shape: tuple[int, ...] = (4, SIZE, SIZE)
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
    """Guide a little: the answers of random networks to two prompts differ more than trained ones'."""
    return {"prompt": prompts(n), "negative_prompt": ["ugly"] * n, "guidance_scale": 2.0, **more}


def embeds(n: int) -> dict[str, Any]:
    """Give what a text encoder would, of the prompts and of negative ones."""
    return {"prompt_embeds": rows(n, WORDS, WIDTH, seed=1), "negative_prompt_embeds": rows(n, WORDS, WIDTH, seed=2)}


@functools.cache
def tokenizer() -> Any:
    """CLIP's tokenizer of single letters and one word, 'the'."""
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


def t5_encoder(kind: type = transformers.T5EncoderModel) -> Any:
    """A T5 that reads the tokens of CLIP's tokenizer."""
    config = {"d_model": WIDTH, "d_kv": 4, "d_ff": WIDTH, "num_layers": 1, "num_heads": 2, "vocab_size": len(tokenizer())}
    return seeded(kind, config=kind.config_class(**config))


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
    """No device for `set_timesteps`; no `scale_model_input`, no `init_noise_sigma`; `generator` always, `.prev_sample` read."""
    return quiet(diffusers.DDPMPipeline(pixel_unet(), diffusers.DDPMScheduler()))


def ddim() -> Any:
    """As ddpm, and `eta` and `use_clipped_model_output` always. Its constructor makes a DDIMScheduler of any other: set one after."""
    return quiet(diffusers.DDIMPipeline(pixel_unet(), diffusers.DDIMScheduler()))


def dit() -> Any:
    """Steps the doubled batch, 2 n equal halves, and joins the first half to itself before each step; `.prev_sample` read.

    No device for `set_timesteps`, no `init_noise_sigma`, and nothing but (output, t, sample) for `step`.
    """
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
    """The constructors of sd, sd-img2img and sd-inpaint rewrite the scheduler's `config`, and nothing else of it.

    They do where it has `steps_offset` other than 1, `clip_sample` true, or (sd-inpaint, for that) `skip_prk_steps` false.

    PNDM's first step is taken twice: one call more than steps. Image to image: `set_begin_index(start)`, where the scheduler has it,
    and `add_noise(latents, noise, t)` with t of shape (n,), a copy; `init_noise_sigma` is not read.
    """
    parts = {"vae": autoencoder(), "text_encoder": text_encoder(), "tokenizer": tokenizer(), "unet": unet(channels)}
    checked = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
    return quiet(kind(**parts, **checked, scheduler=scheduler or pndm(), **more))


def inpainting(channels: int) -> Any:
    """With 4 channels the loop changes the states: after all steps but the last it puts `add_noise(image, noise, t)` outside the mask.

    t is then of shape (1,), a copy. `set_begin_index(0)`, where the scheduler has it.
    """
    return stable_diffusion(diffusers.StableDiffusionInpaintPipeline, channels)


def masked(n: int) -> dict[str, Any]:
    mask = torch.zeros(n, 1, PIXELS, PIXELS)
    mask[..., PIXELS // 2 :] = 1
    return text(n, image=images(n), mask_image=mask, height=PIXELS, width=PIXELS)


def controlled() -> Any:
    controlnet = seeded(
        diffusers.ControlNetModel,
        **{name: value for name, value in UNET.items() if name != "sample_size"},
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        cross_attention_dim=WIDTH,
        conditioning_embedding_out_channels=(2, 4),
    )
    scheduler = diffusers.UniPCMultistepScheduler(**STABLE_DIFFUSION, steps_offset=1)
    return stable_diffusion(diffusers.StableDiffusionControlNetPipeline, scheduler=scheduler, controlnet=controlnet)


def edited() -> Any:
    """`scale_model_input` has the batch three times."""
    scheduler = diffusers.EulerAncestralDiscreteScheduler(**STABLE_DIFFUSION, steps_offset=1)
    return stable_diffusion(diffusers.StableDiffusionInstructPix2PixPipeline, 8, scheduler)


def euler() -> Any:
    return diffusers.EulerDiscreteScheduler(**STABLE_DIFFUSION, steps_offset=1, timestep_spacing="leading")


def xl_unet(width: int, sizes: int) -> Any:
    """sizes: the numbers that the network is told of an image's size and quality."""
    return unet(
        cross_attention_dim=width,
        addition_embed_type="text_time",
        addition_time_embed_dim=2,
        projection_class_embeddings_input_dim=WIDTH + 2 * sizes,
    )


def xl_parts() -> dict[str, Any]:
    return {
        "vae": autoencoder(),
        "text_encoder": text_encoder(),
        "text_encoder_2": text_encoder(transformers.CLIPTextModelWithProjection),
        "tokenizer": tokenizer(),
        "tokenizer_2": tokenizer(),
        "unet": xl_unet(2 * WIDTH, 6),
    }


def xl(scheduler: Callable[[], Any] = euler) -> Any:
    """`set_begin_index(0)`. To `denoising_end` it takes the timesteps from (1 - denoising_end) config.num_train_timesteps up."""
    return quiet(diffusers.StableDiffusionXLPipeline(**xl_parts(), scheduler=scheduler(), add_watermarker=False))


def refiner() -> Any:
    """From `denoising_start` it takes the timesteps below (1 - denoising_start) config.num_train_timesteps, by `set_begin_index`.

    There the image is the state: no `add_noise`. With `strength` it is as in image to image. `latents` are the state at either.
    """
    parts = {**xl_parts(), "text_encoder": None, "tokenizer": None, "unet": xl_unet(WIDTH, 5)}
    told = {"requires_aesthetics_score": True, "add_watermarker": False}
    return quiet(diffusers.StableDiffusionXLImg2ImgPipeline(**parts, **told, scheduler=euler()))


def playground() -> Any:
    """EDM's preconditioning is `scale_model_input`'s and `step`'s; timesteps are log(sigma) / 4, `init_noise_sigma` above 1."""
    return xl(diffusers.EDMEulerScheduler)


def modular() -> Any:
    """A scheduler is replaced by `update_components(scheduler=...)`. The guider calls the network once a condition: nothing is doubled.

    No `set_begin_index`. `output="images"` gives what other pipelines do; without it a call gives all of its state.
    """
    blocks = diffusers.modular_pipelines.StableDiffusionXLAutoBlocks()
    hush(blocks)
    pipeline = blocks.init_pipeline()
    guider = diffusers.ClassifierFreeGuidance(guidance_scale=2.0)
    pipeline.update_components(**xl_parts(), scheduler=euler(), guider=guider)
    return pipeline


def modular_call(n: int) -> dict[str, Any]:
    return {"prompt": prompts(n), "negative_prompt": ["ugly"] * n, "output": "images"}


def hush(blocks: Any) -> None:
    """Turn the progress bars off; the pipeline's own `set_progress_bar_config` reaches the outermost blocks only."""
    for block in blocks.sub_blocks.values():
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
        hush(block)


def pixart() -> Any:
    """`set_begin_index(0)`. Given one step, it takes the second entry of what `step` returns: the denoised sample."""
    transformer = seeded(
        diffusers.PixArtTransformer2DModel,
        sample_size=SIZE,
        num_layers=1,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        caption_channels=WIDTH,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_start=0.0001, beta_end=0.02, beta_schedule="linear")
    return quiet(diffusers.PixArtAlphaPipeline(tokenizer(), t5_encoder(), autoencoder(), transformer, scheduler))


def pixart_call(n: int) -> dict[str, Any]:
    return text(n, max_sequence_length=WORDS, use_resolution_binning=False, clean_caption=False)


def sd3() -> Any:
    """`mu` for `set_timesteps` where config.use_dynamic_shifting."""
    transformer = seeded(
        diffusers.SD3Transformer2DModel,
        sample_size=SIZE,
        in_channels=4,
        out_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=2 * WIDTH,
        caption_projection_dim=16,
        pooled_projection_dim=2 * WIDTH,
        pos_embed_max_size=SIZE,
    )
    texts: dict[str, Any] = {"text_encoder_3": None, "tokenizer_3": None}
    for number in ("", "_2"):
        texts[f"text_encoder{number}"] = text_encoder(transformers.CLIPTextModelWithProjection)
        texts[f"tokenizer{number}"] = tokenizer()
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    vae = autoencoder(shift_factor=0.0609)
    return quiet(diffusers.StableDiffusion3Pipeline(transformer=transformer, vae=vae, scheduler=scheduler, **texts))


def shifting(**config: Any) -> Any:
    """Flux' scheduler: the shift follows the number of tokens."""
    return diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, **config)


def flux(kind: type = diffusers.FluxPipeline) -> Any:
    """`set_timesteps(sigmas=<array from 1 to 1 / n>, device=..., mu=...)`, and no sigmas where config.use_flow_sigmas (flux alone).

    mu follows config.base_shift, max_shift, base_image_seq_len and max_image_seq_len, by their defaults where they are missing. A state
    is a packed one, (tokens, 4 channels). `set_begin_index(0)`. Image to image: `set_begin_index(start)` before, and
    `scale_noise(latents, t, noise)` with t of shape (1,) repeated to (n,).
    """
    transformer = seeded(
        diffusers.FluxTransformer2DModel,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=True,
    )
    scheduler, vae = shifting(shift=3.0), autoencoder(shift_factor=0.1159)
    return quiet(kind(scheduler, vae, text_encoder(), tokenizer(), t5_encoder(), tokenizer(), transformer))


def flux_call(n: int, **more: Any) -> dict[str, Any]:
    return {"prompt": prompts(n), "height": PIXELS, "width": PIXELS, "max_sequence_length": WORDS, **more}


def qwen() -> Any:
    """As flux, but sigmas whatever the configuration says; two calls of the network a step where it is guided."""
    transformer = seeded(
        diffusers.QwenImageTransformer2DModel,
        in_channels=16,
        out_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        axes_dims_rope=(2, 2, 4),
    )
    vae = seeded(
        diffusers.AutoencoderKLQwenImage,
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_shift=0.5, max_shift=0.9, max_image_seq_len=8192, shift_terminal=0.02
    )
    return quiet(diffusers.QwenImagePipeline(scheduler, vae, None, None, transformer))


def qwen_call(n: int) -> dict[str, Any]:
    told = {f"{which}prompt_embeds_mask": torch.ones(n, WORDS, dtype=torch.int64) for which in ("", "negative_")}
    return {"height": PIXELS, "width": PIXELS, **embeds(n), **told}


def z_image() -> Any:
    """As flux with sigmas in a list, states that are not packed, and minus the network's output for `step`, in float32."""
    transformer = seeded(
        diffusers.ZImageTransformer2DModel,
        in_channels=4,
        dim=16,
        n_layers=1,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=WIDTH,
        axes_dims=[4, 2, 2],
        axes_lens=[64, 16, 16],
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    return quiet(diffusers.ZImagePipeline(scheduler, autoencoder(shift_factor=0.1159), None, None, transformer))


def z_image_call(n: int) -> dict[str, Any]:
    return {"height": PIXELS, "width": PIXELS, **{name: list(given) for name, given in embeds(n).items()}}


def ltx() -> Any:
    """As flux: a state is (frames height width, channels). No `set_begin_index`: `step` finds the index of t itself."""
    transformer = seeded(
        diffusers.LTXVideoTransformer3DModel,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=8,
        cross_attention_dim=16,
        num_layers=1,
        caption_channels=WIDTH,
    )
    vae = seeded(
        diffusers.AutoencoderKLLTXVideo,
        latent_channels=4,
        block_out_channels=(4, 4),
        decoder_block_out_channels=(4, 4),
        down_block_types=("LTXVideoDownBlock3D",) * 2,
        layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        spatio_temporal_scaling=(True, False),
        decoder_spatio_temporal_scaling=(True, False),
        decoder_inject_noise=(False, False, False),
        upsample_residual=(False, False),
        upsample_factor=(1, 1),
        downsample_type=("conv", "conv"),
        patch_size=4,
        patch_size_t=1,
    )
    return quiet(diffusers.LTXPipeline(shifting(shift_terminal=0.1), vae, t5_encoder(), tokenizer(), transformer))


def ltx_call(n: int) -> dict[str, Any]:
    return text(n, height=32, width=32, num_frames=3, max_sequence_length=WORDS)


def wan() -> Any:
    """Reads scheduler.sigmas[i], for caches. Times from boundary_ratio config.num_train_timesteps up go to the first network.

    `set_begin_index(0)`; states are float32 whatever the network is.
    """

    def transformer() -> Any:
        return seeded(
            diffusers.WanTransformer3DModel,
            num_attention_heads=2,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=WIDTH,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
            rope_max_seq_len=16,
        )

    vae = seeded(
        diffusers.AutoencoderKLWan,
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )
    scheduler = diffusers.UniPCMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0)
    high, low = transformer(), transformer()
    with torch.no_grad():
        low.proj_out.weight.neg_()  # so that it shows which of the two was called
    encoder = t5_encoder(transformers.UMT5EncoderModel)
    return quiet(diffusers.WanPipeline(tokenizer(), encoder, vae, scheduler, high, low, boundary_ratio=0.875))


def wan_call(n: int) -> dict[str, Any]:
    return text(n, height=32, width=32, num_frames=5, max_sequence_length=WORDS, guidance_scale_2=3.0)


def music() -> Any:
    """`.prev_sample` read. AudioLDM and AudioLDM2 have the same loop."""
    clap = transformers.ClapTextConfig(
        vocab_size=8,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        num_attention_heads=2,
        num_hidden_layers=1,
        projection_dim=WIDTH,
        max_position_embeddings=WORDS,
    )
    vocoder = transformers.SpeechT5HifiGanConfig(
        model_in_dim=PIXELS,
        upsample_initial_channel=4,
        upsample_rates=[2, 2],
        upsample_kernel_sizes=[4, 4],
        resblock_kernel_sizes=[3],
        resblock_dilation_sizes=[[1, 3]],
        normalize_before=False,
    )
    pipeline = diffusers.MusicLDMPipeline(
        vae=autoencoder(in_channels=1, out_channels=1),
        text_encoder=seeded(transformers.ClapTextModelWithProjection, config=clap),
        tokenizer=None,
        feature_extractor=None,
        unet=unet(
            cross_attention_dim=UNET["block_out_channels"],
            class_embed_type="simple_projection",
            class_embeddings_concat=True,
            projection_class_embeddings_input_dim=WIDTH,
        ),
        scheduler=diffusers.DDIMScheduler(**STABLE_DIFFUSION, clip_sample=False, steps_offset=1, set_alpha_to_one=False),
        vocoder=seeded(transformers.SpeechT5HifiGan, config=vocoder),
    )
    return quiet(pipeline)


def music_call(n: int) -> dict[str, Any]:
    return {"prompt_embeds": rows(n, WIDTH, seed=1), "negative_prompt_embeds": rows(n, WIDTH, seed=2)}


PIPELINES: dict[str, Tiny] = {
    "ddpm": Tiny(
        ddpm, lambda n: {"batch_size": n}, "DDPMScheduler", "batch_size", (3, SIZE, SIZE), output_type="pt", latents=False
    ),
    "ddim": Tiny(
        ddim, lambda n: {"batch_size": n}, "DDIMScheduler", "batch_size", (3, SIZE, SIZE), output_type="np", latents=False
    ),
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
    "sd-controlnet": Tiny(
        controlled, lambda n: text(n, image=images(n)), "UniPCMultistepScheduler", "num_images_per_prompt", text=True
    ),
    "sd-pix2pix": Tiny(
        edited, lambda n: text(n, image=images(n)), "EulerAncestralDiscreteScheduler", "num_images_per_prompt", text=True
    ),
    "sdxl": Tiny(xl, text, "EulerDiscreteScheduler", "num_images_per_prompt", text=True),
    "sdxl-base": Tiny(xl, lambda n: text(n, denoising_end=0.4), "EulerDiscreteScheduler", "num_images_per_prompt", text=True),
    "sdxl-refiner": Tiny(
        refiner,
        lambda n: text(n, image=rows(n, 4, SIZE, SIZE), denoising_start=0.4),
        "EulerDiscreteScheduler",
        "num_images_per_prompt",
        text=True,
    ),
    "playground": Tiny(playground, text, "EDMEulerScheduler", "num_images_per_prompt", text=True),
    "sdxl-modular": Tiny(modular, modular_call, "EulerDiscreteScheduler", "num_images_per_prompt", text=True),
    "pixart": Tiny(pixart, pixart_call, "DPMSolverMultistepScheduler", "num_images_per_prompt", text=True),
    "sd3": Tiny(sd3, text, "FlowMatchEulerDiscreteScheduler", "num_images_per_prompt", text=True),
    "flux": Tiny(flux, flux_call, "FlowMatchEulerDiscreteScheduler", "num_images_per_prompt", (16, 16), text=True),
    "flux-img2img": Tiny(
        functools.partial(flux, diffusers.FluxImg2ImgPipeline),
        lambda n: flux_call(n, image=images(n), strength=0.6),
        "FlowMatchEulerDiscreteScheduler",
        "num_images_per_prompt",
        (16, 16),
        text=True,
    ),
    "qwen-image": Tiny(qwen, qwen_call, "FlowMatchEulerDiscreteScheduler", "num_images_per_prompt", (16, 16)),
    "z-image": Tiny(z_image, z_image_call, "FlowMatchEulerDiscreteScheduler", "num_images_per_prompt"),
    "ltx": Tiny(ltx, ltx_call, "FlowMatchEulerDiscreteScheduler", "num_videos_per_prompt", (32, 4), text=True),
    "wan-2.2": Tiny(wan, wan_call, "UniPCMultistepScheduler", "num_videos_per_prompt", (4, 2, 4, 4), text=True),
    "musicldm": Tiny(music, music_call, "DDIMScheduler", "num_waveforms_per_prompt"),
}
