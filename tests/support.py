"""What dode does in each pipeline: what the page docs/pipelines.md says, and test_pipelines.py sees to, cell by cell.

PYTHONPATH=src python tests/support.py     # writes the table into the page
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import diffusers
from tiny_pipelines import PIPELINES

PAGE = Path(__file__).parents[1] / "docs" / "pipelines.md"
BEGIN, END = "<!-- table: written by tests/support.py -->\n", "<!-- end of table -->\n"


@dataclass(frozen=True)
class Base:
    """A scheduler of diffusers, and the solver that is the same.

    scheduler: from the pipeline's own.
    solver, options: of `DodeScheduler.from_solver`.
    to_zero: whether the last step goes to alpha = 1, and not to the lowest time only.
    noise: its first state for the same noise, in parts of ours.
    """

    scheduler: Callable[[Any], Any]
    solver: str
    options: dict[str, Any] = field(default_factory=dict)
    to_zero: bool = True
    noise: float = 1.0


@dataclass(frozen=True)
class Support:
    """A row.

    base: see `Base`.
    guidance: the argument that guides, or where it is; "" for none.
    prompts: whether `prompts=` is taken.
    middle: the arguments of a call that begins in the middle; None where there is none.
    notes: what is particular.
    """

    base: Base
    guidance: str = "guidance_scale"
    prompts: bool = True
    middle: dict[str, Any] | None = None
    notes: str = ""


def own(scheduler: Any) -> Any:
    return scheduler


def ddim(scheduler: Any) -> Any:
    more = {"clip_sample": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
    return diffusers.DDIMScheduler.from_config(scheduler.config, **more)


def euler(scheduler: Any) -> Any:
    return diffusers.EulerDiscreteScheduler.from_config(scheduler.config, timestep_spacing="leading")


def flow_euler(scheduler: Any) -> Any:
    return diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)


def two_m(scheduler: Any) -> Any:
    return diffusers.DPMSolverMultistepScheduler.from_config(scheduler.config, final_sigmas_type="zero")


def pndm(scheduler: Any) -> Any:
    return diffusers.PNDMScheduler.from_config(scheduler.config, set_alpha_to_one=True)


DDIM = Base(ddim, "ddim")
EULER = Base(euler, "ddim")
FLOW = Base(own, "ddim")
TWO_M = Base(two_m, "dpm-solver++", {"order": 2})
PREFIX = "a run to `denoising_end` is the table's first part"
MIDDLE = "from `denoising_start` on, or by `strength`"

SUPPORT: dict[str, Support] = {
    "ddpm": Support(DDIM, "", prompts=False, notes="`clip_sample` of its own scheduler is left out"),
    "ddim": Support(
        DDIM, "", prompts=False, notes="set the scheduler after the pipeline is made: its constructor makes a DDIM of any"
    ),
    "dit": Support(DDIM, prompts=False, notes="`calls=[{'class_labels': 3}, ...]`; the learned variance is left out"),
    "sd": Support(Base(pndm, "pndm", {"bounded": False})),
    "sd-img2img": Support(DDIM, middle={"strength": 0.5}, notes="distilled from the noise, whatever `strength` is"),
    "sd-inpaint-4": Support(
        DDIM,
        middle={"strength": 0.5},
        notes="known pixels are put into each state: the fit sees them with the noise of one call",
    ),
    "sd-inpaint-9": Support(TWO_M, middle={"strength": 0.5}),
    "sd-controlnet": Support(
        Base(own, "unipc", {"order": 2}),
        notes="`control_guidance_start` and `_end` count steps, and are refused where a table is made",
    ),
    "sd-pix2pix": Support(EULER, notes="its own scheduler adds noise, which a table does not"),
    "sdxl": Support(EULER),
    "sdxl-base": Support(DDIM, notes=PREFIX),
    "sdxl-refiner": Support(DDIM, middle={"denoising_start": 0.4}, notes=MIDDLE),
    "playground": Support(
        Base(own, "edm", {"method": "euler"}, noise=6401**0.5 / 80),
        notes="EDMEuler begins at sqrt(80^2 + 1) times the noise, dode at 80 times",
    ),
    "sdxl-modular": Support(EULER, "guider", notes="`update_components(scheduler=...)` puts the scheduler in"),
    "pixart": Support(TWO_M),
    "sd3": Support(FLOW),
    "flux": Support(FLOW, notes="`mu` is the one of the size that it was distilled at; another is warned of"),
    "flux-img2img": Support(FLOW, middle={"strength": 0.6}, notes="as Flux"),
    "qwen-image": Support(
        FLOW, "true_cfg_scale", prompts=False, notes="`shift_terminal` moves its own times, not those of `from_solver`"
    ),
    "z-image": Support(FLOW, prompts=False),
    "ltx": Support(FLOW, notes="as Qwen-Image"),
    "wan-2.2": Support(
        Base(flow_euler, "ddim"), notes="two networks: the table says how many calls each of them has; history goes across"
    ),
    "musicldm": Support(Base(own, "ddim", to_zero=False), prompts=False),
}


def table() -> str:
    """The rows of the page."""
    head = "| pipeline | its own scheduler | base equal to | distilled | saved, loaded | `prompts=` | guidance | start in the middle | |"
    lines = [head, "|---|---|---|---|---|---|---|---|---|"]
    for name, row in SUPPORT.items():
        pipeline = PIPELINES[name].make()
        theirs = type(row.base.scheduler(pipeline.scheduler)).__name__.removesuffix("Scheduler")
        cells = [
            f"{type(pipeline).__name__} ({name})" if _shared(name) else type(pipeline).__name__,
            type(pipeline.scheduler).__name__.removesuffix("Scheduler"),
            theirs,
            "yes",
            "yes",
            "yes" if row.prompts else "calls",
            f"`{row.guidance}`" if row.guidance else "none",
            "base solver" if row.middle else "",
            row.notes,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _shared(name: str) -> bool:
    """Whether several rows are of one class."""
    return name in ("sd-inpaint-4", "sd-inpaint-9", "sdxl", "sdxl-base", "playground")


def written(page: str) -> str:
    """A page with the table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
