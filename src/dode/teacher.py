"""The teacher: a many-step run whose states at the student's times are what the student's rows are fitted to.

By default the teacher is the student's own solver on the student's own grid with every step cut into `scale` parts, so that
each target stands at its row's own time, inner stages of single-step methods included.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path as FilePath

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dode.conditions import Condition, map_tensors, take
from dode.denoisers import Denoiser
from dode.files import write_atomically
from dode.grids import Explicit
from dode.sampling import Run, start
from dode.solvers import Path, Solver
from dode.tableau import Tableau


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
        ValueError: a scale below 1, or a grid with alphas of its own, between whose times no schedule is known.
    """
    if isinstance(path.grid, Explicit) and path.grid.alphas is not None:
        raise ValueError("a grid with alphas and sigmas of its own has no times between: hand over targets")
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


def teacher_states(
    denoiser: Denoiser,
    teacher: Teacher,
    noise: Tensor,
    cond: Condition,
    *,
    cache: FilePath | None = None,
) -> list[Tensor]:
    """The targets: for each row of the student, (batch, *shape) on the network's device.

    Memory holds one state a distinct target time, whatever the teacher's number of steps.

    Args:
        denoiser: the network.
        teacher: from `make_teacher`.
        noise: (batch, *shape), standard normal.
        cond: the condition, a row a sample.
        cache: a folder to keep the states in, a file for each part of the batch: a run that was interrupted goes on from the
            parts that are there. Files are found by what they depend on: noise, condition, tableau, and a probe of the network.

    Raises:
        FloatingPointError: the teacher's states are not finite.
    """
    size = len(noise) if cache is None else denoiser.batch_size or min(32, len(noise))
    wanted = sorted(set(teacher.rows))
    parts: list[list[Tensor]] = []
    for first in range(0, len(noise), size):
        rows = slice(first, min(first + size, len(noise)))
        part = take(cond, rows)
        if cache is None:
            parts.append(_run(denoiser, teacher.tableau, wanted, noise[rows], part))
        else:
            parts.append(_cached(cache, denoiser, teacher.tableau, wanted, noise[rows], part))
    states = {k: torch.cat([part[i] for part in parts]) for i, k in enumerate(wanted)}
    return [states[k] for k in teacher.rows]


def _run(denoiser: Denoiser, tableau: Tableau, wanted: list[int], noise: Tensor, cond: Condition) -> list[Tensor]:
    x = start(denoiser, tableau, noise)
    kept: list[Tensor] = []
    with denoiser.evaluator(x, cond) as evaluate, torch.no_grad():
        run = Run(denoiser, evaluate, tableau, x)
        for k in range(tableau.rows):
            run.evaluate(k)
            x = run.advance(k)
            if k in wanted:
                kept.append(x)
                if not bool(torch.isfinite(x).all()):
                    raise FloatingPointError(
                        f"the teacher's state at t = {tableau.times[k + 1]:g} (step {k + 1} of {tableau.nfe}) is not finite"
                    )
    return kept


def _cached(
    folder: FilePath, denoiser: Denoiser, tableau: Tableau, wanted: list[int], noise: Tensor, cond: Condition
) -> list[Tensor]:
    path = folder / f"teacher-{_key(denoiser, tableau, wanted, noise, cond)}.safetensors"
    if path.is_file():
        stored = load_file(path)
        if denoiser.watcher is not None:
            denoiser.watcher(tableau.nfe * len(noise))
        return [stored[str(k)].to(denoiser.device or noise.device) for k in wanted]
    states = _run(denoiser, tableau, wanted, noise, cond)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {str(k): state.contiguous().cpu() for k, state in zip(wanted, states, strict=True)}
    write_atomically(path, lambda temporary: save_file(tensors, temporary), overwrite=True)
    return states


def _key(denoiser: Denoiser, tableau: Tableau, wanted: list[int], noise: Tensor, cond: Condition) -> str:
    """A hash of all that the states depend on; the network is known by what it gives for the first sample."""
    digest = hashlib.sha256()
    for array in (tableau.times, tableau.alphas, tableau.sigmas, tableau.a, tableau.b):
        digest.update(array.tobytes())
    digest.update(repr((wanted, tableau.noise_scale, denoiser.output)).encode())

    def add(tensor: Tensor) -> None:
        digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())

    add(noise)
    map_tensors(add, cond)
    digest.update(repr(sorted((k, v) for k, v in cond.items() if not isinstance(v, Tensor))).encode())
    first = map_tensors(lambda tensor: tensor[:1], cond)
    x = start(denoiser, tableau, noise[:1])
    with denoiser.evaluator(x, first) as evaluate:
        add(evaluate(x, tableau.points[0]))
    return digest.hexdigest()[:32]
