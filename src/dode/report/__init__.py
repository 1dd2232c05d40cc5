"""Comparisons of solvers and sensitivity studies as tables and plots."""

from dode.report.compare import compare
from dode.report.results import Comparison
from dode.report.study import study
from dode.report.study_results import Study

__all__ = ["Comparison", "Study", "compare", "study"]
