"""Load schedulers that were saved, sample with them, and save what they give: run in a process of its own by test_pipelines.py.

python fresh_pipelines.py FOLDER    # FOLDER/NAME/scheduler is read, FOLDER/NAME.fresh.pt is written
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import diffusers
import torch
from tiny_pipelines import PIPELINES, Tiny
from torch import Tensor

from dode.integrations.diffusers import DodeScheduler

# Whole pipelines that are saved and loaded.
WHOLE = ("sd", "flux")


def put(pipe: Any, scheduler: Any) -> Any:
    """A pipeline with a scheduler in its place."""
    if hasattr(pipe, "update_components"):
        pipe.update_components(scheduler=scheduler)
    else:
        pipe.scheduler = scheduler
    return pipe


def sampled(tiny: Tiny, pipe: Any, calls: int, n: int = 1, **more: Any) -> Tensor:
    """What a pipeline gives with a seed."""
    call = {**tiny.call(n), "output_type": tiny.output_type, "num_inference_steps": calls, **more}
    output = pipe(**call, generator=torch.Generator().manual_seed(0))
    return torch.as_tensor(output if torch.is_tensor(output) else output[0])


if __name__ == "__main__":
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        tiny = PIPELINES[part.name]
        scheduler = DodeScheduler.from_pretrained(part / "scheduler")
        if part.name in WHOLE:
            pipe = diffusers.DiffusionPipeline.from_pretrained(part)
            pipe.set_progress_bar_config(disable=True)
            assert pipe.scheduler.held == scheduler.held
        else:
            pipe = put(tiny.make(), scheduler)
        torch.save(sampled(tiny, pipe, 4), folder / f"{part.name}.fresh.pt")
