from . import grids as grids
from . import models as models
from . import schedules as schedules
from .denoisers import Denoiser as Denoiser
from .distillation import Distilled as Distilled
from .distillation import distill as distill
from .loading import load as load
from .sampling import Step as Step
from .sampling import Trajectory as Trajectory
from .sampling import invert as invert
from .sampling import iterate as iterate
from .sampling import sample as sample
from .solvers import Solver as Solver
from .solvers import solver as solver
from .tableau import Tableau as Tableau

__version__: str
