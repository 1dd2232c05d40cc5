"""What the network is told of each residue, from files of proteins.

Four chains of the Protein Data Bank are in structures/ (heavy atoms; its coordinates are in the public domain, CC0): HIV-1 protease (1HPV)
and cytochrome c of yeast (1YEB), on which solvers are chosen and distilled, and enterotoxin IIb (1TII) and trypsin of salmon (1A0J), on
which they are measured. They have four different folds.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from examples.proteins.network import ATOMS, CUTOFF, FEATURES

STRUCTURES = Path(__file__).parent / "structures"
FITTED = ("protease", "cytochrome")
MEASURED = ("enterotoxin", "trypsin")
# Columns of cgback's table of heavy atoms that move, in the order of its graphs: all but CA and OXT.
_MOVED = [0, 2, 3, *range(5, 15)]


@dataclass(frozen=True)
class Residues:
    """Residues of one or more chains.

    Attributes:
        features: (n, 13 + c, 60), one-hot; zero where there is no atom.
        trace: (n, c, 3), C-alpha atoms in angstrom from the residue's own, which comes first.
        origin: (n, 3), where that is.
        crystal: (n, 13, 3), the atoms as they were measured, from the C-alpha; NaN where they were not.
        types: (n,), the amino acid, as cgback numbers them.
    """

    features: Tensor
    trace: Tensor
    origin: Tensor
    crystal: Tensor
    types: Tensor

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, rows: Any) -> Residues:
        return Residues(*(value[rows] for value in vars(self).values()))

    @property
    def condition(self) -> dict[str, Tensor]:
        """What the network takes beside x and t."""
        return {"features": self.features, "trace": self.trace}

    @property
    def moved(self) -> Tensor:
        """(n, 13): where there is an atom."""
        return self.features[:, :ATOMS].any(dim=-1)


def read(name: str) -> Residues:
    """The residues of a protein in structures/, or of any PDB file by its path; atoms other than C-alpha may be missing.

    Raises:
        ValueError: a residue without its C-alpha atom.
    """
    system = system_of(name)
    atoms = torch.from_numpy(system.heavy_coordinates)
    origin = atoms[:, 1]
    missing = int(origin.isnan().any(dim=1).sum())
    if missing:
        raise ValueError(f"{missing} residues have no C-alpha atom: the trace is what all else is placed around")
    types = torch.from_numpy(system.residue_types.astype("int64"))
    crystal = (atoms - origin[:, None])[:, _MOVED]
    return Residues(**unpacked(graph_of(system)), origin=origin, crystal=crystal, types=types)


def system_of(name: str) -> Any:
    """A protein as cgback reads it."""
    from cgback.parser import system_from_pdb_path

    return system_from_pdb_path(STRUCTURES / f"{name}.pdb" if "." not in name else name)


def graph_of(system: Any) -> Any:
    """All residues in one graph of cgback's, with new noise in place of the atoms that move."""
    from cgback.dataloader import collate_fn
    from cgback.dataset import ProteinDataset

    dataset = ProteinDataset(system, CUTOFF)
    return collate_fn([dataset[i] for i in range(len(dataset))])


def unpacked(graphs: Any) -> dict[str, Tensor]:
    """The condition of residues that cgback has put into one graph: nodes one after the other, the moved ones of a residue first."""
    real = nodes_of(graphs)
    features = torch.zeros(*real.shape, FEATURES)
    features[real] = graphs.hu.float()
    positions = torch.zeros(*real.shape, 3)
    positions[real] = graphs.xw.float()
    return {"features": features, "trace": positions[:, ATOMS:]}


def nodes_of(graphs: Any) -> Tensor:
    """Which of the 13 + c places of each residue are nodes of the graph, in whose order they come: (n, 13 + c) bool."""
    moved, stays = graphs.num_h.long(), graphs.num_u.long()
    return torch.cat([torch.arange(ATOMS) < moved[:, None], torch.arange(int(stays.max())) < stays[:, None]], dim=1)


def joined(*parts: Residues) -> Residues:
    """Residues of several chains, with as many places for neighbours as the most crowded needs."""
    most = max(part.trace.shape[1] for part in parts)
    wide = [
        Residues(
            pad(part.features, (0, 0, 0, most - part.trace.shape[1])),
            pad(part.trace, (0, 0, 0, most - part.trace.shape[1])),
            part.origin,
            part.crystal,
            part.types,
        )
        for part in parts
    ]
    return Residues(*(torch.cat(values) for values in zip(*(vars(part).values() for part in wide), strict=True)))


def shuffled(residues: Residues, seed: int = 0) -> Residues:
    """In another order, so that the first ones are of all kinds."""
    return residues[torch.randperm(len(residues), generator=torch.Generator().manual_seed(seed))]


def fitted() -> Residues:
    """The residues that solvers are chosen and distilled on."""
    return shuffled(joined(*map(read, FITTED)))
