"""Saved tableaux as a file of ComfyUI's nodes: numbers, the sampler that runs them, and a SAMPLER and a SIGMAS node.

The sampler is the text of `dode.integrations.sigma_sampler`, so that what ComfyUI runs is what k-diffusion runs and the tests try.
"""

from __future__ import annotations

import ast
import json
import re
from importlib.resources import files
from string import Template
from typing import Any

import numpy as np

from dode.integrations.frames import frame_of
from dode.integrations.k_diffusion import tables
from dode.tableau import Tableau
from dode.tableaux import TableauSet


def to_comfyui(tableaux: Any, name: str = "dode") -> str:
    """The text of a file for ComfyUI's folder custom_nodes.

    Args:
        tableaux: a `Tableau`, a `TableauSet`, a result of `distill`, or several of these, of one network.
        name: of the two nodes, which ComfyUI keeps in workflows: the same for the next tableaux of this network, another for others.

    Raises:
        ValueError: a tableau that has no such form; see `dode.integrations.k_diffusion.tables`.
    """
    held = TableauSet.of(tableaux)
    imports, code = _sampler_source()
    template = files("dode.integrations.export").joinpath("templates/comfyui.py.txt").read_text(encoding="utf-8")
    return Template(template).substitute(
        name=_harmless(r"\W", "_", name),
        titles="\n".join(_harmless(r"[^\w .,:=()+-]", "?", tableau.title) for tableau in held),
        imports=imports,
        sampler=code,
        tables=_laid_out(tables(held)),
    )


def rounded_by_comfyui(tableau: Tableau) -> float | None:
    """The first time of a tableau that ComfyUI rounds, None if there is none: it asks models with a table of betas at whole times alone."""
    asked = tableau.times[tableau.first == "zero" : -1]
    between = np.abs(asked - np.rint(asked)) > 1e-6
    if frame_of(tableau) == "flow" or (tableau.alphas == 1).all() or not between.any():
        return None
    return float(asked[between][0])


def _sampler_source() -> tuple[str, str]:
    """The imports of the sampler's module but for that of annotations, and what follows them."""
    text = files("dode.integrations").joinpath("sigma_sampler.py").read_text(encoding="utf-8")
    lines = text.splitlines()
    imports = [node for node in ast.parse(text).body if isinstance(node, ast.Import | ast.ImportFrom)]
    _, first, *_, last = imports
    return "\n".join(lines[first.lineno - 1 : last.end_lineno]), "\n".join(lines[last.end_lineno :]).strip()


def _harmless(pattern: str, instead: str, text: str) -> str:
    """Text from a file or a command line, without what could end the string of Python that it stands in."""
    return re.sub(pattern, instead, text, flags=re.ASCII)


def _laid_out(numbers: list[dict[str, Any]]) -> str:
    """JSON with a line for each entry and each row."""
    text = json.dumps(numbers, allow_nan=False)
    return text.replace("], [", "],\n[").replace(', "', ',\n"').replace("}, {", "},\n{")
