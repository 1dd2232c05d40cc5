"""The folder of a report: what is kept of it in `cache/`, its tables, its tableaux and its plots, and the page.

A folder whose cache carries this program's mark is a report of its own, finished or not, which a command goes on with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dode.files import write_atomically

# What a report is made of, and what it keeps; the page is `dode.report.page`'s.
PAGE, CACHE, TABLEAUX, PLOTS = "index.html", "cache", "tableaux", "plots"
_NAMES = (PAGE, "results.csv", "results.json", TABLEAUX, PLOTS)
# https://bford.info/cachedir/: programs that copy folders may leave this one out.
_TAG, _MARK = "CACHEDIR.TAG", "Signature: 8a477f597d28d172789f06886806bc55\n# What a report of dode has found.\n"


def check_own(folder: Path, *, overwrite: bool) -> None:
    """See, before long work, that what a report writes into a folder takes the place of a report's files alone.

    Raises:
        FileExistsError: files of other origin have such names, and `overwrite` is False.
    """
    if not is_report(folder) and not overwrite:
        check_no_report(folder, "which no report of dode made")


def check_no_report(folder: Path, whose: str = "of a report that is there") -> None:
    """
    Raises:
        FileExistsError: a folder has files that a report writes.
    """
    if there := [name for name in _NAMES if (folder / name).exists()]:
        raise FileExistsError(f"{folder} has {', '.join(there)}, {whose}: choose another folder, or start over (--force)")


def is_report(folder: Path) -> bool:
    """Whether a folder holds a report, finished or not."""
    tag = folder / CACHE / _TAG
    return tag.is_file() and tag.read_bytes() == _MARK.encode()


def mark_report(folder: Path) -> Path:
    """Make a folder a report's, where it is none; its cache.

    Raises:
        FileNotFoundError: the folder that it is to be made in is not there.
        OSError: it cannot be written.
    """
    folder.mkdir(exist_ok=True)
    cache = folder / CACHE
    cache.mkdir(exist_ok=True)
    if not is_report(folder):
        write_atomically(cache / _TAG, lambda path: path.write_text(_MARK, encoding="utf-8"), overwrite=True)
    return cache


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
