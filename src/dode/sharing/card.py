"""A model card, README.md: what saved tables are, for which model and setting, what they gain, and how they are loaded and were made.

What differs between a network's tables and a pipeline's is in `About`; foreign text is escaped.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dode import statistics
from dode.fitted_for import said, setting_of
from dode.foreign import printable
from dode.held import CARD
from dode.reading import checked
from dode.sharing.markdown import escaped, listed, table
from dode.tableau import Tableau

if TYPE_CHECKING:
    from dode.schemas import DistillationFile, ErrorsFile
    from dode.sharing.pictures import Pictures

# A model's name on the Hub.
_HUB = re.compile(r"[\w.-]+/[\w.-]+")
_LINE = 2000
_METHOD = (
    "fitted so that its end points follow those of a many-step run on the same noise, with the network frozen "
    "(*Distilled-ODE solvers*, Kim, Tang, Yu, CVPR 2024, [arXiv 2309.16421](https://arxiv.org/abs/2309.16421), and more)"
)


class About(NamedTuple):
    """What a card says of tables of one kind.

    Attributes:
        library: that loads them.
        model: what they are for, in words.
        what: a sentence without its end: what is run by them.
        outside: what another setting than theirs comes to.
        loading: paragraphs: how they are loaded and used.
        licence: of the network, for the Hub; "" where it is not known.
        of_network: a sentence on the network's licence.
    """

    library: str
    model: str
    what: str
    outside: str
    loading: Sequence[str]
    licence: str
    of_network: str


def write_card(folder: Path, about: About, tableaux: Sequence[Tableau], pictures: Pictures, command: str = "") -> None:
    """Write a card and its pictures into a folder; see `card`."""
    for sheet in pictures.sheets:
        sheet.save(folder)
    (folder / CARD).write_text(card(about, tableaux, pictures, command), encoding="utf-8")


def card(about: About, tableaux: Sequence[Tableau], pictures: Pictures, command: str = "") -> str:
    """A README.md.

    Args:
        about: what is particular.
        tableaux: fewest calls first, with the statistics of their making.
        pictures: what there are of them.
        command: what made them, as it was given.
    """
    count = "one table" if len(tableaux) == 1 else f"{len(tableaux)} tables"
    found = [made for tableau in tableaux if (made := statistics_of(tableau)) is not None]
    times = bool(found) and all(made.learn == "times" for made in found)
    numbers = (
        "a classical ODE solver's own coefficients on learned times" if times else "the coefficients of a few-step ODE solver"
    )
    parts = [
        _front_matter(about, setting_of(tableaux[0])),
        f"# {escaped(about.model)} in {calls_of(tableaux)} network calls",
        f"{about.what} with {calls_of(tableaux)} calls of its network, guidance not counted. It holds {count} of numbers and no weights: "
        f"{numbers}{', ' + _METHOD if found else ''}.",
        "## For which model and setting",
        _settings(tableaux),
        about.outside,
        "## Errors",
        *_errors(tableaux),
        "## Pictures",
        *_pictures(pictures),
        "## How to load it",
        *about.loading,
        "## How it was made",
        *_making(tableaux, command, about.library),
        "## Licence",
        f"{about.of_network} dode is MIT licensed and claims nothing of the numbers that it computes.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def calls_of(tableaux: Sequence[Tableau]) -> str:
    """The numbers of calls, for people."""
    return listed([str(tableau.nfe) for tableau in tableaux])


def on_hub(setting: Mapping[str, Any]) -> str | None:
    """The model's name, where it is not a folder of this machine."""
    model = setting.get("model")
    known = isinstance(model, str) and len(model) < 200 and _HUB.fullmatch(model) and not Path(model).exists()
    return str(model) if known else None


def statistics_of(tableau: Tableau) -> DistillationFile | None:
    """What a tableau remembers of its distillation; None where that is nothing that can be read."""
    from dode.schemas import DistillationFile

    made = tableau.meta.get("distillation")
    try:
        return None if made is None else checked(DistillationFile, made)
    except ValueError:
        return None


def _front_matter(about: About, setting: Mapping[str, Any]) -> str:
    """JSON strings are YAML's too."""
    lines = ["---", f"library_name: {about.library}", "tags:", "- dode", "- diffusion-solver"]
    if about.licence:
        lines.append(f"license: {json.dumps(about.licence.lower())}")
    base = on_hub(setting)
    if base is not None:
        lines.append(f"base_model: {json.dumps(base)}")
    return "\n".join([*lines, "---"])


def _settings(tableaux: Sequence[Tableau]) -> str:
    """A table with a column for each different setting."""
    found = [said(_without_folders(setting_of(tableau))) for tableau in tableaux]
    same = all(each == found[0] for each in found)
    columns = [found[0]] if same else found
    heads = [""] if same else [f"{tableau.nfe} calls" for tableau in tableaux]
    names = dict.fromkeys(words for column in columns for words in column)
    rows = [[words, *(escaped(column.get(words, "")) for column in columns)] for words in names]
    return table(["fitted for", *heads], rows) if rows else "The tables do not say what they were fitted for."


def _without_folders(setting: Mapping[str, Any]) -> dict[str, Any]:
    """The model by its name alone: where it lay on the machine says nothing to others."""
    model = str(setting.get("model") or "")
    return {**setting, "model": model if on_hub(setting) else Path(model).name}


def _errors(tableaux: Sequence[Tableau]) -> list[str]:
    rows, warned = [], []
    about: dict[str, list[str]] = {}
    for tableau in tableaux:
        calls, found = str(tableau.nfe), statistics_of(tableau)
        if found is None:
            rows.append([calls, escaped(tableau.solver), "not known", "not known", "", ""])
            continue
        shown = found.held_out or found.fitting
        rows.append([calls, f"{escaped(found.base)}, {escaped(found.base_grid)} grid", *_figures(shown)])
        about.setdefault(_measured(found, shown), []).append(calls)
        warned += [f"- {calls} calls: {escaped(text, _LINE)}" for text in found.warnings]
        if tableau.changed:
            warned.append(f"- {calls} calls: changed after it was made: its errors are those of what it was")
    heads = ["calls", "base", "error of the base", "distilled", "distilled / base", "medians: base, distilled"]
    parts = [table(heads, rows)]
    parts += [words if len(about) == 1 else f"{listed(calls, 'and')} calls: {words}" for words, calls in about.items()]
    if warned:
        parts.append("Warnings:\n\n" + "\n".join(warned))
    return parts


def _figures(shown: ErrorsFile) -> list[str]:
    """The means of base and distilled, their ratio, and the medians."""
    ends: list[tuple[str | None, str | None]] = [(None, None), (None, None)]
    for i, end in enumerate((shown.base_end, shown.distilled_end)):
        if end is not None:
            ends[i] = (_figure(end.mean), _figure(end.median))
    return [
        ends[0][0] or _number(shown.base[-1]),
        ends[1][0] or _number(shown.distilled[-1]),
        _figure(shown.ratio, ".3g") if shown.ratio is not None and shown.end_difference != 0 else "1",
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
    base = (
        "" if found.learn == "times" else " The base is that solver as it is, on that grid: another grid may serve it better."
    )
    return (
        f"Mean square distance, over the numbers of a state, of the end points to those of {against}, on {shown.samples} held-out noises "
        f"that neither fitted nor chose; {level}.{doubt}{base}"
    )


def _pictures(pictures: Pictures) -> list[str]:
    if not pictures.sheets:
        return [f"None: {escaped(pictures.missing, _LINE)}."]
    parts = []
    if pictures.columns:
        parts.append("Columns: " + "; ".join(f"“{escaped(text)}”" for text in pictures.columns) + ".")
    for sheet in pictures.sheets:
        parts += [
            f"![Pictures with {sheet.calls} calls](pictures-{sheet.calls}.png)",
            f"*From the same noise in every row. From above: {'; '.join(map(escaped, sheet.rows))}.*",
        ]
    return parts


def _making(tableaux: Sequence[Tableau], command: str, library: str) -> list[str]:
    lines = []
    for tableau in tableaux:
        found = statistics_of(tableau)
        if found is None:
            lines.append(f"- {tableau.nfe} calls: {escaped(tableau.title)}, as it is")
            continue
        spent = ", ".join(f"{n:,} {printable(what)}" for what, n in found.evaluations.items() if n)
        lines.append(
            f"- {tableau.nfe} calls: {escaped(tableau.title)}; effort {escaped(found.effort)}, {found.samples} fitting and "
            f"{found.validation} validation samples, seed {found.seed}; teacher {escaped(found.teacher)}; "
            f"given out: {escaped(found.chosen)}; evaluations: {escaped(spent, _LINE)}; {found.seconds:.0f} s"
        )
    said_with = [f"    {printable(command, _LINE)}"] if command else []
    return [*said_with, "\n".join(lines), "With " + ", ".join(_versions(library)) + "."]


def _versions(library: str) -> list[str]:
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in dict.fromkeys(("dode", library, "torch")):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:  # run from its source, not installed
            continue
    return found


def _figure(figure: Sequence[float | None], form: str = ".2e") -> str:
    value, low, high = figure
    if value is None:
        return "diverged"
    return format(value, form) if low is None or high is None else f"{value:{form}} ({low:{form}} to {high:{form}})"


def _number(value: float | None) -> str:
    return "diverged" if value is None else f"{value:.2e}"
