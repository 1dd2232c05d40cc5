"""A pipeline of diffusers for networks that make pictures of a class from noise, without a VAE: the bundled ones, and their like.

    N = N_null + guidance_scale (N_label - N_null)                                       Ho and Salimans, arXiv 2207.12598

diffusers' own are for one network each: `DiTPipeline` wants a VAE, `DDIMPipeline` knows no labels and no other scheduler.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_edm_euler import EDMEulerScheduler
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor

from dode.models import BUNDLED
from dode.models.wrappers import SpaceToDepth
from dode.names import unknown_name
from dode.reading import read_json

_OUTPUT_TYPES = ("pil", "np", "pt", "latent")


def fashion_pipeline(name: str = "fashion") -> ClassConditionalPipeline:
    """A bundled network as a pipeline: "fashion" with DDIM, "fashion-flow", which has no classes, with flow matching's Euler,
    "fashion-edm" with EDM's Euler.

    Trailing times (Karras's for EDM), and x_0 is not clipped: `dode.load(name)` sampled with `dode.solver("ddim")` on the grid
    "trailing" ("karras") gives the same pictures. The network is in float32 and in evaluation mode.

    Raises:
        ValueError: an unknown name.
    """
    if name not in BUNDLED:
        raise unknown_name("model", name, BUNDLED)
    folder = BUNDLED[name].folder
    extra = read_json(folder / "dode.json")
    # Stored in half precision.
    unet = UNet2DModel.from_pretrained(str(folder / "unet"), torch_dtype=torch.float32, local_files_only=True)
    config = read_json(folder / "scheduler" / "scheduler_config.json")
    own = {each.__name__: each for each in (FlowMatchEulerDiscreteScheduler, EDMEulerScheduler)}.get(config["_class_name"])
    scheduler = (
        DDIMScheduler.from_config(config, timestep_spacing="trailing", set_alpha_to_one=True, clip_sample=False)
        if own is None
        else own.from_config(config)
    )
    return ClassConditionalPipeline(unet.eval(), scheduler, extra.get("null_class"), extra["space_to_depth"])


class ClassConditionalPipeline(DiffusionPipeline):
    """Pictures of a class from a `UNet2DModel` that works on pixels.

    `save_pretrained` writes a folder as diffusers does; `ClassConditionalPipeline.from_pretrained(folder)` reads it.
    `DiffusionPipeline.from_pretrained` looks for classes in diffusers alone, unless it gets this file as `custom_pipeline`. Pictures are
    the same to the last bit but for what convolutions make of numbers that lie elsewhere in memory, mapped from the file.

    Args:
        unet: called as unet(x, t, class_labels=labels); without `num_class_embeds` it has no classes.
        scheduler: any of diffusers' schedulers for its prediction.
        null_class: the label of no class, for guidance; None where the network has none.
        space_to_depth: the network works on (channels x factor^2, height / factor, width / factor) in place of (channels, height, width).
    """

    model_cpu_offload_seq: Any = "unet"
    _callback_tensor_inputs = ("latents",)
    config: Any
    unet: Any
    scheduler: Any

    def __init__(self, unet: Any, scheduler: Any, null_class: int | None = None, space_to_depth: int = 1) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(null_class=null_class, space_to_depth=space_to_depth)
        self.image_processor = VaeImageProcessor(vae_scale_factor=1, do_resize=False)

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of a picture."""
        config, factor = self.unet.config, self.config.space_to_depth
        side = config.sample_size
        height, width = (side, side) if isinstance(side, int) else side
        return config.in_channels // factor**2, height * factor, width * factor

    @property
    def guidance_scale(self) -> float:
        """Of the call that runs, for callbacks."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Of the call that runs, for callbacks."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | Sequence[int] | Tensor | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int = 50,
        timesteps: Sequence[int] | None = None,
        sigmas: Sequence[float] | None = None,
        num_images_per_label: int = 1,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: str = "pil",
        callback_on_step_end: Callable[[Any, int, Any, dict[str, Tensor]], dict[str, Tensor]] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Pictures from noise.

        Args:
            class_labels: one label or one a picture, 0 to classes - 1, the null class included; None for a network without classes.
            guidance_scale: 1 is none, and asks the network once a step for each picture; any other asks it twice, in one batch.
            num_inference_steps: of the scheduler.
            timesteps, sigmas: in place of the scheduler's own, where it takes them.
            num_images_per_label: pictures of each label, one after the other.
            generator: of the noise; one a picture in a list.
            latents: the noise, (pictures, channels, height, width), standard normal; drawn if None.
            output_type: "pil", "np" (pictures, height, width, channels) and "pt" (pictures, channels, height, width) in [0, 1], or
                "latent": (pictures, channels, height, width), about [-1, 1], not clipped.
            callback_on_step_end: callback(pipe, step, t, {"latents": x}) after each step; the "latents" that it returns are gone on
                with.
            callback_on_step_end_tensor_inputs: what the callback gets.
            return_dict: False for a tuple in place of an object with `.images`.

        Raises:
            ValueError: labels, noise or an output type that do not fit, guidance without a null class, times that the scheduler does
                not take.
        """
        labels = self._labels(class_labels, num_images_per_label)
        guided = guidance_scale != 1
        self._check(guided, output_type, callback_on_step_end_tensor_inputs)
        device, dtype = self._execution_device, self.unet.dtype
        batch = num_images_per_label if labels is None else len(labels)
        x = self._noise(batch, generator, latents, device, dtype)
        times = self._times(num_inference_steps, timesteps, sigmas, device)
        x = x * getattr(self.scheduler, "init_noise_sigma", 1.0)
        if labels is not None:
            labels = labels.to(device)
            labels = torch.cat([torch.full_like(labels, self.config.null_class), labels]) if guided else labels
        # Only stochastic schedulers and a few others take it.
        options = {"generator": generator} if "generator" in _parameters(self.scheduler.step) else {}
        # Those of flow matching have no scaling.
        scaled = getattr(self.scheduler, "scale_model_input", lambda sample, t: sample)
        self._guidance_scale, self._num_timesteps = guidance_scale, len(times)

        with self.progress_bar(total=len(times)) as progress:
            for step, t in enumerate(times):
                output = self._network(scaled(torch.cat([x, x]) if guided else x, t), t, labels)
                if guided:
                    null, given = output.chunk(2)
                    output = torch.lerp(null, given, guidance_scale)
                x = self.scheduler.step(output, t, x, **options, return_dict=False)[0]
                if callback_on_step_end is not None:
                    tensors = dict.fromkeys(callback_on_step_end_tensor_inputs, x)
                    x = (callback_on_step_end(self, step, t, tensors) or {}).get("latents", x)
                progress.update()

        images: Any = x if output_type == "latent" else self.image_processor.postprocess(x, output_type=output_type)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _labels(self, given: int | Sequence[int] | Tensor | None, repeats: int) -> Tensor | None:
        """(pictures,), int64; None for a network without classes."""
        if repeats < 1:
            raise ValueError(f"num_images_per_label must be at least 1, got {repeats}")
        classes = self.unet.config.num_class_embeds
        if classes is None:
            if given is not None:
                raise ValueError("the network has no classes: leave class_labels out, and ask for num_images_per_label")
            return None
        if given is None:
            raise ValueError(f"the network is class-conditional: give class_labels, 0 to {classes - 1}")
        try:
            labels = torch.as_tensor(given, device="cpu")
        except (TypeError, ValueError, RuntimeError):
            labels = torch.empty(0)
        if labels.dtype.is_floating_point or labels.dtype.is_complex or labels.dtype == torch.bool or labels.ndim > 1:
            raise ValueError(f"class_labels must be an integer or a list of integers, got {str(given)[:60]}")
        labels = labels.reshape(-1).long()
        outside = labels[(labels < 0) | (labels >= classes)]
        if outside.numel():
            null = self.config.null_class
            known = "" if null is None else f" ({null} is the null class)"
            raise ValueError(f"class labels go from 0 to {classes - 1}{known}, got {outside[0].item()}")
        return labels.repeat_interleave(repeats)

    def _check(self, guided: bool, output_type: str, inputs: Sequence[str]) -> None:
        if guided and self.config.null_class is None:
            raise ValueError("guidance needs a null class, and this pipeline has none: give guidance_scale=1")
        if output_type not in _OUTPUT_TYPES:
            raise unknown_name("output_type", output_type, _OUTPUT_TYPES)
        for name in inputs:
            if name not in self._callback_tensor_inputs:
                raise unknown_name("callback tensor input", name, self._callback_tensor_inputs)

    def _noise(
        self,
        batch: int,
        generator: torch.Generator | list[torch.Generator] | None,
        given: Tensor | None,
        device: torch.device,
        dtype: torch.dtype,
    ) -> Tensor:
        shape = (batch, *self.sample_shape)
        if given is not None:
            if given.shape != shape:
                raise ValueError(f"latents must have shape {shape}, one a picture, got {tuple(given.shape)}")
            return given.to(device=device, dtype=dtype)
        if isinstance(generator, list) and len(generator) != batch:
            raise ValueError(f"a list of generators has one a picture, {batch}, got {len(generator)}")
        noise: Tensor = randn_tensor(shape, generator=generator, device=device, dtype=dtype)
        return noise

    def _times(self, steps: int, timesteps: Any, sigmas: Any, device: torch.device) -> Tensor:
        """The scheduler's times after it was set: what `retrieve_timesteps` does in diffusers' pipelines."""
        if timesteps is not None and sigmas is not None:
            raise ValueError("give timesteps or sigmas, not both")
        own = {name: value for name, value in (("timesteps", timesteps), ("sigmas", sigmas)) if value is not None}
        for name in own:
            if name not in _parameters(self.scheduler.set_timesteps):
                raise ValueError(f"{type(self.scheduler).__name__} takes no {name} of the caller")
        if own:
            self.scheduler.set_timesteps(**own, device=device)
        else:
            self.scheduler.set_timesteps(steps, device=device)
        times: Tensor = self.scheduler.timesteps
        return times

    def _network(self, x: Tensor, t: Any, labels: Tensor | None) -> Tensor:
        output: Tensor = SpaceToDepth(self.unet, self.config.space_to_depth)(x, t, class_labels=labels)
        return output


def _parameters(method: Callable[..., Any]) -> set[str]:
    return set(inspect.signature(method).parameters)
