"""The folder of a report: what is kept of it in `cache/`, its tables, its tableaux and its plots, and the page.

A folder whose cache carries this program's mark is a report of its own, finished or not, which a command goes on with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dode.files import write_atomically

# What a report is made of, and what it keeps; the page is `dode.report.page`'s.
PAGE, CACHE, TABLEAUX, PLOTS = "index.html", "cache", "tableaux", "plots"
_NAMES = (PAGE, "results.csv", "results.json", "study.csv", "study.json", TABLEAUX, PLOTS)
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


@contextmanager
def begun_report(folder: Path) -> Iterator[Path]:
    """The cache of a report that is being made; a folder that was none is none again where nothing came of it. Errors as `mark_report`."""
    before = is_report(folder)
    cache = mark_report(folder)
    try:
        yield cache
    finally:
        if not before and [path.name for path in cache.iterdir()] == [_TAG]:
            (cache / _TAG).unlink()
            cache.rmdir()
