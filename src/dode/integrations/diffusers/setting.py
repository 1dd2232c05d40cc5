"""Whether a table is used for what it was fitted for; see `dode.fitted_for`.

What a scheduler sees for certain (schedule, prediction, the channels of a state) is refused where it differs; what may be meant (another
resolution) is warned of. A table that is used outside its setting in silence gives worse samples than the solver it came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# The shift for the size of an image is one number of the pipeline's arithmetic.
_SAME_SHIFT = 1e-4

Warn = Callable[[str], None]


def check_sample(setting: Mapping[str, Any], sample: Tensor, warn: Warn) -> None:
    """Look at the first state of a loop.

    Raises:
        ValueError: it has other channels or another number of dimensions than those that the table was fitted on.
    """
    fitted, got = setting.get("shape"), tuple(sample.shape[1:])
    if not isinstance(fitted, list) or tuple(fitted) == got:
        return
    if not _may_be(fitted, got):
        raise ValueError(
            f"the table was fitted on states of shape {tuple(fitted)}, got {got}: it is another network's, distil one for this"
        )
    warn(
        f"the table was fitted on states of shape {tuple(fitted)} and is run on {got}: at another size its gain is not known; distil "
        "one for it, or compare with DodeScheduler.from_solver"
    )


def _may_be(fitted: Sequence[int], got: Sequence[int]) -> bool:
    """Whether states of these shapes may be of one network: the same channels, wherever they are (packed patches: last)."""
    if len(fitted) != len(got):
        return False
    places = {1: (), 2: (-1,), 3: (0,), 4: (0, 1)}.get(len(fitted), (0,))
    return not places or any(fitted[place] == got[place] for place in places)


def check_shift(setting: Mapping[str, Any], mu: float | None, warn: Warn) -> None:
    """Look at the shift that a pipeline computes for the size of its image."""
    fitted = setting.get("mu")
    if mu is None or not isinstance(fitted, int | float) or math.isclose(mu, fitted, rel_tol=_SAME_SHIFT, abs_tol=_SAME_SHIFT):
        return
    warn(
        f"the table was fitted at mu = {fitted:.4g}, the pipeline asks for mu = {mu:.4g}, of another size of image: the table's times are "
        "run as they are; distil one at this size, or use DodeScheduler.from_solver, which follows mu"
    )
