"""Pictures by a pipeline itself, with a scheduler in its slot: sample i has its own noise, whatever the others are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.integrations.diffusers.driver import BATCH_SIZE, _arguments, _is_prompt, _of_caller, _run
from dode.notes import add_note


def pictures(
    pipe: Any,
    scheduler: Any,
    steps: int,
    count: int | None = None,
    *,
    prompts: Sequence[str] | None = None,
    calls: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    advance: Callable[[int], Any] = lambda count: None,
    **call: Any,
) -> Tensor:
    """What a pipeline makes of noise, decoded.

    Args:
        pipe: the pipeline; it is not changed.
        scheduler: the one that it is to run with.
        steps: `num_inference_steps`.
        count: samples; as many as prompts or calls if None. Sample i has prompt i modulo their number.
        prompts, calls, call: as `dode.integrations.diffusers.drive`.
        seed: of the noise.
        batch_size: samples in one call at the most; 4 if None. What is no text is called one by one.
        advance: told how many are done.

    Returns:
        (count, channels, height, width) in [-1, 1] of images, (count, frames, channels, height, width) of videos, of anything
        else what it gives.

    Raises:
        Exception: what the pipeline raises, with a note of the call.
    """
    texts, each = _of_caller(prompts, calls, call)
    kinds = len(each if texts is None else texts)
    count = kinds if count is None else count
    at_once = 1 if texts is None else BATCH_SIZE if batch_size is None else batch_size
    takes, _ = _arguments(pipe)
    found = []
    for first in range(0, count, at_once):
        indices = range(first, min(first + at_once, count))
        given = dict(call)
        if texts is not None:
            given["prompt"] = [texts[i % kinds] for i in indices]
            given |= {key: [value] * len(indices) for key, value in call.items() if _is_prompt(key, value)}
        else:
            given |= each[first % kinds]
        given["num_inference_steps"] = steps
        if "output_type" in takes:
            given["output_type"] = "np"
        if hasattr(pipe, "blocks"):  # a modular pipeline gives all that it has
            given["output"] = "images"
        if "generator" in takes and given.get("generator") is None:
            drawn = [torch.Generator("cpu").manual_seed(_seed(seed, i)) for i in indices]
            given["generator"] = drawn if texts is not None else drawn[0]
        try:
            with torch.no_grad():
                found.append(_numbers(_run(pipe, scheduler, given)))
        except Exception as error:
            add_note(
                error, f"in {type(pipe).__name__}'s call with {_told(texts, indices, {**call, **each[first % len(each)]})}"
            )
            raise
        advance(len(indices))
    return torch.cat(found)


def _told(texts: list[str] | None, indices: Iterable[int], call: Mapping[str, Any]) -> str:
    """The call, for people."""
    if texts is not None:
        return f"the prompts {list(dict.fromkeys(texts[i % len(texts)] for i in indices))}"
    return ", ".join(call) or "no arguments"


def _seed(seed: int, i: int) -> int:
    return int(np.random.SeedSequence([seed, i]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _numbers(output: Any) -> Tensor:
    """What a pipeline gave, channels before height and width, in [-1, 1]."""
    names = ("images", "frames", "audios")
    made = next((getattr(output, name) for name in names if getattr(output, name, None) is not None), output)
    if isinstance(made, tuple):
        made = made[0]
    if isinstance(made, Tensor):
        return made.float().cpu() * 2 - 1 if made.ndim in (4, 5) else made.float().cpu()
    values = np.stack(
        [np.stack([np.asarray(x) for x in each]) if isinstance(each, list) else np.asarray(each) for each in made]
    )
    if values.dtype == np.uint8:
        values = values / np.float32(255)
    numbers = torch.from_numpy(values.astype(np.float32))
    return numbers.movedim(-1, -3) * 2 - 1 if numbers.ndim in (4, 5) else numbers
