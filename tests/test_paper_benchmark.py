"""The benchmark of the paper's tables: what it measures, and that its page is that of its results."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

import dode
from dode.distillation.directions import paper
from dode.schedules import EDM, VP

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "benchmarks"))

from paper_bench import directions_of  # noqa: E402
from paper_cells import BUDGETS, SOLVERS, cells, solver_of  # noqa: E402

EVERY = tuple({name for names in SOLVERS.values() for name in names})


def test_no_cell_is_measured_twice_and_references_come_first() -> None:
    found = list(cells(tuple(SOLVERS), EVERY, BUDGETS))
    assert len({cell.key for cell in found}) == len(found)
    assert [cell.part for cell in found[: len(SOLVERS)]] == ["reference"] * len(SOLVERS)
    assert {cell.solver for cell in cells(("fashion",), ("ddim",), (5,)) if cell.part == "main"} == {"ddim"}


@pytest.mark.parametrize(
    ("solver", "schedule"), [("ddim", VP.linear()), ("deis", VP.linear()), ("edm-euler", EDM()), ("edm-heun", EDM())]
)
def test_the_papers_direction_is_in_the_span_of_the_forms_that_have_more(
    solver: str, schedule: dode.schedules.NoiseSchedule
) -> None:
    tableau = solver_of(solver).tableau(schedule, 5)
    mine = paper(tableau)
    two, more = directions_of(tableau, "two weights"), directions_of(tableau, "two differences")
    np.testing.assert_allclose(two.a[0] - two.a[1], mine.a[0], atol=1e-12)
    np.testing.assert_allclose(two.b[0] - two.b[1], mine.b[0], atol=1e-12)
    np.testing.assert_allclose(more.a[0], mine.a[0], atol=1e-12)
    np.testing.assert_allclose(more.b[0], mine.b[0], atol=1e-12)
    assert not more.b[1][:1].any()  # there is nothing before the first


def test_the_page_is_that_of_the_results(tmp_path: Path) -> None:
    from paper_page import write_page

    folder = tmp_path / "benchmarks" / "paper"
    shutil.copytree(ROOT / "docs" / "benchmarks" / "paper", folder)
    write_page(folder, tmp_path / "results.md")
    made = "python benchmarks/paper.py --out docs/benchmarks/paper --page docs/results.md"
    assert (tmp_path / "results.md").read_text() == (ROOT / "docs" / "results.md").read_text(), f"make it again: {made}"
