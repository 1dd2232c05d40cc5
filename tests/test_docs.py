"""The Python in README, CONTRIBUTING and docs runs, and links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import dode
from dode.distillation.result import render, summary

ROOT = Path(__file__).parent.parent
TABLEAUX = sorted((ROOT / "docs" / "benchmarks" / "tableaux").rglob("*.json"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace, as a reader would run them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("path", TABLEAUX, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_tableaux_of_the_benchmarks_load_and_show(path: Path) -> None:
    tableau = dode.Tableau.load(path)
    assert tableau.nfe == int(path.stem.rsplit("-", 1)[1])
    assert "effort thorough" in render(summary(tableau))
