"""Errors about names: what was asked for, the nearest that exists, all that exist."""

from collections.abc import Iterable
from difflib import get_close_matches


def unknown_name(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error to raise for a name that is not among the known ones."""
    known = list(known)
    near = get_close_matches(name, known, 1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ValueError(f"unknown {what} {name!r}: {hint}known: {', '.join(known)}")
