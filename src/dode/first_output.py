"""The first output where it is no evaluation of its own: zero, or the network's mean for a sample's condition.

At the largest noise a network's D hardly depends on the noise; it is the mean of the data for the condition. That mean is made
once, of a few evaluations, and shared by all samples of the condition, of this batch and of later ones, so that the calls that
every sample pays are all spent lower down.
"""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from torch import Tensor, nn

from dode.conditions import Condition, hash_condition, map_tensors
from dode.denoisers import Denoiser
from dode.host import to_device
from dode.noise import SHARED, standard_noise
from dode.tableau import SHARED_EVALUATIONS, Tableau

# Means that a denoiser keeps; the oldest goes first.
_KEPT = 256


def first_output(denoiser: Denoiser, tableau: Tableau, x: Tensor, cond: Condition) -> Tensor | None:
    """D_0 for a batch of first states x, (batch, *shape); None where the network is to be asked.

    Raises:
        ValueError: a mean kept in the tableau is of another shape, or the network has a condition that it was not made for.
    """
    if tableau.first == "network":
        return None
    if tableau.first == "zero":
        return x.new_zeros(()).expand(x.shape)
    if tableau.mean is not None:
        if cond:
            raise ValueError(f"the tableau keeps the mean of an unconditional network, got the condition {', '.join(cond)}")
        if tableau.mean.shape != x.shape[1:]:
            raise ValueError(f"the tableau keeps a mean of shape {tableau.mean.shape}, the samples have {tuple(x.shape[1:])}")
        return to_device(tableau.mean, x).expand(x.shape)
    groups = _groups(cond, len(x))
    means = torch.stack([mean_output(denoiser, tableau, x, row_of(cond, rows[0])) for rows in groups])
    member = torch.empty(len(x), dtype=torch.long)
    for i, rows in enumerate(groups):
        member[rows] = i
    return means[member.to(x.device)]


def mean_output(denoiser: Denoiser, tableau: Tableau, like: Tensor, cond: Condition) -> Tensor:
    """The mean of the network's D at the tableau's first time for one condition, over fixed noises: (*shape).

    The denoiser keeps it until the network's parameters are changed.
    """
    key = _key(denoiser, tableau, like, cond)
    if key not in denoiser.memo:
        noise = standard_noise(0, SHARED_EVALUATIONS, tuple(like.shape[1:]), stream=SHARED)
        x = noise.to(like) * tableau.noise_scale
        point = tableau.points[0]
        with denoiser.evaluator(x, cond) as evaluate, torch.no_grad():
            mean = denoiser.denoised(x, evaluate(x, point), point).mean(dim=0)
        while len(denoiser.memo) >= _KEPT:
            del denoiser.memo[next(iter(denoiser.memo))]
        denoiser.memo[key] = mean
    return denoiser.memo[key]


def _key(denoiser: Denoiser, tableau: Tableau, like: Tensor, cond: Condition) -> str:
    """A hash of all that a mean depends on, the versions of the network's parameters among it."""
    net = denoiser.net
    parameters = net.parameters() if isinstance(net, nn.Module) else ()
    versions = [p._version for p in parameters if not p.is_inference()]
    digest = hashlib.sha256()
    digest.update(repr((tableau.points[0], tableau.noise_scale, like.shape[1:], like.dtype, like.device, versions)).encode())
    hash_condition(digest, cond)
    return digest.hexdigest()


def row_of(cond: Condition, row: int) -> Condition:
    """The condition of one sample, as one row for all."""
    result: Condition = map_tensors(lambda tensor: tensor[row : row + 1] if len(tensor) > 1 else tensor, cond)
    return result


def _groups(cond: Condition, batch: int) -> list[list[int]]:
    """The samples by their condition."""
    found: dict[Any, list[int]] = {}
    columns: list[Tensor] = []
    map_tensors(columns.append, cond)
    columns = [column.detach().cpu().contiguous() for column in columns if len(column) > 1]
    for row in range(batch):
        key = tuple(column[row].flatten().view(torch.uint8).numpy().tobytes() for column in columns)
        found.setdefault(key, []).append(row)
    return list(found.values())
