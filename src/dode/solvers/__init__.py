"""The registry of solvers.

To add one: write a module with a function from a `Path` to rows (and its options as keyword arguments with defaults), and
enter its `Family` here. Sampling, distillation, saving, the command line and the common tests come with the entry.
"""

import ast
import re
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


def solver_named(text: str) -> Solver:
    """The solver that has this text, "deis(order=2)", as a tableau keeps it.

    Raises:
        ValueError: no solver's text.
    """
    found = re.fullmatch(r"([\w+-]+)(?:\((.*)\))?", text)
    if found is None:
        raise ValueError(f"{text!r} is no solver with its options, as in deis(order=2)")
    try:
        call = ast.parse(f"f({found[2] or ''})", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        options = {str(part.arg): ast.literal_eval(part.value) for part in call.keywords}
    except (AssertionError, SyntaxError, ValueError):
        raise ValueError(f"{text!r} is no solver with its options, as in deis(order=2)") from None
    return solver(found[1], **options)


__all__ = ["REGISTRY", "Family", "Path", "Solver", "solver", "solver_named"]
