"""The student run as a problem of least squares: its unknowns, its error, and its Jacobian by differences.

An unknown of row k changes the state x_{k+1} by a multiple of something already computed, so only the rows after k are run again; the
last row is exactly linear and costs nothing. A time moves together with the state that lives there (see `Student.moved`). Of each
part of the batch only the Gram matrix of columns and residual is kept, in float64 on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from dode.conditions import Condition, map_tensors, take
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.distillation.batch import Batch
from dode.distillation.gram import damped, grams, solve, squared_error
from dode.distillation.student import Student
from dode.first_output import first_output
from dode.grids import Point
from dode.host import bytes_of, parts, samples_at_once, to_device
from dode.sampling import start
from dode.schedules import Array, NoiseSchedule
from dode.tableau import Tableau

# The share of the state's norm by which a coefficient moves it, and the change of log(sigma / alpha), for a network without rounding.
_STATE_STEP = 2e-3
_TIME_STEP = 5e-3
# Coarse differences of a time, and by how much they become finer at once. Squared derivatives of a trained network by differences of
# _TIME_STEP are up to ninety times those by coarse ones: so much of what is local is ripple (docs/method.md).
_COARSE_TIME_STEP, _FINER = 0.2, 4.0
# Longest step of a time, in log(sigma / alpha), and as a share of the way to its neighbour.
_LONGEST_TIME_STEP, _SHARE = 0.5, 0.45
# The Jacobian is taken from so many samples that the budget lasts for these many steps, with at least this many equations an unknown.
_STEPS, _EQUATIONS = 8, 2
# Bytes of what a Jacobian holds at once: its columns for some samples, and the runs that they are made of.
_CHUNK_BYTES = 2**27


@dataclass(frozen=True)
class Differences:
    """How derivatives are taken: by one-sided differences, of one sample ahead and of the next behind. What they err by their step
    has the other sign then, and cancels in the sums over samples.

    Attributes:
        state: the share of a state's norm by which a coefficient moves it.
        time: the change of log(sigma / alpha).
    """

    state: float = field(default_factory=lambda: _STATE_STEP)
    time: float = field(default_factory=lambda: _TIME_STEP)

    def coarse(self) -> Differences:
        """Coarse ones of times: they see over the ripple that a trained network has along its time."""
        return replace(self, time=max(self.time, _COARSE_TIME_STEP))

    def finer(self, finest: Differences) -> Differences:
        """The next finer ones."""
        return replace(self, time=max(self.time / _FINER, finest.time))


@dataclass(frozen=True)
class Unknown:
    """One number to fit.

    Attributes:
        kind: "state", the coefficient of the row's own state; "output", that of an output; "time", the time of the row's own state.
        row: the row, from 0.
        output: which output.
    """

    kind: str
    row: int
    output: int = -1


@dataclass(eq=False)
class Problem:
    """The samples, the unknowns, and what is asked of a student about them.

    Attributes:
        denoiser: the network.
        student: where the fit starts.
        unknowns: what is fitted.
        batch: noise, condition and targets.
        inner_weight: of each inner state's square distance, beside the end point's.
        differences: of the Jacobian.
    """

    denoiser: Denoiser
    student: Student
    unknowns: tuple[Unknown, ...]
    batch: Batch
    inner_weight: float
    differences: Differences = field(default_factory=Differences)

    def __post_init__(self) -> None:
        noise = self.batch.noise
        self.size = noise[0].numel()
        # Samples of a part: of a plain run, and of the perturbed runs of a Jacobian together.
        self.at_once = min(samples_at_once(bytes_of(noise[:1]), self.denoiser.batch_size), len(noise))
        self.first = self._shared_output()

    @property
    def tableau(self) -> Tableau:
        """What says how a run begins."""
        return self.student.base

    def _shared_output(self) -> Tensor | None:
        """The first outputs that are no evaluation, on the host; made once, since a mean takes evaluations."""
        if self.tableau.first == "network":
            return None
        if self.tableau.first == "zero":
            return self.batch.noise.new_zeros(()).expand(self.batch.noise.shape)
        found = []
        for rows in parts(self.batch.noise, self.denoiser.batch_size):
            x = start(self.denoiser, self.tableau, self.batch.noise[rows])
            mean = first_output(self.denoiser, self.tableau, x, take(self.batch.cond, rows))
            assert mean is not None
            found.append(mean.cpu())
        return torch.cat(found)

    def check(self) -> None:
        """Raise ValueError where there are fewer equations than unknowns."""
        need = math.ceil(len(self.unknowns) / self.size)
        if len(self.batch) < need:
            raise ValueError(
                f"{len(self.unknowns)} unknowns need at least {need} fitting samples of {self.size} numbers, got {len(self.batch)}"
            )

    def jacobian_cost(self, samples: int) -> int:
        """Network evaluations of one Jacobian."""
        rows = self.tableau.rows
        each = [rows - u.row if u.kind == "time" else rows - 1 - u.row for u in self.unknowns]
        return min(samples, len(self.batch)) * (sum(each) + self.tableau.nfe)

    def affordable(self, budget: float, step_cost: int) -> int:
        """Samples of the Jacobian with which the budget lasts for several steps, each with a trial and its judgement."""
        most = len(self.batch)
        least = min(most, math.ceil(_EQUATIONS * len(self.unknowns) / self.size))
        for_jacobian = budget / _STEPS - step_cost
        affordable = for_jacobian / self.jacobian_cost(1) if math.isfinite(budget) else most
        return int(min(max(affordable, least), most))

    def error(self, student: Student) -> float:
        """What is minimised, over an element; infinite where the run diverges."""
        total = 0.0
        for rows, run in self.runs(student, 0, len(self.batch), self.at_once):
            for weight, state, target in self._weighted(run.forward(), rows):
                total += weight * float(mean_square_distance(state, target).sum())
        return total / len(self.batch) if math.isfinite(total) else math.inf

    def settled(self, student: Student) -> tuple[Student, float]:
        """The student with its last row solved exactly for all samples, and its error: the last row needs no evaluation."""
        last = len(student.p) - 1
        free = [u for u in self.unknowns if u.row == last and u.kind != "time"]
        if not free:
            return student, self.error(student)
        total, inner = np.zeros((len(free) + 1, len(free) + 1)), 0.0
        for rows, run in self.runs(student, 0, len(self.batch), self.at_once):
            states = run.forward()
            *others, (_, state, target) = self._weighted(states, rows)
            inner += self.size * sum(
                weight * float(mean_square_distance(state, target).sum()) for weight, state, target in others
            )
            vectors = [states[last] if u.kind == "state" else run.outputs[u.output] for u in free]
            total += grams([*vectors, target - state]).sum(0)
        if not (np.isfinite(total).all() and math.isfinite(inner)):
            return student, math.inf
        change = solve(total[None]).coefficients
        error = inner + float(squared_error(total[None], change)[0])
        p, q = _as_arrays(student, free, change)
        return student.changed(p, q), error / (len(self.batch) * self.size)

    def linearised(self, student: Student, samples: int, turn: int) -> Model:
        """The error around a student as the Jacobian has it, over some samples, others in each turn."""
        count, whole = len(self.unknowns), len(self.batch)
        total = np.zeros((count + 1, count + 1))
        parts = math.ceil(whole / samples)
        # Parts of equal size that together cover all samples.
        first = round(turn % parts * (whole - samples) / (parts - 1)) if parts > 1 else 0
        for rows, run in self.runs(student, first, min(first + samples, whole), self._samples_of_columns()):
            states = run.forward()
            columns = run.columns(self.unknowns, states, self.differences, all_rows=self.inner_weight > 0)
            for i, (weight, state, target) in enumerate(self._weighted(states, rows)):
                stack = [column[i] for column in columns]
                zero = torch.zeros_like(state)
                total += weight * grams([*(zero if v is None else v for v in stack), target - state]).sum(0)
        return Model(total[:count, :count], total[:count, count], float(total[count, count]))

    def step(self, student: Student, model: Model, damping: float) -> Array:
        """The damped step that the model proposes, with no time further than half of the way to its neighbours."""
        bounds = [_room(student, u.row) if u.kind == "time" else (-math.inf, math.inf) for u in self.unknowns]
        fixed: dict[int, float] = {}
        while True:
            change = model.solve(damping, fixed)
            over = {i: min(max(c, low), high) for i, (c, (low, high)) in enumerate(zip(change, bounds, strict=True))}
            beyond = {i: value for i, value in over.items() if i not in fixed and value != change[i]}
            if not beyond:
                return change
            # What is held at its bound changes what is best for the others.
            fixed |= beyond

    def _samples_of_columns(self) -> int:
        """Samples whose columns are held at once, each with the states and outputs of the plain run and of a perturbed one."""
        rows = len(self.tableau.b)
        held = len(self.unknowns) * (rows if self.inner_weight else 1) + 4 * rows
        most = samples_at_once(held * bytes_of(self.batch.noise[:1]), limit=_CHUNK_BYTES)
        return most if most <= self.at_once else most - most % self.at_once

    def runs(self, student: Student, first: int, end: int, chunk: int | None = None) -> Iterator[tuple[slice, _Run]]:
        """The student on the samples first .. end, a part at a time."""
        size = chunk or end - first
        for begin in range(first, end, size):
            rows = slice(begin, min(begin + size, end))
            x = start(self.denoiser, student.base, self.batch.noise[rows])
            shared = None if self.first is None else to_device(self.first[rows], x)
            yield rows, _Run(self.denoiser, student, x, shared, take(self.batch.cond, rows), self.at_once)

    def _weighted(self, states: Sequence[Tensor], rows: slice) -> Iterator[tuple[float, Tensor, Tensor]]:
        """(weight, state, target) for each state that counts."""
        last = len(states) - 1
        if self.inner_weight:
            for k in range(last - 1):
                yield self.inner_weight, states[k + 1], to_device(self.batch.target(self.tableau, k, rows), states[k + 1])
        yield 1.0, states[last], to_device(self.batch.end_of(rows), states[last])


@dataclass(frozen=True, eq=False)
class Model:
    """|r - J c|^2 for a change c of the unknowns.

    Attributes:
        normal, gradient, square: J^T J, J^T r and r^T r.
    """

    normal: Array
    gradient: Array
    square: float

    def solve(self, damping: float, fixed: Mapping[int, float]) -> Array:
        """The damped best change, with some of it fixed."""
        change = np.zeros(len(self.gradient))
        held, free = list(fixed), [i for i in range(len(change)) if i not in fixed]
        change[held] = list(fixed.values())
        if not free:
            return change
        normal, gradient = self.normal[np.ix_(free, free)], (self.gradient - self.normal @ change)[free]
        change[free] = damped(normal, gradient, damping)
        return change

    def gain(self, change: Array) -> float:
        """The share of r^T r that a change takes away."""
        gained = 2 * change @ self.gradient - change @ self.normal @ change
        return float(gained / self.square) if self.square else 0.0


@dataclass(eq=False)
class _Run:
    """A student on a few samples, with what is needed to run its later rows again from a changed state.

    Attributes:
        denoiser, student: what is run.
        x, first, cond: of these samples.
        at_once: samples of all perturbed runs that are evaluated together, unless one of these runs alone has more.
    """

    denoiser: Denoiser
    student: Student
    x: Tensor
    first: Tensor | None
    cond: Condition
    at_once: int

    def forward(self) -> list[Tensor]:
        """The states x_0 .. x_R; keeps the outputs."""
        self.outputs: list[Tensor] = []
        states = [self.x]
        with self.denoiser.evaluator(self.x, self.cond) as evaluate, torch.no_grad():
            for k, point in enumerate(self.student.points[:-1]):
                output = self.first if k == 0 and self.first is not None else evaluate(states[-1], point)
                self.outputs.append(output)
                states.append(self._row(self.student, k, states[-1], self.outputs))
        return states

    def columns(
        self, unknowns: Sequence[Unknown], states: Sequence[Tensor], differences: Differences, *, all_rows: bool
    ) -> list[list[Tensor | None]]:
        """For each unknown its derivative of the end state, or of every state x_1 .. x_R (None for those before it)."""
        last = len(self.student.p) - 1
        found: dict[Unknown, list[Tensor | None]] = {}
        with torch.no_grad():
            for k in range(last + 1):
                group = [u for u in unknowns if u.row == k and u.kind != "time"]
                vectors = [states[k] if u.kind == "state" else self.outputs[u.output] for u in group]
                after = self._along(k, states, vectors, differences, all_rows=all_rows) if k < last else [[]] * len(vectors)
                changes = [[v, *a] if all_rows or k == last else a for v, a in zip(vectors, after, strict=True)]
                found |= dict(zip(group, [[None] * k + c for c in changes], strict=True))
                for u in unknowns:
                    if u.row == k and u.kind == "time":
                        found[u] = [*[None] * (k - 1), *self._moved(k, states, differences, all_rows=all_rows)]
        return [found[u] if all_rows else found[u][-1:] for u in unknowns]

    def _along(
        self, k: int, states: Sequence[Tensor], vectors: Sequence[Tensor], differences: Differences, *, all_rows: bool
    ) -> list[list[Tensor]]:
        """The derivatives of x_{k+2} .. x_R, or of x_R alone, along each vector added to x_{k+1}.

        The vectors are nearly parallel, and what tells them apart is what a fit is about. So the runs go along orthogonal directions
        of their span, and the vectors' derivatives are put together from these: what differences err, by their step or by the
        network's rounding, then is a share of each direction, not of the vectors' common part.
        """
        basis, shares = orthogonalised(vectors)
        # Several runs at once, as many as the network is asked for elsewhere.
        several = max(1, self.at_once // len(self.x))
        along: list[list[Tensor]] = []
        for i in range(0, len(basis), several):
            along += self._again(k, states, basis[i : i + several], differences, all_rows=all_rows)
        return [combined(along, share) for share in shares]

    def _again(
        self, k: int, states: Sequence[Tensor], vectors: Sequence[Tensor], differences: Differences, *, all_rows: bool
    ) -> list[list[Tensor]]:
        """As `_along`, of runs along the vectors themselves."""
        here = states[k + 1]
        size = float(here.norm())
        steps = [differences.state * size / max(float(v.norm()), 1e-30) for v in vectors]
        signs = torch.ones(len(here), dtype=here.dtype, device="cpu")
        signs[1::2] = -1
        side = to_device(signs, here).reshape(-1, *[1] * (here.ndim - 1))
        x = torch.stack([here + side * v * step for step, v in zip(steps, vectors, strict=True)])
        later = self._later(self.student, k + 1, x, all_rows=all_rows)
        before = states[-len(later) :]
        return [[side * (a[i] - b) / step for a, b in zip(later, before, strict=True)] for i, step in enumerate(steps)]

    def _moved(self, k: int, states: Sequence[Tensor], differences: Differences, *, all_rows: bool) -> list[Tensor]:
        """The derivatives of x_k .. x_R, or of x_R alone, in log(sigma / alpha) of the time of x_k."""
        old = self.student.points[k]
        found = [torch.zeros_like(state) for state in (states[k:] if all_rows else states[-1:])]
        for first, (point, student) in enumerate(self._sides(k, differences.time)[: len(self.x)]):
            own = slice(first, None, 2)
            part = self._part(own)
            # The first state is the noise, scaled for its time.
            scale = student.base.noise_scale / self.student.base.noise_scale
            x = self._row(student, k - 1, states[k - 1][own], part.outputs) if k else part.x * scale
            later = [state[0] for state in part._later(student, k, x[None], all_rows=all_rows)]
            step = math.log(point.rho / old.rho)
            for whole, state, before in zip(found, [x, *later] if all_rows else later, states[-len(found) :], strict=True):
                whole[own] = (state - before[own]) / step
        return found

    def _sides(self, k: int, step: float) -> list[tuple[Point, Student]]:
        """The student with state k a little before and a little after; one of them twice where there is only one way to go, at the lowest
        time or between neighbours that leave no other whole time, and none where there is no way."""
        old, (low, high) = self.student.points[k], _room(self.student, k)
        found: list[tuple[Point, Student] | None] = []
        for change in (max(-step, low), min(step, high)):
            point = moved_point(self.denoiser, old, change, at_least=True)
            try:
                # The lowest time comes back from its log-SNR with rounding, which is no way to go.
                found.append(None if math.isclose(point.t, old.t, rel_tol=1e-9) else (point, self.student.moved(k, point)))
            except ValueError:  # a solver that cannot walk there
                found.append(None)
        one, other = found
        return [side for side in (one or other, other or one) if side is not None]

    def _part(self, rows: slice) -> _Run:
        """The run of some samples, as far as it came."""
        first = None if self.first is None else self.first[rows]
        part = _Run(self.denoiser, self.student, self.x[rows], first, take(self.cond, rows), self.at_once)
        part.outputs = [output[rows] for output in self.outputs]
        return part

    def _later(self, student: Student, k: int, x: Tensor, *, all_rows: bool) -> list[Tensor]:
        """The states x_{k+1} .. x_R, or x_R alone, of several runs that are at x = x_k, (m, n, *shape); their earlier outputs are
        this run's."""
        several = len(x)
        cond = map_tensors(
            lambda tensor: tensor.repeat(several, *[1] * (tensor.ndim - 1)) if len(tensor) > 1 else tensor, self.cond
        )
        outputs = list(self.outputs[:k])
        states = []
        with self.denoiser.evaluator(x.flatten(0, 1), cond) as evaluate:
            for row in range(k, len(student.p)):
                outputs.append(evaluate(x.flatten(0, 1), student.points[row]).reshape(x.shape))
                x = self._row(student, row, x, outputs)
                if all_rows:
                    states.append(x)
        return states if all_rows else [x]

    @staticmethod
    def _row(student: Student, k: int, x: Tensor, outputs: Sequence[Tensor]) -> Tensor:
        total = x * float(student.p[k])
        for j in np.flatnonzero(student.q[k, : k + 1]).tolist():
            total = total + outputs[j] * float(student.q[k, j])
        return total


def orthogonalised(vectors: Sequence[Tensor]) -> tuple[list[Tensor], list[Array]]:
    """Orthogonal directions, and for each vector its coordinates in them: zero for a direction that comes after it."""
    basis: list[Tensor] = []
    shares: list[Array] = []
    for i, v in enumerate(vectors):
        share, rest = np.zeros(len(vectors)), v
        for j, e in enumerate(basis):
            square = float(e.square().sum())
            share[j] = float((rest * e).sum()) / square if square else 0.0
            rest = rest - e * share[j]
        share[i] = 1.0
        basis.append(rest)
        shares.append(share)
    return basis, shares


def combined(along: Sequence[Sequence[Tensor]], share: Array) -> list[Tensor]:
    """The combination of several derivatives, state by state."""
    used = np.flatnonzero(share).tolist()
    return [
        sum((along[j][i] * float(share[j]) for j in used[1:]), along[used[0]][i] * float(share[used[0]]))
        for i in range(len(along[0]))
    ]


def moved_point(denoiser: Denoiser, point: Point, change: float, *, at_least: bool = False) -> Point:
    """The point at which log(sigma / alpha) has changed by this much; at a whole time for a network that takes no other, and there at
    the next one at least if `at_least`."""
    schedule: NoiseSchedule = denoiser.schedule
    t = float(schedule.time(2 * (point.lam - change)))
    if denoiser.integer_times:
        whole = round(t)
        t = float(whole if whole != point.t or not at_least else point.t + math.copysign(1, change))
    t = min(max(t, schedule.t_min), schedule.t_max)
    return Point(t, float(schedule.alpha(t)), float(schedule.sigma(t)))


def unknowns(tableau: Tableau, outputs: int, times: bool) -> Iterator[Unknown]:
    """What may be fitted: in every row the coefficient of its own state and of the newest outputs, and its own time."""
    for k in range(tableau.rows):
        yield Unknown("state", k)
        # In the last row they are all free: it needs no evaluation.
        oldest = max(0, k + 1 - outputs) if k < tableau.rows - 1 else 0
        for j in range(oldest, k + 1):
            if not (j == 0 and tableau.first == "zero"):
                yield Unknown("output", k, j)
        if times and k > 0:
            yield Unknown("time", k)


def _room(student: Student, k: int) -> tuple[float, float]:
    """How far log(sigma / alpha) of state k may change: less than half of the way to its neighbours, and no long way."""
    before, here, after = (-point.lam for point in student.neighbours(k))
    return -min(_LONGEST_TIME_STEP, _SHARE * (here - after)), min(_LONGEST_TIME_STEP, _SHARE * (before - here))


def changed(student: Student, unknowns: Sequence[Unknown], change: Array, denoiser: Denoiser) -> Student | None:
    """The student with its unknowns changed by these numbers; None where that takes a time out of its order."""
    p, q = _as_arrays(student, unknowns, change)
    student = student.changed(p, q)
    for u, value in zip(unknowns, change, strict=True):
        if u.kind == "time" and value:
            try:
                student = student.moved(u.row, moved_point(denoiser, student.points[u.row], value))
            except ValueError:  # a solver that cannot walk there
                return None
    # Two states at one time (Heun's) stay allowed where the start has them and times are not fitted.
    return student if student.in_order or all(u.kind != "time" for u in unknowns) else None


def _as_arrays(student: Student, unknowns: Sequence[Unknown], change: Array) -> tuple[Array, Array]:
    """The changes of coefficients in the student's arrays p and q."""
    p, q = np.zeros_like(student.p), np.zeros_like(student.q)
    for u, value in zip(unknowns, change, strict=True):
        if u.kind == "state":
            p[u.row] = value
        elif u.kind == "output":
            q[u.row, u.output] = value
    return p, q
