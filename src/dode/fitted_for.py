"""What a tableau was fitted for: the setting that a distillation keeps in its meta, and its words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dode.foreign import printable
from dode.tableau import Tableau

# Where a tableau's meta says what it was fitted for.
FITTED_FOR = "fitted_for"
# What a setting says, in the order and the words of people.
_SAID = {
    "pipeline": "pipeline",
    "model": "model",
    "network": "network",
    "weights_hash": "hash of its weights",
    "scheduler": "its own scheduler",
    "prediction": "predicts",
    "schedule": "schedule",
    "shape": "size of a state",
    "dtype": "precision",
    "guidance_scale": "guidance scale",
    "guidance_rescale": "guidance rescale",
    "classifier_scale": "scale of its classifier",
    "clip": "clip",
    "dynamic_threshold": "dynamic threshold",
    "mu": "mu (the shift for the size of the image)",
    "boundary": "boundary between its two networks",
    "calls": "calls of each",
    "condition": "condition",
    "prompts": "prompts or calls",
    "samples": "fitting samples",
}


def setting_of(tableau: Tableau) -> Mapping[str, Any]:
    """What a tableau was fitted for, as far as it says so."""
    found = tableau.meta.get(FITTED_FOR)
    if isinstance(found, Mapping):
        return found
    # Older files say the model alone, among their statistics.
    made = tableau.meta.get("distillation")
    model = made.get("model") if isinstance(made, Mapping) else None
    return {"model": model} if isinstance(model, str) else {}


def said(setting: Mapping[str, Any]) -> dict[str, str]:
    """A setting in words; what it does not say is left out."""
    return {
        words: printable(_text(setting[key], " x " if key in ("shape", "calls") else ", "))
        for key, words in _SAID.items()
        if setting.get(key) not in (None, "", [])
    }


def _text(value: Any, joint: str) -> str:
    if isinstance(value, list | tuple):
        return joint.join(_text(each, joint) for each in value)
    return f"{value:g}" if isinstance(value, float) else str(value)
