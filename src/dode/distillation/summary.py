"""What a distilled tableau remembers of its making, for people."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dode import statistics
from dode.tableau import Tableau

# Rounding is said where it is this share of the teacher's error.
_SAID = 0.1


def summary(tableau: Tableau) -> RenderableType:
    """What a distilled tableau remembers of its making, as a rich renderable; of a plain tableau, its numbers."""
    made = tableau.meta.get("distillation")
    if not made:
        return Text(str(tableau))
    shown = made["held_out"] or made["fitting"]
    where = "held-out" if made["held_out"] else "fitting"
    lines = [
        f"errors: mean square distance to {_measured_against(made)}, {shown['samples']} {where} samples; last row: the result",
        _verdict(shown, where, made),
        _spread(shown),
        _choice(made),
        _kept(made),
        _refinement(made["refined"]),
        f"teacher: {made['teacher']}{_teacher_error(made)}",
        f"{made['samples']} fitting and {made['validation']} validation samples, seed {made['seed']}, effort {made['effort']}",
        "evaluations: "
        + ", ".join(f"{n:,} {what}" for what, n in made["evaluations"].items() if n)
        + (f"; {made['saved']:,} more from the cache" if made.get("saved") else "")
        + f"; {made['seconds']:.1f} s",
        *(f"warning: {text}" for text in made["warnings"]),
    ]
    parts: list[RenderableType] = [_rows(tableau, made, shown), Text("\n".join(line for line in lines if line))]
    if made["trials"]:
        parts.append(_trials(made["trials"]))
    return Group(*parts)


def _rows(tableau: Tableau, made: Mapping[str, Any], shown: Mapping[str, Any]) -> Table:
    table = Table(title=f"{tableau.title}, {made['model']}")
    # lambda is what a row of the result has only where nothing was done after the paper's fit.
    single = len(made["directions"]) == 1 and made["chosen"] == "the fit as it is"
    comparable = made["base_times"] == tableau.times.tolist()
    names = ["step", "t", *(["lambda", "s.e."] if single else []), *(["error base"] if comparable else []), "distilled"]
    for name in [*names, *(["ratio"] if comparable else [])]:
        table.add_column(name, justify="right")
    for k in range(tableau.rows):
        cells = [str(k + 1), f"{tableau.times[k]:.4g} -> {tableau.times[k + 1]:.4g}"]
        if single:
            deviation = made["standard_errors"][k][0]
            cells += [f"{made['coefficients'][k][0]:+.4f}", "" if deviation is None else f"{deviation:.4f}"]
        distilled = shown["distilled"][k]
        if comparable:
            base = shown["base"][k]
            ratio = "" if not base or distilled is None else f"{distilled / base:.3f}"
            cells += [_number(base), _number(distilled), ratio]
        else:
            cells.append(_number(distilled))
        table.add_row(*cells)
    return table


def _trials(trials: Sequence[Mapping[str, Any]], most: int = 12) -> Table:
    with_base = any(trial["base_error"] is not None for trial in trials)
    table = Table(title=f"tried, by error of the closed form ({min(most, len(trials))} of {len(trials)})")
    counted = all("samples" in trial for trial in trials)  # older files do not say it
    ends = ["closed form", *(["samples"] if counted else [])]
    for name in ("solver, grid, first output", *(["as it is"] if with_base else []), *ends):
        table.add_column(name, justify="left" if name.startswith("solver") else "right")
    for trial in trials[:most]:
        numbers = ([trial["base_error"]] if with_base else []) + [trial["error"]]
        cells = ["diverged" if n is None else f"{n:.3e}" for n in numbers]
        table.add_row(trial["name"], *cells, *([str(trial["samples"])] if counted else []))
    return table


def _measured_against(made: Mapping[str, Any]) -> str:
    reference = made.get("reference")
    if reference is None or not made["held_out"]:
        return "the teacher's states"
    return f"the reference ({reference['name']})"


def _verdict(shown: Mapping[str, Any], where: str, made: Mapping[str, Any]) -> str:
    base, distilled = shown["base"][-1], shown["distilled"][-1]
    if not base or distilled is None or "ratio" not in shown or shown["ratio"][1] is None:
        return f"end point on {where} noise: {_number(distilled)}, the base {_number(base)}"
    if shown["end_difference"] == 0:
        return f"end point on {where} noise: {distilled:.3e}, that of the base"
    _, low, high = shown["ratio"]
    word = "better" if distilled < base else "WORSE"
    if low < 1 < high:
        word += ", but chance leaves it open"
    elif _open(distilled, base, made.get("reference")):
        word += ", but what the reference may be off leaves it open"
    return f"end point on {where} noise: {distilled:.3e}, {distilled / base:.3g} ({low:.2g} to {high:.2g}) of the base's {base:.3e}, {word}"


def _open(distilled: float, base: float, reference: Mapping[str, Any] | None) -> bool:
    """Whether the reference's own error leaves it open which of two errors is the smaller one."""
    if reference is not None and reference["error"] is None:
        return True
    doubt = 0.0 if reference is None else math.sqrt(reference["error"])
    return abs(math.sqrt(base) - math.sqrt(distilled)) <= 2 * doubt


def _spread(shown: Mapping[str, Any]) -> str:
    """Mean, median, high quantile and relative error of the result, and what the median is of the base's."""
    found = shown.get("distilled_end")
    if found is None:
        return ""
    names = {
        "mean": "mean",
        "median": "median",
        "high": f"{100 * statistics.HIGH:.0f} % quantile",
        "relative": "relative to its power",
    }
    parts = [f"{name} {_figure(found[key])}" for key, name in names.items() if key in found]
    base, mine = shown["base_end"]["median"][0], found["median"][0]
    if base and mine is not None and shown["end_difference"] != 0:
        parts[1] += f", {mine / base:.3g} of the base's"
    return f"{'; '.join(parts)} ({100 * statistics.LEVEL:.0f} % intervals)"


def _figure(figure: Sequence[float | None]) -> str:
    value, low, high = figure
    if value is None:
        return "diverged"
    return f"{value:.2e}" if low is None or high is None else f"{value:.2e} ({low:.1e} to {high:.1e})"


def _choice(made: Mapping[str, Any]) -> str:
    candidates = made["candidates"]
    if not candidates:
        return f"given out: {made['chosen']}"
    diverged = sum(candidate["error"] is None for candidate in candidates)
    return f"given out: {made['chosen']}, of {len(candidates)} candidates" + (f"; {diverged} diverged" if diverged else "")


def _kept(made: Mapping[str, Any]) -> str:
    count, unused = len(made["directions"]), made.get("unused")
    if count == 1:
        return ""
    text = f"directions kept in each row, of {count}: {', '.join(str(kept) for kept in made['kept'])}"
    return text + (f"; in no row, being zero or in the span of the others: {', '.join(unused)}" if unused else "")


def _refinement(refined: Mapping[str, Any] | None) -> str:
    if refined is None:
        return ""
    return f"end-to-end fit: {refined['unknowns']} unknowns, {refined['iterations']} steps; stopped: {refined['stopped']}" + (
        f"; {refined['diverged']} steps diverged and were taken back" if refined["diverged"] else ""
    )


def _teacher_error(made: Mapping[str, Any]) -> str:
    found = made.get("reference")
    if found is None:
        return ""
    text = f", {_number(found['teacher'], 1)} off the reference ({found['samples']} samples)"
    rounding = found.get("rounding")  # older files do not say it
    if rounding and found["teacher"] and rounding > _SAID * found["teacher"]:
        text += f", about {rounding:.1e} of it by rounding in the network"
    return text


def _number(value: float | None, digits: int = 3) -> str:
    return "diverged" if value is None else f"{value:.{digits}e}"


def render(renderable: RenderableType, width: int = 110) -> str:
    """A rich renderable as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None).print(renderable)
    return buffer.getvalue().rstrip()
