"""How much is spent on a distillation: what each effort does, and its budget in network evaluations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from dode.names import unknown_name

# The paper's method, exactly: `distill(..., **PAPER)`.
PAPER: dict[str, Any] = {"directions": "paper", "shrink": False, "refine": 0}


@dataclass(frozen=True)
class Effort:
    """What is done where the caller names nothing.

    Attributes:
        samples: fitting samples.
        validation: samples that choose.
        tried: samples of each set with which grids and first outputs are tried.
        firsts: first outputs that are tried.
        finalists: how many of what was tried are tried again with all samples.
        starts: how many of these are fitted end to end before the best one goes on alone.
        refine: accepted steps of the end-to-end fit at the most; 0 for none.
        times: the end-to-end fit moves the times too.
        expected: the share of the best undistilled error that the result is expected to have, at the least: how fine a teacher must be.
        budget: network evaluations, as a multiple of the paper's method: 100 samples, a teacher of ten parts a step.
    """

    samples: int
    validation: int
    tried: int
    firsts: tuple[str, ...]
    finalists: int
    starts: int
    refine: int
    times: bool
    expected: float
    budget: float

    def evaluations(self, nfe: int) -> int:
        """The budget at a number of evaluations of the student."""
        return round(self.budget * 100 * nfe * 11)

    @property
    def for_times(self) -> Effort:
        """What is done where times alone are learned: no first output that a list of times cannot say, two starts at the least, and a
        teacher for an error that is a larger share of the best undistilled one."""
        return replace(
            self,
            firsts=("network",),
            starts=max(self.starts, 2),
            refine=max(self.refine, 20),
            expected=max(self.expected, 0.2),
        )


EFFORTS = {
    "fast": Effort(
        samples=40,
        validation=24,
        tried=8,
        firsts=("network", "zero"),
        finalists=3,
        starts=1,
        refine=0,
        times=False,
        expected=0.2,
        budget=1.0,
    ),
    "balanced": Effort(
        samples=100,
        validation=32,
        tried=16,
        firsts=("network", "zero", "mean"),
        finalists=4,
        starts=1,
        refine=30,
        times=False,
        expected=0.1,
        budget=4.0,
    ),
    "thorough": Effort(
        samples=100,
        validation=64,
        tried=32,
        firsts=("network", "zero", "mean"),
        finalists=5,
        starts=2,
        refine=40,
        times=True,
        expected=0.05,
        budget=15.0,
    ),
}


def effort_of(name: str) -> Effort:
    """An effort by name; ValueError with the nearest for an unknown one."""
    if name not in EFFORTS:
        raise unknown_name("effort", name, EFFORTS)
    return EFFORTS[name]
