"""Comparisons of solvers as tables and plots."""

from dode.report.compare import Comparison, Entry, compare

__all__ = ["Comparison", "Entry", "compare"]
