"""What a distilled tableau remembers of its making, for people."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from dode import statistics
from dode.foreign import plain, printable
from dode.reading import checked
from dode.tableau import Tableau

if TYPE_CHECKING:
    from dode.schemas import DistillationFile, ErrorsFile, ReferenceFile, RefinedFile, TrialFile

# Rounding is said where it is this share of the teacher's error.
_SAID = 0.1
# Characters of a title or a line, which may have names from a file.
_TITLE, _LINE = 400, 2000


def summary(tableau: Tableau) -> RenderableType:
    """What a distilled tableau remembers of its making, as a rich renderable; of a plain tableau, its numbers."""
    shown = _numbers(tableau) if not tableau.meta.get("distillation") else _statistics(tableau)
    if not tableau.changed:
        return shown
    return Group(Text("changed after it was made: its statistics are those of what it was\n"), shown)


def _numbers(tableau: Tableau) -> Text:
    return Text(str(tableau))


def _statistics(tableau: Tableau) -> RenderableType:
    from dode.schemas import DistillationFile

    try:
        made = checked(DistillationFile, tableau.meta["distillation"])
        _check_rows(tableau, made)
    except ValueError as error:
        return Group(_numbers(tableau), Text(f"its statistics are not those of this version of dode: {error}"))
    shown = made.held_out or made.fitting
    where = "held-out" if made.held_out else "fitting"
    lines = [
        f"errors: mean square distance to {_measured_against(made)}, {shown.samples} {where} samples; last row: the result",
        _verdict(shown, where, made),
        _spread(shown),
        _choice(made),
        _kept(made, tableau.rows),
        _refinement(made.refined),
        f"teacher: {made.teacher}{_teacher_error(made)}",
        f"{made.samples} fitting and {made.validation} validation samples, seed {made.seed}, effort {made.effort}",
        "evaluations: "
        + ", ".join(f"{n:,} {what}" for what, n in made.evaluations.items() if n)
        + (f"; {made.saved:,} more from the cache" if made.saved else "")
        + f"; {made.seconds:.1f} s",
        *(f"warning: {text}" for text in made.warnings),
    ]
    parts: list[RenderableType] = [
        _rows(tableau, made, shown),
        Text("\n".join(printable(line, _LINE) for line in lines if line)),
    ]
    if made.trials:
        parts.append(_trials(made.trials, "the closed form" if made.learn == "coefficients" else "the solver as it is"))
    return Group(*parts)


def _check_rows(tableau: Tableau, made: DistillationFile) -> None:
    """Raise ValueError unless the statistics have a value for each row that is shown."""
    rows = tableau.rows
    for errors in (made.fitting, made.held_out):
        if errors is not None and len(errors.distilled) != rows:
            raise ValueError(f"they have the errors of {len(errors.distilled)} rows, and it has {rows}")
        if errors is not None and _comparable(tableau, made) and len(errors.base) != rows:
            raise ValueError(f"they have the base's errors of {len(errors.base)} rows, and it has {rows}")
    per_row = (made.coefficients, made.standard_errors)
    if _single(made) and any(len(numbers) < rows or not all(numbers) for numbers in per_row):
        raise ValueError(f"they have no coefficients for each of its {rows} rows")


def _comparable(tableau: Tableau, made: DistillationFile) -> bool:
    return bool(made.base_times == tableau.times.tolist())


def _single(made: DistillationFile) -> bool:
    """Whether the result has the paper's lambda in each row: where nothing was done after its fit."""
    return len(made.directions) == 1 and made.chosen == "the fit as it is"


def _rows(tableau: Tableau, made: DistillationFile, shown: ErrorsFile) -> Table:
    table = Table(title=plain(f"{tableau.title}, {printable(made.model)}", _TITLE, "table.title"))
    single, comparable = _single(made), _comparable(tableau, made)
    names = ["step", "t", *(["lambda", "s.e."] if single else []), *(["error base"] if comparable else []), "distilled"]
    for name in [*names, *(["ratio"] if comparable else [])]:
        table.add_column(name, justify="right")
    for k in range(tableau.rows):
        cells = [str(k + 1), f"{tableau.times[k]:.4g} -> {tableau.times[k + 1]:.4g}"]
        if single:
            deviation = made.standard_errors[k][0]
            cells += [f"{made.coefficients[k][0]:+.4f}", "" if deviation is None else f"{deviation:.4f}"]
        distilled = shown.distilled[k]
        if comparable:
            base = shown.base[k]
            ratio = "" if not base or distilled is None else f"{distilled / base:.3f}"
            cells += [_number(base), _number(distilled), ratio]
        else:
            cells.append(_number(distilled))
        table.add_row(*cells)
    return table


def _trials(trials: Sequence[TrialFile], what: str, most: int = 12) -> Table:
    with_base = any(trial.base_error is not None for trial in trials)
    table = Table(title=f"tried, by error of {what} ({min(most, len(trials))} of {len(trials)})")
    counted = all(trial.samples is not None for trial in trials)  # older files do not say it
    ends = [what.removeprefix("the "), *(["samples"] if counted else [])]
    for name in ("solver, grid, first output", *(["as it is"] if with_base else []), *ends):
        table.add_column(name, justify="left" if name.startswith("solver") else "right")
    for trial in trials[:most]:
        numbers = ([trial.base_error] if with_base else []) + [trial.error]
        cells = ["diverged" if n is None else f"{n:.3e}" for n in numbers]
        table.add_row(plain(trial.name), *cells, *([str(trial.samples)] if counted else []))
    return table


def _measured_against(made: DistillationFile) -> str:
    reference = made.reference
    if reference is None or not made.held_out:
        return "the teacher's states"
    return f"the reference ({reference.name})"


def _verdict(shown: ErrorsFile, where: str, made: DistillationFile) -> str:
    base, distilled = shown.base[-1], shown.distilled[-1]
    _, low, high = shown.ratio or [None] * 3
    if not base or distilled is None or low is None or high is None:
        return f"end point on {where} noise: {_number(distilled)}, the base {_number(base)}"
    if shown.end_difference == 0:
        return f"end point on {where} noise: {distilled:.3e}, that of the base"
    word = "better" if distilled < base else "WORSE"
    if low < 1 < high:
        word += ", but chance leaves it open"
    elif _open(distilled, base, made.reference):
        word += ", but what the reference may be off leaves it open"
    return f"end point on {where} noise: {distilled:.3e}, {distilled / base:.3g} ({low:.2g} to {high:.2g}) of the base's {base:.3e}, {word}"


def _open(distilled: float, base: float, reference: ReferenceFile | None) -> bool:
    """Whether the reference's own error leaves it open which of two errors is the smaller one."""
    doubt = 0.0 if reference is None else reference.error
    return doubt is None or abs(math.sqrt(base) - math.sqrt(distilled)) <= 2 * math.sqrt(doubt)


def _spread(shown: ErrorsFile) -> str:
    """Mean, median, high quantile and relative error of the result, and what the median is of the base's."""
    found = shown.distilled_end
    if found is None:
        return ""
    names = {
        "mean": found.mean,
        "median": found.median,
        f"{100 * statistics.HIGH:.0f} % quantile": found.high,
        "relative to its power": found.relative,
    }
    parts = [f"{name} {_figure(figure)}" for name, figure in names.items() if figure is not None]
    base, mine = shown.base_end and shown.base_end.median[0], found.median[0]
    if base and mine is not None and shown.end_difference != 0:
        parts[1] += f", {mine / base:.3g} of the base's"
    return f"{'; '.join(parts)} ({100 * statistics.LEVEL:.0f} % intervals)"


def _figure(figure: Sequence[float | None]) -> str:
    value, low, high = figure
    if value is None:
        return "diverged"
    return f"{value:.2e}" if low is None or high is None else f"{value:.2e} ({low:.1e} to {high:.1e})"


def _choice(made: DistillationFile) -> str:
    candidates = made.candidates
    if not candidates:
        return f"given out: {made.chosen}"
    diverged = sum(candidate.error is None for candidate in candidates)
    return f"given out: {made.chosen}, of {len(candidates)} candidates" + (f"; {diverged} diverged" if diverged else "")


def _kept(made: DistillationFile, rows: int) -> str:
    count, unused = len(made.directions), made.unused
    if count <= 1:
        return ""
    text = f"directions kept in each row, of {count}: {', '.join(map(str, made.kept[:rows]))}"
    return text + (f"; in no row, being zero or in the span of the others: {', '.join(unused)}" if unused else "")


def _refinement(refined: RefinedFile | None) -> str:
    if refined is None:
        return ""
    return f"end-to-end fit: {refined.unknowns} unknowns, {refined.iterations} steps; stopped: {refined.stopped}" + (
        f"; {refined.diverged} steps diverged and were taken back" if refined.diverged else ""
    )


def _teacher_error(made: DistillationFile) -> str:
    found = made.reference
    if found is None:
        return ""
    text = f", {_number(found.teacher, 1)} off the reference ({found.samples} samples)"
    rounding = found.rounding  # older files do not say it
    if rounding and found.teacher and rounding > _SAID * found.teacher:
        text += f", about {rounding:.1e} of it by rounding in the network"
    return text


def _number(value: float | None, digits: int = 3) -> str:
    return "diverged" if value is None else f"{value:.{digits}e}"


def render(renderable: RenderableType, width: int = 110) -> str:
    """A rich renderable as plain text."""
    buffer = io.StringIO()
    Console(file=buffer, width=width, color_system=None, force_jupyter=False).print(renderable)
    return buffer.getvalue().rstrip()
