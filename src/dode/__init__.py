"""dode: diffusion and flow models in far fewer steps, without training them."""

from dode import grids, models, schedules
from dode.denoisers import Denoiser
from dode.distillation import Distilled, distill
from dode.loading import load
from dode.sampling import Step, Trajectory, invert, iterate, sample
from dode.solvers import Solver, solver
from dode.tableau import Tableau

__version__ = "0.1.0.dev0"

__all__ = [
    "Denoiser",
    "Distilled",
    "Solver",
    "Step",
    "Tableau",
    "Trajectory",
    "distill",
    "grids",
    "invert",
    "iterate",
    "load",
    "models",
    "sample",
    "schedules",
    "solver",
]
