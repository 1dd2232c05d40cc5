"""What all cells of a comparison have in common, in words."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor

from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.report.making import Making
from dode.report.results import Setting

# Rows of a condition that are listed.
_LISTED = 12
_LIBRARIES = ("dode", "torch", "numpy", "diffusers", "transformers")


def setting_of(making: Making, command: str) -> Setting:
    """The setting of a comparison whose reference is made."""
    denoiser, subject, scores = making.denoiser, making.subject, making.scores
    return Setting(
        model=denoiser.name,
        samples=making.parts.samples,
        seed=making.seed,
        guidance=subject.guidance or guidance_words(denoiser),
        condition=subject.condition or condition_words(making.cond),
        images=scores.images,
        extractor=scores.extractor,
        shown=making.shown if scores.possible else 0,
        device=device_words(denoiser),
        command=command,
        versions=versions(),
        hashes=making.hashes,
        notes=(*subject.notes, *scores.notes),
    )


def guidance_words(denoiser: Denoiser) -> str:
    """The guidance scale of a denoiser."""
    scale = denoiser.guidance_scale
    if scale == 1:
        return "none"
    words = f"{scale:g}" if isinstance(scale, int | float) else str(scale)
    return f"{words}, rescaled by {denoiser.guidance_rescale:g}" if denoiser.guidance_rescale else words


def condition_words(cond: Condition) -> str:
    """A condition whose rows are taken in turn."""
    return "; ".join(f"{name} {_words(value)}" for name, value in cond.items())


def device_words(denoiser: Denoiser) -> str:
    """Where a network runs."""
    device = denoiser.device or torch.device("cpu")
    if device.type == "cuda":
        return f"{device}, {torch.cuda.get_device_name(device)}"
    return f"{device}, {torch.get_num_threads()} threads" if device.type == "cpu" else str(device)


def versions() -> dict[str, str]:
    """Of Python and of the libraries that numbers depend on."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _words(value: Any) -> str:
    if not isinstance(value, Tensor):
        return str(value)[:80]
    if value.ndim > 1 or len(value.shape) == 0:
        return f"of shape {tuple(value.shape)}" if value.ndim else f"{value.item()}"
    listed = ", ".join(f"{v:g}" for v in value[:_LISTED].tolist())
    return listed if len(value) <= _LISTED else f"{listed} ... ({len(value)} rows)"
