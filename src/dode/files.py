"""Writing files so that nothing half-written is ever seen, and that what cannot be written is known before the work."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

# In the names of temporary files, so that those of killed runs are known.
_MARK = ".dode-"


def write_atomically(path: Path, write: Callable[[Path], Any], *, overwrite: bool = False) -> None:
    """Call `write` with a temporary file beside `path`, then rename it; on any failure the temporary file is removed.

    A symbolic link is followed, also one whose target is not there yet: the target is written, and the link stays.

    Raises:
        FileExistsError: `path` is there and `overwrite` is False.
        FileNotFoundError: the folder of `path`, or of what it links to, is not there.
        OSError: the folder or the file cannot be written.
    """
    target = _target(path, overwrite)
    temporary = _temporary(target)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, overwrite: bool = False) -> None:
    """The checks of `write_atomically`, to be made before long work; a temporary file is made, and removed again."""
    _temporary(_target(path, overwrite)).unlink()


def write_folder(path: Path, write: Callable[[Path], Any], names: Sequence[str], *, overwrite: bool = False) -> None:
    """Call `write` with a temporary folder beside `path`, then rename it; on any failure nothing of it is left, and what was there stays.

    Args:
        path: the folder; an empty one may be there. A symbolic link is followed.
        write: makes the files.
        names: of the files that it makes, patterns: a folder that holds anything else is not replaced.
        overwrite: replace one that has such files.

    Raises:
        FileExistsError: the folder is there and `overwrite` is False, or it has other files.
        FileNotFoundError: the folder that it is to be made in is not there.
        OSError: it cannot be written.
    """
    target = _folder_target(path, names, overwrite)
    temporary = _temporary_folder(target)
    try:
        write(temporary)
        temporary.chmod(0o777 & ~_umask())
        _take_the_place(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_folder_writable(path: Path, names: Sequence[str], *, overwrite: bool = False) -> None:
    """The checks of `write_folder`, to be made before long work."""
    _temporary(_folder_target(path, names, overwrite)).unlink()


def check_folder(folder: Path) -> None:
    """Raise OSError if files cannot be made in a folder, which need not be there yet; nothing is left behind."""
    nearest = Path(os.path.realpath(folder))
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir():
        raise NotADirectoryError(f"{folder} cannot be a folder, since {nearest} is a file: name another one")
    _temporary(nearest / "check").unlink()


def sweep(folder: Path, name: str = "*", age: float = 0.0) -> None:
    """Remove the temporary files and folders that killed runs left in a folder.

    Args:
        folder: where they are.
        name: of the files or folders that they were to become, a pattern.
        age: seconds since something was last written into them: what is younger may belong to a run that goes on.
    """
    before = time.time() - age
    for left in folder.glob(f".{Path(name).stem}{_MARK}*{Path(name).suffix}"):
        with suppress(OSError):
            if left.stat().st_mtime <= before:
                shutil.rmtree(left) if left.is_dir() else left.unlink()


def _target(path: Path, overwrite: bool) -> Path:
    """The file that is to be written: `path`, or what it links to."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(f"{path} is a link that leads back to itself: name another file")
    if not target.parent.is_dir():
        towards = "" if target.parent == path.parent.absolute() or not path.is_symlink() else f", where the link {path} leads,"
        where = target.parent if towards else path.parent
        raise FileNotFoundError(f"the folder {where}{towards} does not exist: make it first")
    if target.is_dir():
        raise FileExistsError(f"{path} is a folder: name a file")
    if target.exists():
        if not overwrite:
            raise FileExistsError(f"{path} exists: choose another name, or overwrite it (--force)")
        if not os.access(target, os.W_OK):
            raise PermissionError(f"{path} is read-only: choose another name, or allow writing it")
    return target


def _folder_target(path: Path, names: Sequence[str], overwrite: bool) -> Path:
    """The folder that is to be written: `path`, or what it links to."""
    target = Path(os.path.realpath(path))
    if target.is_symlink():
        raise OSError(f"{path} is a link that leads back to itself: name another folder")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: make it first")
    if target.exists() and not target.is_dir():
        raise FileExistsError(f"{path} is a file: name a folder")
    there = sorted(target.iterdir()) if target.exists() else []
    if there and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or overwrite it (--force)")
    for child in there:
        if child.is_dir() or not any(fnmatch(child.name, name) for name in names):
            raise FileExistsError(
                f"{path} has other things than what is written there, such as {child.name}: name another folder"
            )
    return target


def _take_the_place(temporary: Path, target: Path) -> None:
    """Rename a folder to one that may be there, which goes, or stays if that fails."""
    if not target.exists():
        temporary.rename(target)
        return
    aside = _temporary_folder(target)
    former = aside / "former"
    target.rename(former)
    try:
        temporary.rename(target)
    except BaseException:
        former.rename(target)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _temporary(target: Path) -> Path:
    """A new empty file beside another one."""
    with _refused(target.parent):
        handle, name = tempfile.mkstemp(prefix=f".{target.stem}{_MARK}", suffix=target.suffix, dir=target.parent)
    os.close(handle)
    return Path(name)


def _temporary_folder(target: Path) -> Path:
    """A new empty folder beside another one."""
    with _refused(target.parent):
        return Path(tempfile.mkdtemp(prefix=f".{target.stem}{_MARK}", suffix=target.suffix, dir=target.parent))


@contextmanager
def _refused(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise type(error)(
            f"no file can be made in the folder {folder} ({error.strerror or error}): choose another one, or allow it"
        ) from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
