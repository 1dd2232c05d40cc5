"""What a report has found so far: each fit and measurement once, kept in a file of JSON lines, so that a stopped run goes on from there.

A record is known by all that it depends on. A line that is not what was written is dropped, and its record made again.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from dode.cache import FORM, not_kept
from dode.conditions import Condition, cycle, hash_condition
from dode.denoisers import Denoiser
from dode.files import write_atomically
from dode.fingerprint import hash_network
from dode.seals import sealed, unsealed
from dode.tableau import Tableau


def context_of(denoiser: Denoiser, cond: Condition, noise: Tensor, reference: Tableau, *settings: str) -> str:
    """A hash of what all records of a report depend on: the network by its weights and outputs, the condition, and settings.

    Raises:
        TypeError: a condition that cannot be told from another one.
    """
    digest = hashlib.sha256(repr((settings, denoiser.schedule.fingerprint)).encode())
    hash_condition(digest, cond)
    # A denoiser of its own: its evaluations are no part of the report's.
    points = reference.points[: reference.rows]
    hash_network(digest, denoiser.replace(), points, noise, cycle(cond, 0, len(noise)))
    return digest.hexdigest()


@dataclass(eq=False)
class Records:
    """Records by key.

    Attributes:
        path: the file; None to keep them for this run alone.
        context: a hash of what all of them depend on.
        evaluations: how many network evaluations there were so far, of one sample.
        restart: forget what the file holds.
        strict: a record that cannot be written is an OSError; else it is said once, and the run goes on without the file.
        used: the records that were asked for, by key.
    """

    path: Path | None
    context: str
    evaluations: Callable[[], int]
    restart: bool = False
    strict: bool = False
    used: dict[str, dict[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._known: dict[str, dict[str, Any]] = {}
        if self.path is not None and self.restart:
            self.path.unlink(missing_ok=True)
        elif self.path is not None and self.path.is_file():
            self._known = {record["key"]: record for record in _read(self.path)}

    def known(self, what: dict[str, Any], compute: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """The record of what is asked for, from the file or made; with the evaluations and the time that it took."""
        key = hashlib.sha256(json.dumps([FORM, self.context, what], sort_keys=True).encode()).hexdigest()[:24]
        record = self._known.get(key)
        if record is None:
            before, began = self.evaluations(), time.perf_counter()
            data = compute()
            took = {"evaluations": self.evaluations() - before, "seconds": round(time.perf_counter() - began, 3)}
            record = {"key": key, **what, **took, **data}
            self._known[key] = record
            self._keep(record)
        self.used[key] = record
        return record

    def _keep(self, record: dict[str, Any]) -> None:
        if self.path is None:
            return
        before = self.path.stat().st_size if self.path.exists() else 0
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(sealed(record) + "\n")
        except OSError as error:
            with suppress(OSError):  # half a record is none
                os.truncate(self.path, before)
            if self.strict:
                raise not_kept(self.path, error) from error
            warnings.warn(f"{self.path} cannot be written ({error}): what is done is not kept", stacklevel=3)
            self.path = None


def _read(path: Path) -> list[dict[str, Any]]:
    """The records of a file, which loses the lines that are none."""
    text = path.read_bytes()
    lines = [line for line in text.split(b"\n") if line]
    whole, records = [], []
    for line in lines:
        try:
            record = unsealed(line.decode())
            record["key"].encode()
        except (ValueError, RecursionError, KeyError, AttributeError):
            continue
        whole.append(line)
        records.append(record)
    if lost := len(lines) - len(whole):
        warnings.warn(f"{path} is damaged ({lost} of {len(lines)} records): these are dropped and made again", stacklevel=4)
    if lost or not text.endswith(b"\n"):  # the last line of a run that was killed may be half of one, or lack its end
        write_atomically(
            path, lambda temporary: temporary.write_bytes(b"".join(line + b"\n" for line in whole)), overwrite=True
        )
    return records
