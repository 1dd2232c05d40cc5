"""Where results go: files and folders that are held, written and found."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import typer
from rich.console import Console


def reserve(context: typer.Context, out: Path, names: Sequence[str] | None, force: bool) -> None:
    """See that the output can be written, and hold it for this run; `names`: of a folder's files, None for a file."""
    from dode.locks import output_file, output_whole_folder

    if names is not None:
        context.with_resource(output_whole_folder(out, names, overwrite=force))
    else:
        context.with_resource(output_file(out, overwrite=force))


def command_line() -> str:
    import shlex

    return shlex.join(["dode", *sys.argv[1:]])


@contextmanager
def resumable(records: Path, shown: Console) -> Iterator[None]:
    """Say at Ctrl-C what is kept."""
    try:
        yield
    except KeyboardInterrupt:
        kept = f"what is done is kept in {records}: the same command without --force goes on from there"
        shown.print(kept, highlight=False, soft_wrap=True)
        raise
