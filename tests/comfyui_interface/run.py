"""Runs exported nodes as ComfyUI does, in a process that has no dode.

python run.py NODES.py NETWORK.pt NOISE.pt IMAGES.pt eps|flow

NETWORK.pt is TorchScript; NOISE.pt holds noise and, for eps, the model's sigmas. Writes for both mappings, v3 and v1, what the nodes are
called, and their images by number of steps.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from pathlib import Path
from typing import Any

sys.modules["dode"] = None  # type: ignore[assignment]

import torch  # noqa: E402
from comfy.samplers import EpsSampling, FlowSampling, Guider, Patcher  # noqa: E402


def nodes_of(path: str) -> tuple[Any, list[Any]]:
    """The extension's nodes by their two kinds of mapping, as ComfyUI looks for them: functions of keywords."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if getattr(module, "NODE_CLASS_MAPPINGS", None) is not None:
        assert not hasattr(module, "comfy_entrypoint")
        assert list(module.NODE_DISPLAY_NAME_MAPPINGS) == list(module.NODE_CLASS_MAPPINGS)
        sampler, sigmas = module.NODE_CLASS_MAPPINGS.values()
        assert (sampler.RETURN_TYPES, sigmas.RETURN_TYPES) == (("SAMPLER",), ("SIGMAS",))
        steps, _ = sigmas.INPUT_TYPES()["required"]["steps"]
        assert "model" in sigmas.INPUT_TYPES()["optional"]
        made = [lambda node=node, **inputs: getattr(node(), node.FUNCTION)(**inputs)[0] for node in (sampler, sigmas)]
        return (list(module.NODE_CLASS_MAPPINGS), steps), made
    nodes = asyncio.run(asyncio.run(module.comfy_entrypoint()).get_node_list())
    schemas = [node.define_schema() for node in nodes]
    assert schemas[0].inputs == []
    steps, model = schemas[1].inputs
    assert (steps.id, model.id, model.optional) == ("steps", "model", True)
    made = [lambda node=node, **inputs: node.execute(**inputs).args[0] for node in nodes]
    return ([schema.node_id for schema in schemas], steps.declared["options"]), made


def images_of(sampler: Any, sigmas: Any, steps: str, model: Patcher, noise: torch.Tensor) -> torch.Tensor:
    seen: list[int] = []
    asked = sigmas(steps=steps, model=model).to(noise.dtype)
    callback = lambda i, denoised, x, total: seen.append(i)  # noqa: E731
    with torch.no_grad():
        made = sampler().sample(Guider(model), asked, {"model_options": {}, "seed": 0}, callback, noise, torch.zeros(1))
    assert seen == list(range(len(asked) - 1))
    return made


def main(path: str, network: str, given: str, out: str, kind: str) -> None:
    held = torch.load(given)
    model = Patcher(torch.jit.load(network), EpsSampling(held["sigmas"]) if kind == "eps" else FlowSampling())
    found = {}
    for form in ("v3", "v1"):
        if form == "v1":
            sys.modules["comfy_api.latest"] = None  # type: ignore[assignment]
        (ids, steps), nodes = nodes_of(path)
        found[form] = {"ids": ids, "images": {count: images_of(*nodes, count, model, held["noise"]) for count in steps}}
    torch.save(found, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
