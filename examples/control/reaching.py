"""The task: gymnasium's arm of two links that reaches for a target, and an expert that has two ways to do so.

Reacher-v5 gives the return: minus the distance of the fingertip from the target (metres) and minus the squared torques, summed over 50
steps of 0.02 s. An arm of two links reaches every target with its elbow on either side. The expert takes a side by chance and keeps to
it, so that its actions have two modes at the start of an episode, and their mean, an arm that is held straight, reaches nothing.

Actions are joint angles to go to, which a spring and a damper in each joint turn into torques, as position-controlled robots do: small
torques would drown in the noise of the diffusion, and a chunk of torques runs blind. A chunk is counted from the angles where it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

try:
    import gymnasium as gym
except ImportError:
    raise ImportError("the task needs gymnasium: pip install 'dode[examples]'") from None

Array = npt.NDArray[np.float64]
# Angles of a chunk, as in arXiv 2303.04137.
HORIZON, JOINTS, OBSERVATION, STEPS = 16, 2, 10, 50
# A torque of 1 a radian, and this much less a radian per second: the arm is there after some ten steps.
_DAMPING = 0.05
# Metres from shoulder to elbow and from elbow to fingertip, as in gymnasium's reacher.xml.
_UPPER, _LOWER = 0.1, 0.11
# Where the expert asks the joints to go: this share of the way to its goal.
_SHARE = 0.25
# Radians, standard deviation: demonstrations are disturbed, and their chunks are what the expert asked for, so that the policy has seen how
# to come back (DART, Laskey et al. 2017, arXiv 1703.09327).
_DISTURBANCE = 0.1
# Seeds of the task from here on are demonstrated, those below are to be tried.
_DEMONSTRATED = 2**30


class JointAngles(gym.ActionWrapper):
    """Reacher-v5 whose actions are angles for shoulder and elbow, (2,) radians."""

    def __init__(self, max_episode_steps: int = STEPS) -> None:
        try:
            super().__init__(gym.make("Reacher-v5", max_episode_steps=max_episode_steps, disable_env_checker=True))
        except gym.error.DependencyNotInstalled:
            raise ImportError("Reacher-v5 needs mujoco: pip install 'dode[examples]'") from None
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (JOINTS,))

    @property
    def angles(self) -> Array:
        """Of shoulder and elbow, (2,) radians."""
        return self.unwrapped.data.qpos[:JOINTS].copy()

    def action(self, wanted: Array) -> Array:
        """The torques, (2,) in [-1, 1]."""
        velocities = self.unwrapped.data.qvel[:JOINTS]
        return np.clip(wanted - self.angles - _DAMPING * velocities, -1, 1)


def goal_angles(target: Array, elbow: int, shoulder: float) -> Array:
    """The angles, (2,), that bring the fingertip to a target (x, y), or nearest to it.

    Args:
        target: metres from the shoulder.
        elbow: 1 or -1, the side that it bends to.
        shoulder: its angle at first: of those that differ by full turns the nearest is taken.
    """
    cosine = (target @ target - _UPPER**2 - _LOWER**2) / (2 * _UPPER * _LOWER)
    bend = elbow * np.arccos(np.clip(cosine, -1, 1))
    turn = np.arctan2(target[1], target[0]) - np.arctan2(_LOWER * np.sin(bend), _UPPER + _LOWER * np.cos(bend))
    return np.array([shoulder + (turn - shoulder + np.pi) % (2 * np.pi) - np.pi, bend])


class Stream(IntEnum):
    """What demonstrations are for; those of different purposes have different targets."""

    TRAINING, FITTING, MEASURING = range(3)


def demonstrations(count: int, seed: int, stream: Stream) -> tuple[Tensor, Tensor]:
    """What the expert saw and asked for in so many episodes.

    Returns:
        Observations (count, 50, 10), and the chunks of angles that followed, (count, 50, 16, 2), counted from the angles of the moment;
        both float32.
    """
    env, rng = JointAngles(max_episode_steps=STEPS + HORIZON), np.random.default_rng((seed, stream))
    observations, chunks = [], []
    for _ in range(count):
        seen, angles, wanted = _episode(env, rng)
        observations.append(seen[:STEPS])
        chunks.append(np.stack([wanted[i : i + HORIZON] - angles[i] for i in range(STEPS)]))
    return torch.from_numpy(np.array(observations)).float(), torch.from_numpy(np.array(chunks)).float()


def decisions(executed: int) -> int:
    """How many an episode has where a policy decides after so many steps."""
    return -(-STEPS // executed)


def decision_observations(count: int, executed: int, seed: int, stream: Stream) -> Tensor:
    """What the expert saw at the steps at which a policy decides: (count, 10), of as many episodes as that takes."""
    observations, _ = demonstrations(-(-count // decisions(executed)), seed, stream)
    return observations[:, ::executed].flatten(0, 1)[:count]


def _episode(env: JointAngles, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Observations, angles, and the angles that the expert asked for, over an episode and one chunk more."""
    observation, _ = env.reset(seed=int(rng.integers(_DEMONSTRATED, 2 * _DEMONSTRATED)))
    goal = goal_angles(observation[4:6], rng.choice([-1, 1]), env.angles[0])
    seen, angles, wanted = [], [], []
    for _ in range(STEPS + HORIZON - 1):
        seen.append(observation)
        angles.append(env.angles)
        wanted.append(env.angles + _SHARE * (goal - env.angles))
        observation, *_ = env.step(wanted[-1] + _DISTURBANCE * rng.standard_normal(JOINTS))
    return np.array(seen), np.array(angles), np.array(wanted)


def expert_returns(seeds: Sequence[int]) -> Array:
    """The undisturbed expert's return in the episodes of these seeds, (n,)."""
    returns = []
    for seed in seeds:
        env, side = JointAngles(), np.random.default_rng(seed).choice([-1, 1])
        observation, _ = env.reset(seed=seed)
        goal = goal_angles(observation[4:6], side, env.angles[0])
        returns.append(sum(float(env.step(env.angles + _SHARE * (goal - env.angles))[1]) for _ in range(STEPS)))
    return np.array(returns)


def policy_returns(decide: Callable[[Tensor, int], Tensor], seeds: Sequence[int], executed: int) -> tuple[Array, Array]:
    """The return of a policy in the episodes of these seeds, (n,), and how far the fingertip ends from the target, (n,) metres.

    Args:
        decide: chunks (n, executed, 2) from observations (n, 10) of all episodes and the number of the decision, from 0.
        seeds: of the episodes, which say where arm and target are.
        executed: steps from one decision to the next.
    """
    envs = [JointAngles() for _ in seeds]
    seen = np.array([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds)])
    returns = np.zeros(len(envs))
    for step in range(STEPS):
        number, place = divmod(step, executed)
        if place == 0:
            begun = np.array([env.angles for env in envs])
            chunks = decide(torch.from_numpy(seen).float(), number).double().numpy()
        for i, env in enumerate(envs):
            seen[i], reward, *_ = env.step(begun[i] + chunks[i, place])
            returns[i] += reward
    return returns, np.linalg.norm(seen[:, 8:], axis=1)
