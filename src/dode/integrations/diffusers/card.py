"""What the card of a scheduler folder says of a pipeline; the card itself is `dode.sharing.card`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dode.fitted_for import setting_of
from dode.foreign import printable
from dode.sharing.card import About, calls_of, on_hub
from dode.sharing.markdown import code, escaped, value
from dode.tableau import Tableau


def about_pipeline(tableaux: Sequence[Tableau], name: str, call: Mapping[str, Any]) -> About:
    """What is particular to tables of a pipeline.

    Args:
        tableaux: fewest calls first.
        name: of the folder.
        call: arguments of one of the pipeline's calls.
    """
    setting = setting_of(tableaux[0])
    pipeline = str(setting.get("pipeline") or "the pipeline")
    return About(
        library="diffusers",
        model=pipeline,
        what=f"A scheduler for diffusers that runs {escaped(pipeline)}",
        outside="Another guidance scale, size of image or network than this: what is gained there is not known. Another noise schedule, "
        "prediction or number of channels is refused.",
        loading=(
            _code(setting, name, tableaux[-1].nfe, call),
            f"`num_inference_steps` counts network calls and may be {calls_of(tableaux)}. `dode show FOLDER` prints what is held.",
        ),
        licence="",
        of_network="The network is not in this folder; it keeps its own licence, which may say something of what is made with it.",
    )


def _code(setting: Mapping[str, Any], name: str, nfe: int, call: Mapping[str, Any]) -> str:
    model = on_hub(setting) or "PATH OR NAME OF THE MODEL"
    scale = setting.get("guidance_scale")
    told = {**call, "num_inference_steps": nfe, **({"guidance_scale": scale} if isinstance(scale, int | float) else {})}
    arguments = ", ".join(f"{key}={value(given)}" for key, given in told.items())
    shape = setting.get("shape")
    gives = "frames" if isinstance(shape, list) and len(shape) == 4 else "images"
    return code(
        [
            "# pip install dode[diffusers]",
            "from diffusers import DiffusionPipeline",
            "from dode.integrations.diffusers import DodeScheduler",
            "",
            f"pipe = DiffusionPipeline.from_pretrained({json.dumps(model)})",
            f"pipe.scheduler = DodeScheduler.from_pretrained({json.dumps(printable(name))})",
            f"{gives} = pipe({arguments}).{gives}",
        ]
    )
