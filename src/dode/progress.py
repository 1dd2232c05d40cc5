"""Progress bars over network evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from dode.denoisers import Denoiser


@contextmanager
def evaluation_progress(denoiser: Denoiser, total: int, description: str, *, show: bool) -> Iterator[None]:
    """A bar on standard error that advances with the denoiser's evaluations, while the block runs."""
    if not show:
        yield
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(description, total=total)
        previous, denoiser.watcher = denoiser.watcher, lambda count: bar.advance(task, count)
        try:
            yield
        finally:
            denoiser.watcher = previous
