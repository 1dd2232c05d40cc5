"""The first output where it is no evaluation of its own: zero, or the network's mean for a sample's condition.

At the largest noise a network's D hardly depends on the noise; it is the mean of the data for the condition. That mean is made
once, of a few evaluations, and shared by all samples of the condition, of this batch and of later ones, so that the calls that
every sample pays are all spent lower down.
"""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dode.conditions import Condition, as_condition, check_batch, hash_condition, map_tensors
from dode.denoisers import Denoiser
from dode.fingerprint import hash_settings, hash_switches, hash_weights
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
    cond = as_condition(cond)
    check_batch(cond, len(x))
    groups = _groups(cond, len(x))
    weights = _weights(denoiser)
    means = torch.stack([_mean_output(denoiser, tableau, x, row_of(cond, rows[0]), weights) for rows in groups])
    member = torch.empty(len(x), dtype=torch.long, device="cpu")
    for i, rows in enumerate(groups):
        member[rows] = i
    return means[member.to(x.device)]


def mean_output(denoiser: Denoiser, tableau: Tableau, like: Tensor, cond: Condition) -> Tensor:
    """The mean of the network's D at the tableau's first time for one condition, over fixed noises: (*shape).

    The denoiser keeps it for as long as the network is the same. A module's parameters and buffers are read to know that, which is
    less than an evaluation; a function, in which they cannot be seen, is asked for the first noise again.
    """
    return _mean_output(denoiser, tableau, like, as_condition(cond), _weights(denoiser))


def _mean_output(denoiser: Denoiser, tableau: Tableau, like: Tensor, cond: Condition, weights: str | None) -> Tensor:
    shape, point = tuple(like.shape[1:]), tableau.points[0]

    def denoised(first: int, end: int) -> Tensor:
        x = standard_noise(0, end, shape, stream=SHARED)[first:].to(like) * tableau.noise_scale
        with denoiser.evaluator(x, cond) as evaluate, torch.no_grad():
            return denoiser.denoised(x, evaluate(x, point), point)

    key = _key(denoiser, tableau, like, cond)
    witness = denoised(0, 1) if weights is None else None
    kept = None if key is None else denoiser.memo.get(key)
    if kept is not None and kept.weights == weights and (witness is None or torch.equal(kept.witness, witness)):
        mean: Tensor = kept.mean
        return mean
    parts = [] if witness is None else [witness]
    mean = torch.cat([*parts, denoised(len(parts), SHARED_EVALUATIONS)]).mean(dim=0)
    if key is not None:
        denoiser.memo.pop(key, None)
        while len(denoiser.memo) >= _KEPT:
            del denoiser.memo[next(iter(denoiser.memo))]
        denoiser.memo[key] = _Kept(mean, weights, witness)
    return mean


class _Kept(NamedTuple):
    """A mean, (*shape), and what the network was when it was made: the content of its weights, or what it gave for one noise."""

    mean: Tensor
    weights: str | None
    witness: Tensor | None


def _weights(denoiser: Denoiser) -> str | None:
    """A hash of all weights that a mean depends on; None where they cannot be seen."""
    digest = hashlib.sha256()
    for net in (denoiser.net, denoiser.classifier):
        if net is None:
            continue
        if not (isinstance(net, nn.Module) and hash_weights(digest, net, buffers=True)):
            return None
        hash_switches(digest, net)
    return digest.hexdigest()


def _key(denoiser: Denoiser, tableau: Tableau, like: Tensor, cond: Condition) -> str | None:
    """A hash of all that a mean depends on beside the weights; None where the condition has no content that can be hashed."""
    digest = hashlib.sha256()
    digest.update(repr((tableau.points[0], tableau.noise_scale, like.shape[1:], like.dtype, like.device)).encode())
    try:
        hash_settings(digest, denoiser, tableau.points[:1])
        hash_condition(digest, cond)
    except TypeError:
        return None
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
