"""The site's own pages: what is made of the commands and of the docstrings."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

pytest.importorskip("mkdocs")
griffe = pytest.importorskip("griffe")
ROOT = Path(__file__).parent.parent


def imported(name: str) -> ModuleType:
    """A module at the root of the repository."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


hooks, reference = imported("mkdocs_hooks"), imported("mkdocs_griffe")


@pytest.mark.parametrize(("name", "command"), hooks.commands().items(), ids=hooks.commands())
def test_a_command_s_page_has_every_option_once(name, command):
    page = hooks.command_page(name, command)
    table = page.split("## ", 1)[1]
    for param in command.params:
        for flag in (*param.opts, *param.secondary_opts):
            if flag.startswith("--"):
                assert len(re.findall(rf"^\|[^|]*`{re.escape(flag)}`", table, re.MULTILINE)) == 1, flag
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(command.params)
    # A bar in code is no end of a cell.
    assert all(len(re.findall(r"(?<!\\)\|", re.sub("`[^`]*`", "", row))) == 5 for row in rows)


def test_defaults_and_types_are_the_commands_own():
    page = hooks.command_page("distill", hooks.commands()["distill"])
    assert "dode distill MODEL --nfe TEXT --out PATH [OPTIONS]" in page
    assert re.search(r"^\| `--effort` \| text \| `balanced` \|", page, re.MULTILINE)
    assert re.search(r"^\| `--held-out` \| whole number \| `64` \|", page, re.MULTILINE)
    assert re.search(r"^\| `--option`, `-o` \| `NAME=VALUE` \|  \|", page, re.MULTILINE)
    assert re.search(r"^\| `--pictures`, `--no-pictures` \| flag \| yes \|", page, re.MULTILINE)


def link(markdown: str, uri: str) -> str:
    class Of:
        src_uri = uri

    class Page:
        file = Of

    return hooks.on_page_markdown(markdown, Page, None, None)


def test_links_out_of_the_docs_lead_to_pages_or_are_text():
    assert link("[a](../SECURITY.md#x)", "pipelines.md") == "[a](security.md#x)"
    assert link("[a](docs/pipelines.md)", "changelog.md") == "[a](pipelines.md)"
    assert link("[a](../tests/test_docs.py)", "pipelines.md") == "a"
    assert link("[a](README.md)", "benchmarks/overhead.md") == "[a](README.md)"
    assert link("[a](https://arxiv.org/abs/1)", "index.md") == "[a](https://arxiv.org/abs/1)"
    # What is not there stays, for the strict build to complain of.
    assert link("[a](../no.md)", "pipelines.md") == "[a](../no.md)"


@pytest.mark.parametrize(
    "tag", ['<img src="https://a.b/c.png">', '<link rel="x" href="//a.b/c.css">', "<script async src=http://a.b></script>"]
)
def test_a_page_that_would_load_something_from_elsewhere_is_refused(tag):
    class Page:
        file = type("File", (), {"src_uri": "index.md"})

    with pytest.raises(hooks.PluginError, match=r"index.md loads .*a\.b"):
        hooks.on_post_page(f"<p>{tag}</p>", Page, None)
    assert hooks.on_post_page('<a href="https://a.b">a</a><img src="c.png">', Page, None)


def test_a_small_number_is_one_word():
    html = hooks.on_page_content("<td>1.2e-03 ± 4e-05</td><code>x-e-1</code>", None, None, None)
    assert html == '<td><span class="number">1.2e-03</span> ± <span class="number">4e-05</span></td><code>x-e-1</code>'


def test_names_that_share_a_description_are_told_apart():
    text = "Title.\n\nArgs:\n    a, b: two\n        lines.\n    c: one.\n"
    assert reference.told_apart(text) == (
        "Title.\n\nArgs:\n    a: two\n        lines.\n    b: two\n        lines.\n    c: one.\n"
    )


def test_a_function_that_makes_its_signature_is_shown_with_it():
    front = griffe.load("dode.front", search_paths=[str(ROOT / "src")], extensions=griffe.load_extensions(reference.Reference))
    assert {"model", "solver", "nfe", "effort", "prompts", "cond"} <= {each.name for each in front["distill"].parameters}
