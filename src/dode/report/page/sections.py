"""What the page says about a comparison: what its templates show, its charts, and the data that it keeps for the reader's choices."""

from __future__ import annotations

from typing import Any

from dode.report.page.curves import curves, label, methods
from dode.report.page.drawing import Chart
from dode.report.page.tables import results_table
from dode.report.results import METRICS, Comparison


def sections(comparison: Comparison) -> tuple[dict[str, Any], list[Chart], dict[str, Any]]:
    """What the templates are filled with, all charts, and the data of the page."""
    captions = {name: METRICS[name].meaning for name in comparison.metrics}
    drawn = curves(comparison, captions)
    charts = [chart for pair in drawn.values() for chart in pair]
    context = {
        "setting": comparison.setting,
        "reference": comparison.reference,
        "solvers": comparison.solvers,
        "methods": methods(comparison),
        "budgets": comparison.budgets,
        "metrics": {name: METRICS[name] for name in comparison.metrics},
        "curves": drawn,
        "table": results_table(comparison),
    }
    data = {
        "budgets": comparison.budgets,
        "cells": [{"solver": r.cell.solver, "nfe": r.cell.nfe, "method": label(r.cell)} for r in comparison.results],
    }
    return context, charts, data
