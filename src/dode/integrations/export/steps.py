"""A tableau as the steps of a loop over the network's own outputs, for programs that run it without dode.

    x_0 = noise_scale * noise,   x_{k+1} = sum_j a[k,j] x_j + n[k,j] N_j

What the network is asked, what is added up in which order, and what may be let go are those of `dode.sample`.
"""

from __future__ import annotations

from typing import NamedTuple

from dode.names import unknown_name
from dode.sampling import tableau_program
from dode.tableau import PREDICTIONS, Tableau

# What a network gives, in the words of an exported file.
MEANINGS = {
    "epsilon": "the noise eps of x = alpha x_0 + sigma eps",
    "sample": "the clean sample D, after clipping, thresholding and classifier guidance where there are such",
    "v": "v = alpha eps - sigma x_0",
    "flow": "the velocity eps - x_0",
    "score": "the score -eps / sigma",
    "edm": "the clean sample D; it is asked with x / alpha and sigma / alpha",
}


class Step(NamedTuple):
    """A row of a tableau.

    Attributes:
        t: what the network is asked with: its time, or sigma / alpha for "edm"; None where the first output is no call.
        alpha: what the state is divided by on its way to the network: 1 for all but "edm".
        terms: (slot, coefficient): the next state is their sum, added up in this order; at least one. Slot 2j is the state x_j, 2j + 1 the
            output N_j.
        released: the slots that no later row names.
    """

    t: float | None
    alpha: float
    terms: tuple[tuple[int, float], ...]
    released: tuple[int, ...]


def steps_of(tableau: Tableau, prediction: str) -> list[Step]:
    """The steps of a tableau over what the network gives.

    Args:
        tableau: one that samples.
        prediction: a name; see `prediction_of`.

    Raises:
        ValueError: it runs upwards, its first output is made when sampling, or a network of that prediction cannot be asked at its times.
    """
    if tableau.times[-1] > tableau.times[0]:
        raise ValueError("the tableau runs upwards, to invert: only one that samples is exported (made without reverse=True)")
    if tableau.first == "mean" and tableau.mean is None:
        raise ValueError(
            "its first output is the network's mean for each condition, which dode makes when it samples and no file can hold: distil "
            "with firsts=['network', 'zero'] (--firsts network,zero), and export that"
        )
    tableau.warn_if_changed()
    steps = []
    for k, (row, point) in enumerate(zip(tableau_program(tableau, prediction), tableau.points[:-1], strict=True)):
        edm = prediction == "edm"
        asked = None if k == 0 and tableau.first != "network" else point.rho if edm else point.t
        # A row of zeros is a state of zeros.
        steps.append(Step(asked, point.alpha if edm else 1.0, row.terms or ((2 * k, 0.0),), row.released))
    return steps


def prediction_of(tableau: Tableau, given: str | None = None) -> str:
    """What the network gives: as said, or else what the tableau was distilled for.

    Raises:
        ValueError: it is not said, and the tableau does not know; or there is no such prediction.
    """
    made = tableau.meta.get("distillation")
    known = made.get("prediction") if given is None and isinstance(made, dict) else given
    if known is None:
        raise ValueError(
            "the tableau does not say what its network gives: say it with prediction (--prediction), one of "
            + ", ".join(PREDICTIONS)
        )
    if known not in PREDICTIONS:
        raise unknown_name("prediction", str(known), PREDICTIONS)
    return str(known)
