"""Distilled-ODE solvers: the numbers that make a few-step run follow a many-step one, in closed form."""

from dode.distillation.distill import distill
from dode.distillation.result import Distilled, Errors

__all__ = ["Distilled", "Errors", "distill"]
