"""The protocol of the Distilled-ODE paper (arXiv 2309.16421) on the bundled networks, beside peers and what `dode` makes of them.

    python benchmarks/paper.py --out docs/benchmarks/paper                  # measure; on a GPU, minutes
    python benchmarks/paper.py --out /tmp/small --samples 500 --budgets 5,10 --solvers ddim,deis
    python benchmarks/paper.py --page docs/results.md --out docs/benchmarks/paper

Results are appended to results.csv a cell at a time, the ones that matter most first; the same command again goes on where the last
one stopped, and `--seconds` says when no further cell is begun. Cells: `paper_cells.py`; how they are measured: `paper_bench.py`.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import sys
import time
import warnings
from collections import Counter
from dataclasses import fields
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from paper_bench import FINE, SEED, Bench, Images
from paper_cells import BUDGETS, SOLVERS, Cell, cells
from torch import Tensor

# The data and its reader belong to the training.
sys.path.insert(0, str(Path(__file__).parent.parent / "training"))

MEASURED = (
    *("what", "grid", "fid", "fid_spread", "recognised", "error", "low", "high", "median", "ratio", "ratio_low", "ratio_high"),
    *("cost", "made_seconds", "sample_seconds", "samples", "paired", "note"),
)
KEYS = tuple(f.name for f in fields(Cell))


def main() -> None:
    args = parse_arguments()
    if args.page is not None:
        from paper_page import write_page

        write_page(args.out, args.page)
        return
    measure(args)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of results.csv and run.json")
    parser.add_argument("--page", type=Path, help="write this page from the results, and measure nothing")
    parser.add_argument("--data", type=Path, help="folder of Fashion-MNIST's four .gz files; Debian's by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--networks", type=_names, default=tuple(SOLVERS))
    parser.add_argument("--solvers", type=_names, default=tuple({name: None for names in SOLVERS.values() for name in names}))
    parser.add_argument("--budgets", type=lambda text: tuple(map(int, text.split(","))), default=BUDGETS)
    parser.add_argument(
        "--parts", type=_names, help='of "main", "efforts", "peers", "searched", "scale", "batch", "form"; all if left out'
    )
    parser.add_argument("--samples", type=int, default=10_000, help="of the Frechet distances")
    parser.add_argument("--fine", type=int, default=FINE, help="evaluations of the reference")
    parser.add_argument("--seconds", type=float, default=math.inf, help="begin no cell after so long")
    return parser.parse_args()


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(","))


def measure(args: argparse.Namespace) -> None:
    """Make the cells that are not in the results yet."""
    began = time.monotonic()
    # What is wrong with a tableau is what is measured here.
    warnings.simplefilter("ignore", UserWarning)
    results = Results(args.out)
    device = torch.device(args.device)
    images = Images(cache(partial(_photographs, args.data)), device)

    @cache
    def bench(name: str) -> Bench:
        made = Bench(name, images, args.samples, args.fine, device, results.errors)
        print(f"{name}: {made.speed or device}", flush=True)
        return made

    missing = []
    for cell in cells(args.networks, args.solvers, args.budgets):
        if cell.key in results.known or not (args.parts is None or cell.part in (*args.parts, "reference")):
            continue
        if time.monotonic() - began > args.seconds:
            missing.append(cell)
            continue
        try:
            own = bench(cell.network)
            rows = [row | {"samples": own.samples, "paired": own.paired} for row in own.rows(cell)]
        except RuntimeError as error:  # the device's own: the others may still be had, and this one the next time
            print(f"{cell} failed: {error}", flush=True)
            missing.append(cell)
            continue
        results.append(cell, rows)
        print(f"{time.monotonic() - began:6.1f} s  {cell}: {_words(rows)}", flush=True)
    results.note(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        torch=torch.__version__,
        speeds={name: bench(name).speed for name in args.networks} if device.type == "cuda" else {},
        seed=SEED,
        seconds=round(time.monotonic() - began, 1),
    )
    if missing:
        parts = Counter(f"{cell.part} at {cell.nfe}" for cell in missing)
        print(f"no time for {len(missing)} cells: {', '.join(f'{n} of {part}' for part, n in parts.items())}")


def _photographs(folder: Path | None, split: str) -> Tensor:
    import fashion_mnist

    images, _ = fashion_mnist.load(split, folder or fashion_mnist.DEFAULT_FOLDER)
    return images


def _words(rows: list[dict[str, Any]]) -> str:
    shown = ("what", "fid", "error", "median", "ratio", "made_seconds", "sample_seconds", "note")
    return "; ".join(
        ", ".join(
            f"{name} {row[name]:.4g}" if isinstance(row[name], float) else str(row[name]) for name in shown if name in row
        )
        for row in rows
    )


class Results:
    """The rows so far, in a CSV that grows by whole cells, and each cell's errors sample by sample."""

    def __init__(self, folder: Path) -> None:
        self.errors = folder / "errors"
        self.errors.mkdir(parents=True, exist_ok=True)
        self._path, self._run = folder / "results.csv", folder / "run.json"
        self.known: set[tuple[str, ...]] = set()
        if self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                self.known = {tuple(row[name] for name in KEYS) for row in csv.DictReader(file)}

    def append(self, cell: Cell, rows: list[dict[str, Any]]) -> None:
        """All rows of a cell at once."""
        new = not self._path.exists()
        with self._path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, (*KEYS, *MEASURED))
            if new:
                writer.writeheader()
            for row in rows:
                short = {name: f"{value:.6g}" if isinstance(value, float) else value for name, value in row.items()}
                writer.writerow(dict(zip(KEYS, cell.key, strict=True)) | short)
        self.known.add(cell.key)

    def note(self, **facts: Any) -> None:
        """What it ran on, a run at a time."""
        runs = json.loads(self._run.read_text(encoding="utf-8")) if self._run.exists() else []
        self._run.write_text(json.dumps([*runs, facts], indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
