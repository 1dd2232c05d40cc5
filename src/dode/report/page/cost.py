"""What distilling cost, and after how many samples it pays."""

from __future__ import annotations

import math

from dode.report.page.curves import label
from dode.report.page.evidence import Evidence
from dode.report.page.tables import Column, Entry, Row, Table, number
from dode.report.results import Result


def cost_table(evidence: Evidence) -> Table | None:
    """A row a distilled cell with a known cost; None where there is none."""
    rows = [_row(evidence, result) for result in evidence.distilled if result.evaluations]
    columns = [
        Column("solver", number=False),
        Column("NFE", "network evaluations of a sample"),
        Column("method", number=False),
        Column("evaluations", "network evaluations of one sample that the distillation took"),
        Column("seconds", "wall time of the distillation"),
        Column("in samples", "as many samples with this NFE take the same evaluations"),
        Column("saved a sample", "calls of the best undistilled solver that is as good, less its own"),
        Column("pays after", "samples after which the evaluations saved are more than those it took"),
    ]
    caption = (
        "What each distillation took, its measurements left out. It pays where the best undistilled solver needs more calls for the same "
        "mean error; the number of samples is that of the lower end of the 90 % interval, between the budgets measured."
    )
    return Table("cost", caption, columns, rows) if rows else None


def pays_after(evidence: Evidence, result: Result) -> tuple[float, float]:
    """Calls that each sample saves for sure, and after how many samples these are more than the distillation took; infinite if never."""
    equal = evidence.equal(result)
    if equal is None or not equal.low > result.cell.nfe:
        return 0.0, math.inf
    # Beyond the most calls measured it is the most that is known.
    surely = min(equal.low, max(evidence.best_bases))
    saved = surely - result.cell.nfe
    return saved, result.evaluations / saved if saved > 0 else math.inf


def _row(evidence: Evidence, result: Result) -> Row:
    cell, known = result.cell, result.evaluations
    saved, after = pays_after(evidence, result)
    entries = [
        Entry(cell.solver),
        Entry(str(cell.nfe), cell.nfe),
        Entry(label(cell)),
        Entry(f"{known:,}", known),
        Entry(number(result.seconds), result.seconds),
        Entry(f"{known / cell.nfe:,.0f}", known / cell.nfe),
        Entry(f"{saved:.1f}" if saved else "not surely any", saved),
        Entry(
            f"{math.ceil(after):,} samples" if math.isfinite(after) else "not known to",
            after if math.isfinite(after) else 1e300,
        ),
    ]
    return Row(entries, cell.solver, label(cell))
