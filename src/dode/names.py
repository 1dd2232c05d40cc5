"""Errors about names: what was asked for, the nearest that exists, all that exist."""

from collections.abc import Iterable
from difflib import get_close_matches

from dode.foreign import brief

# A name that is longer is compared by its beginning: comparing takes the square of the length.
_COMPARED = 100


def unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error to raise for a name that is not among the known ones."""
    known = list(known)
    near = get_close_matches(name[:_COMPARED], known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {what} {brief(name)}: {hint}known: {', '.join(known)}")
