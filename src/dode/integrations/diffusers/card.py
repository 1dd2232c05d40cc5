"""The model card of a scheduler folder: what it is, for which model and setting, what it gains, and how to load it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dode import statistics
from dode.foreign import printable
from dode.integrations.diffusers.held import said
from dode.integrations.diffusers.setting import setting_of
from dode.reading import checked
from dode.tableau import Tableau

if TYPE_CHECKING:
    from dode.schemas import DistillationFile, ErrorsFile

# What Markdown or HTML would read as more than a letter.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#~&$!])")
# A model's name on the Hub.
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_LINE = 2000


class Made(NamedTuple):
    """A distilled tableau and the base that it is compared with."""

    tableau: Tableau
    base: Tableau


class Pictures(NamedTuple):
    """What a card shows.

    Attributes:
        calls: the numbers of calls that there are pictures of, pictures-N.png.
        missing: why there are none.
        teacher: what the last row is of; None where there is no such row.
        prompts: of the columns.
    """

    calls: tuple[int, ...]
    missing: str = ""
    teacher: str | None = None
    prompts: tuple[str, ...] = ()


def card(made: Sequence[Made], name: str, command: str, pictures: Pictures, call: Mapping[str, Any]) -> str:
    """A README.md; foreign text in it is escaped.

    Args:
        made: the tables, fewest calls first, with the statistics of their making.
        name: of the folder.
        command: what made them, as it was given.
        pictures: what there are of them.
        call: arguments of one of the pipeline's calls.
    """
    setting = setting_of(made[0].tableau)
    pipeline = str(setting.get("pipeline") or "the pipeline")
    calls = _listed([str(each.tableau.nfe) for each in made])
    parts = [
        _front_matter(setting),
        f"# {escaped(pipeline)} in {calls} network calls",
        f"A scheduler for diffusers that runs {escaped(pipeline)} with {calls} calls of its network, guidance not counted. It holds "
        f"{'one table' if len(made) == 1 else f'{len(made)} tables'} of numbers and no weights: the coefficients of a few-step ODE solver, "
        "fitted so that its end points follow those of a many-step run on the same noise, with the network frozen "
        "(*Distilled-ODE solvers*, Kim, Tang, Yu, CVPR 2024, [arXiv 2309.16421](https://arxiv.org/abs/2309.16421), and more).",
        "## For which model and setting",
        _settings([each.tableau for each in made]),
        "Another guidance scale, size of image or network than this: what is gained there is not known. Another noise schedule, "
        "prediction or number of channels is refused.",
        "## Errors",
        *_errors(made),
        "## Pictures",
        *_pictures(made, pictures),
        "## How to load it",
        _code(setting, name, made[-1].tableau.nfe, call),
        f"`num_inference_steps` counts network calls and may be {_listed([str(each.tableau.nfe) for each in made], 'or')}. "
        "`dode show FOLDER` prints what is held.",
        "## How it was made",
        *_making(made, command),
        "## Licence",
        "The network is not in this folder; it keeps its own licence, which may say something of what is made with it. dode is MIT "
        "licensed and claims nothing of the numbers that it computes.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: object, most: int = 200) -> str:
    """Foreign text on one line, as Markdown that shows it as it is."""
    return _MARKUP.sub(r"\\\1", printable(text, most))


def _front_matter(setting: Mapping[str, Any]) -> str:
    """JSON strings are YAML's too."""
    lines = ["---", "library_name: diffusers", "tags:", "- dode", "- diffusion-solver"]
    base = _on_hub(setting)
    if base is not None:
        lines.append(f"base_model: {json.dumps(base)}")
    return "\n".join([*lines, "---"])


def _on_hub(setting: Mapping[str, Any]) -> str | None:
    """The model's name, where it is not a folder of this machine."""
    model = setting.get("model")
    known = isinstance(model, str) and len(model) < 200 and _HUB.fullmatch(model) and not Path(model).exists()
    return str(model) if known else None


def _settings(tableaux: Sequence[Tableau]) -> str:
    """A table with a column for each different setting."""
    found = [said(_without_folders(setting_of(tableau))) for tableau in tableaux]
    same = all(each == found[0] for each in found)
    columns = [found[0]] if same else found
    heads = [""] if same else [f"{tableau.nfe} calls" for tableau in tableaux]
    rows = [[words, *(escaped(column.get(words, "")) for column in columns)] for words in found[0]]
    return _table(["fitted for", *heads], rows) if rows else "The tables do not say what they were fitted for."


def _without_folders(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The model by its name alone: where it lay on the machine says nothing to others."""
    model = str(setting.get("model") or "")
    return {**setting, "model": model if _on_hub(setting) else Path(model).name}


def _errors(made: Sequence[Made]) -> list[str]:
    rows, warned, about = [], [], []
    for tableau, base in made:
        found = _statistics(tableau)
        if found is None:
            rows.append([str(tableau.nfe), escaped(base.solver), "not known", "not known", "", ""])
            continue
        shown = found.held_out or found.fitting
        rows.append(_row(tableau, base, found, shown))
        about.append((found, shown))
        warned += [f"- {tableau.nfe} calls: {escaped(text, _LINE)}" for text in found.warnings]
    heads = ["calls", "base", "error of the base", "distilled", "distilled / base", "medians: base, distilled"]
    parts = [_table(heads, rows)]
    if about:
        parts.append(_measured(*about[-1]))
    if warned:
        parts.append("Warnings:\n\n" + "\n".join(warned))
    return parts


def _row(tableau: Tableau, base: Tableau, found: DistillationFile, shown: ErrorsFile) -> list[str]:
    ends: list[tuple[str | None, str | None]] = [(None, None), (None, None)]
    for i, end in enumerate((shown.base_end, shown.distilled_end)):
        if end is not None:
            ends[i] = (_figure(end.mean), _figure(end.median))
    ratio = _figure(shown.ratio, ".3g") if shown.ratio is not None and shown.end_difference != 0 else "1"
    solver = f"{escaped(base.solver)}, {escaped(base.grid)} grid"
    return [
        str(tableau.nfe),
        solver,
        ends[0][0] or _number(shown.base[-1]),
        ends[1][0] or _number(shown.distilled[-1]),
        ratio,
        f"{ends[0][1] or 'not known'}; {ends[1][1] or 'not known'}",
    ]


def _measured(found: DistillationFile, shown: ErrorsFile) -> str:
    level = f"{100 * statistics.LEVEL:.0f} % intervals in brackets"
    if not found.held_out:
        return (
            f"Mean square distance, over the numbers of a state, of the end points to the teacher's on the {shown.samples} noises that "
            f"were **fitted**; {level}. Nothing was held out, so that these say little of other noise."
        )
    reference = found.reference
    against = "the teacher" if reference is None else f"a reference ({escaped(reference.name)})"
    doubt = (
        ""
        if reference is None
        else f" The reference may be off by {_number(reference.error)} itself; the teacher is {_number(reference.teacher)} off it."
    )
    return (
        f"Mean square distance, over the numbers of a state, of the end points to those of {against}, on {shown.samples} held-out noises "
        f"that neither fitted nor chose; {level}.{doubt}"
    )


def _pictures(made: Sequence[Made], pictures: Pictures) -> list[str]:
    if not pictures.calls:
        return [f"None: {escaped(pictures.missing, _LINE)}."]
    parts = []
    if pictures.prompts:
        parts.append("Columns: " + "; ".join(f"“{escaped(text)}”" for text in pictures.prompts) + ".")
    last = "" if pictures.teacher is None else f"; below, {escaped(pictures.teacher)}, as the teacher"
    for (_, base), calls in zip(made, pictures.calls):
        rows = f"{calls} calls of {escaped(base.solver)}; {calls} calls of this scheduler{last}"
        parts += [
            f"![pictures with {calls} calls](pictures-{calls}.png)",
            f"*From the same noise in every row. Above, {rows}.*",
        ]
    return parts


def _code(setting: Mapping[str, Any], name: str, nfe: int, call: Mapping[str, Any]) -> str:
    model = _on_hub(setting) or "PATH OR NAME OF THE MODEL"
    scale = setting.get("guidance_scale")
    told = {**call, "num_inference_steps": nfe, **({"guidance_scale": scale} if isinstance(scale, int | float) else {})}
    arguments = ", ".join(f"{key}={_value(value)}" for key, value in told.items())
    shape = setting.get("shape")
    gives = "frames" if isinstance(shape, list) and len(shape) == 4 else "images"
    lines = [
        "# pip install dode[diffusers]",
        "from diffusers import DiffusionPipeline",
        "from dode.integrations.diffusers import DodeScheduler",
        "",
        f"pipe = DiffusionPipeline.from_pretrained({json.dumps(model)})",
        f"pipe.scheduler = DodeScheduler.from_pretrained({json.dumps(printable(name))})",
        f"{gives} = pipe({arguments}).{gives}",
    ]
    return "```python\n" + "\n".join(lines) + "\n```"


def _value(value: Any) -> str:
    """As it is written in Python where it is short; what is no number, text or list of these stands as dots."""
    plain = isinstance(value, str | int | float | bool | list) or value is None
    text = printable(repr(value))
    return text if plain and len(text) <= 80 and "`" not in text else "..."


def _making(made: Sequence[Made], command: str) -> list[str]:
    lines = []
    for tableau, _ in made:
        found = _statistics(tableau)
        if found is None:
            continue
        spent = ", ".join(f"{n:,} {printable(what)}" for what, n in found.evaluations.items() if n)
        lines.append(
            f"- {tableau.nfe} calls: {escaped(tableau.title)}; effort {escaped(found.effort)}, {found.samples} fitting and "
            f"{found.validation} validation samples, seed {found.seed}; teacher {escaped(found.teacher)}; "
            f"given out: {escaped(found.chosen)}; evaluations: {escaped(spent, _LINE)}; {found.seconds:.0f} s"
        )
    said_with = [f"    {printable(command, _LINE)}"] if command else []
    return [*said_with, "\n".join(lines), "With " + ", ".join(_versions()) + "."]


def _versions() -> list[str]:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for library in ("dode", "diffusers", "torch"):
        try:
            found.append(f"{library} {version(library)}")
        except PackageNotFoundError:  # run from its source, not installed
            continue
    return found


def _statistics(tableau: Tableau) -> DistillationFile | None:
    from dode.schemas import DistillationFile

    made = tableau.meta.get("distillation")
    try:
        return None if made is None else checked(DistillationFile, made)
    except ValueError:
        return None


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _figure(figure: Sequence[float | None], form: str = ".2e") -> str:
    value, low, high = figure
    if value is None:
        return "diverged"
    return format(value, form) if low is None or high is None else f"{value:{form}} ({low:{form}} to {high:{form}})"


def _number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.2e}"


def _listed(words: Sequence[str], joint: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"
