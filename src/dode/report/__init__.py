"""Comparisons of solvers and sensitivity studies as tables and plots."""

from dode.report.compare import Comparison, Entry, compare
from dode.report.study import study
from dode.report.study_results import Study

__all__ = ["Comparison", "Entry", "Study", "compare", "study"]
