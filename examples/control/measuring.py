"""The ways to decide that are compared, and what is measured of each: returns, errors of chunks, decisions a second."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

import dode
from dode.distances import mean_square_distance
from dode.distillation.effort import effort_of
from dode.distillation.search import ALL_GRIDS, every_solver
from dode.grids import Grid
from dode.noise import HELD_OUT, REPORT, VALIDATION, standard_noise
from examples.control.policy import SCHEDULE, Network, denoiser_of
from examples.control.reaching import HORIZON, JOINTS, Array, Stream, decision_observations, decisions, policy_returns

MANY = 100
USUAL, BEST, DISTILLED = "DDIM, even grid", "best undistilled", "distilled"
# Of the run that errors are distances to: another solver on another grid.
_FINE = dode.solver("deis").tableau(SCHEDULE, 128, "mixed")
# Observations that errors of chunks are measured on, and decisions that are timed.
_OBSERVATIONS, _TIMED = 1000, 50


@dataclass(frozen=True)
class Way:
    """A way to decide: a tableau with a name."""

    name: str
    tableau: dode.Tableau

    @property
    def calls(self) -> int:
        """Of the network, for a decision."""
        return self.tableau.nfe


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of a way.

    Attributes:
        way: which.
        returns: of each episode, (episodes,).
        ends: the fingertip's distance from the target after the last step, (episodes,) metres.
        errors: mean square distance of a chunk from the fine run's of the same noise, (observations,) radians^2.
        rate: decisions a second of the processor, one after the other.
    """

    way: Way
    returns: Array
    ends: Array
    errors: Array
    rate: float


def ways(
    network: Network, calls: Sequence[int], executed: int, *, effort: str, samples: int, seed: int, progress: bool
) -> Iterator[Way]:
    """DDIM with many calls; then for each number of calls DDIM as it is, the best undistilled solver, and the distilled one.

    All are chosen by their mean error on noise and observations that nothing is measured on. Two fits are made: one that looks for its grid
    itself, and one on the best grid. The distilled one is the better of the two, or the undistilled one where that is better still.

    Args:
        network: the policy's.
        calls: of a decision, one or several numbers.
        executed: steps from one decision to the next.
        effort: of `dode.distill`.
        samples: that are fitted; as many choose.
        seed: of noise and observations.
        progress: show bars.
    """
    denoiser = denoiser_of(network)
    observations = decision_observations(2 * samples, executed, seed, Stream.FITTING)
    choosing = {"observation": observations[samples:]}
    noise = standard_noise(seed, samples, (HORIZON, JOINTS), stream=VALIDATION)
    fine = dode.sample(denoiser, _FINE, noise, **choosing)

    def error(tableau: dode.Tableau) -> float:
        try:
            return float(mean_square_distance(dode.sample(denoiser, tableau, noise, **choosing), fine).mean())
        except FloatingPointError:  # it diverges
            return math.inf

    yield Way(USUAL, dode.solver("ddim").tableau(SCHEDULE, MANY, "uniform"))
    for each in calls:
        tried = list(_undistilled(each))
        best = min((tableau for _, _, tableau in tried), key=error)
        # A grid is given for tableaux whose first output is a call.
        solver, grid, _ = min((one for one in tried if one[2].first == "network"), key=lambda one: error(one[2]))
        options = {
            "nfe": each,
            "effort": effort,
            "samples": samples,
            "validation": samples,
            "held_out": 0,
            # An effort's own budget is for some hundred samples.
            "budget": effort_of(effort).evaluations(each) * -(-samples // 100),
            "seed": seed,
            "progress": progress,
            "observation": observations,
        }
        # With `shrink` the median may not grow. Easy decisions make up DDIM's median, but what costs is the first of an episode.
        fits = dode.distill(denoiser, "ddim", shrink=False, **options), dode.distill(denoiser, solver, grid=grid, **options)
        yield Way(USUAL, dode.solver("ddim").tableau(SCHEDULE, each, "uniform"))
        yield Way(BEST, best)
        yield Way(DISTILLED, min(*(made.tableau for made in fits), best, key=error))


def _undistilled(calls: int) -> Iterator[tuple[dode.Solver, Grid, dode.Tableau]]:
    """All of dode's solvers on all grids that a distillation tries; also with a first output of zeros, which costs no call."""
    for solver in every_solver():
        for grid in ALL_GRIDS:
            for first in ("network", "zero"):
                try:
                    tableau = solver.tableau(SCHEDULE, calls + (first == "zero"), grid)
                    yield solver, grid, replace(tableau, first=first)
                except ValueError:  # a number of calls that this solver does not have
                    continue


class Trials:
    """Where ways are tried: all in the same episodes, on the same observations, from the same noise, to which nothing was fitted.

    Args:
        network: the policy's.
        executed: steps from one decision to the next.
        episodes: seeds of the task.
        seed: of noise and observations.
    """

    def __init__(self, network: Network, executed: int, episodes: Sequence[int], seed: int) -> None:
        self._network, self._executed, self._episodes = network, executed, episodes
        noise = standard_noise(seed, len(episodes) * decisions(executed), (HORIZON, JOINTS), stream=REPORT)
        self._noise = noise.unflatten(0, (len(episodes), -1))
        self._observations = decision_observations(_OBSERVATIONS, executed, seed, Stream.MEASURING)
        self._held_out = standard_noise(seed, _OBSERVATIONS, (HORIZON, JOINTS), stream=HELD_OUT)
        self._fine = self._chunks(_FINE, self._held_out, self._observations)

    def measure(self, way: Way) -> Measured:
        """All that is measured of a way."""

        def decide(seen: Tensor, number: int) -> Tensor:
            return self._chunks(way.tableau, self._noise[:, number], seen)

        returns, ends = policy_returns(decide, self._episodes, self._executed)
        found = self._chunks(way.tableau, self._held_out, self._observations)
        return Measured(way, returns, ends, mean_square_distance(found, self._fine), self._rate(way.tableau))

    def _chunks(self, tableau: dode.Tableau, noise: Tensor, observations: Tensor) -> Tensor:
        """The part of the chunks that is executed, (n, executed, 2) radians, from noise (n, 16, 2) and observations (n, 10)."""
        samples = dode.sample(denoiser_of(self._network), tableau, noise, observation=observations)
        return samples[:, : self._executed] * self._network.unit

    def _rate(self, tableau: dode.Tableau) -> float:
        """Decisions a second: the fastest of some, by the processor's time, which other programs hardly disturb."""
        seconds = []
        for noise, observation in zip(self._held_out[:_TIMED].split(1), self._observations.split(1)):
            began = time.process_time()
            self._chunks(tableau, noise, observation)
            seconds.append(time.process_time() - began)
        return 1 / min(seconds)
