"""Where results go: files and folders that are held, written and found."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

# Files of the folders that `distill` writes, for a pipeline and for a network.
OF_PIPELINE = ("scheduler_config.json", "README.md", "pictures-*.png")
OF_NETWORK = ("nfe-*.json",)


def reserve(context: typer.Context, out: Path, names: Sequence[str] | None, force: bool) -> None:
    """See that the output can be written, and hold it for this run; `names`: of a folder's files, None for a file."""
    from dode.locks import output_file, output_whole_folder

    if names is not None:
        context.with_resource(output_whole_folder(out, names, overwrite=force))
    else:
        context.with_resource(output_file(out, overwrite=force))


def write_result(result: Any, out: Path, force: bool) -> None:
    """A network's tableau, or a folder with one for each number of evaluations."""
    from dode.distillation import DistilledSet
    from dode.files import write_folder

    if not isinstance(result, DistilledSet):
        result.save(out, overwrite=force)
        return

    def write(folder: Path) -> None:
        for each in result:
            each.save(folder / f"nfe-{each.tableau.nfe}.json")

    write_folder(out, write, OF_NETWORK, overwrite=force)


def tables_in(folder: Path) -> list[Path]:
    """The tableaux of a folder from `dode distill`, fewest evaluations first."""
    found = {path: path.stem.removeprefix("nfe-") for path in folder.glob("nfe-*.json")}
    return sorted((path for path, number in found.items() if number.isdigit()), key=lambda path: int(found[path]))


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
