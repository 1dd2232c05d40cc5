"""Where a classical solver stops, as a list: for programs that take times or sigmas and nothing else.

Such a program brings the solver's own rule, so a list says all of a tableau only where that is a solver as it is, on whatever times.
"""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import numpy.typing as npt

from dode.foreign import printable
from dode.integrations.frames import frame_of, levels
from dode.solvers import solver_named
from dode.tableau import Tableau

# Significant digits: those that float32 keeps.
_DIGITS = 9


def times(tableau: Tableau, *, final: bool = False) -> list[float]:
    """The network's times of a solver as it is, decreasing: where each step of it begins.

    Args:
        tableau: of a solver as it is.
        final: end with the time of the result too.

    Raises:
        ValueError: a tableau that a list does not say all of.
    """
    stops = _stops(tableau)
    return [float(t) for t in (tableau.times[stops] if final else tableau.times[stops][:-1])]


def sigmas(tableau: Tableau, *, final: bool = True, unshift: float = 1.0) -> list[float]:
    """The noise levels of a solver as it is, decreasing: sigma / alpha, or sigma of a flow (see `dode.integrations.frames`).

    Args:
        tableau: of a solver as it is.
        final: end with that of the result too, 0 of a clean sample.
        unshift: for a program that shifts the sigmas of a flow itself, s = shift u / (1 + (shift - 1) u): the shift; the list is then of u.

    Raises:
        ValueError: a tableau that a list does not say all of, or that starts at pure noise in the "edm" frame; an `unshift` of no flow, or
            not above 0.
    """
    found = levels(tableau)[_stops(tableau)]
    if unshift != 1.0:
        if not unshift > 0:
            raise ValueError(f"unshift must be above 0, got {unshift:g}")
        if frame_of(tableau) != "flow":
            raise ValueError("unshift is for flow models: the sigmas of others are not shifted")
        found = found / (unshift - (unshift - 1) * found)
    return [float(s) for s in (found if final else found[:-1])]


def decimals(numbers: list[float]) -> str:
    """Numbers with commas between, as plain decimals without exponents, to nine significant digits."""
    return ", ".join(_decimal(number) for number in numbers)


def check_classical(tableau: Tableau) -> None:
    """Raise ValueError unless a tableau is a solver's own rule on its times, with an evaluation in each row."""
    if tableau.first != "network":
        raise ValueError(
            f"its first output is no call of the network ({tableau.first}), which a list of times cannot say: distil with "
            'learn="times" (--learn times), or export it as a whole (--to python, comfyui or onnx)'
        )
    if tableau.changed:
        raise ValueError(
            "its file was changed after it was made, so that it may be no solver's own rule: export the file as it was made"
        )
    made = tableau.meta.get("distillation")
    if isinstance(made, dict) and made.get("learn") != "times" and made.get("chosen") != "the base":
        raise ValueError(
            "its coefficients are fitted, and a list of times would leave them out, which can be worse than the solver as it is: "
            'distil with learn="times" (--learn times), or export it as a whole (--to python, comfyui or onnx)'
        )


def _stops(tableau: Tableau) -> npt.NDArray[np.bool_]:
    """The states that a program's list names: where the solver stops. One that asks twice at a time, as Heun's, has it in the list once."""
    check_classical(tableau)
    if solver_named(tableau.solver).between:
        raise ValueError(
            f"{printable(tableau.solver)} asks the network between the times that it stops at too, and a list says the latter alone: take "
            "a multistep solver, such as dpm-solver++ or unipc"
        )
    return np.append(True, np.diff(tableau.times) != 0)


def _decimal(number: float) -> str:
    text = format(Decimal(f"{number:.{_DIGITS}g}"), "f")
    return text.rstrip("0").rstrip(".") if "." in text else text
