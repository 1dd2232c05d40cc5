"""The network: a small bidirectional transformer that denoises sequences of word embeddings.

    x_t = (1 - t) E[w] + t eps              w: (batch, length) words, E: (words, width) embeddings of unit variance
    log p(w_i = v | x_t) = f(x_t, t)_iv + log N(x_t,i; (1 - t) E_v, t^2) + const.
    D = sum_v p(w_i = v | x_t) E_v

It is trained on the cross-entropy of the words alone, with which the embeddings can be learned too, as long as their length is fixed
(CDCD, Dieleman et al. 2022, arXiv 2211.15089). The second term is exact, so that f has only to learn what the other words say of a word
(Plaid, Gulrajani and Hashimoto 2023, arXiv 2305.18619, there "output prior"). No self-conditioning: D depends on the state alone, and
sampling is an ODE.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import dode

# Below this time every word is decided: the distance of two embeddings is dozens of times the noise.
T_MIN = 0.1
_WAVES = 16


class Block(nn.Module):
    """Attention and a feed-forward part, each added to what goes in."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attend = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, 3 * channels))
        self.join = nn.Linear(channels, channels)
        self.feed = nn.Sequential(
            nn.LayerNorm(channels),
            nn.Linear(channels, 4 * channels),
            nn.GELU(approximate="tanh"),
            nn.Linear(4 * channels, channels),
        )

    def forward(self, h: Tensor) -> Tensor:
        """h: (batch, length, channels)."""
        batch, length, channels = h.shape
        split = self.attend(h).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        h = h + self.join(F.scaled_dot_product_attention(*split).transpose(1, 2).reshape(batch, length, channels))
        return h + self.feed(h)


class WordDenoiser(nn.Module):
    """D of noisy embeddings.

    Args:
        frequencies: of the words, (words,), above 0: the prior that training begins with.
        length: tokens in a line.
        width: of an embedding.
        channels, layers, heads: of the transformer.
    """

    def __init__(
        self, frequencies: Tensor, length: int, *, width: int = 32, channels: int = 128, layers: int = 4, heads: int = 4
    ) -> None:
        super().__init__()
        words = len(frequencies)
        self.embeddings = nn.Parameter(torch.randn(words, width))
        self.prior = nn.Parameter(frequencies.log())
        self.enter = nn.Linear(2 * width + _WAVES, channels)
        self.place = nn.Parameter(0.5 * torch.randn(length, channels))
        self.blocks = nn.Sequential(*(Block(channels, heads) for _ in range(layers)))
        self.leave = nn.Sequential(nn.LayerNorm(channels), nn.Linear(channels, words, bias=False))
        nn.init.zeros_(self.leave[1].weight)

    @property
    def table(self) -> Tensor:
        """The embeddings, (words, width), each of unit mean square."""
        return F.normalize(self.embeddings, dim=1) * math.sqrt(self.embeddings.shape[1])

    def log_probabilities(self, x: Tensor, t: Tensor) -> Tensor:
        """Up to a constant: (batch, length, words).

        Args:
            x: (batch, length, width), states.
            t: (batch,) or (batch, length), times in [T_MIN, 1]: of all words of a line, or of each.
        """
        t = t.to(x).reshape(len(x), -1, 1)
        alpha, sigma = 1 - t, t
        table = self.table
        # All embeddings have one length, so that of the Gaussian's exponent only the inner product depends on the word.
        alone = self.prior + (alpha / sigma**2) * (x @ table.T)
        scaled = x / (alpha**2 + sigma**2).sqrt()
        waves = _waves(t).expand(*x.shape[:2], _WAVES)
        # What each word is without the others is given to the transformer: to find it out is no work for attention.
        h = self.enter(torch.cat([scaled, alone.softmax(-1) @ table, waves], -1)) + self.place
        return alone + self.leave(self.blocks(h))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """The mean embedding, (batch, length, width)."""
        return self.log_probabilities(x, t).softmax(-1) @ self.table

    def nearest(self, x: Tensor) -> Tensor:
        """The word whose embedding is nearest, (batch, length)."""
        return (x.to(self.table) @ self.table.T).argmax(-1)


def as_denoiser(net: WordDenoiser) -> dode.Denoiser:
    """The network with its schedule: samples are (length, width)."""
    shape = (len(net.place), net.embeddings.shape[1])
    return dode.Denoiser(net, dode.schedules.Flow(time_scale=1.0, t_min=T_MIN), "sample", shape=shape, name="text")


def _waves(t: Tensor) -> Tensor:
    """Sines and cosines of t in [0, 1]: from (..., 1) to (..., _WAVES)."""
    angles = t * torch.exp(torch.linspace(0, math.log(30), _WAVES // 2, device=t.device, dtype=t.dtype))
    return torch.cat([angles.sin(), angles.cos()], -1)
