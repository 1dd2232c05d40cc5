"""The files of a comparison: tidy tables, tableaux, the whole as JSON from which the page is made again, and the page."""

from __future__ import annotations

import csv
import json
import math
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.table import Table

from dode.files import write_atomically
from dode.report.folder import CACHE, TABLEAUX, check_no_report, mark_report
from dode.report.results import Comparison, Result, comparison_from_json, to_json
from dode.seals import sealed, unsealed

# The tables, and what the last finished comparison found.
TABLE, DATA, KEPT = "results.csv", "results.json", f"{CACHE}/comparison.json"
# Figures that a terminal shows, where there are such.
_SHOWN = ("error", "fid")


def rows(comparison: Comparison) -> list[dict[str, Any]]:
    """A row a cell: what it is, every figure with the ends of its interval (nan where there is none), and what it took."""
    return [_row(comparison, result) for result in comparison.results]


def save(comparison: Comparison, folder: Path, *, overwrite: bool = False, study: Any = None) -> list[Path]:
    """Write results.csv, results.json, tableaux/, index.html and plots/ into a folder, each file atomically.

    Args:
        comparison: what was found.
        folder: made where it is not there.
        overwrite: in place of a report that is there.
        study: a study that the page shows too.

    Returns:
        The files, the page first.

    Raises:
        FileExistsError: there are such files, and `overwrite` is False.
        FileNotFoundError: the folder that it is to be made in is not there.
        ImportError: the extra `report` is not installed.
        OSError: a file cannot be written.
    """
    from dode.report.page import write

    if not overwrite:
        check_no_report(folder)
    mark_report(folder)
    found = rows(comparison)
    written = [_write(folder / TABLE, lambda path: _write_csv(path, found))]
    written.append(_write(folder / DATA, lambda path: _write_json(path, found)))
    for result in comparison.measured:
        if result.tableau is not None and result.evaluations:
            (folder / TABLEAUX).mkdir(exist_ok=True)
            path = folder / TABLEAUX / tableau_name(result)
            result.tableau.save(path, overwrite=True)
            written.append(path)
    # The page is made of what is kept, so that it is the same when it is made again.
    whole = sealed(to_json(comparison))
    _write(folder / KEPT, lambda path: path.write_text(whole, encoding="utf-8"))
    return [*write(folder, comparison=comparison, study=study), *written]


def load(folder: Path) -> Comparison | None:
    """The finished comparison of a folder; None where there is none. A damaged one is none, which is said."""
    path = folder / KEPT
    try:
        return comparison_from_json(unsealed(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        warnings.warn(f"{path} is damaged: give the command again that made it, for which no cell is made again", stacklevel=2)
        return None


def tableau_name(result: Result) -> str:
    """SOLVER-EFFORT-NFE.json."""
    solver = re.sub(r"[^A-Za-z0-9+.=]+", "-", result.cell.solver).strip("-")
    return f"{solver}-{result.cell.method}-{result.cell.nfe}.json"


def tables(comparison: Comparison) -> list[Table]:
    """For a terminal: a row a method, a column a budget."""
    return [_table(comparison, name) for name in _SHOWN if name in comparison.metrics]


def _table(comparison: Comparison, name: str) -> Table:
    from dode.report.results import METRICS

    methods = list(dict.fromkeys((r.cell.solver, r.cell.grid, r.cell.method) for r in comparison.results))
    title = METRICS[name].label
    table = Table("solver", "grid", "method", *(f"NFE {nfe}" for nfe in comparison.budgets), title=title, title_justify="left")
    for solver, grid, method in methods:
        cells = []
        for nfe in comparison.budgets:
            wanted = (solver, grid, method, nfe)
            found = next(
                (r for r in comparison.results if (r.cell.solver, r.cell.grid, r.cell.method, r.cell.nfe) == wanted), None
            )
            figure = None if found is None else found.figures.get(name)
            cells.append("-" if figure is None else f"{figure.value:.3g}")
        table.add_row(solver, grid, method, *cells)
    return table


def _row(comparison: Comparison, result: Result) -> dict[str, Any]:
    row: dict[str, Any] = {"model": comparison.setting.model, **vars(result.cell)}
    for name in comparison.metrics:
        value, low, high = result.figures.get(name, (math.nan,) * 3)
        row |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return row | {
        "samples": len(result.errors),
        "diverged": result.diverged,
        "evaluations": result.evaluations,
        "seconds": result.seconds,
        "sampling_seconds": result.sampling_seconds,
        "notes": "; ".join(result.notes),
        "skipped": result.skipped,
    }


def _write(path: Path, write: Callable[[Path], Any]) -> Path:
    write_atomically(path, write, overwrite=True)
    return path


def _write_csv(path: Path, found: list[dict[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(found[0]))
        writer.writeheader()
        writer.writerows({name: "" if _is_nan(value) else value for name, value in row.items()} for row in found)


def _write_json(path: Path, found: list[dict[str, Any]]) -> None:
    """JSON has neither nan nor infinity."""
    data = [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in found]
    path.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
