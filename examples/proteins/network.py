"""The networks of cgback as a `dode.Denoiser`.

cgback draws each residue by itself: a graph whose nodes are the residue's heavy atoms, which move, and the C-alpha atoms within 8
angstrom, its own first, which do not. So one sample is one residue, x in angstrom from its own C-alpha atom, padded to the atoms of the
largest, and what stays is the condition:

    x          (batch, 13, 3)            N, C, O and the side chain; noise and data alike
    t          (batch,)                  t / T in (0, 1]
    features   (batch, 13 + c, 60)       one-hot atom, residue and kind of neighbour; zero where there is no atom
    trace      (batch, c, 3)             the C-alpha atoms

It predicts epsilon. Its 20 betas are those of the continuous cosine schedule, alpha = cos((t + s) / (1 + s) pi / 2) up to a factor, s =
0.008, at t = 1/20 .. 19/20; the last one is clipped to 0.999, which is the same schedule at t = 0.9984.
"""

from __future__ import annotations

import math
from importlib import resources

import numpy as np
import torch
from torch import Tensor, nn

import dode
from dode.schedules import CosineVP

# Tryptophan has 14 heavy atoms, and its C-alpha stays.
ATOMS = 13
FEATURES, HIDDEN, STEPS, CUTOFF = 60, 128, 20, 8.0
# Layers of cgback's models of 20 steps; "M" is what its users run unless they say otherwise.
LAYERS = {"S": 2, "M": 3, "L": 4}


def load(size: str = "M") -> dode.Denoiser:
    """One of cgback's models.

    Raises:
        ImportError: cgback is not installed.
        ValueError: an unknown size, or a checkpoint whose schedule is another one.
    """
    if size not in LAYERS:
        raise ValueError(f"size must be one of {', '.join(LAYERS)}, got {size!r}")
    model = read_model(size)
    return as_denoiser(model, schedule_of(model.scheduler.alpha_bars), name=f"cgback-{size.lower()}")


def as_denoiser(model: nn.Module, schedule: CosineVP, name: str = "cgback") -> dode.Denoiser:
    """A `cgback.diffuser.DDPM` or `DDIM` as a denoiser."""
    return dode.Denoiser(Placement(model, schedule), schedule, "epsilon", shape=(ATOMS, 3), batch_size=64, name=name)


def read_model(size: str) -> nn.Module:
    """cgback's own module with its weights, in evaluation mode.

    The checkpoints are pickles. They are read without running what is in them: torch builds tensors and plain containers alone, and of
    other classes three of numpy, in which a state of the random generator was left beside the weights.
    """
    try:
        from cgback.diffuser import DDPM
    except ImportError:
        raise ImportError("this example needs cgback: pip install 'dode[examples]'") from None
    from numpy._core.multiarray import _reconstruct

    model = DDPM(STEPS, FEATURES, HIDDEN, LAYERS[size], "cosine")
    name = f"protein-carbon-alpha-cutoff-{CUTOFF:03.0f}-steps-{STEPS:03}-layers-{LAYERS[size]:03}-hidden-{HIDDEN:03}.pt"
    plain = [_reconstruct, np.ndarray, np.dtype, type(np.dtype(np.uint32))]
    path = resources.files("cgback") / "checkpoints" / name
    with resources.as_file(path) as file, torch.serialization.safe_globals(plain):
        weights = torch.load(file, map_location="cpu", weights_only=True)["model"]["state_dict"]
    model.load_state_dict({key.removeprefix("module."): value for key, value in weights.items()})
    return model.eval()


def schedule_of(alpha_bars: Tensor) -> CosineVP:
    """The continuous cosine schedule with these values of alpha^2 at t = 1/T .. 1.

    It ends where its alpha is that of the last step, and is asked nowhere below 1/T, the lowest time of the training.
    """
    known = alpha_bars.double().numpy()
    times = np.arange(1, len(known) + 1) / len(known)
    whole = CosineVP(t_max=1.0, t_min=float(times[0]))
    if not np.allclose(known[:-1], whole.alpha(times[:-1]) ** 2, atol=1e-6):
        raise ValueError("the network's schedule is not the cosine schedule with offset 0.008")
    top = float(whole.time(math.log(known[-1]) - math.log1p(-known[-1])))
    return CosineVP(t_max=top, t_min=float(times[0]))


class Placement(nn.Module):
    """cgback's graph network over padded residues.

    A call does not mix samples. cgback's own moves the origin to the mean of *all* nodes that happen to be in the batch, and the network,
    which takes cross products of positions, sees it: among hundreds of residues this mean is near the C-alpha atoms, among a few it is not.
    Here the origin is the residue's own C-alpha.
    """

    def __init__(self, model: nn.Module, schedule: CosineVP) -> None:
        super().__init__()
        self.model = model
        self.schedule = schedule

    def forward(self, x: Tensor, t: Tensor, features: Tensor, trace: Tensor) -> Tensor:
        real = features.any(dim=-1)
        nodes = torch.cat([features, t[:, None, None].expand(*real.shape, 1)], dim=-1)[real]
        hidden = self.model.features_embedding(nodes)
        position = torch.cat([x, trace], dim=1)[real]
        edges = edges_of(real)
        for layer in self.model.egnn.layers:
            hidden, position = layer(hidden, position, edges)
        # Where there is no atom the sample is 0, which epsilon = x / sigma says exactly: all solvers agree about it.
        everywhere = torch.cat([x / float(self.schedule.sigma(float(t[0]))), trace], dim=1)
        everywhere[real] = position
        return everywhere[:, :ATOMS]


def edges_of(real: Tensor) -> Tensor:
    """All ordered pairs of a sample's nodes, (2, edges), numbered as `real`, (batch, nodes) bool, lists them."""
    pairs = real[:, :, None] & real[:, None, :] & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
    sample, i, j = pairs.nonzero(as_tuple=True)
    number = (real.flatten().cumsum(0) - 1).view_as(real)
    return torch.stack([number[sample, i], number[sample, j]])
