"""Whether what was measured can be trusted: a network that gives another output for the same input, a result that is not finite."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from dode.conditions import take
from dode.denoisers import Denoiser
from dode.distances import mean_square, mean_square_distance
from dode.distillation.batch import Batch
from dode.distillation.method import BASE, Outcome
from dode.distillation.result import Errors
from dode.tableau import Tableau

# Samples that a network is asked for twice.
_SAMPLES = 4
# Two outputs for one input may differ by this share of their size, root mean square, or by so many roundings of the network's precision:
# sums over threads and kernels of some devices add in another order each time. Dropout moves outputs by some hundredths or more.
_SAME, _ROUNDINGS = 1e-3, 8


def noise_of_output(denoiser: Denoiser, tableau: Tableau, batch: Batch) -> str | None:
    """A word on a network that gives another output for the same input; None for one that does not.

    Two evaluations of a few samples, in the middle of the run.

    Args:
        denoiser: the network.
        tableau: the run.
        batch: its samples.
    """
    if not tableau.nfe:
        return None
    few, point = slice(0, _SAMPLES), tableau.points[tableau.rows // 2]
    x = batch.noise[few].to(denoiser.device) * math.hypot(point.alpha, point.sigma)
    with denoiser.evaluator(x, take(batch.cond, few)) as evaluate, torch.no_grad():
        first, again = (evaluate(x, point) for _ in range(2))
    size = float(mean_square(first).mean())
    share = math.sqrt(float(mean_square_distance(again, first).mean()) / size) if size else 0.0
    allowed = max(_SAME, _ROUNDINGS * torch.finfo(denoiser.dtype or x.dtype).eps)
    if not share > allowed:
        return None
    return (
        f"the network gives another output for the same input, {share:.1%} apart (dropout or other noise that evaluation mode does not "
        "turn off?): no run of it can be repeated, and what was fitted and measured is partly chance"
    )


def sound(
    outcome: Outcome, fitting: Errors, unseen: Errors | None, failure: str | None
) -> tuple[Outcome, Errors, Errors | None]:
    """An outcome with its errors; the base in its place where it diverges on a sample, or where nothing could be measured.

    Args:
        outcome: what was found.
        fitting, unseen: its errors on the fitting and on held-out noise.
        failure: why there are none on held-out noise; None where there are, or none were asked for.
    """
    sets = [("fitting", fitting)] + ([] if unseen is None else [("held-out", unseen)])
    lost = [
        f"it diverges on {errors.diverged[1]} of {errors.samples} {name} samples" for name, errors in sets if errors.diverged[1]
    ]
    reasons = " and ".join([*lost, *([] if failure is None else [failure])])
    if not reasons:
        return outcome, fitting, unseen
    if outcome.tableau is outcome.base:
        note = reasons.replace("it diverges", "the base, which is given out, diverges", 1)
    else:
        note = f"the result ({outcome.chosen}) is not given out, but the base in its place: {reasons}"
        too = [f"{errors.diverged[0]} of {errors.samples} {name} samples" for name, errors in sets if errors.diverged[0]]
        note += f"; the base diverges on {' and '.join(too)} too" if too else ""
    outcome = replace(outcome, tableau=outcome.base, chosen=BASE, notes=(*outcome.notes, note))
    return outcome, fitting.of_base, None if unseen is None else unseen.of_base
