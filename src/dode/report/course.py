"""Where runs go: the reference's states from a few noises, and how far a cell's are from them at its own times.

Between its times a state of the reference is interpolated, see `dode.teacher.States`. Paths are drawn as x / hypot(alpha, sigma), whose
size is the same at all times, in the plane of the two principal directions of the reference's own path from that noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from dode.cache import Cache
from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.grids import Point
from dode.host import to_host
from dode.report.results import Course
from dode.report.thumbnails import are_images, strip
from dode.schedules import Array, NoiseSchedule
from dode.tableau import Tableau
from dode.teacher import States, Teacher, teacher_states

Decode = Callable[[Tensor], Tensor]

# Noises that runs are followed from, fewer where the reference's states would take more bytes than these.
_NOISES, _BYTES = 4, 2**26
# States of the reference that are shown, and that its plane is made of.
_SHOWN, _FITTED = 16, 33
# Beyond this log-SNR, diffusers' stand-in for pure noise, there is nothing to see.
_EXTREME = 24 * math.log(2)


def noises_followed(tableau: Tableau, sample_bytes: int) -> int:
    """From how many noises the runs are followed, whose reference is this tableau."""
    return max(1, min(_NOISES, _BYTES // (2 * tableau.rows * sample_bytes)))


class Courses:
    """What the reference does from a few noises, and cells beside it.

    Args:
        denoiser: the network.
        tableau: the reference's.
        noise, cond: a few noises with their condition.
        decode: from samples to pictures; None where they are pictures, or nothing to look at.
        cache: keeps the reference's states; None for memory.
    """

    def __init__(
        self, denoiser: Denoiser, tableau: Tableau, noise: Tensor, cond: Condition, decode: Decode | None, cache: Cache | None
    ) -> None:
        self._schedule: NoiseSchedule = denoiser.schedule
        self._decode = decode
        self.noises = len(noise)
        self._run: Callable[[], States] = lambda: teacher_states(
            denoiser, Teacher(tableau, ()), noise, cond, dense=True, cache=cache
        )

    @cached_property
    def states(self) -> States:
        """The reference's, with their slopes."""
        return self._run()

    def of(self, points: Sequence[Point], states: Sequence[Tensor], denoised: Sequence[Tensor]) -> Course | None:
        """The course of a run.

        Args:
            points: (K + 1) where its states are.
            states: K + 1 of (noises, *shape).
            denoised: K of (1, *shape): of the first noise.

        Returns:
            None where a state is not finite, or the reference does not go where the run does.
        """
        if not all(bool(torch.isfinite(x).all()) for x in states):
            return None
        try:
            there = [self.states.at(point) for point in points]
        except ValueError:
            return None
        errors = [float(mean_square_distance(x, y).mean()) for x, y in zip(states, there, strict=True)]
        return self._course(points, errors, states, denoised)

    def reference(self) -> Course:
        """Of the reference itself, at some of its times."""
        known = self.states
        chosen = _spread(len(known.points), _SHOWN)
        points = [known.points[k] for k in chosen]
        denoised = []
        for k, point in zip(chosen[:-1], points, strict=False):
            slope = known.slopes[k]
            assert slope is not None
            denoised.append(_denoised(point, known.values[k][:1], slope[:1]))
        return self._course(points, [0.0] * len(points), [known.values[k][:] for k in chosen], denoised)

    def _course(
        self, points: Sequence[Point], errors: Sequence[float], states: Sequence[Tensor], denoised: Sequence[Tensor]
    ) -> Course:
        return Course(
            t=np.array([point.t for point in points]),
            log_snr=_log_snr(self._schedule, points),
            errors=np.array(errors),
            plane=np.stack([self._projected(n, points, states) for n in range(self.noises)]),
            denoised=self._pictures(torch.cat(list(denoised))),
        )

    def _pictures(self, denoised: Tensor) -> bytes:
        images = denoised if self._decode is None else self._decode(denoised)
        return strip(images) if are_images(tuple(images.shape[1:])) else b""

    def _projected(self, n: int, points: Sequence[Point], states: Sequence[Tensor]) -> Array:
        """(K + 1, 2): a path in the plane of the reference's from the n-th noise."""
        middle, directions = self._planes[n]
        projected: Array = (_path(points, [x[n] for x in states]) - middle) @ directions.T
        return projected

    @cached_property
    def _planes(self) -> list[tuple[Array, Array]]:
        """For each noise the middle of the reference's path (d,) and its two principal directions (2, d)."""
        known, found = self.states, []
        chosen = _spread(len(known.points), _FITTED)
        points = [known.points[k] for k in chosen]
        for n in range(self.noises):
            path = _path(points, [known.values[k][n : n + 1][0] for k in chosen])
            middle = path.mean(0)
            directions = np.zeros((2, path.shape[1]))
            principal = np.linalg.svd(path - middle, full_matrices=False)[2][:2]
            directions[: len(principal)] = principal
            # A direction has no sign of its own: the path begins on the right, and above its end.
            along = (path[0] - path[-1]) @ directions.T
            found.append((middle, directions * np.where(along < 0, -1.0, 1.0)[:, None]))
        return found


def _path(points: Sequence[Point], states: Sequence[Tensor]) -> Array:
    """(K + 1, d), float64: states (*shape) over their size."""
    return np.stack([to_host(x).flatten().astype(np.float64) / _size(p) for p, x in zip(points, states, strict=True)])


def _size(point: Point) -> float:
    return math.hypot(point.alpha, point.sigma)


def _denoised(point: Point, x: Tensor, slope: Tensor) -> Tensor:
    """D of a state and its slope cos(phi) eps - sin(phi) D: the state over its size r is cos(phi) D + sin(phi) eps."""
    r = _size(point)
    return x * (point.alpha / r**2) - slope * (point.sigma / r)


def _log_snr(schedule: NoiseSchedule, points: Sequence[Point]) -> Array:
    """log(alpha^2 / sigma^2), within the schedule's own range."""
    low, high = (float(np.clip(schedule.log_snr(t), -_EXTREME, _EXTREME)) for t in (schedule.t_max, schedule.t_min))
    return np.clip([2 * point.lam for point in points], low, high)


def _spread(count: int, most: int) -> list[int]:
    """Some of 0 .. count - 1, evenly, the first and the last among them."""
    return sorted({round(i * (count - 1) / max(most - 1, 1)) for i in range(most)})
