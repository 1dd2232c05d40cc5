"""Notes on errors that are not ours: what dode was doing when a network, or anything else of the caller's, raised its own error."""

from __future__ import annotations

import sys
from contextlib import suppress

import torch


def add_note(error: Exception, note: str) -> None:
    """Add a line to an error, whose type and arguments stay what they are. Errors of memory pass as they are: what is caught by their type
    is tried again with less, and their text is read by programs.

    Python 3.10 knows no notes: there the line is added to the message too, where the error's first argument is one.
    """
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return
    with suppress(AttributeError):  # an error that lets nothing be added to it
        error.__notes__ = [*getattr(error, "__notes__", ()), note]  # type: ignore[attr-defined]
        if sys.version_info < (3, 11) and error.args and isinstance(error.args[0], str):
            error.args = (f"{error.args[0]} ({note})", *error.args[1:])
