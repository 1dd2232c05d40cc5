"""What the card of a network's tables says and shows; the card itself is `dode.sharing.card`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from dode.conditions import Condition, cycle
from dode.denoisers import Denoiser
from dode.fitted_for import setting_of
from dode.foreign import first_line, printable
from dode.models import BUNDLED
from dode.noise import REPORT, standard_noise
from dode.progress import evaluation_progress
from dode.report.reference import reference_run, reference_tableau
from dode.sampling import sample
from dode.sharing.card import About, calls_of, on_hub, statistics_of
from dode.sharing.markdown import code, escaped, value
from dode.sharing.pictures import Pictures, sheet
from dode.solvers import solver_named
from dode.tableau import Tableau

# Pictures in a row, the seed of their noise, and the calls of the last row.
_SHOWN, _SEED, _MANY = 8, 0, 100
# Samples of the code that is shown.
_SAMPLED = 4


def about_network(tableaux: Sequence[Tableau], name: str, cond: Mapping[str, Any]) -> About:
    """What is particular to tables of a network.

    Args:
        tableaux: fewest calls first.
        name: of the folder.
        cond: the condition that it is sampled with.
    """
    setting = setting_of(tableaux[0])
    model = str(setting.get("model") or "")
    bundled = BUNDLED.get(model)
    return About(
        library="dode",
        model=model or "A network",
        what=f"Tables for dode, with which {escaped(model) if model else 'a network'} samples",
        outside="Another guidance scale, condition, size of a state or network than this: what is gained there is not known. Another noise "
        "schedule is refused."
        + (
            " `dode.fingerprint.weights_hash(denoiser.net)` is the hash of weights at hand."
            if setting.get("weights_hash")
            else ""
        ),
        loading=(
            _code(setting, name, tableaux[-1].nfe, len(tableaux) > 1, cond),
            f"`nfe` counts network calls and may be {calls_of(tableaux)}. `dode show FOLDER` prints what is held, and `dode sample MODEL "
            "--tableau FOLDER --nfe N --out grid.png` samples with it. dode downloads nothing: of the Hub, "
            "`huggingface_hub.snapshot_download` fetches this folder.",
        ),
        licence="" if bundled is None else bundled.licence,
        of_network="The network is not in this folder; "
        + (
            "it keeps its own licence, which may say something of what is made with it."
            if bundled is None
            else f"it comes with dode, and its licence is {bundled.licence}."
        ),
    )


def drawn(tables: Sequence[tuple[Tableau, Tableau | None]], denoiser: Denoiser, cond: Condition, progress: bool) -> Pictures:
    """The pictures of base, distilled and many calls, from noise that nothing was fitted to; none, and why, where it makes none.

    Args:
        tables: each with its base, where there is one.
        denoiser: the network.
        cond: the condition; sample i has its row i modulo the rows.
        progress: show a bar.
    """
    if denoiser.shape is None or len(denoiser.shape) != 3 or denoiser.shape[0] not in (1, 3):
        return Pictures(missing=f"samples of shape {denoiser.shape} are no pictures")
    noise = standard_noise(_SEED, _SHOWN, denoiser.shape, stream=REPORT, dtype=denoiser.noise_dtype)
    own = cycle(cond, 0, _SHOWN)
    calls = _MANY + sum(tableau.nfe * (1 + (base is not None)) for tableau, base in tables)

    def run(tableau: Tableau) -> Tensor:
        made: Tensor = sample(denoiser, tableau, noise, **own)
        return made

    try:
        with evaluation_progress(denoiser, calls * _SHOWN, "pictures for the card", show=progress):
            # A guidance scale for each call says nothing of so many.
            fine = None if denoiser.guidance_by_step else reference_tableau(denoiser.schedule, _MANY)
            many = {} if fine is None else {str(reference_run(_MANY)): run(fine)}
            sheets = []
            for tableau, base in tables:
                rows = {} if base is None else {f"{tableau.nfe} calls of {base.solver}, {base.grid} grid": base}
                rows[f"{tableau.nfe} calls of these tables"] = tableau
                sheets.append(sheet(tableau.nfe, {**{words: run(each) for words, each in rows.items()}, **many}))
    except Exception as error:  # pictures are no reason to lose what was distilled
        return Pictures(missing=f"{denoiser.name} made none: {first_line(error)}")
    return Pictures(tuple(sheets))


def base_of(tableau: Tableau, denoiser: Denoiser) -> Tableau | None:
    """The base that a distilled tableau remembers, made again; None where its solver does not walk its times."""
    found = statistics_of(tableau)
    if found is None:
        return None
    try:
        made = solver_named(found.base).tableau(denoiser.schedule, None, found.base_times)
    except (TypeError, ValueError):
        return None
    return replace(made, grid=found.base_grid) if made.times.tolist() == found.base_times else None


def _code(setting: Mapping[str, Any], name: str, nfe: int, several: bool, cond: Mapping[str, Any]) -> str:
    model = str(setting.get("model") or "")
    scale = setting.get("guidance_scale")
    guided = f", guidance_scale={scale:g}" if isinstance(scale, int | float) and scale != 1 else ""
    lines = ["# pip install dode", "import torch", "", "import dode", ""]
    if model not in BUNDLED:
        facts = "".join(f", {name}={value(setting[name])}" for name in ("prediction", "shape") if name in setting)
        lines.append(f"# or a network of your own: dode.Denoiser(net, schedule{facts})")
    load = model if model in BUNDLED else on_hub(setting) or "PATH OF THE MODEL"
    picked = f", nfe={nfe}" if several else ""
    given = "".join(f", {key}={value(_rows(each))}" for key, each in cond.items())
    return code(
        [
            *lines,
            f"denoiser = dode.load({json.dumps(load)}{guided})",
            f"tableaux = dode.TableauSet.load({json.dumps(printable(name))})",
            f"noise = torch.randn({_SAMPLED}, *denoiser.shape)",
            f"samples = dode.sample(denoiser, tableaux, noise{picked}{given})",
        ]
    )


def _rows(given: Any) -> Any:
    """A part of a condition for so many samples, as it is written: numbers of a list, else what it is."""
    if isinstance(given, Tensor) and given.ndim == 1:
        return cycle({"rows": given}, 0, _SAMPLED)["rows"].tolist()
    return given
