"""Common to the benchmarks: their options and pages, the networks they run on, references that are made once, kept results."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

import dode
from dode.conditions import Condition
from dode.denoisers import Denoiser
from dode.distillation.batch import Batch
from dode.report.reference import unseen_batch
from dode.schedules import NoiseSchedule

# The exactly known Gaussian mixture belongs to the tests.
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

NETWORKS = ("fashion", "fashion-flow", "mixture")
# The mixture under other schedules: schedule and prediction type.
MIXTURES: dict[str, tuple[NoiseSchedule, str]] = {
    "mixture": (dode.schedules.VP.linear(), "epsilon"),
    "mixture-exp": (dode.schedules.ContinuousVP(1.0, 1.0, t_max=10.0), "epsilon"),
    "mixture-edm": (dode.schedules.EDM(), "sample"),
    "mixture-flow-3": (dode.schedules.Flow(shift=3.0), "flow"),
}
EVERY_NETWORK = tuple(dict.fromkeys((*NETWORKS, *MIXTURES)))
SEED = 0
HELD_OUT = 256
REFERENCE_NFE = 200


def options(description: str | None, networks: Iterable[str] = NETWORKS) -> argparse.ArgumentParser:
    """The options of every benchmark."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", choices=tuple(networks))
    parser.add_argument("--work", type=Path, default=Path(".benchmarks"), help="folder of unfinished results")
    parser.add_argument("--out", type=Path, help="folder for the page")
    return parser


def publish(lines: Iterable[str], name: str, out: Path | None) -> None:
    """Print a page, and write it as NAME.md into a folder if one is given."""
    text = "\n".join([*lines, ""])
    Console(width=140).print(text, soft_wrap=True, highlight=False)
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.md").write_text(text, encoding="utf-8")


def network(name: str) -> tuple[Denoiser, Condition]:
    """A denoiser by name, with the condition that it is fitted and measured for: all classes in turn, where it has any."""
    if name in MIXTURES:
        from mixture import mixture_denoiser

        return mixture_denoiser(*MIXTURES[name], name=name), {}
    return dode.load(name), {"class_labels": torch.arange(10)} if name == "fashion" else {}


def held_out(denoiser: Denoiser, cond: Condition, store: Store) -> Batch:
    """Noise of the stream that nothing is fitted to or chosen by, with the end point of a fine reference run."""
    return unseen_batch(denoiser, cond, HELD_OUT, REFERENCE_NFE, seed=SEED, cache=store.folder)


class Store:
    """Results by name in a JSON-lines file: what is there is not computed again."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / "results.jsonl"
        lines = self._path.read_text(encoding="utf-8").splitlines() if self._path.exists() else []
        self._known: dict[str, Any] = {}
        for line in lines:
            self._known.update(json.loads(line))

    def tableau(self, solver: str, effort: str, nfe: int) -> Path:
        """Where a tableau is kept."""
        folder = self.folder / "tableaux"
        folder.mkdir(exist_ok=True)
        return folder / f"{solver}-{effort}-{nfe}.json"

    def get(self, name: str, compute: Callable[[], Any]) -> Any:
        """The result of that name, computed where it is not known yet."""
        if name not in self._known:
            self._known[name] = compute()
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({name: self._known[name]}) + "\n")
        return self._known[name]


def mean_and_error(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    array = np.array(values)
    return float(array.mean()), float(array.std(ddof=1) / np.sqrt(len(array)))
