"""How far few calls are from 400 on proteins that nothing was chosen on, and whether what they place is a protein."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import dode
from dode.noise import standard_noise
from dode.statistics import mean, ratio
from examples.proteins import geometry
from examples.proteins.distil import MEASURING, fine_run, squared_distance
from examples.proteins.network import ATOMS
from examples.proteins.residues import MEASURED, Residues, graph_of, joined, nodes_of, read, system_of

# What the others are measured against; and a run of another solver on another grid, which says how well it is known.
REFERENCE, CHECK = "deis, log-snr", "dpm-solver++ of order 3, mixed"
DDIM, BEST, DISTILLED, CGBACK = "ddim, uniform", "best undistilled", "distilled", "cgback (DDPM)"
# As many calls as cgback takes.
MANY, PLAIN = 20, "dpm-solver++, mixed"
# A sampler and its number of calls.
Key = tuple[str, int]


@dataclass(frozen=True)
class Stretches:
    """The beginnings of several chains, one after the other."""

    names: tuple[str, ...]
    residues: Residues
    lengths: tuple[int, ...]

    def split(self, x: Tensor) -> Iterator[tuple[Tensor, Residues]]:
        """x, (n, ...), chain by chain with the residues."""
        start = 0
        for length in self.lengths:
            rows = slice(start, start + length)
            yield x[rows], self.residues[rows]
            start += length


def stretches(length: int, names: tuple[str, ...] = MEASURED) -> Stretches:
    """The first residues of each protein; each residue still sees all of its neighbours."""
    parts = [read(name)[:length] for name in names]
    return Stretches(names, joined(*parts), tuple(map(len, parts)))


def runs(
    denoiser: dode.Denoiser, undistilled: dode.TableauSet, distilled: dode.TableauSet, fine: int = 400
) -> dict[Key, dode.Tableau]:
    """All that starts from the same noise; `fine` calls are taken for the truth."""
    schedule = denoiser.schedule
    return {
        **{(DDIM, n): dode.solver("ddim").tableau(schedule, n, "uniform") for n in (*undistilled.nfe, MANY)},
        **{(BEST, each.nfe): each for each in undistilled},
        **{(DISTILLED, each.nfe): each for each in distilled},
        (PLAIN, MANY): dode.solver("dpm-solver++").tableau(schedule, MANY, "mixed"),
        (REFERENCE, fine): fine_run(denoiser, fine),
        (CHECK, fine): dode.solver("dpm-solver++", order=3).tableau(schedule, fine, "mixed"),
    }


def sampled(denoiser: dode.Denoiser, tableaux: dict[Key, dode.Tableau], places: Stretches, checked: int) -> dict[Key, Tensor]:
    """The atoms that each run places, (n, 13, 3); the check for the first `checked` of each chain alone, and zero elsewhere."""
    residues = places.residues
    noise = standard_noise(MEASURING, len(residues), denoiser.shape)
    first = torch.cat([torch.arange(length) < checked for length in places.lengths])
    found = {}
    for key, tableau in tableaux.items():
        rows = first if key[0] == CHECK else torch.ones_like(first)
        x = torch.zeros_like(noise)
        x[rows] = dode.sample(denoiser, tableau, noise[rows], **residues[rows].condition)
        found[key] = x
    return found


def sampled_by_cgback(model: nn.Module, places: Stretches, steps: Sequence[int], seed: int = MEASURING) -> dict[Key, Tensor]:
    """What cgback's own loop places with these numbers of steps; it draws new noise in every step (DDPM).

    Whole chains are sampled, as its users do: its origin is the mean of all that is in the batch.
    """
    found = {}
    for count in steps:
        torch.manual_seed(seed)
        np.random.seed(seed)  # the noise that cgback starts from
        model.num_timesteps = count
        parts = []
        for name, length in zip(places.names, places.lengths, strict=True):
            graph = model.sample(graph_of(system_of(name)), verbose=False)
            here = nodes_of(graph)[:, :ATOMS]
            x = torch.zeros(*here.shape, 3)
            x[here] = graph.xw[graph.mask[:, 0].bool()]
            parts.append(x[:length])
        found[CGBACK, count] = torch.cat(parts)
    return found


def table(samples: dict[Key, Tensor], places: Stretches) -> list[dict[str, Any]]:
    """A line for each run: distance to the reference and to the crystal, and the geometry.

    Squared distances are means over a residue's atoms; their mean, its 90 % interval and median are over residues.
    """
    residues = places.residues
    moved, known = residues.moved, residues.moved & ~residues.crystal.isnan().any(dim=-1)
    reference = of(samples, REFERENCE)
    crystal = residues.crystal.nan_to_num()
    base = {calls: squared_distance(x, reference, moved) for (how, calls), x in samples.items() if how == BEST}
    lines = []
    for (how, calls), x in samples.items():
        if how == CHECK:
            continue
        line: dict[str, Any] = {"sampler": how, "calls": calls}
        if how not in (CGBACK, REFERENCE):
            errors = squared_distance(x, reference, moved).numpy()
            figure = mean(errors)
            line |= {"error": figure.value, "low": figure.low, "high": figure.high, "median": float(np.median(errors))}
            line |= {"rmsd": figure.value**0.5}
            if how == DISTILLED and calls in base:
                share = ratio(errors, base[calls].numpy())
                line |= {"of_best": share.value, "of_best_low": share.low, "of_best_high": share.high}
        line["to_crystal"] = squared_distance(x, crystal, known).nanmean().item() ** 0.5
        chains = list(places.split(x))
        for bond in geometry.BONDS:
            off = torch.cat([geometry.differences(part, chain)[bond] for part, chain in chains])
            line[bond] = off.double().square().mean().sqrt().item()
        line["mirrored"] = sum(geometry.wrong_hands(part, chain) for part, chain in chains)
        line["clashes"] = sum(geometry.clashes(part, chain) for part, chain in chains)
        lines.append(line)
    return lines


def checked(samples: dict[Key, Tensor], places: Stretches) -> float:
    """The mean square distance of the reference from the run that checks it."""
    reference, check = of(samples, REFERENCE), of(samples, CHECK)
    rows = check.flatten(1).any(dim=1)
    return squared_distance(reference[rows], check[rows], places.residues.moved[rows]).mean().item()


def of(samples: dict[Key, Tensor], name: str) -> Tensor:
    """The atoms of a sampler that was run with one number of calls."""
    (x,) = (x for (sampler, _), x in samples.items() if sampler == name)
    return x
