"""Pictures by a pipeline itself, with a scheduler in its slot: sample i has its own noise, whatever the others are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.integrations.diffusers.calls import arguments, joined, listed, of_caller, run
from dode.integrations.diffusers.driver import BATCH_SIZE
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
        batch_size: samples in one call at the most; 4 if None. Calls that differ in more than texts and labels are made one by one.
        advance: told how many are done.

    Returns:
        (count, channels, height, width) in [-1, 1] of images, (count, frames, channels, height, width) of videos, of anything
        else what it gives.

    Raises:
        Exception: what the pipeline raises, with a note of the call.
    """
    each, shared = of_caller(prompts, calls, call)
    lists, kinds = listed(each), len(each)
    count = kinds if count is None else count
    at_once = (BATCH_SIZE if batch_size is None else batch_size) if lists else 1
    takes, _ = arguments(pipe)
    found = []
    for first in range(0, count, at_once):
        indices = range(first, min(first + at_once, count))
        given = joined(shared, each, lists, [i % kinds for i in indices])
        asked = {key: given[key] for key in lists} if lists else dict.fromkeys(given)
        given["num_inference_steps"] = steps
        if "output_type" in takes:
            given["output_type"] = "np"
        if hasattr(pipe, "blocks"):  # a modular pipeline gives all that it has
            given["output"] = "images"
        if "generator" in takes and given.get("generator") is None:
            drawn = [torch.Generator("cpu").manual_seed(_seed(seed, i)) for i in indices]
            given["generator"] = drawn if lists else drawn[0]
        try:
            with torch.no_grad():
                found.append(_numbers(run(pipe, scheduler, given)))
        except Exception as error:
            words = [key if value is None else f"{key}={value}" for key, value in asked.items()]
            add_note(error, f"in {type(pipe).__name__}'s call with {', '.join(words) or 'no arguments'}")
            raise
        advance(len(indices))
    return torch.cat(found)


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
