"""Writing files so that nothing half-written is ever seen."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, write: Callable[[Path], Any], *, overwrite: bool = False) -> None:
    """Call `write` with a temporary file beside `path`, then rename it; on any failure the temporary file is removed.

    Raises:
        FileExistsError: `path` is there and `overwrite` is False.
        FileNotFoundError: the folder of `path` is not there.
    """
    check_writable(path, overwrite=overwrite)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path, *, overwrite: bool = False) -> None:
    """The checks of `write_atomically`, to be made before long work."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"the folder {path.parent} does not exist: make it first")
    if path.is_dir():
        raise FileExistsError(f"{path} is a folder: name a file")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists: choose another name, or overwrite it (--force)")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
