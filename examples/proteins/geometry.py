"""Whether placed atoms make a protein: bond lengths, and the hand of each residue, beside the crystal's.

Residues are drawn one by one, so the bond from a residue's C to the next one's N says whether neighbours that know of each other by their
C-alpha atoms alone fit together.
"""

from __future__ import annotations

import torch
from torch import Tensor

from examples.proteins.residues import Residues

# Places of the backbone's atoms in a residue; a side chain begins with CB, which glycine has not.
N, C, O, CB = 0, 1, 2, 3  # noqa: E741
BONDS = ("N-CA", "CA-C", "C-O", "CA-CB", "side chain", "C-N")
# Longer than any bond of a residue's heavy atoms, shorter than any distance of two that are not bonded.
_LONGEST = 1.95


def bond_lengths(x: Tensor, chain: Residues) -> dict[str, Tensor]:
    """The lengths of the bonds that the crystal has, by kind, in angstrom; in the same order for every x.

    Args:
        x: (n, 13, 3), atoms from their C-alpha.
        chain: a stretch of a chain, in order.
    """
    found, known = _distances(x, chain.origin), _distances(chain.crystal, chain.origin)
    return {name: found[name][known[name] < _LONGEST] for name in BONDS}


def _distances(x: Tensor, origin: Tensor) -> dict[str, Tensor]:
    """All that may be a bond, by kind."""
    first, second = torch.triu_indices(x.shape[1] - CB, x.shape[1] - CB, offset=1) + CB
    chain = x + origin[:, None]
    return {
        "N-CA": x[:, N].norm(dim=-1),
        "CA-C": x[:, C].norm(dim=-1),
        "C-O": (x[:, C] - x[:, O]).norm(dim=-1),
        "CA-CB": x[:, CB].norm(dim=-1),
        "side chain": (x[:, first] - x[:, second]).norm(dim=-1),
        "C-N": (chain[:-1, C] - chain[1:, N]).norm(dim=-1),
    }


def differences(x: Tensor, chain: Residues) -> dict[str, Tensor]:
    """Bond lengths less the crystal's, by kind, in angstrom."""
    found, known = bond_lengths(x, chain), bond_lengths(chain.crystal, chain)
    return {name: found[name] - known[name] for name in BONDS}


def wrong_hands(x: Tensor, chain: Residues) -> int:
    """How many residues are mirrored at their C-alpha: life has one hand."""
    volume = (x[:, CB] * torch.linalg.cross(x[:, N], x[:, C])).sum(dim=-1)
    has_side_chain = chain.moved[:, CB]
    return int(((volume < 0) & has_side_chain).sum())


def clashes(x: Tensor, chain: Residues, nearest: float = 1.2) -> int:
    """How many pairs of residues have atoms nearer than this, as cgback counts them: of neighbours in the chain, side chains alone."""
    atoms = (x + chain.origin[:, None]).where(chain.moved[..., None], torch.nan)
    atoms = torch.cat([chain.origin[:, None], atoms], dim=1)
    near = torch.zeros(len(x), len(x), dtype=torch.bool)
    for i in range(len(x)):
        for j in range(i + 1, len(x)):
            first = 1 + CB if j == i + 1 else 0
            near[i, j] = bool((torch.cdist(atoms[i, first:], atoms[j, first:]) < nearest).any())
    return int(near.sum())
