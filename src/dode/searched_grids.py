"""Times chosen by looking at a network's trajectories: published ways to lay a grid, to stand beside those that distillation finds.

Both pick `nfe` of the times of one fine run, by dynamic programming over what a single first-order step from one of its times to another
does: x_j' = alpha_j D_i + sigma_j eps_i (DDIM; Euler's step in sigma / alpha). Distances are those of x / alpha, so that an error counts
by what it becomes in the clean sample if nothing else happens to it.

These are own, short implementations of the ideas, not of every detail of the papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dode.conditions import Condition, checked_condition, cycle
from dode.denoisers import Denoiser
from dode.fine import PAIR
from dode.grids import GridLike, Mixed, Point
from dode.host import to_host
from dode.noise import FITTING, standard_noise
from dode.sampling import sample
from dode.schedules import Array
from dode.solvers.base import check_nfe

_SOLVER = PAIR[0][0]


def gits_times(
    denoiser: Denoiser,
    nfe: int,
    *,
    samples: int = 16,
    fine: int = 64,
    weight: float = 1.15,
    grid: GridLike | None = None,
    seed: int = 0,
    **cond: Any,
) -> Array:
    """Times in the manner of GITS (Chen et al. 2024, *On the Trajectory Regularity of ODE-based Diffusion Sampling*, arXiv 2405.11326).

    Every step starts on the fine trajectory itself; the sum of its errors over the steps is made least, exactly.

    Args:
        denoiser: the network.
        nfe: evaluations of the grid, >= 1.
        samples: trajectories.
        fine: evaluations of a trajectory: the times to choose from.
        weight: how much more the error of a step counts than that of the step before it; 1.15 is the paper's.
        grid: where the trajectory stops; between even in log-SNR and even in time by default.
        seed: of the noise.
        cond: the condition; sample i takes row i modulo its rows.

    Returns:
        (nfe + 1,) decreasing times, the last one the clean sample's: for `grid=` and `times=`.

    Raises:
        ValueError: fewer fine evaluations than nfe, or fewer than one sample.
        FloatingPointError: the trajectory is not finite.
    """
    run = _trajectory(denoiser, nfe, samples, fine, grid, seed, cond)
    return run.times[cheapest_path(step_costs(run.points, run.states, run.denoised), nfe, weight)]


def oss_times(
    denoiser: Denoiser,
    nfe: int,
    *,
    samples: int = 16,
    fine: int = 64,
    grid: GridLike | None = None,
    seed: int = 0,
    **cond: Any,
) -> Array:
    """Times in the manner of optimal stepsizes (Pei et al. 2025, *Optimal Stepsize for Diffusion Sampling*, arXiv 2503.21774).

    Every step starts where the student is: of all ways to reach a time with k steps the one whose state is nearest to the trajectory is
    kept, and gone on from. It takes about nfe * fine evaluations of a sample, where `gits_times` takes `fine`.

    Args, returns and errors: as for `gits_times`.
    """
    run = _trajectory(denoiser, nfe, samples, fine, grid, seed, cond)
    last = len(run.points) - 1
    before = np.full((nfe + 1, last + 1), -1)
    states: dict[int, Tensor] = {0: run.states[0]}
    with denoiser.evaluator(run.states[0], run.cond) as ask, torch.no_grad():
        for k in range(1, nfe + 1):
            least = np.full(last + 1, np.inf)
            steps: dict[int, tuple[Tensor, Tensor]] = {}
            for i, x in states.items():
                D = denoiser.denoised(x, ask(x, run.points[i]), run.points[i])
                steps[i] = D, _epsilon(x, D, run.points[i])
                # As many times stay below as there are steps to come, and the last step goes to the end.
                reached = [last] if k == nfe else range(i + 1, last + 1 - (nfe - k))
                for j, error in zip(reached, _errors(*steps[i], reached, run.points, run.states), strict=True):
                    if error < least[j]:
                        least[j], before[k, j] = error, i
            found = [int(j) for j in np.flatnonzero(np.isfinite(least))]
            states = {j: _step(*steps[int(before[k, j])], run.points[j]) for j in found}
    path = [last]
    for k in range(nfe, 0, -1):
        path.append(int(before[k, path[-1]]))
    return run.times[path[::-1]]


def step_costs(points: Sequence[Point], states: Sequence[Tensor], denoised: Sequence[Tensor]) -> Array:
    """Root mean square error of one first-order step from the trajectory's time i to its time j, mean over the samples: (M + 1, M + 1),
    infinite where j <= i.

    Args:
        points: M + 1 of them.
        states: M + 1 states (batch, *shape) there.
        denoised: M denoised samples (batch, *shape), at all points but the last.
    """
    size = len(points)
    costs = np.full((size, size), np.inf)
    for i, D in enumerate(denoised):
        below = range(i + 1, size)
        costs[i, i + 1 :] = _errors(D, _epsilon(states[i], D, points[i]), below, points, states)
    return costs


def cheapest_path(costs: Array, steps: int, weight: float = 1.0) -> list[int]:
    """The indices 0 = i_0 < i_1 < ... < i_steps = M with the least sum of weight^k costs[i_k, i_{k+1}].

    Args:
        costs: (M + 1, M + 1); what is not above the diagonal is not looked at.
        steps: 1 .. M.
        weight: above 0.
    """
    size = len(costs)
    above = np.where(np.triu(np.ones((size, size), bool), 1), costs, np.inf)
    least, after = above[:, -1], []
    for _ in range(steps - 1):
        total = above + weight * least[None, :]
        after.append(total.argmin(1))
        least = total.min(1)
    path = [0]
    for chosen in reversed(after):
        path.append(int(chosen[path[-1]]))
    return [*path, size - 1]


@dataclass(frozen=True, eq=False)
class _Run:
    """A fine run: its M + 1 points with their times, M + 1 states, and M denoised samples."""

    points: tuple[Point, ...]
    states: tuple[Tensor, ...]
    denoised: tuple[Tensor, ...]
    cond: Condition

    @property
    def times(self) -> Array:
        return np.array([point.t for point in self.points])


def _trajectory(
    denoiser: Denoiser, nfe: int, samples: int, fine: int, grid: GridLike | None, seed: int, cond: dict[str, Any]
) -> _Run:
    check_nfe(nfe)
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}")
    most = denoiser.schedule.most_evaluations
    fine = fine if most is None else min(fine, most)
    if fine < nfe:
        raise ValueError(f"{nfe} times cannot be chosen from the {fine} of a run: take a finer one")
    if denoiser.shape is None:
        raise ValueError("the shape of a sample is not known: make the Denoiser with shape=...")
    tableau = _SOLVER.tableau(denoiser.schedule, fine, Mixed() if grid is None else grid)
    noise = standard_noise(seed, samples, denoiser.shape, stream=FITTING, dtype=denoiser.noise_dtype)
    condition = cycle(checked_condition(cond), 0, samples)
    made = sample(denoiser, tableau, noise, return_trajectory=True, **condition)
    return _Run(tuple(tableau.points), made.states, made.denoised, condition)


def _epsilon(x: Tensor, D: Tensor, point: Point) -> Tensor:
    return (x - point.alpha * D) / point.sigma


def _step(D: Tensor, eps: Tensor, to: Point) -> Tensor:
    return to.alpha * D + to.sigma * eps


def _errors(D: Tensor, eps: Tensor, to: Sequence[int], points: Sequence[Point], states: Sequence[Tensor]) -> Array:
    """Of the steps to these points, mean over the samples of the root mean square distance of x / alpha to the trajectory's: (len(to),)."""
    if not len(to):
        return np.zeros(0)
    distances = [(_step(D, eps, points[j]) - states[j]).flatten(1).square().mean(1).sqrt().mean() / points[j].alpha for j in to]
    return np.asarray(to_host(torch.stack(distances)), np.float64)
