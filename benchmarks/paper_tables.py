"""What the page of `benchmarks/paper.py` and its findings share: names, rows of the results, Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

NAMES = {"ddim": "DDIM", "pndm": "PNDM", "ipndm": "iPNDM", "dpm-solver-2": "DPM-Solver-2", "dpm-solver-3": "DPM-Solver-3"} | {
    "deis": "DEIS",
    "edm-euler": "EDM Euler",
    "edm-heun": "EDM Heun",
    "unipc": "UniPC-3",
    "dpm-solver++": "DPM-Solver++ 2M",
}


def as_table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def short(value: float) -> str:
    """Three digits."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def geometric(values: pd.Series) -> float:
    return float(np.exp(np.log(values).mean()))


def where(table: pd.DataFrame, **keys: Any) -> pd.Series:
    return pd.concat([table[name] == value for name, value in keys.items()], axis=1).all(axis=1)


def paired(found: pd.DataFrame) -> pd.DataFrame:
    """A row for each base with its D-."""
    main = found[found.part == "main"]
    keys = ["network", "solver", "nfe"]
    both = main[main.method == "base"].merge(main[main.method == "D"], on=keys, suffixes=("_base", "_d"))
    return both.assign(fid_ratio=both.fid_d / both.fid_base, error_ratio=both.error_d / both.error_base)
