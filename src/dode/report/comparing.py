"""`compare`: solvers as they are, distilled, and saved tableaux, on the same noise, against one reference."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from dode.conditions import Condition, as_condition
from dode.denoisers import Denoiser
from dode.grids import GridLike
from dode.report.cells import TableauLike, wanted_cells
from dode.report.clock import network_clock
from dode.report.making import UNDER_WAY, Making, Subject, network_key
from dode.report.results import Comparison
from dode.report.setting import setting_of
from dode.report.thumbnails import MOST
from dode.solvers import Solver

# Called before each piece of work with words for it, how many cells are done, and how many there are; and at the end.
Told = Callable[[str, int, int], None]


def compare(
    denoiser: Denoiser,
    solvers: Sequence[str | Solver],
    nfe: Sequence[int],
    *,
    efforts: Sequence[str] = ("fast",),
    samples: int = 256,
    tableaux: Sequence[TableauLike] | Mapping[str, TableauLike] = (),
    grids: Sequence[GridLike] = (),
    extractor: Any = None,
    images: Any = None,
    seed: int = 0,
    reference_nfe: int = 200,
    shown: int = 8,
    cache: str | Path | None = None,
    restart: bool = False,
    told: Told | None = None,
    command: str = "",
    subject: Subject | None = None,
    **cond: Any,
) -> Comparison:
    """The comparison of `dode.compare`, whose arguments are the same but for these.

    Args:
        restart: forget what the cache holds.
        told: see `Told`.
        command: what makes this, to be given again.
        subject: what is known of the network's samples, its condition and its tableaux.

    Raises:
        TypeError, ValueError, OSError, FloatingPointError: as there.
    """
    subject, cond = subject or Subject(), as_condition(cond)
    wanted = wanted_cells(denoiser.schedule, solvers, nfe, efforts, grids, tableaux)
    if samples < 2:
        raise ValueError(f"samples must be at least 2, got {samples}")
    if not 0 <= shown <= MOST:
        raise ValueError(f"shown must be from 0 to {MOST}, got {shown}")
    if denoiser.guidance_by_step:
        raise ValueError("guidance_scale is a list, one number an evaluation, and runs of many lengths are made: give a number")
    told = told or (lambda words, done, total: None)
    with _folder(cache) as folder, network_clock(denoiser) as clock:
        began, total = time.perf_counter(), len(wanted)
        told("reading the network", 0, total)
        key = _key(denoiser, cond, seed, subject, kept=cache is not None)
        making = Making(
            denoiser,
            cond,
            subject,
            key or uuid4().hex,
            folder,
            samples=samples,
            seed=seed,
            reference_nfe=reference_nfe,
            shown=min(shown, samples),
            extractor=extractor,
            images=images,
            restart=restart,
            known=key is not None,
        )
        before = denoiser.evaluations
        told("the reference", 0, total)
        reference = making.reference()
        results = []
        for done, each in enumerate(wanted):
            told(str(each.cell), done, total)
            results.append(making.result(each))
        told("done", total, total)
        # What distillations would go on from is of no more use: their tableaux are kept.
        shutil.rmtree(folder / UNDER_WAY, ignore_errors=True)
        wall = time.perf_counter() - began
    records = making.records.used.values()
    return Comparison(
        tuple(results),
        setting_of(making, command),
        reference,
        evaluations=sum(record["evaluations"] for record in records),
        seconds=sum(record["seconds"] for record in records),
        network_share=clock.seconds / wall if denoiser.evaluations > before else math.nan,
    )


def _key(denoiser: Denoiser, cond: Condition, seed: int, subject: Subject, *, kept: bool) -> str | None:
    """What the network is known by; None where it cannot be told from another one, and nothing is kept.

    Raises:
        TypeError: it cannot be told, and is to be.
    """
    try:
        return network_key(denoiser, cond, seed, subject)
    except TypeError:
        if kept:
            raise
        return None


@contextmanager
def _folder(cache: str | Path | None) -> Iterator[Path]:
    """The cache's folder, or one that goes at the end: references are kept in files, however many samples there are."""
    if cache is not None:
        yield Path(cache)
        return
    with tempfile.TemporaryDirectory(prefix="dode-") as name:
        yield Path(name)
