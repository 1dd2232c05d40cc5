"""What is to be cited for a solver, a tableau and a result."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest
from mixture import mixture_denoiser
from typer.testing import CliRunner

import dode
from dode.citations import METHOD, PAPERS, bibtex
from dode.cli import app
from dode.distillation import PAPER
from dode.grids import FAMILIES, PUBLISHED
from dode.schedules import VP
from dode.solvers import REGISTRY

ROOT = Path(__file__).parent.parent
SCHEDULE = VP.linear()
SAVED = ROOT / "docs" / "benchmarks" / "tableaux" / "fashion"
# arXiv's numbers since 2007: year, month, and a number in it.
ARXIV = re.compile(r"\d\d(0[1-9]|1[0-2])\.\d{4,5}")


def keys(text: str) -> list[str]:
    """The keys of BibTeX's entries, in their order."""
    return re.findall(r"^@\w+\{([^,]+),$", text, re.MULTILINE)


@pytest.fixture(scope="module")
def distilled():
    return dode.distill(mixture_denoiser(SCHEDULE), "unipc", nfe=(3, 4), samples=8, validation=0, held_out=0, **PAPER)


@pytest.mark.parametrize("paper", PAPERS.values(), ids=PAPERS)
def test_an_entry_is_whole(paper):
    text = paper.bibtex()
    assert keys(text) == [paper.key] and text.count("{") == text.count("}")
    assert ARXIV.fullmatch(paper.arxiv) and f"https://arxiv.org/abs/{paper.arxiv}" in text
    assert f"year = {{{paper.year}}}" in text
    # A preprint comes no later than what it is published in.
    assert 2000 + int(paper.arxiv[:2]) <= paper.year
    assert all(re.fullmatch(r"[^,]+, [^,]+", name) for name in paper.author.split(" and "))


def test_numbers_and_titles_are_each_of_one_paper():
    assert len({paper.arxiv for paper in PAPERS.values()}) == len({paper.title for paper in PAPERS.values()}) == len(PAPERS)


@pytest.mark.parametrize("family", REGISTRY.values(), ids=REGISTRY)
def test_every_solver_names_its_papers(family):
    assert family.papers and set(family.papers) <= set(PAPERS)
    assert keys(dode.solver(family.name).cite()) == list(family.papers)


@pytest.mark.parametrize("family", REGISTRY.values(), ids=REGISTRY)
def test_the_source_of_a_solver_names_the_numbers_of_its_papers(family):
    source = Path(__import__(family.rows.__module__, fromlist=["_"]).__file__).read_text()
    for key in family.papers:
        assert PAPERS[key].arxiv in source


def test_grids_name_papers_that_are_there():
    assert {key for grid in (FAMILIES | PUBLISHED).values() for key in grid.papers} <= set(PAPERS)


def test_a_tableau_cites_solver_and_grid_and_no_method():
    tableau = dode.solver("ddim").tableau(SCHEDULE, nfe=4, grid="karras")
    assert keys(tableau.cite()) == ["song2021ddim", "karras2022edm"]
    assert "% the grid, karras" in tableau.cite()


@pytest.mark.parametrize("name", ["ays-sd15", "ays-sdxl"])
def test_a_published_grid_is_cited(name):
    tableau = dode.solver("unipc").tableau(VP.scaled_linear(), nfe=5, grid=name)
    assert keys(tableau.cite()) == ["zhao2023unipc", "sabour2024ays"]


def test_options_of_solver_and_grid_change_nothing():
    plain = dode.solver("deis").tableau(SCHEDULE, nfe=4, grid="karras")
    other = dode.solver("deis", order=1).tableau(SCHEDULE, nfe=4, grid=FAMILIES["karras"](rho=5.0))
    assert plain.cite() == other.cite()


def test_a_paper_stands_once():
    assert keys(dode.solver("edm").tableau(SCHEDULE, nfe=5, grid="karras").cite()) == ["karras2022edm"]


def test_explicit_times_and_unknown_solvers_cite_nothing():
    tableau = dode.solver("ddim").tableau(SCHEDULE, grid=[999, 500, -1])
    assert keys(tableau.cite()) == ["song2021ddim"]
    assert replace(tableau, solver="of nobody").cite() == replace(tableau, solver="").cite() == ""


def test_what_was_distilled_cites_the_method_first(distilled):
    assert keys(distilled[3].cite()) == [METHOD, "zhao2023unipc"]
    assert distilled[3].cite() == distilled[3].tableau.cite() == distilled.cite()


def test_a_first_output_of_zero_has_its_paper(distilled):
    zero = replace(distilled[3].tableau, first="zero")
    assert keys(zero.cite()) == [METHOD, "zhao2023unipc", "dockhorn2022genie"]


def test_a_saved_tableau_cites_what_it_did(distilled, tmp_path):
    distilled[3].save(tmp_path / "made.json")
    assert dode.Tableau.load(tmp_path / "made.json").cite() == distilled[3].cite()


def test_the_command_prints_bibtex(distilled, tmp_path):
    file = SAVED / "deis-thorough-5.json"
    printed = CliRunner().invoke(app, ["show", str(file), "--cite"])
    assert printed.exit_code == 0 and printed.stdout == dode.Tableau.load(file).cite() + "\n"
    distilled.save(tmp_path / "made.json")
    printed = CliRunner().invoke(app, ["show", str(tmp_path / "made.json"), "--cite"])
    assert printed.exit_code == 0 and keys(printed.stdout) == [METHOD, "zhao2023unipc"]


def test_nothing_to_cite_is_the_empty_text():
    assert bibtex({}) == ""
