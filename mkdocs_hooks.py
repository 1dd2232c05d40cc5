"""Pages of the site that no file in docs/ holds: one for each command, and the files that belong to the repository's root.

A command's page comes from the command itself when the site is built, so that it cannot go stale.
"""

from __future__ import annotations

import inspect
import os
import re
import types
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from dode.cli import app

ROOT = Path(__file__).parent
COMMANDS, MODELS = "commands/", "models/"
CARDS = {f"{MODELS}{card.parent.name}.md": card for card in sorted((ROOT / "src" / "dode" / "models").glob("*/README.md"))}
# What the site shows of the repository outside docs/, and where.
ELSEWHERE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    **{str(card.relative_to(ROOT)): page for page, card in CARDS.items()},
}
README = {"README.md": "index.md"}
# What a browser fetches by itself.
_LOADED = re.compile(r"""<(?:script|img|iframe|source|link)\b[^>]*\b(?:src|srcset|href)=["']?(?:https?:)?//[^>]*>""")
_SMALL = re.compile(r"(?<=[\s>(])\d[\d.]*e-\d+(?=[\s<,;)])")
_TYPES = {str: "text", int: "whole number", float: "number", Path: "path", bool: "flag"}


def commands() -> dict[str, Any]:
    """The commands by name."""
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the commands and the model cards where the navigation asks for them."""
    made = {
        COMMANDS: [f"{COMMANDS}index.md", *({f"dode {name}": f"{COMMANDS}{name}.md"} for name in commands())],
        MODELS: [{card.parent.name.replace("_", "-"): page} for page, card in CARDS.items()],
    }

    def filled(item: Any) -> Any:
        return made.get(item, item) if isinstance(item, str) else item

    config.nav = [{name: filled(item) for name, item in entry.items()} for entry in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made."""
    found = commands()
    made = {f"{COMMANDS}index.md": command_list(found)}
    made |= {f"{COMMANDS}{name}.md": command_page(name, command) for name, command in found.items()}
    made |= {page: (ROOT / source).read_text(encoding="utf-8") for source, page in ELSEWHERE.items()}
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links that lead out of docs/ lead to the page that the site has instead, or are plain text."""
    uri = page.file.src_uri
    source = next((source for source, made in ELSEWHERE.items() if made == uri), f"docs/{uri}")
    return re.sub(r"(?<!!)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)", lambda link: _link(link, source, uri), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Numbers such as 1.2e-03 are not broken at their minus."""
    return _SMALL.sub(r'<span class="number">\g<0></span>', html)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """See that a page loads nothing from another host; links, which a reader follows, may lead there.

    Raises:
        PluginError: it would.
    """
    asked = _LOADED.search(output)
    if asked is not None:
        raise PluginError(f"{page.file.src_uri} loads {asked[0]}: keep a copy in docs/")
    return output


def on_post_build(config: MkDocsConfig) -> None:
    """The index of the search as a script too: pages that are opened as files may not read it otherwise, and ask for this one."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")


def _link(link: re.Match[str], source: str, uri: str) -> str:
    """A Markdown link of a repository's file as the page `uri` has it."""
    text, target, anchor = link[1], link[2], link[3] or ""
    if "://" in target or target.startswith("mailto:"):
        return link[0]
    led = os.path.normpath(PurePosixPath(source).parent / target)
    shown = {**ELSEWHERE, **README}.get(led)
    if shown is None and led.startswith("docs/"):
        shown = led.removeprefix("docs/")
    if shown is None:
        return text if (ROOT / led).exists() else link[0]
    return f"[{text}]({os.path.relpath(shown, PurePosixPath(uri).parent)}{anchor})"


def command_list(found: dict[str, Any]) -> str:
    """The page that lists the commands."""
    rows = [f"| [`dode {name}`]({name}.md) | {_sentence(command)} |" for name, command in found.items()]
    return "\n".join(
        [
            "# Commands",
            "",
            "`dode COMMAND --help` says what is on these pages, which are made of it.",
            "",
            "| command | |",
            "|---|---|",
            *rows,
            "",
            "Exit codes: 0; 2 for bad input, in one line; 3 where a result diverges and the base was written in its place; 130 and 143 "
            "after Ctrl-C and SIGTERM, with nothing left half-written. `dode --version` prints the version.",
            "",
        ]
    )


def command_page(name: str, command: Any) -> str:
    """The page of a command: its help, and a table of its arguments and options with types and defaults."""
    hints = get_type_hints(inspect.unwrap(command.callback), include_extras=True)
    arguments = [param for param in command.params if not param.opts[0].startswith("-")]
    options = [param for param in command.params if param.opts[0].startswith("-")]
    required = " ".join(f"{param.opts[-1]} {value_of(param, hints)}" for param in options if param.required)
    usage = " ".join(filter(None, ["dode", name, *(value_of(param, hints) for param in arguments), required, "[OPTIONS]"]))
    lines = [f"# dode {name}", "", _prose(command.help), "", "```sh title='Usage'", usage, "```", ""]
    for title, params in (("Arguments", arguments), ("Options", options)):
        if params:
            lines += [f"## {title}", "", "| | value | default | |", "|---|---|---|---|"]
            lines += [_row(param, hints) for param in params]
            lines += [""]
    return "\n".join(lines)


def value_of(param: Any, hints: dict[str, Any]) -> str:
    """What stands for a parameter's value in a usage line."""
    return param.metavar or (
        param.name.upper().replace("_", "-") if param.opts[0] == param.name else _type(param, hints).upper()
    )


def _row(param: Any, hints: dict[str, Any]) -> str:
    flags = ", ".join(f"`{flag}`" for flag in (*param.opts, *param.secondary_opts))
    if not param.opts[0].startswith("-"):
        flags = f"`{value_of(param, hints)}`"
    shown = _type(param, hints) if param.metavar is None or not flags.startswith("`-") else f"`{param.metavar}`"
    default = "required" if param.required else _default(param)
    return f"| {flags} | {shown} | {default} | {_cell(param.help or '')} |"


def _default(param: Any) -> str:
    if param.default in (None, False):
        return ""
    return "yes" if param.default is True else f"`{param.default}`"


def _type(param: Any, hints: dict[str, Any]) -> str:
    """The type of a parameter in words; that of an item where it may be repeated."""
    hint = hints[param.name]
    while get_origin(hint) is Annotated or get_origin(hint) in (Union, types.UnionType, list):
        hint = next(part for part in get_args(hint) if part is not type(None))
    return _TYPES[hint]


def _prose(text: str) -> str:
    """A docstring's paragraphs as Markdown: an example of the command line becomes a block of code."""
    blocks = []
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        line = " ".join(paragraph.split())
        example = re.fullmatch(r"(?:For example: )?(dode .*)", line)
        blocks.append(f"```sh\n{example[1]}\n```" if example else _escaped(line))
    return "\n\n".join(blocks)


def _sentence(command: Any) -> str:
    return _cell(" ".join(command.help.split("\n\n")[0].split()))


def _cell(text: str) -> str:
    return _escaped(" ".join(text.split())).replace("|", "\\|")


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, but for code between back-quotes; options become code."""
    parts = re.split(r"(`[^`]*`)", text)
    for i in range(0, len(parts), 2):
        plain = parts[i].replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")
        parts[i] = re.sub(r"(?<![\w-])(--[a-z][\w-]*)", r"`\1`", plain)
    return "".join(parts)
