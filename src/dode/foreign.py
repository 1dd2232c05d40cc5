"""Text that others wrote: names in files, values in messages. A terminal obeys control characters, and rich its markup."""

from __future__ import annotations

import reprlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

# Characters of a name that are shown.
_MOST = 200
_BRIEF = reprlib.Repr()
_BRIEF.maxstring = _BRIEF.maxother = 100


def printable(text: object, most: int = _MOST) -> str:
    """One line without control characters, of at most so many characters."""
    whole = str(text)
    kept = "".join(c if c.isprintable() else " " if c.isspace() else "" for c in whole[:most])
    return f"{kept}..." if len(whole) > most else kept


def plain(text: object, most: int = _MOST, style: str = "") -> Text:
    """The same for rich, which takes no markup from it."""
    from rich.text import Text

    return Text(printable(text, most), style)


def brief(value: Any) -> str:
    """A value as Python writes it, cut where it is long."""
    return printable(_BRIEF.repr(value))


def first_line(error: BaseException) -> str:
    """Of what someone else's code says of a file, with the kind of error: a KeyError says a name alone."""
    first = (str(error).strip() or "no message").splitlines()[0]
    return printable(f"{type(error).__name__}: {first}")
