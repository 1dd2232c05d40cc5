"""cgback's own program with a distilled solver in place of its sampling loop.

    from cgback.backmapper_app import main
    with few_calls(tableau):
        main()                      # reads sys.argv, as always

All of it stays as it is, its reading, hydrogens, repairs and files: only `sample` of its diffuser is another one meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

import dode
from examples.proteins.network import ATOMS, as_denoiser
from examples.proteins.residues import nodes_of, unpacked


@contextmanager
def few_calls(tableau: dode.Tableau) -> Iterator[None]:
    """While this is open cgback samples with the tableau, whatever number of steps it was told.

    The noise is drawn here and anew each time. cgback starts from what its data set was made with, the same whenever it draws a residue
    again to repair it: an ODE would end where it did before.
    """
    from cgback.diffuser import BaseDiffuser

    def sample(self: Any, data: Any, device: Any = "cpu", verbose: bool = True, bar_description: Any = None) -> Any:
        denoiser = as_denoiser(self.to(device))
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
