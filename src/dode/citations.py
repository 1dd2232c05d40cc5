"""The papers that a solver, a grid and the method come from, as BibTeX.

Solvers and grids name their papers by key where they are defined (`Family.papers`, `Grid.papers`); what the keys mean is here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dode.tableau import Tableau

# One number a step, taught by a many-step run: what every distillation here goes back to.
METHOD = "kim2024dode"
# A first output of zero, "the analytical first step".
FIRST_ZERO = "dockhorn2022genie"


@dataclass(frozen=True)
class Paper:
    """A paper, in the order in which its BibTeX entry lists it.

    Attributes:
        key: what it is cited by.
        title: with braces around what BibTeX must not turn into small letters.
        author: "Family, Given and ...".
        year: of the publication that `venue` names, or of the preprint.
        arxiv: its number there.
        venue: proceedings that it is in; "" for a preprint.
    """

    key: str
    title: str
    author: str
    year: int
    arxiv: str
    venue: str = ""

    def bibtex(self) -> str:
        """The entry."""
        fields = {
            "title": self.title,
            "author": self.author,
            **({"booktitle": self.venue} if self.venue else {}),
            "year": str(self.year),
            "eprint": self.arxiv,
            "archivePrefix": "arXiv",
            "url": f"https://arxiv.org/abs/{self.arxiv}",
        }
        kind = "inproceedings" if self.venue else "misc"
        return "\n".join([f"@{kind}{{{self.key},", *(f"  {name} = {{{value}}}," for name, value in fields.items()), "}"])


_CVPR = "Proceedings of the {IEEE/CVF} Conference on Computer Vision and Pattern Recognition ({CVPR})"
_ICLR = "International Conference on Learning Representations ({ICLR})"
_ICML = "Proceedings of the International Conference on Machine Learning ({ICML})"
_NEURIPS = "Advances in Neural Information Processing Systems ({NeurIPS})"
_WACV = "Proceedings of the {IEEE/CVF} Winter Conference on Applications of Computer Vision ({WACV})"

PAPERS: dict[str, Paper] = {
    paper.key: paper
    for paper in (
        Paper(
            METHOD,
            "Distilling {ODE} Solvers of Diffusion Models into Smaller Steps",
            "Kim, Sanghwan and Tang, Hao and Yu, Fisher",
            2024,
            "2309.16421",
            _CVPR,
        ),
        Paper(
            "song2021ddim",
            "Denoising Diffusion Implicit Models",
            "Song, Jiaming and Meng, Chenlin and Ermon, Stefano",
            2021,
            "2010.02502",
            _ICLR,
        ),
        Paper(
            "liu2022pndm",
            "Pseudo Numerical Methods for Diffusion Models on Manifolds",
            "Liu, Luping and Ren, Yi and Lin, Zhijie and Zhao, Zhou",
            2022,
            "2202.09778",
            _ICLR,
        ),
        Paper(
            "lu2022dpmsolver",
            "{DPM-Solver}: A Fast {ODE} Solver for Diffusion Probabilistic Model Sampling in Around 10 Steps",
            "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
            2022,
            "2206.00927",
            _NEURIPS,
        ),
        Paper(
            "lu2022dpmsolverpp",
            "{DPM-Solver++}: Fast Solver for Guided Sampling of Diffusion Probabilistic Models",
            "Lu, Cheng and Zhou, Yuhao and Bao, Fan and Chen, Jianfei and Li, Chongxuan and Zhu, Jun",
            2022,
            "2211.01095",
        ),
        Paper(
            "zhang2023deis",
            "Fast Sampling of Diffusion Models with Exponential Integrator",
            "Zhang, Qinsheng and Chen, Yongxin",
            2023,
            "2204.13902",
            _ICLR,
        ),
        Paper(
            "karras2022edm",
            "Elucidating the Design Space of Diffusion-Based Generative Models",
            "Karras, Tero and Aittala, Miika and Aila, Timo and Laine, Samuli",
            2022,
            "2206.00364",
            _NEURIPS,
        ),
        Paper(
            "zhao2023unipc",
            "{UniPC}: A Unified Predictor-Corrector Framework for Fast Sampling of Diffusion Models",
            "Zhao, Wenliang and Bai, Lujia and Rao, Yongming and Zhou, Jie and Lu, Jiwen",
            2023,
            "2302.04867",
            _NEURIPS,
        ),
        Paper(
            FIRST_ZERO,
            "{GENIE}: Higher-Order Denoising Diffusion Solvers",
            "Dockhorn, Tim and Vahdat, Arash and Kreis, Karsten",
            2022,
            "2210.05475",
            _NEURIPS,
        ),
        Paper(
            "lin2024flawed",
            "Common Diffusion Noise Schedules and Sample Steps are Flawed",
            "Lin, Shanchuan and Liu, Bingchen and Li, Jiashi and Yang, Xiao",
            2024,
            "2305.08891",
            _WACV,
        ),
        Paper(
            "esser2024rectified",
            "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis",
            'Esser, Patrick and Kulal, Sumith and Blattmann, Andreas and Entezari, Rahim and M{\\"u}ller, Jonas and Saini, Harry '
            "and Levi, Yam and Lorenz, Dominik and Sauer, Axel and Boesel, Frederic and Podell, Dustin and Dockhorn, Tim and "
            "English, Zion and Lacey, Kyle and Goodwin, Alex and Marek, Yannik and Rombach, Robin",
            2024,
            "2403.03206",
            _ICML,
        ),
        Paper(
            "sabour2024ays",
            "{Align Your Steps}: Optimizing Sampling Schedules in Diffusion Models",
            "Sabour, Amirmojtaba and Fidler, Sanja and Kreis, Karsten",
            2024,
            "2404.14507",
            _ICML,
        ),
    )
}


def bibtex(reasons: Mapping[str, str]) -> str:
    """Entries, each under a line that says what it is cited for (BibTeX takes it for a comment); the empty text for none.

    Args:
        reasons: keys of `PAPERS`, in the order of the entries, with what each is cited for.
    """
    return "\n\n".join(f"% {reason}\n{PAPERS[key].bibtex()}" for key, reason in reasons.items())


def of_solver(name: str) -> dict[str, str]:
    """The papers of a solver by its text, "deis(order=2)"; none for one that the registry does not know."""
    from dode.solvers import REGISTRY

    family = REGISTRY.get(_first_word(name))
    return {} if family is None else dict.fromkeys(family.papers, f"the solver, {family.name}")


def of_tableau(tableau: Tableau) -> dict[str, str]:
    """The papers of a tableau: of its solver, its grid, its first output, and of the method where it was distilled."""
    from dode.grids import FAMILIES, PUBLISHED

    found = of_solver(tableau.solver)
    grid = (FAMILIES | PUBLISHED).get(_first_word(tableau.grid))
    if grid is not None:
        for key in grid.papers:
            found.setdefault(key, f"the grid, {grid.name}")
    if tableau.first == "zero":
        found.setdefault(FIRST_ZERO, "the first step, which asks no network")
    if "distillation" in tableau.meta:
        return {METHOD: "the method: distilled ODE solvers", **found}
    return found


def of_tableaux(tableaux: Iterable[Tableau]) -> dict[str, str]:
    """The papers of several tableaux, each once."""
    found: dict[str, str] = {}
    for tableau in tableaux:
        for key, reason in of_tableau(tableau).items():
            found.setdefault(key, reason)
    return found


def _first_word(text: str) -> str:
    found = re.match(r"[\w+-]+", text)
    return found[0] if found else ""
