"""The teacher: a many-step run whose states at the student's times are what the student's rows are fitted to.

By default the teacher is the student's own solver on the student's own grid with every step cut into `scale` parts, so that
each target stands at its row's own time, inner stages of single-step methods included. A *dense* teacher gives states at any time: one
run serves students on all grids.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from dode.cache import FORM, Cache
from dode.conditions import Condition, hash_tensor, take
from dode.denoisers import Denoiser
from dode.fingerprint import hash_network
from dode.grids import Point
from dode.host import Rows, bytes_of, samples_at_once
from dode.sampling import Run, start
from dode.solvers import Path, Solver
from dode.tableau import Tableau

# Samples whose states are kept in one file at the most: what an interrupted run loses.
_FILE_SAMPLES = 32


@dataclass(frozen=True)
class Teacher:
    """A tableau of many rows, and for each row of the student the teacher's row whose state is its target."""

    tableau: Tableau
    rows: tuple[int, ...]


def make_teacher(solver: Solver, path: Path, student: Tableau, *, scale: int = 10, nfe: int | None = None) -> Teacher:
    """The teacher of a student.

    Args:
        solver: the teacher's; the student's own for the paper's method.
        path: the student's path.
        student: the student's tableau on it.
        scale: into how many parts a step of the student is cut, >= 1.
        nfe: about how many evaluations the teacher takes in all, in place of `scale`.

    Raises:
        ValueError: a scale below 1; a grid with alphas of its own, between whose times no schedule is known; or whole times that
            leave no room for the teacher's stages.
    """
    times = [float(student.times[0])]
    for t in student.times[1:]:
        if t < times[-1]:
            times.append(float(t))
    clean = student.sigmas[-1] == 0
    if nfe is not None:
        if nfe < len(times) - 1:
            raise ValueError(f"teacher_nfe must be at least one evaluation an interval, {len(times) - 1}, got {nfe}")
        per_step = solver.family.nfe(100, False, **solver.settings) / 100
        shares = [nfe / per_step / (len(times) - 1)] * (len(times) - 1)
    else:
        if scale < 1:
            raise ValueError(f"teacher_scale must be at least 1, got {scale}")
        shares = _shares(times, path, scale)
    group = solver.family.group(**solver.settings)
    parts = [math.ceil(share / group - 1e-9) * group for share in shares]
    fine = path.grid.refine(path.schedule, times, parts)
    tableau = solver.tableau(path.schedule, grid=fine)
    assert clean == (tableau.sigmas[-1] == 0)
    # Of several states at one time (a predicted one, then a corrected one) the last is the teacher's word.
    last = {float(t): k for k, t in enumerate(tableau.times[1:])}
    if missing := [t for t in times[1:] if t not in last]:
        # Only where whole times leave too few parts for the stages of its steps.
        raise ValueError(f'a teacher of {solver} has no state at t = {missing[0]:g} of the student: take teacher="deis"')
    return Teacher(tableau, tuple(last[float(t)] for t in student.times[1:]))


def _shares(times: list[float], path: Path, scale: int) -> list[float]:
    """Parts of each interval between the student's times: `scale` for a step of the path, shared by the stages within it."""
    steps = [point.t for point in path.points]
    shares: list[float] = []
    stages = 0
    outer = 0
    for t in times[1:]:
        stages += 1
        if t in steps:
            inner = steps.index(t)
            shares += [scale * (inner - outer) / stages] * stages
            stages, outer = 0, inner
    return shares


@dataclass(frozen=True, eq=False)
class States:
    """States of a run at its times, and between them where slopes were kept. They live on the host, whatever the network's device.

    Between two times the state is the cubic Hermite interpolant of x / r over the angle phi, where alpha = r cos(phi) and sigma = r
    sin(phi): along the ODE d(x / r) / d phi = cos(phi) eps - sin(phi) D, which is finite from pure noise to the clean sample.

    Attributes:
        points: where the states live, from noise to sample.
        values: (batch, *shape) each; `value[:]` is a tensor, also where it is mapped from several files.
        slopes: d(x / r) / d phi at each, (batch, *shape); None where the network was not asked (the end), and everywhere if only
            the states at their own times are wanted.
    """

    points: tuple[Point, ...]
    values: tuple[Tensor | Rows, ...]
    slopes: tuple[Tensor | Rows | None, ...]

    def __len__(self) -> int:
        return len(self.values[0])

    def at(self, point: Point, rows: slice = slice(None)) -> Tensor:
        """The state at a point, of some samples.

        Raises:
            ValueError: outside the run, or between its times where no slopes were kept.
        """
        for known, value in zip(self.points, self.values, strict=True):
            if known.t == point.t:
                return value[rows]
        if not self.points[-1].t < point.t < self.points[0].t:
            raise ValueError(f"t = {point.t:g} is outside the teacher's times {self.points[0].t:g} .. {self.points[-1].t:g}")
        k = next(k for k, known in enumerate(self.points) if known.t < point.t) - 1
        return self._between(k, point, rows)

    def part(self, rows: slice) -> States:
        """The states of some samples."""

        def some(whole: Tensor | Rows) -> Tensor | Rows:
            return whole.part(rows) if isinstance(whole, Rows) else whole[rows]

        slopes = tuple(None if slope is None else some(slope) for slope in self.slopes)
        return States(self.points, tuple(some(value) for value in self.values), slopes)

    def _between(self, k: int, point: Point, rows: slice) -> Tensor:
        if self.slopes[k] is None:
            raise ValueError(f"the teacher has no state at t = {point.t:g}: it was run for the student's own times")
        slope, next_slope = (None if kept is None else kept[rows] for kept in self.slopes[k : k + 2])
        assert slope is not None
        (start, r0), (end, r1), (phi, r) = (_polar(p) for p in (*self.points[k : k + 2], point))
        h = end - start
        s = (phi - start) / h
        first, last = self.values[k][rows] / r0, self.values[k + 1][rows] / r1
        if next_slope is None:  # the last step, to the clean sample: a parabola
            inner = first + slope * (h * s * (1 - s)) + (last - first) * s**2
        else:
            inner = (
                first * (1 + 2 * s) * (1 - s) ** 2
                + slope * (h * s * (1 - s) ** 2)
                + last * s**2 * (3 - 2 * s)
                + next_slope * (h * s**2 * (s - 1))
            )
        return inner * r


def teacher_states(
    denoiser: Denoiser,
    teacher: Teacher,
    noise: Tensor,
    cond: Condition,
    *,
    dense: bool = False,
    cache: Cache | None = None,
) -> States:
    """Run the teacher.

    The device holds a part of the samples at a time. The host holds one state a distinct target time, whatever the teacher's number
    of steps, and for a dense run two tensors a step; from a cache they are mapped, and take memory only while they are looked at.

    Args:
        denoiser: the network.
        teacher: from `make_teacher`.
        noise: (batch, *shape), standard normal.
        cond: the condition, a row a sample.
        dense: keep every state with its slope, to be asked for states at any time.
        cache: where to keep the states, an entry for each part of the batch: a run that was interrupted goes on from the parts that
            are there. Entries are found by what they depend on: noise, condition, tableau, settings and probes of the network.

    Raises:
        FloatingPointError: the teacher's states are not finite.
    """
    tableau = teacher.tableau
    wanted = sorted(set(_last_states(tableau) if dense else teacher.rows))
    most = samples_at_once(bytes_of(noise[:1]), denoiser.batch_size)
    size = most if cache is None else denoiser.batch_size or min(_FILE_SAMPLES, most)
    whole: dict[int, Tensor] = {}
    pieces: list[list[Tensor]] = []
    for first in range(0, len(noise), size):
        rows = slice(first, min(first + size, len(noise)))
        job = _Job(denoiser, tableau, tuple(wanted), dense, noise[rows], take(cond, rows))
        if cache is not None:
            pieces.append(job.cached(cache))
            continue
        for i, state in job.run():
            if i not in whole:
                whole[i] = torch.empty((len(noise), *state.shape[1:]), dtype=state.dtype, device="cpu")
            whole[i][rows] = state
    states: list[Tensor | Rows] = (
        [whole[i] for i in range(len(whole))] if cache is None else [Rows(each) for each in zip(*pieces, strict=True)]
    )
    points = tableau.points
    if not dense:
        return States(tuple(points[k + 1] for k in wanted), tuple(states), (None,) * len(wanted))
    own = len(wanted) + 1
    return States((points[0], *(points[k + 1] for k in wanted)), tuple(states[:own]), (*states[own:], None))


def _last_states(tableau: Tableau) -> list[int]:
    """The rows whose state is the last one at its time."""
    return [k for k in range(tableau.rows) if k + 2 > tableau.rows or tableau.times[k + 2] != tableau.times[k + 1]]


def _polar(point: Point) -> tuple[float, float]:
    return math.atan2(point.sigma, point.alpha), math.hypot(point.alpha, point.sigma)


@dataclass(frozen=True)
class _Job:
    """The teacher on one part of the batch."""

    denoiser: Denoiser
    tableau: Tableau
    wanted: tuple[int, ...]
    dense: bool
    noise: Tensor
    cond: Condition

    def run(self) -> Iterator[tuple[int, Tensor]]:
        """The wanted states with their numbers; for a dense run the first state is among them, and the slopes at all but the last have
        the numbers that follow."""
        tableau = self.tableau
        x = start(self.denoiser, tableau, self.noise)
        states, slopes = count(), count(len(self.wanted) + 1)
        if self.dense:
            yield next(states), x
        with self.denoiser.evaluator(x, self.cond) as evaluate, torch.no_grad():
            run = Run(self.denoiser, evaluate, tableau, x)
            for k in range(tableau.rows):
                run.evaluate(k)
                if self.dense and (k == 0 or k - 1 in self.wanted):
                    yield next(slopes), _slope(x, run.denoised(k), tableau.points[k])
                x = run.advance(k)
                if k in self.wanted:
                    if not bool(torch.isfinite(x).all()):
                        raise FloatingPointError(
                            f"the teacher's state at t = {tableau.times[k + 1]:g} (step {k + 1} of {tableau.rows}) is not finite"
                        )
                    yield next(states), x

    def cached(self, cache: Cache) -> list[Tensor]:
        """As `run`, mapped from its entry, which is made where it is not there."""
        name = f"teacher-{self._key()}.safetensors"
        stored = cache.tensors(name)
        if stored is None:
            made = {str(i): state.cpu().contiguous() for i, state in self.run()}
            cache.keep_tensors(name, made)
            # What could not be written stays in memory.
            stored = cache.tensors(name) or made
        elif self.denoiser.watcher is not None:
            self.denoiser.watcher(self.tableau.nfe * len(self.noise))
        return [stored[str(i)] for i in range(len(stored))]

    def _key(self) -> str:
        """A hash of all that the states depend on; the network is known by its parameters and by what it gives for a few samples."""
        tableau, digest = self.tableau, hashlib.sha256(str(FORM).encode())
        for array in (tableau.times, tableau.alphas, tableau.sigmas, tableau.a, tableau.b):
            digest.update(array.tobytes())
        digest.update(repr((self.wanted, self.dense, tableau.noise_scale)).encode())
        hash_tensor(digest, self.noise)
        hash_network(digest, self.denoiser, tableau.points[: tableau.rows], self.noise, self.cond)
        return digest.hexdigest()[:32]


def _slope(x: Tensor, D: Tensor, point: Point) -> Tensor:
    """cos(phi) eps - sin(phi) D."""
    r = math.hypot(point.alpha, point.sigma)
    eps = (x - point.alpha * D) / point.sigma
    return eps * (point.alpha / r) - D * (point.sigma / r)
