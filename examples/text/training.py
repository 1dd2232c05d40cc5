"""Training of the network, which can be interrupted and is gone on from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dode.files import write_atomically

from .network import T_MIN, WordDenoiser

# Steps between two files: what an interrupted training loses.
_KEPT_EVERY = 100


@dataclass(frozen=True)
class Plan:
    """How a network is made.

    Attributes:
        steps: of AdamW, with a learning rate that rises for a twentieth of them and then falls to 0.
        batch: lines in a step.
        rate: the highest learning rate.
        channels, layers: of the network.
        width: of an embedding.
        seed: of everything random.
    """

    steps: int = 2200
    batch: int = 64
    rate: float = 2e-3
    channels: int = 128
    layers: int = 4
    width: int = 32
    seed: int = 0


def trained(plan: Plan, lines: Tensor, words: int, path: Path, told: Callable[[str], None] = print) -> WordDenoiser:
    """The network that is kept in a file, after the training that it still lacks.

    A training that was interrupted, or that was of fewer steps, goes on with the file's weights; AdamW's averages begin anew.

    Args:
        plan: what to make.
        lines: (lines, length) numbers of words.
        words: size of the vocabulary.
        path: a safetensors file, made where it is not there.
        told: is given lines about the progress.

    Raises:
        ValueError: the file's network was made by another plan.
        OSError: the file cannot be read or written.
    """
    frequencies = (torch.bincount(lines.flatten(), minlength=words) + 0.5) / lines.numel()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.seed)
        net = WordDenoiser(frequencies, lines.shape[1], width=plan.width, channels=plan.channels, layers=plan.layers)
    setting = json.dumps({**vars(plan), "steps": None, "words": words, "length": lines.shape[1]}, sort_keys=True)
    done = _load(net, path, setting) if path.exists() else 0
    if done < plan.steps:
        _train(net, plan, lines, done, lambda step: _save(net, path, setting, step), told)
    return net.requires_grad_(False).eval()


def cross_entropy(net: WordDenoiser, lines: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Mean cross-entropy of the words in nats.

    Args:
        net: the network.
        lines: (batch, length) numbers of words.
        t: (batch,) or (batch, length) times.
        noise: (batch, length, width), standard normal.
    """
    share = t.reshape(len(lines), -1, 1)
    x = (1 - share) * net.table[lines] + share * noise
    return F.cross_entropy(net.log_probabilities(x, t).flatten(0, 1), lines.flatten())


def times(batch: int, length: int, generator: torch.Generator) -> Tensor:
    """Random times, (batch, length), dense near 1, where words are open: density 2 t before they are cut at T_MIN.

    In half of the lines each word has its own, so that open words stand among known ones and what one says of the other is learned soon
    (diffusion forcing, Chen et al. 2024, arXiv 2407.01392); in the others all have one, as in sampling.
    """
    each = torch.rand(batch, length, generator=generator)
    each[batch // 2 :] = each[batch // 2 :, :1]
    return T_MIN + (1 - T_MIN) * each.sqrt()


def _train(
    net: WordDenoiser, plan: Plan, lines: Tensor, done: int, keep: Callable[[int], None], told: Callable[[str], None]
) -> None:
    generator = torch.Generator().manual_seed(plan.seed + 1 + done)
    optimizer = torch.optim.AdamW(_groups(net), lr=plan.rate, betas=(0.9, 0.98))
    warm = max(1, plan.steps // 20)
    began, total, count = time.process_time(), 0.0, 0
    for step in range(done, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate * min((step + 1) / warm, (plan.steps - step) / (plan.steps - warm + 1))
        chosen = lines[torch.randint(len(lines), (plan.batch,), generator=generator)]
        noise = torch.randn(*chosen.shape, plan.width, generator=generator)
        loss = cross_entropy(net, chosen, times(*chosen.shape, generator), noise)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        total, count = total + float(loss.detach()), count + 1
        if (step + 1) % _KEPT_EVERY == 0 or step + 1 == plan.steps:
            keep(step + 1)
            seconds = time.process_time() - began
            told(f"step {step + 1} of {plan.steps}: cross-entropy {total / count:.3f} nats, {seconds:.0f} s of processor time")
            total, count = 0.0, 0


def _groups(net: WordDenoiser) -> list[dict[str, object]]:
    """Weight decay for matrices within the transformer alone."""
    decayed = [p for name, p in net.named_parameters() if p.ndim == 2 and name.startswith("blocks")]
    others = [p for name, p in net.named_parameters() if not (p.ndim == 2 and name.startswith("blocks"))]
    return [{"params": decayed, "weight_decay": 0.05}, {"params": others, "weight_decay": 0.0}]


def _load(net: WordDenoiser, path: Path, setting: str) -> int:
    """Fill a network from a file; how many steps it has had."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
    if metadata.get("setting") != setting:
        raise ValueError(
            f"{path} holds a network of another setting, {metadata.get('setting')}: name another folder, or remove it"
        )
    net.load_state_dict(load_file(path))
    return int(metadata["steps"])


def _save(net: WordDenoiser, path: Path, setting: str, steps: int) -> None:
    metadata = {"setting": setting, "steps": str(steps)}
    write_atomically(path, lambda file: save_file(net.state_dict(), file, metadata=metadata), overwrite=True)
