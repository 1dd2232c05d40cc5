"""The Python in README, CONTRIBUTING and docs runs, command lines parse, links lead somewhere, and the reference has all that is public."""

from __future__ import annotations

import importlib
import inspect
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

import dode
from dode.cli import app
from dode.distillation.result import render, summary

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
TABLEAUX = sorted((DOCS / "benchmarks" / "tableaux").rglob("*.json"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
COMMANDS = typer.main.get_command(app).commands
# Pages of the site that no file in docs/ holds; mkdocs_hooks.py makes them, and the site's strict build follows these links.
MADE = {DOCS / "commands" / f"{name}.md" for name in ("index", *COMMANDS)}


def blocks(text: str, language: str) -> list[str]:
    """The fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def command_lines() -> Iterator[tuple[str, str]]:
    """Every `dode ...` of the pages' shell blocks and of the commands' own help, with where it stands."""
    for page in PAGES:
        for block in blocks(page.read_text(encoding="utf-8"), "sh"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("dode "):
                    yield page.name, line
    for name, command in COMMANDS.items():
        for paragraph in inspect.cleandoc(command.help).split("\n\n"):
            if example := re.fullmatch(r"(?:For example: )?(dode .*)", " ".join(paragraph.split())):
                yield f"help of {name}", example[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, in one namespace, as a reader would run them."""
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page.read_text(encoding="utf-8"), "python"):
        exec(compile(block, str(page), "exec"), namespace)


@pytest.mark.parametrize(("where", "line"), list(command_lines()))
def test_command_lines_are_understood(where: str, line: str) -> None:
    """The command is known, so are its options, and nothing that it needs is left out."""
    _, name, *arguments = shlex.split(line, comments=True)
    COMMANDS[name].make_context(name, arguments)


def test_scripts_that_pages_name_are_there() -> None:
    for page in PAGES:
        for script in re.findall(r"python ((?:benchmarks|examples|training)/\w+\.py)", page.read_text(encoding="utf-8")):
            assert (ROOT / script).is_file(), f"{page.name} names {script}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_within_the_repository_exist(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            led = page.parent / target
            assert led.exists() or led.resolve() in MADE, f"{page.name} links to {target}"


@pytest.mark.parametrize("path", TABLEAUX, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_the_tableaux_of_the_benchmarks_load_and_show(path: Path) -> None:
    tableau = dode.Tableau.load(path)
    assert tableau.nfe == int(path.stem.rsplit("-", 1)[1])
    assert "effort thorough" in render(summary(tableau))


def test_the_reference_has_all_that_is_public() -> None:
    """What `dode` and its packages export: by itself, or with the whole of its module."""
    listed: set[str] = set()
    for page in (DOCS / "api").glob("*.md"):
        listed |= set(re.findall(r"^::: (\S+)", page.read_text(encoding="utf-8"), re.MULTILINE))
    packages = (
        "dode",
        "dode.distillation",
        "dode.metrics",
        "dode.models",
        "dode.report",
        "dode.sharing",
        "dode.integrations.diffusers",
    )
    missing = []
    for package in packages:
        holder = importlib.import_module(package)
        for name in holder.__all__:
            made = getattr(holder, name)
            if inspect.ismodule(made):
                continue
            alone = name in {entry.rsplit(".", 1)[1] for entry in listed}
            if not (alone or getattr(made, "__module__", "") in listed or name in _INNER):
                missing.append(f"{package}.{name}")
    assert not missing


# Parts that only other parts of the library use.
_INNER = {"in_order"}
