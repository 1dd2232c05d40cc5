"""The folder of a report: records while it is made, then tables and plots, and its page at the end."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dode.files import write_atomically


def records_of(page: str) -> str:
    """The name of the records that belong to a page."""
    return str(Path(page).with_suffix(".jsonl"))


def check_report(folder: Path, names: Sequence[str], page: str, *, overwrite: bool) -> None:
    """The checks of `save_report`, to be made before long work. What an interrupted run left is no hindrance: records without a page.

    Raises:
        FileNotFoundError: no such folder.
        FileExistsError: it has some of the files and `overwrite` is False.
        ImportError: matplotlib is not installed.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"the folder {folder} does not exist: make it first")
    unfinished = (folder / records_of(page)).exists() and not (folder / page).exists()
    there = [name for name in (*names, page) if (folder / name).exists()]
    if there and not overwrite and not unfinished:
        raise FileExistsError(f"{folder} already has {', '.join(there)}: choose another folder, or start over (--force)")
    require_matplotlib()


def save_report(
    folder: Path, writers: Mapping[str, Callable[[Path], object]], page: str, text: str, *, overwrite: bool
) -> list[Path]:
    """Write files by name, then the page, which says that the report is finished; errors as `check_report`."""
    check_report(folder, list(writers), page, overwrite=overwrite)
    for name, writer in writers.items():
        write_atomically(folder / name, writer, overwrite=True)
    write_atomically(folder / page, lambda path: path.write_text(text, encoding="utf-8"), overwrite=True)
    return [folder / name for name in (*writers, page)]


def require_matplotlib() -> Any:
    """The matplotlib module with its figures; ImportError that names the extra where it is not installed."""
    try:
        import matplotlib
        import matplotlib.figure
    except ImportError:
        raise ImportError("plots need matplotlib: pip install 'dode[report]'") from None
    return matplotlib
