from .api import distill as distill
from .api import run as run
from .directions import Directions as Directions
from .effort import PAPER as PAPER
from .plan import Plan as Plan
from .plan import make_plan as make_plan
from .result import Distilled as Distilled
from .result import Errors as Errors
