"""How much is spent on a distillation: what each effort does, and its budget in network evaluations."""

from __future__ import annotations

from dataclasses import dataclass

from dode.names import unknown_name


@dataclass(frozen=True)
class Effort:
    """Defaults that `distill` takes where its caller names nothing.

    Attributes:
        samples: fitting samples.
        validation: samples that choose.
        teacher_scale: parts of a step of a teacher that stops where the student stops.
        refine: accepted steps of the end-to-end fit at the most; 0 for none.
        search: grids, first outputs and several starts, with learned times, on a dense teacher.
        budget: network evaluations, as a multiple of the paper's method: 100 samples, a teacher of ten parts a step.
    """

    samples: int
    validation: int
    teacher_scale: int
    refine: int
    search: bool
    budget: float

    def evaluations(self, nfe: int) -> int:
        """The budget at a number of evaluations of the student."""
        return round(self.budget * 100 * nfe * 11)


EFFORTS = {
    "fast": Effort(samples=80, validation=20, teacher_scale=8, refine=0, search=False, budget=1.0),
    "balanced": Effort(samples=100, validation=32, teacher_scale=10, refine=30, search=False, budget=4.0),
    "thorough": Effort(samples=100, validation=64, teacher_scale=10, refine=40, search=True, budget=15.0),
}


def effort_of(name: str) -> Effort:
    """An effort by name; ValueError with the nearest for an unknown one."""
    if name not in EFFORTS:
        raise unknown_name("effort", name, EFFORTS)
    return EFFORTS[name]
