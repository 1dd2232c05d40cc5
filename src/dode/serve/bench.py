"""What the page shows, computed: base, distilled and reference from the same noise, for settings that anyone may have typed.

    bench = Bench(Network(dode.load("fashion"), labels), Shelf(schedule, read_tableaux(files)))
    for view in bench.show(bench.settings(nfe=5, solver="deis", seed=0, choice="each in turn", samples=8)):
        view.base.pictures, view.distilled.pictures, view.figures(view.distilled)

Sample i of a seed has the same noise whatever else is asked for, so each is made once for its solver, guidance and condition, and kept. The
network is asked by one thread at a time.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dode.distances import mean_square_distance
from dode.first_output import first_output
from dode.foreign import printable
from dode.metrics.paired import psnr
from dode.noise import REPORT, standard_noise
from dode.report.reference import reference_tableau
from dode.sampling import sample, start
from dode.schedules import Array
from dode.serve.shelf import Kept, Shelf
from dode.serve.subjects import Subject
from dode.solvers import REGISTRY, solver_named
from dode.tableau import Tableau

# Of the page's fields: what a person may ask for and wait for.
MOST_CALLS, MOST_SAMPLES = 50, 16
_MOST_GUIDANCE, _MOST_SEED = 100.0, 2**32 - 1
# Bytes of samples and pictures that are kept.
_KEPT = 2**28
# Seconds between looks at whether a run is still wanted, where another is at work.
_PATIENCE = 0.05
# Seconds in which another takes over.
_MOMENT = 0.002
_LONGEST = 600

Wanted = Callable[[], bool]


class Superseded(Exception):
    """Nobody waits for this run any longer."""


@dataclass(frozen=True)
class Settings:
    """What is asked for, checked; made by `Bench.settings`.

    Attributes:
        solver: of the base, as `dode.solvers.solver_named` takes it.
        nfe: calls of base and distilled.
        table: the name of a tableau, where there are several of so many calls; "" for the first.
        guidance: the scale; None where it is not to be changed.
        seed: of the noise.
        choice: a class or a prompt, of `Subject.choices`.
        samples: how many.
    """

    solver: str
    nfe: int
    table: str
    guidance: float | None
    seed: int
    choice: str
    samples: int


@dataclass(frozen=True, eq=False)
class Run:
    """What one solver made.

    Attributes:
        title: what ran.
        nfe: its calls; 0 where nothing ran.
        states: (n, *shape) final states on the host; None where there are none.
        pictures: (n, 1 or 3, height, width) in [-1, 1]; None likewise.
        seconds: that the samples took when they were made.
        failure: why there are none; "" where there are, or where they are on their way.
    """

    title: str
    nfe: int
    states: Tensor | None = None
    pictures: Tensor | None = None
    seconds: float = 0.0
    failure: str = ""


class Figures(NamedTuple):
    """How far a run is from the reference.

    Attributes:
        errors: (n,) mean square distance of each end point, over its elements.
        psnr: dB, of the pictures, the mean over samples.
    """

    errors: Array
    psnr: float


@dataclass(frozen=True, eq=False)
class View:
    """What is seen at once.

    Attributes:
        settings: what was asked for.
        names: what each sample was asked for.
        base, distilled, reference: the three; a reference without states and without failure is on its way.
        notes: what a reader has to know of the tableau.
    """

    settings: Settings
    names: tuple[str, ...]
    base: Run
    distilled: Run
    reference: Run
    notes: tuple[str, ...] = ()

    def figures(self, run: Run) -> Figures | None:
        """None where there is nothing to measure, or to measure against."""
        if run.states is None or run.pictures is None or self.reference.states is None or self.reference.pictures is None:
            return None
        decibels = psnr(run.pictures, self.reference.pictures)
        return Figures(mean_square_distance(run.states, self.reference.states), float(decibels.mean()))


class _Sample(NamedTuple):
    """One that is kept: its final state and picture, and the seconds that it took."""

    state: Tensor
    picture: Tensor
    seconds: float


@dataclass(frozen=True)
class _Asked:
    """A tableau with all that its samples depend on but the noise's number."""

    tableau: Tableau
    digest: str
    guidance: float | None
    seed: int

    def key(self, name: str, i: int) -> tuple[Any, ...]:
        return self.digest, self.guidance, self.seed, name, i


@dataclass
class Bench:
    """A subject with tableaux, asked again and again.

    Attributes:
        subject: what is sampled.
        shelf: the tableaux.
        reference_nfe: calls of the reference.
    """

    subject: Subject
    shelf: Shelf
    reference_nfe: int = 64
    _samples: OrderedDict[tuple[Any, ...], _Sample] = field(default_factory=OrderedDict)
    _bytes: int = 0
    _digests: dict[int, tuple[Tableau, str]] = field(default_factory=dict)
    _bases: dict[tuple[str, int], Tableau] = field(default_factory=dict)
    _network: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._reference = reference_tableau(self.subject.schedule, self.reference_nfe)

    @property
    def solvers(self) -> list[str]:
        """The names that are offered."""
        return list(REGISTRY)

    def settings(
        self, *, solver: Any, nfe: Any, seed: Any, choice: Any, samples: Any, guidance: Any = None, table: Any = ""
    ) -> Settings:
        """Settings of whatever was typed.

        Raises:
            ValueError: in one line, which field is wrong, what it has and what would do.
        """
        name = str(solver or "").strip()
        solver_named(name)
        scale = None
        if self.subject.guidance is not None:
            scale = _number("guidance scale", guidance, -_MOST_GUIDANCE, _MOST_GUIDANCE)
        found = Settings(
            solver=name,
            nfe=_whole("NFE", nfe, 1, MOST_CALLS),
            table=str(table or ""),
            guidance=scale,
            seed=_whole("seed", seed, 0, _MOST_SEED),
            choice=str(choice or ""),
            samples=_whole("number of samples", samples, 1, MOST_SAMPLES),
        )
        self.subject.names(found.choice, found.samples)
        return found

    def show(self, settings: Settings, wanted: Wanted = lambda: True) -> Iterator[View]:
        """The view, first without the reference where that is not at hand, then with it.

        What goes wrong in one of the three is its `failure`, and says nothing of the others.

        Args:
            settings: from `settings`.
            wanted: whether somebody still waits; asked after each call of the network.

        Raises:
            Superseded: nobody does.
        """
        names = tuple(self.subject.names(settings.choice, settings.samples))
        base = self._base(settings, names, wanted)
        kept = self._chosen(settings)
        distilled = self._distilled(settings, kept, names, wanted)
        notes = _notes(kept, settings)
        title = _title(self._reference)
        pending = Run(title, self._reference.nfe)
        asked = self._asked(self._reference, settings)
        if not all(asked.key(name, i) in self._samples for i, name in enumerate(names)):
            yield View(settings, names, base, distilled, pending, notes)
        yield View(settings, names, base, distilled, self._run(title, asked, names, wanted), notes)

    @contextmanager
    def alone(self, wanted: Wanted = lambda: True) -> Iterator[None]:
        """The network to oneself; waited for as long as it is wanted.

        Raises:
            Superseded: it is not.
        """
        while not self._network.acquire(timeout=_PATIENCE):
            _check(wanted)
        try:
            _check(wanted)
            yield
        finally:
            self._network.release()

    def give_way(self) -> None:
        """Let others have the network that one has alone, and wait until they are done."""
        self._network.release()
        time.sleep(_MOMENT)
        self._network.acquire()

    def _base(self, settings: Settings, names: Sequence[str], wanted: Wanted) -> Run:
        key = settings.solver, settings.nfe
        try:
            if key not in self._bases:
                self._bases[key] = solver_named(settings.solver).tableau(self.subject.schedule, settings.nfe)
        except ValueError as error:  # a budget that the solver does not have
            return Run(settings.solver, settings.nfe, failure=_said(error))
        tableau = self._bases[key]
        return self._run(_title(tableau), self._asked(tableau, settings), names, wanted)

    def _chosen(self, settings: Settings) -> Kept | None:
        there = self.shelf.of(settings.nfe)
        return next((kept for kept in there if kept.name == settings.table), there[0] if there else None)

    def _distilled(self, settings: Settings, kept: Kept | None, names: Sequence[str], wanted: Wanted) -> Run:
        if kept is not None:
            return self._run(kept.name, self._asked(kept.tableau, settings), names, wanted)
        budgets = self.shelf.budgets
        there = f"there are tableaux of {_listed(budgets)}" if budgets else "there is no tableau yet"
        return Run("none", 0, failure=f"no tableau of {_calls(settings.nfe)}: {there}")

    def _asked(self, tableau: Tableau, settings: Settings) -> _Asked:
        # Of the object that it was made for, which stays, so that no other has its number.
        _, digest = self._digests.setdefault(id(tableau), (tableau, tableau.digest))
        return _Asked(tableau, digest, settings.guidance, settings.seed)

    def _run(self, title: str, asked: _Asked, names: Sequence[str], wanted: Wanted) -> Run:
        nfe = asked.tableau.nfe
        try:
            with self.alone(wanted):
                found = self._made(asked, names, wanted)
        except Superseded:
            raise
        except Exception as error:  # a network, or a pipeline, raises whatever it likes: the page goes on
            return Run(title, nfe, failure=_said(error))
        states, pictures, seconds = zip(*found)
        return Run(title, nfe, torch.stack(states), torch.stack(pictures), sum(seconds))

    def _made(self, asked: _Asked, names: Sequence[str], wanted: Wanted) -> list[_Sample]:
        """The samples, those that are not kept made together."""
        missing = [i for i, name in enumerate(names) if asked.key(name, i) not in self._samples]
        if missing:
            own = [names[i] for i in missing]
            denoiser, cond = self.subject.ask(asked.guidance, own)
            noise = standard_noise(asked.seed, len(names), self.subject.shape, stream=REPORT, dtype=denoiser.noise_dtype)[
                missing
            ]
            denoiser.watcher = lambda count: _check(wanted)
            try:
                # What samples share is made before the clock starts: the denoiser keeps it.
                first_output(denoiser, asked.tableau, start(denoiser, asked.tableau, noise), cond)
                began = time.perf_counter()
                states = sample(denoiser, asked.tableau, noise, **cond).cpu()
            finally:
                denoiser.watcher = None
            pictures = self.subject.pictures(states)
            seconds = (time.perf_counter() - began) / len(missing)
            for i, state, picture in zip(missing, states, pictures):
                self._keep(asked.key(names[i], i), _Sample(state, picture, seconds))
        found = [self._samples[asked.key(name, i)] for i, name in enumerate(names)]
        self._forget()
        return found

    def _keep(self, key: tuple[Any, ...], made: _Sample) -> None:
        self._samples[key] = made
        self._bytes += _bytes(made)

    def _forget(self) -> None:
        """Let the oldest go where there are too many."""
        while self._bytes > _KEPT:
            self._bytes -= _bytes(self._samples.popitem(last=False)[1])


def _title(tableau: Tableau) -> str:
    return f"{tableau.solver}, {tableau.grid} grid"


def _check(wanted: Wanted) -> None:
    if not wanted():
        raise Superseded


def _bytes(made: _Sample) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in (made.state, made.picture))


def _notes(kept: Kept | None, settings: Settings) -> tuple[str, ...]:
    from dode.fitted_for import setting_of

    if kept is None:
        return ()
    found = []
    if kept.tableau.changed:
        found.append(f"{kept.name} was changed after it was made: it is run as it is")
    fitted = setting_of(kept.tableau).get("guidance_scale")
    if isinstance(fitted, int | float) and settings.guidance is not None and fitted != settings.guidance:
        found.append(f"{kept.name} was fitted at a guidance scale of {fitted:g}, and is run at {settings.guidance:g}")
    return tuple(found)


def _said(error: Exception) -> str:
    """An error in one line, with what was noted on it; its kind where it is not dode's own."""
    notes = [f"({note})" for note in getattr(error, "__notes__", ()) if note not in str(error)]
    kind = "" if isinstance(error, ValueError | FloatingPointError) else f"{type(error).__name__}: "
    return printable(" ".join([f"{kind}{error}", *notes]), _LONGEST)


def _number(what: str, given: Any, low: float, high: float) -> float:
    try:
        if isinstance(given, bool):
            raise TypeError
        found = float(given)
    except (TypeError, ValueError, OverflowError):
        got = "nothing" if given is None or given == "" else repr(printable(given, 40))
        raise ValueError(f"{what} must be a number from {low:g} to {high:.15g}, got {got}") from None
    if not (math.isfinite(found) and low <= found <= high):
        raise ValueError(f"{what} must be a number from {low:g} to {high:.15g}, got {found:.15g}")
    return found


def _whole(what: str, given: Any, low: int, high: int) -> int:
    found = _number(what, given, low, high)
    if found != round(found):
        raise ValueError(f"{what} must be a whole number from {low} to {high}, got {found:g}")
    return round(found)


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _listed(budgets: Sequence[int]) -> str:
    *first, last = map(str, budgets)
    return f"{', '.join(first)} and {last} calls" if first else f"{last} calls"
