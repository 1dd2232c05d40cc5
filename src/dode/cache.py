"""What is kept between runs: entries of a folder that are whole and unchanged, or made again.

Every entry carries a digest of its content. Reading one costs a hash of its bytes, which is far below the evaluations that made it.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from dode.conditions import hash_tensor
from dode.files import sweep, write_atomically
from dode.seals import DIGEST, sealed, unsealed

# Part of the names of entries: raised where what they hold changes, so that older ones are not found.
FORM = 3
# Seconds after which a temporary file belongs to no run that goes on.
_ABANDONED = 3600.0

Kept = TypeVar("Kept")


class Cache:
    """A folder of entries, found by names that tell all that they depend on.

    Several runs may use one folder at the same time.

    Args:
        folder: where they are; made with the first one.
        strict: what cannot be written is an OSError; else it is not kept, which is said once.
    """

    def __init__(self, folder: Path, *, strict: bool = False) -> None:
        self.folder = folder
        self._strict = strict
        self._used = self._broken = False

    def tensors(self, name: str) -> dict[str, Tensor] | None:
        """The tensors of an entry, mapped from its file; None where it is not there or damaged."""
        return self._read(name, lambda path: _read_tensors(path, name))

    def keep_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an entry of tensors, which are on the host and contiguous."""
        metadata = {DIGEST: _digest(name, tensors)}
        self._write(name, lambda path: save_file(dict(tensors), path, metadata))

    def entry(self, name: str) -> Entry:
        """An entry of numbers and words that a run writes again and again."""
        return Entry(self, name)

    def _read(self, name: str, read: Callable[[Path], Kept]) -> Kept | None:
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            return read(path)
        except Exception as error:  # whatever foreign bytes do to a reader
            reason = " ".join(str(error).split())[:100] or type(error).__name__
            warnings.warn(f"{path} is damaged ({reason}): it is dropped and made again", stacklevel=3)
            with suppress(OSError):
                path.unlink()
            return None

    def _write(self, name: str, write: Callable[[Path], Any]) -> None:
        if self._broken:
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._used:
                sweep(self.folder, age=_ABANDONED)
                self._used = True
            write_atomically(self.folder / name, write, overwrite=True)
        except (OSError, SafetensorError) as error:
            if self._strict:
                raise not_kept(self.folder, error) from error
            self._broken = True
            warnings.warn(f"the cache {self.folder} cannot be written ({error}): the run goes on without it", stacklevel=3)


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry of a cache that holds what JSON can."""

    cache: Cache
    name: str

    def read(self) -> dict[str, Any] | None:
        """What it holds; None where it is not there or damaged."""
        return self.cache._read(self.name, lambda path: unsealed(path.read_text(encoding="utf-8")))

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace what it holds."""
        text = sealed(content)
        self.cache._write(self.name, lambda path: path.write_text(text, encoding="utf-8"))


def not_kept(path: Path, error: Exception) -> OSError:
    """What is said where a run that must keep what it makes cannot."""
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())
    return OSError(
        f"{path} cannot be written ({reason}): what was kept before is whole; make room, and give the same command again"
    )


def _read_tensors(path: Path, name: str) -> dict[str, Tensor]:
    with safe_open(path, framework="pt") as file:
        written = (file.metadata() or {}).get(DIGEST)
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 -- no mapping
    if written != _digest(name, tensors):
        raise ValueError("its content is not what was written")
    return tensors


def _digest(name: str, tensors: Mapping[str, Tensor]) -> str:
    """Of the content and of what it is the content of, so that an entry under another's name is noticed."""
    digest = hashlib.sha256(name.encode())
    for key in sorted(tensors):
        digest.update(f"{key}=".encode())
        hash_tensor(digest, tensors[key])
    return digest.hexdigest()
