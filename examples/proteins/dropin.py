"""cgback's own program with a distilled solver in place of its sampling loop.

    from cgback.backmapper_app import main
    with few_calls(tableau):
        main()                      # reads sys.argv, as always

All of it stays as it is, its reading, hydrogens, repairs and files: only `sample` of its diffuser is another one meanwhile.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

import dode
from examples.proteins.network import ATOMS, STEPS, as_denoiser, schedule_of
from examples.proteins.residues import graph_of, nodes_of, system_of, unpacked


@contextmanager
def few_calls(tableau: dode.Tableau) -> Iterator[None]:
    """While this is open cgback samples with the tableau, whatever `--num-timesteps` and `--diffuser` say.

    The noise is drawn here and anew each time. cgback starts from what its data set was made with, the same whenever it draws a residue
    again to repair it: an ODE would end where it did before.
    """
    from cgback.diffuser import BaseDiffuser
    from cgback.schedulers import CosineScheduler

    schedule = schedule_of(CosineScheduler(STEPS).alpha_bars)

    def sample(self: Any, data: Any, device: Any = "cpu", verbose: bool = True, bar_description: Any = None) -> Any:
        denoiser = as_denoiser(self.to(device), schedule)
        noise = torch.randn(len(data.num_h), *denoiser.shape)
        x = dode.sample(denoiser, tableau, noise, **unpacked(data)).cpu()
        data.xw = data.xw.masked_scatter(data.mask.bool(), x[nodes_of(data)[:, :ATOMS]])
        return data

    theirs = BaseDiffuser.sample
    BaseDiffuser.sample = sample
    try:
        yield
    finally:
        BaseDiffuser.sample = theirs


def seconds(model: nn.Module, tableaux: dode.TableauSet, name: str, repeats: int = 3) -> dict[str, float]:
    """Processor time in which cgback places a protein's atoms, by its own 20 steps and by each tableau: the least of a few.

    Args:
        model: a `cgback.diffuser.DDPM` of 20 steps.
        tableaux: the others.
        name: of the protein.
        repeats: how often each is run, in turn.
    """
    system = system_of(name)
    ways = {
        "cgback, 20 steps": nullcontext,
        **{f"distilled, {each.nfe} calls": lambda each=each: few_calls(each) for each in tableaux},
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, opened in ways.items():
            graph = graph_of(system)
            with opened():
                start = time.process_time()
                model.sample(graph, verbose=False)
                found[way].append(time.process_time() - start)
    return {way: min(times) for way, times in found.items()}
