"""What `step` of `DodeScheduler` costs, in time and in memory that it keeps, against the schedulers of diffusers.

    python benchmarks/scheduler_step.py [--out docs/benchmarks]

All schedulers are run in turn in one process, on one thread, over outputs that are there already; medians over the repetitions.
"""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import torch
from common import publish
from overhead import in_turn
from torch import Tensor

import dode
from dode.integrations.diffusers import DodeScheduler

STEPS = 20
# Distilled with 8 calls and a first output that is shared, which is one more row.
TABLEAU = Path(__file__).parent.parent / "docs/benchmarks/tableaux/fashion-flow/deis-thorough-8.json"
SHAPES = ((1, 4, 64, 64), (16, 3, 32, 32))
CONFIG = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler"}
THEIRS = ("DPM-Solver++ 2M, diffusers", "UniPC-2, diffusers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=101)
    parser.add_argument("--out", type=Path, help="folder for the page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    tableau = distilled()
    terms = [len(row.terms) for row in DodeScheduler.from_tableaux(tableau, FLOW)._tables.all[0].form.rows]
    lines = [
        "# A step of `DodeScheduler`",
        "",
        f"`python benchmarks/scheduler_step.py`; torch {torch.__version__}, diffusers {diffusers.__version__}, {platform.machine()}, 1 "
        f"thread. Medians of {args.repeats} runs in turn, of {STEPS} steps each (the distilled tableau: {tableau.nfe}). In brackets: "
        "shares of diffusers' DPM-Solver++ 2M and UniPC-2. Kept is what lies in memory between two steps at most, in states of the loop's "
        f"precision. The distilled tableau has {min(terms)} to {max(terms)} terms a row, {sum(terms) / len(terms):.1f} on average.",
        "",
        f"| scheduler | {' | '.join(f'{shape}, {name}, µs a step' for shape in SHAPES for name in ('float32', 'bfloat16'))} | kept, "
        "float32 | kept, bfloat16 |",
        f"|---{'|---' * 6}|",
    ]
    times = [measured(tableau, shape, dtype, args.repeats) for shape in SHAPES for dtype in (torch.float32, torch.bfloat16)]
    kept = [kept_by(tableau, dtype) for dtype in (torch.float32, torch.bfloat16)]
    for name in times[0]:
        cells = []
        for found in times:
            ratios = "" if name in THEIRS else f" ({found[name] / found[THEIRS[0]]:.2f}, {found[name] / found[THEIRS[1]]:.3f})"
            cells.append(f"{found[name] * 1e6:.0f}{ratios}")
        lines.append(f"| {name} | {' | '.join(cells)} | {' | '.join(f'{found[name]:.0f}' for found in kept)} |")
    publish(lines, "scheduler_step", args.out)


def config() -> Any:
    return diffusers.DDPMScheduler(**CONFIG).config


def distilled() -> dode.Tableau:
    """A tableau that names every output in every row. Its first one, a mean of another shape, is taken for an output of the network."""
    return replace(dode.tableau.Tableau.load(TABLEAU), first="network", mean=None)


def schedulers(tableau: dode.Tableau) -> dict[str, tuple[Any, int]]:
    """Schedulers and the number of their steps."""
    return {
        THEIRS[0]: (diffusers.DPMSolverMultistepScheduler(**CONFIG), STEPS),
        THEIRS[1]: (diffusers.UniPCMultistepScheduler(**CONFIG), STEPS),
        "DPM-Solver++ 2M": (DodeScheduler.from_solver("dpm-solver++", config()), STEPS),
        "UniPC-2": (DodeScheduler.from_solver("unipc", config(), order=2), STEPS),
        "DEIS-3": (DodeScheduler.from_solver("deis", config()), STEPS),
        "a distilled tableau": (DodeScheduler.from_tableaux(tableau, FLOW), tableau.nfe),
    }


def measured(tableau: dode.Tableau, shape: tuple[int, ...], dtype: torch.dtype, repeats: int) -> dict[str, float]:
    """Seconds a step of each."""
    noise, output = torch.randn(2, *shape, dtype=dtype)
    made = schedulers(tableau)

    def job(scheduler: Any, steps: int) -> tuple[Any, Any]:
        def prepare() -> None:
            scheduler.set_timesteps(steps)
            scheduler.set_begin_index(0)

        def loop() -> None:
            x = noise
            for t in scheduler.timesteps:
                x = scheduler.step(output, t, x, return_dict=False)[0]

        return loop, prepare

    with torch.no_grad():
        seconds = in_turn([job(*pair) for pair in made.values()], repeats)
    return {name: time / made[name][1] for name, time in zip(made, seconds, strict=True)}


def kept_by(tableau: dode.Tableau, dtype: torch.dtype) -> dict[str, float]:
    """Bytes between two steps at most, as a multiple of those of a state."""
    found = {}
    for name, (scheduler, steps) in schedulers(tableau).items():
        scheduler.set_timesteps(steps)
        x, most = torch.randn(SHAPES[0], dtype=dtype), 0
        for t in scheduler.timesteps:
            x = scheduler.step(torch.randn_like(x), t, x, return_dict=False)[0]
            values = scheduler._stepper.held if isinstance(scheduler, DodeScheduler) else tensors(vars(scheduler).values())
            # The state itself is the loop's.
            storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes() for v in values if v.numel() == x.numel()}
            storages.pop(x.untyped_storage().data_ptr(), None)
            most = max(most, sum(storages.values()))
        found[name] = most / x.untyped_storage().nbytes()
    return found


def tensors(values: Iterable[Any]) -> Iterable[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list):
            yield from tensors(value)


if __name__ == "__main__":
    main()
