"""Exported nodes in ComfyUI itself: a bundled network as a model of ComfyUI, sampled through its own nodes, against `dode.sample`.

python benchmarks/in_comfyui.py PATH_OF_COMFYUI

ComfyUI is no package, so that the tests run a stand-in for its interface. Run this in an environment that has ComfyUI's requirements and
dode; torchvision, torchaudio and av, which samplers do not use, may be missing.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib.machinery
import importlib.util
import sys
import tempfile
import types
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dode
from dode.integrations.export import to_comfyui

UNUSED = ("torchvision", "torchaudio", "av")
LABELS = torch.arange(4)
# ComfyUI's name of betas that are linear themselves.
LINEAR = {"beta_schedule": "sqrt_linear", "linear_start": 1e-4, "linear_end": 0.02}
SEED = 7


class Placeholders:
    """Empty modules for libraries that ComfyUI imports and samplers do not use."""

    def find_spec(self, name: str, path: Any, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if name.split(".")[0] in UNUSED else None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = types.ModuleType(spec.name)
        module.__getattr__ = lambda name: type(name, (), {}) if name[:2] != "__" else _missing(name)
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        """Nothing is in it."""


def _missing(name: str) -> Any:
    raise AttributeError(name)


class Inner(torch.nn.Module):
    """A network of dode as ComfyUI calls one."""

    dtype = torch.float32

    def __init__(self, denoiser: dode.Denoiser, conditional: bool) -> None:
        super().__init__()
        self.net, self.conditional = denoiser.net.eval().requires_grad_(False), conditional

    def forward(self, x: Tensor, t: Tensor, context: Any = None, **ignored: Any) -> Tensor:
        return self.net(x, t, class_labels=LABELS) if self.conditional else self.net(x, t)


def as_model(denoiser: dode.Denoiser, flow: bool) -> Any:
    """A MODEL of ComfyUI."""
    import comfy.latent_formats
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models_base

    class Format(comfy.latent_formats.LatentFormat):
        scale_factor, latent_channels = 1.0, 1

    class Config(comfy.supported_models_base.BASE):
        latent_format = Format
        sampling_settings = {"shift": 1.0} if flow else LINEAR

    kind = comfy.model_base.ModelType.FLOW if flow else comfy.model_base.ModelType.EPS
    model = comfy.model_base.BaseModel(Config({"disable_unet_model_creation": True}), kind)
    model.diffusion_model = Inner(denoiser, conditional=not flow)
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def nodes_of(text: str, folder: Path, name: str) -> list[Any]:
    """The nodes of an exported file, loaded as ComfyUI loads it."""
    file = folder / f"{name}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(name, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    nodes = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    for node in nodes:
        node.GET_SCHEMA()
    return nodes


def result(output: Any) -> Any:
    """The first output of a node, of either interface."""
    return (output.result if hasattr(output, "result") else output)[0]


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("comfyui", type=Path, help="a checkout of ComfyUI")
    path = arguments.parse_args().comfyui
    sys.path.insert(0, str(path))
    sys.meta_path.append(Placeholders())
    sys.argv = ["comfyui", "--cpu"]

    import comfy.options

    comfy.options.enable_args_parsing()
    import comfy.sample
    from comfy_extras import nodes_custom_sampler as own

    latent, condition = {"samples": torch.zeros(len(LABELS), 1, 28, 28)}, [[torch.zeros(1, 1, 8), {}]]
    noise = comfy.sample.prepare_noise(latent["samples"], SEED)
    print("| network | calls | largest difference to dode.sample |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name, flow in (("fashion", False), ("fashion-flow", True)):
            denoiser = dode.load(name) if flow else dode.load(name).replace(integer_times=True)
            held = dode.TableauSet(tuple(dode.solver("dpm-solver++").tableau(denoiser.schedule, nfe) for nfe in (4, 6, 8)))
            sampler, sigmas = nodes_of(to_comfyui(held, name), Path(folder), name.replace("-", "_"))
            model = as_model(denoiser, flow)
            for nfe in held.nfe:
                chosen = result(sampler.EXECUTE_NORMALIZED()), result(sigmas.EXECUTE_NORMALIZED(steps=str(nfe), model=model))
                images = result(own.SamplerCustom().sample(model, True, SEED, 1.0, condition, condition, *chosen, latent))
                guider = result(own.BasicGuider().get_guider(model, condition))
                start = result(own.RandomNoise().get_noise(SEED))
                advanced = result(own.SamplerCustomAdvanced().sample(start, guider, *chosen, latent))
                assert torch.equal(images["samples"], advanced["samples"])
                expected = dode.sample(denoiser, held, noise, nfe=nfe, **({} if flow else {"class_labels": LABELS}))
                print(f"| {name} | {nfe} | {(images['samples'] - expected).abs().max():.1e} |")


if __name__ == "__main__":
    main()
