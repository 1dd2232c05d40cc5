"""Markdown of a model card; foreign text is escaped."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dode.foreign import printable

# What Markdown or HTML would read as more than a letter.
_MARKUP = re.compile(r"([\\`*_{}\[\]<>|#~&$!])")
# Characters of a value that is written out.
_SHORT = 80


def escaped(text: object, most: int = 200) -> str:
    """Foreign text on one line, as Markdown that shows it as it is."""
    return _MARKUP.sub(r"\\\1", printable(text, most))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def code(lines: Sequence[str], language: str = "python") -> str:
    return "\n".join([f"```{language}", *lines, "```"])


def listed(words: Sequence[str], joint: str = "or") -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {joint} {words[-1]}"


def value(given: Any) -> str:
    """As it is written in Python where it is short; what is no number, text or list of these stands as dots."""
    plain = isinstance(given, str | int | float | bool | list) or given is None
    text = printable(repr(given))
    return text if plain and len(text) <= _SHORT and "`" not in text else "..."
