"""The ways to decide that are compared, and what is measured of each: returns, errors of chunks, decisions a second."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from policy import SCHEDULE, Network, denoiser_of
from reaching import DECISIONS, EXECUTED, HORIZON, JOINTS, Array, policy_returns
from torch import Tensor

import dode
from dode.distances import mean_square_distance
from dode.distillation.effort import effort_of
from dode.noise import REPORT, standard_noise

MANY = 100
USUAL, BEST, DISTILLED = "DDIM, even grid", "best undistilled", "distilled"
# Of the run that errors are distances to: another solver on another grid.
_FINE = dode.solver("deis").tableau(SCHEDULE, 400, "log-snr")
_TIMED = 200


@dataclass(frozen=True)
class Way:
    """A way to decide: a tableau with a name."""

    name: str
    tableau: dode.Tableau

    @property
    def calls(self) -> int:
        return self.tableau.nfe


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured of a way.

    Attributes:
        way: which.
        returns: of each episode, (episodes,).
        ends: the fingertip's distance from the target after the last step, (episodes,) metres.
        errors: mean square distance of a chunk from the fine run's of the same noise, (observations,) radians^2.
        rate: decisions a second, one after the other.
    """

    way: Way
    returns: Array
    ends: Array
    errors: Array
    rate: float


def ways(
    network: Network, calls: Sequence[int], observations: Tensor, *, effort: str, samples: int, seed: int
) -> Iterator[Way]:
    """DDIM with many calls; then for each number of calls DDIM as it is, the best undistilled solver, and the distilled one.

    The last two are found on noise of their own: for the one all solvers of dode on all its grids are tried, for the other the
    coefficients are fitted as well.

    Args:
        network: the policy's.
        calls: of a decision.
        observations: (n, 10): sample i is made for row i.
        effort: of `dode.distill`.
        samples: that are fitted, and half as many that choose.
        seed: of the noise.
    """
    yield Way(USUAL, dode.solver("ddim").tableau(SCHEDULE, MANY, "uniform"))
    for each in calls:
        made = dode.distill(
            denoiser_of(network),
            "auto",
            nfe=each,
            effort=effort,
            samples=samples,
            validation=max(2, samples // 2),
            held_out=0,
            budget=effort_of(effort).evaluations(each) * -(-samples // 100),
            seed=seed,
            progress=True,
            observation=observations,
        )
        yield Way(USUAL, dode.solver("ddim").tableau(SCHEDULE, each, "uniform"))
        yield Way(BEST, made.base)
        yield Way(DISTILLED, made.tableau)


def measure(network: Network, way: Way, observations: Tensor, episodes: Sequence[int], seed: int) -> Measured:
    """Try a way in episodes, each with noise of its own that is the same for all ways, and on given observations.

    Args:
        network: the policy's.
        way: to decide.
        observations: (n, 10), which nothing was fitted to.
        episodes: seeds of the task.
        seed: of the noise, of a stream that nothing was fitted to.
    """
    noise = standard_noise(seed, len(episodes) * DECISIONS, (HORIZON, JOINTS), stream=REPORT)
    by_decision = noise.unflatten(0, (len(episodes), DECISIONS)).transpose(0, 1)

    def decide(seen: Tensor, number: int) -> Tensor:
        return chunks(network, way.tableau, by_decision[number], seen)

    returns, ends = policy_returns(decide, episodes)
    return Measured(
        way,
        returns,
        ends,
        chunk_errors(network, way.tableau, observations, seed + 1),
        rate(network, way.tableau, observations[0]),
    )


def chunks(network: Network, tableau: dode.Tableau, noise: Tensor, observations: Tensor) -> Tensor:
    """Chunks of angles (n, 16, 2), counted from the angles of the moment, from noise (n, 16, 2) and observations (n, 10)."""
    return dode.sample(denoiser_of(network), tableau, noise, observation=observations) * network.unit


def chunk_errors(network: Network, tableau: dode.Tableau, observations: Tensor, seed: int) -> Array:
    """Mean square distance, radians squared, of the executed part of each chunk from that of a fine run of the same noise: (n,)."""
    noise = standard_noise(seed, len(observations), (HORIZON, JOINTS), stream=REPORT)
    found, fine = (chunks(network, each, noise, observations)[:, :EXECUTED] for each in (tableau, _FINE))
    return mean_square_distance(found, fine)


def rate(network: Network, tableau: dode.Tableau, observation: Tensor) -> float:
    """Decisions a second, one at a time: the median of some."""
    noise, seconds = torch.zeros(1, HORIZON, JOINTS), []
    for _ in range(_TIMED // tableau.nfe + 5):
        began = time.perf_counter()
        chunks(network, tableau, noise, observation[None])
        seconds.append(time.perf_counter() - began)
    return 1 / float(np.median(seconds))
