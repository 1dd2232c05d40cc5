"""A distillation beside the page: one at a time, in a thread that lets go of the network after each of its calls."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from dode.distillation import make_plan, run
from dode.distillation.measurement import expected
from dode.foreign import printable
from dode.serve.bench import Bench, Settings, Superseded
from dode.serve.shelf import Kept
from dode.serve.subjects import IN_TURN, Network
from dode.solvers import solver_named

# What the button asks for: the page itself measures.
FAST: Mapping[str, Any] = {"effort": "fast", "held_out": 0}


class Progress(NamedTuple):
    """Where a distillation is.

    Attributes:
        running: it is at work.
        share: of it that is done, about; None before it has begun.
        words: one line.
        kept: what it made, once it has.
    """

    running: bool
    share: float | None
    words: str
    kept: Kept | None = None


@dataclass
class Distiller:
    """Distils for a bench, and puts what it makes on its shelf.

    Attributes:
        bench: it.
        options: of `dode.distill`.
    """

    bench: Bench
    options: Mapping[str, Any] = field(default_factory=lambda: FAST)
    progress: Progress = field(default_factory=lambda: Progress(False, None, ""))
    _stop: threading.Event = field(default_factory=threading.Event)
    _door: threading.Lock = field(default_factory=threading.Lock)

    @property
    def offered(self) -> bool:
        """Whether the subject can be distilled here: a pipeline takes longer than a page should."""
        return isinstance(self.bench.subject, Network)

    def start(self, settings: Settings) -> None:
        """Begin with the settings' solver, calls, guidance and class.

        Raises:
            ValueError: another is at work, or there is nothing to distil so.
        """
        subject = self.bench.subject
        if not isinstance(subject, Network):
            raise ValueError(f"{subject.name} is a pipeline: distil it with `dode distill`")
        with self._door:
            if self.progress.running:
                raise ValueError("another distillation is at work: wait for it, or stop it")
            denoiser = subject.guided(settings.guidance)
            choices = [name for name in subject.choices if name != IN_TURN]
            names = choices if settings.choice == IN_TURN else [settings.choice]
            solver = solver_named(settings.solver)
            plan = make_plan(denoiser, solver, settings.nfe, **self.options, **subject.condition(names))
            title = _title(settings, subject)
            self._stop.clear()
            self.progress = Progress(True, None, f"distilling {title}")
            total = max(expected(plan), 1)
        done = 0

        def watch(count: int) -> None:
            nonlocal done
            done += count
            self.progress = Progress(True, min(done / total, 1.0), f"distilling {title}")
            self.bench.give_way()
            if self._stop.is_set():
                raise Superseded

        def work() -> None:
            began = time.perf_counter()
            denoiser.watcher = watch
            try:
                with self.bench.alone():
                    result = run(plan)
                kept = self.bench.shelf.add(Kept(title, result.tableau))
                self.progress = Progress(False, 1.0, f"distilled {title} in {time.perf_counter() - began:.0f} s", kept)
            except Superseded:
                self.progress = Progress(False, None, f"stopped {title}")
            except Exception as error:  # the network is anyone's, and the page goes on
                self.progress = Progress(False, None, f"{title} failed: {printable(error, 400)}")

        threading.Thread(target=work, name="dode distilling", daemon=True).start()

    def stop(self) -> None:
        """Stop after the next call of the network."""
        self._stop.set()


def _title(settings: Settings, subject: Network) -> str:
    guided = "" if settings.guidance in (None, 1.0) else f", guidance {settings.guidance:g}"
    of = "" if settings.choice in ("", IN_TURN) else f", {settings.choice}"
    return f"{settings.solver}, fast, NFE {settings.nfe}{guided}{of}"
