from .comparing import compare as compare
from .results import Comparison as Comparison
from .study_results import Study as Study
from .studying import study as study
