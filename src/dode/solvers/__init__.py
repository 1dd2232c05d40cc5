"""The registry of solvers.

To add one: write a module with a function from a `Path` to rows (and its options as keyword arguments with defaults), and
enter its `Family` here. Sampling, distillation, saving, the command line and the common tests come with the entry.
"""

from typing import Any

from dode.names import unknown_name
from dode.solvers import ddim, deis, dpm_solver, edm, pndm, unipc
from dode.solvers.base import Family, Path, Solver

REGISTRY: dict[str, Family] = {
    family.name: family
    for family in (
        ddim.FAMILY,
        pndm.PNDM,
        pndm.IPNDM,
        dpm_solver.DPM_SOLVER,
        dpm_solver.DPM_SOLVER_PP,
        deis.FAMILY,
        edm.FAMILY,
        unipc.FAMILY,
    )
}


def solver(name: str, **options: Any) -> Solver:
    """A solver by name, with its options.

    Args:
        name: one of "ddim", "pndm", "ipndm", "dpm-solver", "dpm-solver++", "deis", "edm", "unipc".
        options: the solver's own, e.g. `order=3`; see `dode models --solvers` or the function in its module.

    Raises:
        ValueError: an unknown name or option; option values are checked when a tableau is made.
    """
    if name not in REGISTRY:
        raise unknown_name("solver", name, REGISTRY)
    return Solver(REGISTRY[name], options)


__all__ = ["REGISTRY", "Family", "Path", "Solver", "solver"]
