"""One run at a time on one output, from before the work to its end."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from glob import escape
from pathlib import Path

from dode.files import check_folder, check_folder_writable, check_writable, sweep


@contextmanager
def output_file(path: Path, *, overwrite: bool = False) -> Iterator[None]:
    """A file that will be written at the end of long work: it can be, and nobody else is about to.

    Raises:
        BlockingIOError: another run is.
        OSError: as `dode.files.write_atomically`.
    """
    check_writable(path, overwrite=overwrite)
    target = Path(os.path.realpath(path))
    with _locked(target.with_name(f".{target.name}.lock"), path):
        # The one that held it may have written it since.
        check_writable(path, overwrite=overwrite)
        sweep(target.parent, escape(target.name))
        yield


@contextmanager
def output_whole_folder(path: Path, names: Sequence[str], *, overwrite: bool = False) -> Iterator[None]:
    """A folder that `dode.files.write_folder` will write at the end of long work: it can be, and nobody else is about to.

    Raises:
        BlockingIOError: another run is.
        OSError: as `dode.files.write_folder`.
    """
    check_folder_writable(path, names, overwrite=overwrite)
    target = Path(os.path.realpath(path))
    with _locked(target.with_name(f".{target.name}.lock"), path):
        check_folder_writable(path, names, overwrite=overwrite)
        sweep(target.parent, escape(target.name))
        yield


@contextmanager
def output_folder(path: Path, names: str) -> Iterator[None]:
    """A folder that will be written into, for this run alone. It is made where it is not there, and goes again if it stays empty.

    Args:
        path: the folder.
        names: of the files to write, a pattern.

    Raises:
        BlockingIOError: another run writes into it.
        FileNotFoundError: the folder that it is to be made in is not there.
        OSError: it cannot be written.
    """
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: make it first")
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(f"{path} is a file: name a folder")
    check_folder(path)
    made = not target.exists()
    target.mkdir(exist_ok=True)
    try:
        with _locked(target / ".dode.lock", path):
            sweep(target, names)
            yield
    finally:
        if made:
            with suppress(OSError):  # where something was written
                target.rmdir()


@contextmanager
def _locked(file: Path, output: Path) -> Iterator[None]:
    """Hold a lock file, and remove it at the end. The kernel lets go of it when a process ends, however that ends, so what a killed
    one left is simply taken over."""
    from filelock import FileLock, Timeout

    holder = _text(file)
    lock = FileLock(file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            f"{output} is being written by {holder or 'another run'}: wait for it, or name another output"
        ) from None
    try:
        now = datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
        file.write_text(f"process {os.getpid()} on {platform.node()}, since {now}", encoding="utf-8")
        yield
    finally:
        with suppress(OSError):
            file.unlink()
        lock.release()


def _text(file: Path) -> str:
    """What a lock file says of who holds it."""
    try:
        return file.read_text(encoding="utf-8")[:200]
    except (OSError, UnicodeDecodeError):
        return ""
