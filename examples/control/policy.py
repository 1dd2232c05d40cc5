"""A diffusion policy: the observation is the condition, a chunk of actions the sample (Chi et al. 2023, arXiv 2303.04137)."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from rich.progress import track
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import dode
from dode.files import write_atomically
from examples.control.reaching import HORIZON, JOINTS, OBSERVATION

SCHEDULE = dode.schedules.CosineVP()
_WIDTH, _BLOCKS, _FREQUENCIES, _BATCH = 128, 3, 32, 256


class Network(nn.Module):
    """v for chunks in units of their own spread, given the observation: residual layers around the time.

    v = alpha eps - sigma x_0 is as good at pure noise as elsewhere, where x_0 from a predicted eps has an error of 1 / alpha: what one
    call makes of it would say more of that than of the solver.
    """

    def __init__(self) -> None:
        super().__init__()
        for name, size in {"centre": OBSERVATION, "spread": OBSERVATION, "unit": JOINTS}.items():
            self.register_buffer(name, torch.ones(size))
        self.enter = nn.Linear(HORIZON * JOINTS + OBSERVATION, _WIDTH)
        self.time = nn.Sequential(nn.Linear(2 * _FREQUENCIES, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, _WIDTH), nn.SiLU(), nn.Linear(_WIDTH, _WIDTH))
            for _ in range(_BLOCKS)
        )
        self.leave = nn.Sequential(nn.LayerNorm(_WIDTH), nn.Linear(_WIDTH, HORIZON * JOINTS))

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        """v, (batch, 16, 2).

        Args:
            x: (batch, 16, 2), noised chunks, in units.
            t: (batch,), times in [0, 1].
            observation: (batch, 10).
        """
        frequencies = torch.logspace(0, 3, _FREQUENCIES, device=t.device)
        phase = t[:, None] * frequencies
        time = self.time(torch.cat([phase.sin(), phase.cos()], 1))
        h = self.enter(torch.cat([x.flatten(1), (observation - self.centre) / self.spread], 1))
        for block in self.blocks:
            h = h + block(h + time)
        return self.leave(h).view_as(x)


def train(observations: Tensor, chunks: Tensor, steps: int, seed: int) -> Network:
    """A network fitted to demonstrations, with a moving average of the weights.

    Args:
        observations: (episodes, 50, 10).
        chunks: (episodes, 50, 16, 2).
        steps: of the training.
        seed: of the weights, of noise, and of the order.
    """
    torch.manual_seed(seed)
    network, observations, chunks = Network(), observations.flatten(0, 1), chunks.flatten(0, 1)
    network.centre, network.spread, network.unit = observations.mean(0), observations.std(0), chunks.std((0, 1))
    averaged = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.999), use_buffers=True)
    optimizer = torch.optim.AdamW(network.parameters())
    rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.05)
    for _ in track(range(steps), "training"):
        rows = torch.randint(len(chunks), (_BATCH,))
        x_0, t = chunks[rows] / network.unit, torch.rand(_BATCH) * SCHEDULE.t_max
        alpha, sigma = (torch.from_numpy(of(t.numpy())).float()[:, None, None] for of in (SCHEDULE.alpha, SCHEDULE.sigma))
        eps = torch.randn_like(x_0)
        v = network(alpha * x_0 + sigma * eps, t, observations[rows])
        loss = (v - (alpha * eps - sigma * x_0)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rates.step()
        averaged.update_parameters(network)
    return averaged.module.eval()


def denoiser_of(network: Network) -> dode.Denoiser:
    """The network as dode takes it. Samples are chunks (16, 2) in units of `network.unit`; the condition is `observation=`, (batch, 10)."""
    return dode.Denoiser(network, SCHEDULE, "v", shape=(HORIZON, JOINTS), name="policy")


def save(network: Network, path: Path, made_with: dict[str, int]) -> None:
    """Keep a network, with what it was made with."""
    write_atomically(
        path, lambda file: save_file(network.state_dict(), file, {"made_with": json.dumps(made_with)}), overwrite=True
    )


def load(path: Path, made_with: dict[str, int]) -> Network:
    """A network that was kept.

    Raises:
        ValueError: it was made with something else, or the file is none of these.
    """
    try:
        with safe_open(path, "pt") as file:
            found = json.loads((file.metadata() or {})["made_with"])
        network = Network()
        network.load_state_dict(load_file(path))
    except (SafetensorError, KeyError, RuntimeError) as error:
        raise ValueError(f"{path} holds no network of this example ({error}): name another folder, or --force") from None
    if found != made_with:
        raise ValueError(f"{path} was made with {found}, not with {made_with}: name another folder, or --force")
    return network.eval()
