"""How much of what a network says is rounding, and how derivatives of it are then taken.

A network in half precision is a smooth function and a scatter about it of some thousandths. Asked at x (1 + s n), with n standard
normal and fixed, its second difference

    f(x (1 + s n)) - 2 f(x) + f(x (1 - s n)),        mean square 6 scatter^2 + O(s^4)

has the scatter in it, and of the smooth part only its curvature. It says all of the scatter where s is longer than the rounding of x,
so that every number is rounded anew, and the least of the curvature where s is short: the shortest s that the scatter allows is taken.

A difference with the step h errs by about h / 2 of itself and by 2^(1/2) scatter / h. Both enter a sum of squares with their squares,
which together are least about h = 2 scatter^(1/2).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count

import numpy as np
import torch
from torch import Tensor

from dode.conditions import Condition, take
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.distillation.linearisation import Differences, Problem
from dode.distillation.student import Student
from dode.first_output import first_output
from dode.grids import Point
from dode.host import to_device
from dode.noise import SHARED, standard_noise
from dode.sampling import Run, start
from dode.tableau import Tableau

# The lengths s that are tried, for float32, float16 and bfloat16, and how many times the scatter one has to be.
_LENGTHS, _LONGER = (7e-5, 2e-3, 1.6e-2), 5.0
# Samples and rows that the scatter of a student's network is taken from.
_SAMPLES, _ROWS = 4, 3
# The longest steps of differences.
_LONGEST, _LONGEST_TIME = 0.2, 0.1


def rounding_noise(denoiser: Denoiser, states: Sequence[Tensor], points: Sequence[Point], cond: Condition) -> float:
    """The relative error of the network's output by rounding: the median over some states, nan if the network diverges.

    Two evaluations a sample at each state, four or six in half precision, beside the one at the state itself.

    Args:
        denoiser: the network.
        states: (n, *shape) each.
        points: where they live.
        cond: the condition of the samples.
    """
    found = []
    with torch.no_grad(), denoiser.evaluator(states[0], cond) as evaluate:
        for x, point in zip(states, points, strict=True):
            n = _normal(x)
            found.append(_scatter(lambda s, x=x, n=n, point=point: evaluate(x * (1 + s * n), point)))  # type: ignore[misc]
    return float(np.median(found))


def rounding_floor(denoiser: Denoiser, tableau: Tableau, noise: Tensor, cond: Condition) -> float:
    """About the mean square error that rounding leaves in the end points of a run, over an element: no teacher is known better than
    that. nan where the run diverges.

    Half of the distance between two runs, one of which asks the network at x (1 + s n), with another n in every row and s its rounding.
    Two runs, and what `rounding_noise` takes half-way.

    Args:
        denoiser: the network.
        tableau: the run, e.g. a teacher's.
        noise: (n, *shape), standard normal; a few samples are enough.
        cond: the condition, a row a sample.
    """
    x = start(denoiser, tableau, noise)
    first = first_output(denoiser, tableau, x, cond)
    middle = tableau.rows // 2

    def end(shift: float) -> Tensor:
        rows = count()

        def shaken(x: Tensor, point: Point, call: int | None = None) -> Tensor:
            return evaluate(x * (1 + shift * _normal(x, next(rows))), point, call)

        run = Run(denoiser, shaken, tableau, x, first)
        for k in range(tableau.rows):
            run.evaluate(k)
            result = run.advance(k)
            if k + 1 == middle:
                half.append(result)
        return result

    half: list[Tensor] = []
    with torch.no_grad(), denoiser.evaluator(x, cond) as evaluate:
        plain = end(0.0)
        scatter = rounding_noise(denoiser, [half[0] if half else x], [tableau.points[middle]], cond)
        return float(mean_square_distance(end(scatter), plain).mean()) / 2


def differences_for(problem: Problem, student: Student) -> Differences:
    """How derivatives of a student's run are to be taken: with the usual steps, or with as long ones as the network's rounding asks for."""
    usual, scatter = Differences(), _scatter_of_run(problem, student)
    if not usual.state < 2 * math.sqrt(scatter):
        return usual
    state = min(2 * math.sqrt(scatter), _LONGEST)
    return Differences(state, max(usual.time, min(usual.time * state / usual.state, _LONGEST_TIME)))


def most_evaluations(tableau: Tableau) -> int:
    """Evaluations that `differences_for` takes at the most."""
    return _SAMPLES * (tableau.nfe + _ROWS * (1 + 2 * len(_LENGTHS)))


def _scatter_of_run(problem: Problem, student: Student) -> float:
    """The network's relative rounding at some states of the student."""
    few = min(_SAMPLES, len(problem.batch))
    ((rows, run),) = problem.runs(student, 0, few, few)
    states = run.forward()
    own = range(0 if problem.tableau.first == "network" else 1, len(student.p))
    if not own:
        return 0.0
    chosen = sorted({own[round(i)] for i in np.linspace(0, len(own) - 1, _ROWS)})
    points = [student.points[k] for k in chosen]
    return rounding_noise(problem.denoiser, [states[k] for k in chosen], points, take(problem.batch.cond, rows))


def _normal(like: Tensor, number: int = 0) -> Tensor:
    """Fixed standard normal numbers, (1, *shape), the same for every sample."""
    return to_device(standard_noise(number, 1, tuple(like.shape[1:]), stream=SHARED), like)


def _scatter(function: Callable[[float], Tensor]) -> float:
    """The scatter at s = 0 about a smooth function of s, as a share of it."""
    value = function(0.0)
    size = float(mean_square_distance(value, torch.zeros_like(value)).mean())
    share = 0.0
    for length in _LENGTHS if size else ():
        ahead, behind = function(length), function(-length)
        share = math.sqrt(float(mean_square_distance(ahead + behind, 2 * value).mean()) / 6 / size)
        # Where most numbers are the same on both sides the length is below the rounding, and says nothing.
        told = float((ahead != behind).float().mean()) > 0.5
        if told and not share * _LONGER > length:
            break
    return share
