"""Distilled-ODE solvers: the numbers that make a few-step run follow a many-step one, in closed form."""

from dode.distillation.directions import Directions
from dode.distillation.distill import PAPER, distill
from dode.distillation.result import Distilled, Errors

__all__ = ["PAPER", "Directions", "Distilled", "Errors", "distill"]
