"""What the page says about a comparison: what its templates show, its charts, and the data that it keeps for the reader's choices."""

from __future__ import annotations

import base64
from typing import Any

from dode.citations import bibtex, of_tableaux
from dode.report.page.cost import cost_table
from dode.report.page.curves import curves, label, methods
from dode.report.page.drawing import Chart
from dode.report.page.evidence import ERROR, Evidence
from dode.report.page.paths import REFERENCE, path_charts
from dode.report.page.tables import number, results_table
from dode.report.page.words import curve_captions, not_better, summary
from dode.report.results import METRICS, Comparison, Result


def sections(comparison: Comparison) -> tuple[dict[str, Any], list[Chart], dict[str, Any]]:
    """What the templates are filled with, all charts, and the data of the page."""
    evidence = Evidence(comparison)
    drawn = curves(comparison, curve_captions(evidence))
    example = _example(evidence)
    paths = [] if example is None else path_charts(comparison, example)
    charts = [*(chart for pair in drawn.values() for chart in pair), *paths]
    context = {
        "setting": comparison.setting,
        "reference": comparison.reference,
        "reference_error": number(comparison.reference.error),
        "solvers": comparison.solvers,
        "methods": methods(comparison),
        "budgets": comparison.budgets,
        "metrics": {name: METRICS[name] for name in comparison.metrics},
        "summary": summary(evidence),
        "curves": drawn,
        "table": results_table(comparison),
        "pictures": any(result.pictures for result in comparison.measured),
        "paths": {chart.name: chart for chart in paths},
        "denoised": any(r.course is not None and r.course.denoised for r in comparison.measured),
        "example": example,
        "cost": cost_table(evidence),
        "findings": not_better(evidence),
        "distilled": len(evidence.distilled),
        "network_share": comparison.network_share,
        "evaluations": comparison.evaluations,
        "seconds": comparison.seconds,
        "notes": _notes(comparison),
        "citations": _citations(comparison),
    }
    data = {
        "budgets": comparison.budgets,
        "solvers": comparison.solvers,
        "methods": methods(comparison),
        "example": None
        if example is None
        else {"solver": example.cell.solver, "nfe": example.cell.nfe, "method": label(example.cell)},
        "reference": _pictures(comparison.reference),
        "cells": [
            {"solver": r.cell.solver, "nfe": r.cell.nfe, "method": label(r.cell), **_said(r), **_pictures(r)}
            for r in comparison.measured
        ],
        "referenceName": REFERENCE,
        "shown": comparison.setting.shown,
    }
    return context, charts, data


def _example(evidence: Evidence) -> Result | None:
    """The cell that the paths begin with: the least error at the middle budget, distilled where there is such."""
    measured = [r for r in evidence.comparison.measured if r.course is not None]
    if not measured:
        return None
    budgets = sorted({r.cell.nfe for r in measured})
    middle = [r for r in measured if r.cell.nfe == budgets[(len(budgets) - 1) // 2]]
    candidates = [r for r in middle if not r.cell.base] or middle
    return min(candidates, key=lambda r: r.figures[ERROR].value if ERROR in r.figures else 0.0)


def _said(result: Result) -> dict[str, str]:
    """The error in words, for under a picture."""
    figure = result.figures.get(ERROR)
    return {"error": "" if figure is None else number(figure.value)}


def _pictures(source: Any) -> dict[str, str]:
    """Samples and denoised samples in base64, where there are any."""
    found = {"pictures": source.pictures, "denoised": source.course.denoised if source.course is not None else b""}
    return {name: base64.b64encode(content).decode() for name, content in found.items() if content}


def _notes(comparison: Comparison) -> list[str]:
    """What was warned of, each once, with the cells that it was warned of for."""
    found: dict[str, list[str]] = {}
    for result in comparison.results:
        for note in result.notes:
            found.setdefault(note, []).append(str(result.cell))
    return [f"{note} ({cells[0] if len(cells) == 1 else f'{len(cells)} cells'})" for note, cells in found.items()]


def _citations(comparison: Comparison) -> str:
    """BibTeX of the papers whose solvers, grids and methods were run, each once."""
    return bibtex(of_tableaux(result.tableau for result in comparison.measured if result.tableau is not None))
