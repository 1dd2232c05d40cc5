"""examples/tour.ipynb runs from top to bottom, and what its cells end in can be shown."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

NOTEBOOK = Path(__file__).parents[1] / "examples" / "tour.ipynb"
SHOWN = ("_repr_html_", "_repr_mimebundle_", "_repr_png_")


def cells() -> list[str]:
    """The code of the cells."""
    content = json.loads(NOTEBOOK.read_text(encoding="utf-8"))
    return ["".join(cell["source"]) for cell in content["cells"] if cell["cell_type"] == "code"]


def test_the_tour_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a kernel would: a cell's last expression is its result, which is asked for its richest form."""
    altair = pytest.importorskip("altair")
    monkeypatch.chdir(tmp_path)
    before = altair.renderers.active
    namespace: dict[str, Any] = {"__name__": "tour"}
    rich = []
    try:
        for source in cells():
            tree = ast.parse(source)
            last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
            exec(compile(tree, str(NOTEBOOK), "exec"), namespace)
            if isinstance(last, ast.Expr):
                value = eval(compile(ast.Expression(last.value), str(NOTEBOOK), "eval"), namespace)
                rich += [type(value).__name__ for name in SHOWN if getattr(value, name, lambda: None)()]
    finally:
        altair.renderers.enable(before)
    assert {"Distilled", "Tableau", "Comparison", "DataFrame", "Image"} <= set(rich)
    assert namespace["again"] == namespace["result"].tableau
    assert not list(tmp_path.iterdir())


def test_the_tour_asks_nobody() -> None:
    assert "http" not in NOTEBOOK.read_text(encoding="utf-8")
