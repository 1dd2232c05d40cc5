"""Tableaux as samplers of k-diffusion.

    sample_dode = dode.integrations.k_diffusion.sampler(dode.TableauSet.load("deis.json"))
    sigmas = sample_dode.sigmas(8)
    samples = sample_dode(model, noise * sample_dode.noise_scale(8), sigmas, extra_args={"cond": cond})

`model` is a wrapper of k_diffusion.external or k_diffusion.layers, or any other function of a state and sigma that gives the denoised
sample. k-diffusion itself is not needed.
"""

from __future__ import annotations

from typing import Any

from dode.integrations.export.steps import check_exportable
from dode.integrations.frames import frame_of, in_frame, levels, scales
from dode.integrations.sigma_sampler import SigmaSampler
from dode.tableau import Tableau
from dode.tableaux import TableauSet


def sampler(tableaux: Any) -> SigmaSampler:
    """A function in the form of `k_diffusion.sampling.sample_*`, which also gives the sigmas for it.

    Args:
        tableaux: a `Tableau`, a `TableauSet`, a result of `distill`, or several of these, of one network.

    Returns:
        The sampler; x is in k-diffusion's scale, x_0 + sigma eps, or (1 - sigma) x_0 + sigma eps for a flow.

    Raises:
        ValueError: a tableau that has no such form: see `tables`.
    """
    return SigmaSampler(tables(tableaux))


def tables(tableaux: Any) -> list[dict[str, Any]]:
    """The numbers that `SigmaSampler` takes, as JSON can hold them; arguments as `sampler`.

    Raises:
        ValueError: a tableau that runs upwards, starts at pure noise (alpha = 0) where sigma / alpha is needed, or begins with a mean
            output for each condition.
    """
    return [_table(tableau) for tableau in TableauSet.of(tableaux)]


def _table(tableau: Tableau) -> dict[str, Any]:
    check_exportable(tableau)
    rows = in_frame(tableau)
    b = rows.b.copy()
    made: dict[str, Any] = {
        "nfe": tableau.nfe,
        "flow": frame_of(tableau) == "flow",
        "noise_scale": tableau.noise_scale / scales(tableau)[0],
        "sigmas": levels(tableau).tolist(),
    }
    if tableau.first == "zero":
        b[:, 0] = 0.0
    if tableau.first != "network":
        made["first"] = 0.0 if tableau.mean is None else tableau.mean.tolist()
    made["a"], made["b"] = ([row[: k + 1].tolist() for k, row in enumerate(matrix)] for matrix in (rows.a, b))
    return made
