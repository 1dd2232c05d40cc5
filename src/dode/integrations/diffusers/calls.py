"""The calls of a pipeline: what a caller asks for, which of them can be made together, and one made with another scheduler."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from diffusers import DiffusionPipeline

from dode.names import unknown_name

# Arguments of a call that belong to whoever drives it.
_OURS = ("num_inference_steps", "timesteps", "sigmas", "latents", "output_type", "return_dict")
# What these switch, or see, by the number of a step is no function of state and time.
_BY_STEP = (
    "control_guidance_start",
    "control_guidance_end",
    "skip_layer_guidance_start",
    "skip_layer_guidance_stop",
    "cfg_trunc_ratio",
    "callback",
    "callback_on_step_end",
)


def of_caller(
    prompts: Sequence[str] | None, calls: Sequence[Mapping[str, Any]] | None, call: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The calls, of which each prompt makes one, and what they share, checked; one call where there are neither."""
    if prompts is not None and calls is not None:
        raise ValueError("give prompts or calls, not both: the calls may have prompts of their own")
    if isinstance(prompts, str):
        raise TypeError("prompts is a list of texts, got one text: give [text]")
    for name, given in (("prompts", prompts), ("calls", calls)):
        if given is not None and len(given) == 0:
            raise ValueError(f"{name} is empty: give at least one")
    if prompts is not None and not all(isinstance(text, str) for text in prompts):
        raise TypeError("prompts is a list of texts: give other arguments by calls=[dict(...), ...]")
    for each in (call, *(calls or [])):
        if not isinstance(each, Mapping):
            raise TypeError(f"calls is a list of dicts, the arguments of a call each, got {type(each).__name__}")
        ours = [key for key in each if key in _OURS]
        if ours:
            raise ValueError(f"{ours[0]} is set by the distillation: leave it out of the pipeline's arguments")
        by_step = [key for key in each if key in _BY_STEP]
        if by_step:
            raise ValueError(
                f"{by_step[0]} switches by the number of a step, which says nothing of other numbers of steps: leave it out"
            )
    if prompts is not None and "prompt" in call:
        raise ValueError("give prompts or prompt, not both")
    if prompts is None:
        return [dict(each) for each in calls or [{}]], dict(call)
    # Other texts may be one for all, alone or in a list, or one for each prompt.
    apart = {key: value for key, value in call.items() if _is_texts(key, value)}
    for key, texts in apart.items():
        if len(texts) not in (1, len(prompts)):
            raise ValueError(f"{key} has {len(texts)} texts for {len(prompts)} prompts: give one, or one for each prompt")
    every = {key: list(texts) * (len(prompts) // len(texts)) for key, texts in apart.items()} | {"prompt": list(prompts)}
    made = [{key: texts[i] for key, texts in every.items()} for i in range(len(prompts))]
    return made, {key: value for key, value in call.items() if key not in apart}


def listed(calls: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The arguments in which calls differ, where a pipeline takes a list of them, so that one call serves samples of several; none where
    they differ in others too, or each makes more samples than one."""
    first = calls[0]
    if any(set(each) != set(first) for each in calls):
        return ()
    apart = [key for key in first if any(each[key] is not first[key] and not _same(each[key], first[key]) for each in calls)]
    found = tuple(key for key in first if all(_is_text(key, each[key]) or _is_label(key, each[key]) for each in calls))
    return found if set(apart) <= set(found) else ()


def _same(one: Any, other: Any) -> bool:
    plain = (str, int, float, bool, type(None))
    return isinstance(one, plain) and isinstance(other, plain) and one == other


def joined(
    shared: Mapping[str, Any], calls: Sequence[Mapping[str, Any]], lists: Sequence[str], rows: Sequence[int]
) -> dict[str, Any]:
    """The arguments of one call for samples of these calls: all of one, or of several that `lists` tells apart."""
    call = {**shared, **calls[rows[0]]}
    if lists:
        call |= {key: [calls[row][key] for row in rows] for key in lists}
        # One text for all is a list where others are.
        call |= {key: [value] * len(rows) for key, value in call.items() if _is_text(key, value)}
    return call


def arguments(pipe: Any) -> tuple[dict[str, Any], bool]:
    """The arguments of a pipeline's call with their defaults, and whether it takes any others; those of a modular one are its blocks'
    inputs."""
    blocks = getattr(pipe, "blocks", None)
    if blocks is not None and hasattr(blocks, "inputs"):
        return {each.name: each.default for each in blocks.inputs if each.name}, False
    parameters = list(inspect.signature(type(pipe).__call__).parameters.values())[1:]
    variable = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    named = {each.name: each.default for each in parameters if each.kind not in variable}
    return named, any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)


def check_names(name: str, takes: Mapping[str, Any], calls: Sequence[Mapping[str, Any]]) -> None:
    """Some pipelines of diffusers take any argument, for those of old, and say nothing of one that they do not know."""
    for key in (key for call in calls for key in call if key not in takes):
        raise unknown_name(f"argument of {name}'s call", key, takes)


def check_guider(guider: Any) -> None:
    """A modular pipeline's guidance may end at a share of the steps."""
    start, stop = getattr(guider, "_start", 0.0), getattr(guider, "_stop", 1.0)
    if start > 0 or stop < 1:
        raise ValueError(
            f"the guider begins at {start:g} and stops at {stop:g} of the steps, which says nothing of other numbers of steps: "
            "give one with start=0 and stop=1"
        )


def takes_lists(pipe: Any) -> bool:
    """Whether a pipeline takes a list of generators, one a sample: diffusers' own do."""
    return isinstance(pipe, DiffusionPipeline) or hasattr(pipe, "_blocks")


def same_again(generator: torch.Generator | None) -> torch.Generator:
    """One that draws the same in every call: a copy."""
    if generator is None:
        return torch.Generator("cpu").manual_seed(0)
    copied = torch.Generator(generator.device)
    copied.set_state(generator.get_state())
    return copied


def run(pipe: Any, scheduler: Any, call: Mapping[str, Any]) -> Any:
    """Call a pipeline with another scheduler; what it notes on itself during the call is its copy's."""
    copied = copy.copy(pipe)
    copied.scheduler = scheduler
    bar = dict(getattr(pipe, "_progress_bar_config", None) or {})
    if getattr(pipe, "_blocks", None) is not None:
        copied._blocks = copy.deepcopy(pipe._blocks)  # a modular one's: they hold the bars, and no networks
        _hush(copied._blocks)
        if getattr(pipe, "guider", None) is not None:
            copied.guider = copy.copy(pipe.guider)  # it notes the step that it is at
    else:
        with suppress(AttributeError):
            copied.set_progress_bar_config(**bar | {"disable": True})
    return copied(**call)


def _hush(blocks: Any) -> None:
    """Turn off the progress bars of a modular pipeline's blocks, at every depth."""
    for block in (getattr(blocks, "sub_blocks", None) or {}).values():
        if hasattr(block, "set_progress_bar_config"):
            block.set_progress_bar_config(disable=True)
        _hush(block)


def network_of(pipe: Any) -> Any:
    found = (getattr(pipe, part, None) for part in ("unet", "transformer", "prior"))
    return next((part for part in found if part is not None), None)


def network_hash(pipe: Any) -> str | None:
    """Of the configuration of a pipeline's network; None where it has none."""
    config = getattr(network_of(pipe), "config", None)
    if not isinstance(config, Mapping):
        return None
    text = json.dumps({k: v for k, v in config.items() if not k.startswith("_")}, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def model_name(pipe: Any) -> str:
    """What a pipeline was loaded from: of a folder its name alone, as where it lies is the machine's own affair; "" if it does not say."""
    found = getattr(getattr(pipe, "config", None), "_name_or_path", None) or getattr(pipe, "name_or_path", None)
    return "" if not found else Path(found).name if Path(str(found)).exists() else str(found)


def _is_text(key: str, value: Any) -> bool:
    return isinstance(value, str) and key.startswith(("prompt", "negative_prompt"))


def _is_texts(key: str, value: Any) -> bool:
    return isinstance(value, list | tuple) and len(value) > 0 and all(_is_text(key, text) for text in value)


def _is_label(key: str, value: Any) -> bool:
    return key == "class_labels" and isinstance(value, int)
