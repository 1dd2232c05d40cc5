"""Charts: error against calls, a stretch of the chain as it was placed, and bond lengths beside the crystal's."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dode.charts import LIGHT, config, require_altair
from examples.proteins import geometry
from examples.proteins.measure import BEST, CGBACK, DDIM, DISTILLED, REFERENCE, Key, Stretches, of
from examples.proteins.residues import Residues

CRYSTAL = "crystal"
_COLOURS = {BEST: LIGHT.methods[0], DISTILLED: LIGHT.methods[1], CGBACK: LIGHT.methods[5]}


def picture(lines: list[dict[str, Any]], samples: dict[Key, Tensor], places: Stretches) -> Any:
    """All charts in one, an altair chart."""
    alt = require_altair()
    drawn = alt.vconcat(
        alt.hconcat(errors(alt, lines), chain(alt, samples, places), spacing=40).resolve_scale(color="independent"),
        histograms(alt, samples, places),
        spacing=30,
    ).resolve_scale(color="independent")
    return drawn.configure(**{**config(LIGHT), "background": LIGHT.paper})


def errors(alt: Any, lines: list[dict[str, Any]]) -> Any:
    """Root mean square distance from the reference against calls."""
    rows = [
        {"sampler": line["sampler"], "calls": line["calls"], **{end: line[end] ** 0.5 for end in ("error", "low", "high")}}
        for line in lines
        if line.get("error") and line["sampler"] in (BEST, DISTILLED, DDIM)
    ]
    names = [BEST, DISTILLED, DDIM]
    colours = [_COLOURS[BEST], _COLOURS[DISTILLED], LIGHT.solvers[6]]
    base = alt.Chart(alt.Data(values=rows), title="Distance from 400 calls", width=330, height=240).encode(
        x=alt.X("calls:Q", scale=alt.Scale(domain=[3, 21]), axis=alt.Axis(values=[4, 6, 8, 20]), title="network calls"),
        color=alt.Color("sampler:N", scale=alt.Scale(domain=names, range=colours)),
    )
    y = alt.Y("error:Q", scale=alt.Scale(type="log"), title="RMSD over atoms, Å")
    return base.mark_line(point=True).encode(y=y) + base.mark_rule().encode(y="low:Q", y2="high:Q")


def histograms(alt: Any, samples: dict[Key, Tensor], places: Stretches) -> Any:
    """Bond lengths of few calls and of the crystal, by kind."""
    few, most = fewest(samples), max(calls for sampler, calls in samples if sampler == CGBACK)
    shown: dict[str, Tensor] = {
        CRYSTAL: places.residues.crystal,
        f"{CGBACK}, {most}": samples[CGBACK, most],
        f"{BEST}, {few}": samples[BEST, few],
        f"{DISTILLED}, {few}": samples[DISTILLED, few],
    }
    rows = []
    for name, x in shown.items():
        for part, residues in places.split(x):
            for bond, lengths in geometry.bond_lengths(part, residues).items():
                rows += [{"sampler": name, "bond": bond, "length": round(length, 4)} for length in lengths.tolist()]
    colours = [LIGHT.ink, _COLOURS[CGBACK], _COLOURS[BEST], _COLOURS[DISTILLED]]
    density = (
        alt.Chart(alt.Data(values=rows), width=225, height=110)
        .transform_density("length", groupby=["sampler", "bond"], extent=[1.05, 1.95], bandwidth=0.012, steps=181)
        .mark_line(clip=True)
        .encode(
            x=alt.X("value:Q", title="Å", scale=alt.Scale(domain=[1.05, 1.95])),
            y=alt.Y("density:Q", title=None, axis=None),
            color=alt.Color("sampler:N", scale=alt.Scale(domain=list(shown), range=colours)),
        )
    )
    return density.facet(
        alt.Facet("bond:N", sort=list(geometry.BONDS), title=None), columns=3, title="Bond lengths"
    ).resolve_scale(y="independent")


def chain(alt: Any, samples: dict[Key, Tensor], places: Stretches) -> Any:
    """A few residues from one noise, as lines between bonded atoms, seen along their thinnest direction."""
    few, rows = fewest(samples), slice(0, min(8, places.lengths[0]))
    residues = places.residues[rows]
    (fine,) = (calls for sampler, calls in samples if sampler == REFERENCE)
    shown = {
        f"{fine} calls": of(samples, REFERENCE)[rows],
        f"{BEST}, {few}": samples[BEST, few][rows],
        f"{DISTILLED}, {few}": samples[DISTILLED, few][rows],
    }
    _, _, axes = torch.linalg.svd(residues.origin - residues.origin.mean(dim=0), full_matrices=False)
    ends = []
    for name, atoms in shown.items():
        for number, (a, b) in enumerate(sticks(atoms, residues)):
            for end in (a, b):
                u, v, _ = (axes @ (end - residues.origin.mean(dim=0))).tolist()
                ends.append({"sampler": name, "stick": f"{name} {number}", "u": u, "v": v})
    colours = [LIGHT.ink, _COLOURS[BEST], _COLOURS[DISTILLED]]
    width, height = 420, 240
    # Both axes have one scale, as wide as the longer side needs.
    angstrom = max(max(abs(end["u"]) for end in ends) / width, max(abs(end["v"]) for end in ends) / height)
    across, down = (alt.Scale(domain=[-angstrom * pixels, angstrom * pixels]) for pixels in (width, height))
    return (
        alt.Chart(alt.Data(values=ends), title=f"{len(residues)} residues from the same noise", width=width, height=height)
        .mark_line(strokeWidth=2)
        .encode(
            x=alt.X("u:Q", axis=None, scale=across),
            y=alt.Y("v:Q", axis=None, scale=down),
            detail="stick:N",
            color=alt.Color("sampler:N", scale=alt.Scale(domain=list(shown), range=colours)),
        )
    )


def fewest(samples: dict[Key, Tensor]) -> int:
    """The number of calls whose bonds and atoms are drawn: the least."""
    return min(calls for sampler, calls in samples if sampler == DISTILLED)


def sticks(x: Tensor, residues: Residues) -> list[tuple[Tensor, Tensor]]:
    """Where bonds begin and end, of the atoms that the crystal has bonded."""
    placed = torch.cat([torch.zeros(len(x), 1, 3), x], dim=1) + residues.origin[:, None]
    known = torch.cat([torch.zeros(len(x), 1, 3), residues.crystal], dim=1)
    near = torch.cdist(known.nan_to_num(1e3), known.nan_to_num(-1e3)) < 1.95
    found = [(placed[n, i], placed[n, j]) for n, i, j in near.nonzero().tolist() if i < j]
    whole = residues.crystal + residues.origin[:, None]
    joins = (whole[:-1, geometry.C] - whole[1:, geometry.N]).norm(dim=-1) < 1.95
    return found + [(placed[n, 1 + geometry.C], placed[n + 1, 1 + geometry.N]) for n in joins.nonzero()[:, 0].tolist()]
