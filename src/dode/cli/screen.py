"""What is said, on standard output and on standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from dode import stopping
from dode.foreign import printable

console = Console(markup=False)  # names and paths are no markup
errors = Console(stderr=True, markup=False)
# Characters of an error or a warning: paths and names in it may be anyone's.
_LONGEST = 2000


def warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as one line."""
    errors.print(f"warning: {printable(message, _LONGEST)}", highlight=False, soft_wrap=True)


def fail(message: str) -> None:
    if stopping.heard():  # what a signal broke is no fault of the input
        raise KeyboardInterrupt
    errors.print(f"error: {printable(message, _LONGEST)}", highlight=False, soft_wrap=True)
    sys.exit(2)


@contextmanager
def failing_in_a_line() -> Iterator[None]:
    """What a pipeline raises may be of any kind; where it was called is noted on it."""
    try:
        yield
    except (ValueError, TypeError, OSError, FloatingPointError, ImportError):
        raise
    except Exception as error:
        notes = getattr(error, "__notes__", [])
        if not notes and "OutOfMemory" not in type(error).__name__:
            raise
        raised = ValueError(f"{type(error).__name__}: {error}")
        raised.__notes__ = notes  # type: ignore[attr-defined]
        raise raised from error
