"""Distilled-ODE solvers: the numbers that make a few-step run follow a many-step one."""

from dode.distillation.directions import Directions
from dode.distillation.distill import distill, run
from dode.distillation.plan import PAPER, Plan, make_plan
from dode.distillation.result import Distilled, Errors

__all__ = ["PAPER", "Directions", "Distilled", "Errors", "Plan", "distill", "make_plan", "run"]
