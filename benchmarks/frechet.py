"""Frechet distance of few-step samples to the teacher's samples of the same noise, in the features of the bundled classifier.

    python benchmarks/frechet.py fashion [--nfe 3 4 5] [--samples 5000] [--work .benchmarks] [--out docs/benchmarks]

Run `benchmarks/efforts.py` first: its tableaux and its best undistilled solvers are measured here. The teacher's own spread is the
distance between two of its runs with different noise; nothing that follows the same teacher can be told from it below that.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from common import NETWORKS, SEED, Store, network, options, publish
from efforts import EFFORTS, SOLVER, undistilled
from rich.console import Console
from torch import Tensor

import dode
from dode.conditions import Condition, cycle
from dode.denoisers import Denoiser
from dode.images import save_samples
from dode.models import fashion_classifier
from dode.noise import standard_noise
from dode.tableau import Tableau

# Streams of noise of no other use.
FIRST, SECOND = 101, 102
TEACHER_NFE = 50
PART = 250


def main() -> None:
    parser = options(__doc__, [name for name in NETWORKS if name != "mixture"])
    parser.add_argument("--nfe", type=int, nargs="+", default=(3, 4, 5))
    parser.add_argument("--samples", type=int, default=5000)
    args = parser.parse_args()
    denoiser, cond = network(args.network)
    store = Store(args.work / args.network)
    teacher = dode.solver(SOLVER).tableau(denoiser.schedule, TEACHER_NFE)

    target = statistics(features(denoiser, cond, teacher, args.samples, FIRST, store, "teacher"))
    other = statistics(features(denoiser, cond, teacher, args.samples, SECOND, store, "teacher, other noise"))
    spread = frechet(target, other)
    console = Console(width=140)
    lines = [
        f"# Frechet distances on `{args.network}`",
        "",
        f"`python benchmarks/frechet.py {args.network} --out docs/benchmarks`; {args.samples:,} samples, features of the bundled "
        f"classifier, distance to the samples of {SOLVER} at {TEACHER_NFE} NFE from the same noise. The teacher's spread, the "
        f"distance between two of its runs with different noise: {spread:.3g}. Rows of the picture: the teacher, then those of the table.",
        "",
        f"![The same noise in every row](frechet-{args.network}.png)",
        "",
        "| NFE | | distance | / spread |",
        "|---|---|---|---|",
    ]
    shown = [("teacher", teacher)]
    for nfe, name, tableau in methods(denoiser, store, args.nfe):
        found = frechet(target, statistics(features(denoiser, cond, tableau, args.samples, FIRST, store, f"{nfe} {name}")))
        lines.append(f"| {nfe} | {name} | {found:.3g} | {found / spread:.3g} |")
        console.print(lines[-1], highlight=False)
        shown.append((f"{nfe} {name}", tableau))
    publish(lines, f"frechet-{args.network}", args.out)
    if args.out:
        picture(denoiser, cond, [tableau for _, tableau in shown], args.out / f"frechet-{args.network}.png")


def methods(denoiser: Denoiser, store: Store, budgets: list[int]) -> Iterator[tuple[int, str, Tableau]]:
    """At each budget the best undistilled solver and what each effort made."""
    for nfe in budgets:
        best = store.get(f"undistilled {nfe}", missing)["name"]
        yield nfe, f"best undistilled ({best})", next(t for name, t in undistilled(denoiser, nfe) if name == best)
        for effort in EFFORTS:
            yield nfe, effort, Tableau.load(store.tableau(SOLVER, effort, nfe))


def missing() -> None:
    raise SystemExit("run benchmarks/efforts.py for this network first")


def features(
    denoiser: Denoiser, cond: Condition, tableau: Tableau, samples: int, stream: int, store: Store, name: str
) -> Tensor:
    """(samples, 128), kept in the store's folder part by part."""
    assert denoiser.shape is not None
    folder = store.folder / "features"
    folder.mkdir(exist_ok=True)
    classifier = fashion_classifier()
    noise = standard_noise(SEED, samples, denoiser.shape, stream=stream)
    parts = []
    for first in range(0, samples, PART):
        rows = slice(first, min(first + PART, samples))
        path = folder / f"{tableau.digest[:16]}-{stream}-{rows.start}-{rows.stop}.npy"
        if not path.exists():
            x = dode.sample(denoiser, tableau, noise[rows], **cycle(cond, rows.start, rows.stop))
            with torch.inference_mode():
                np.save(path, classifier.features(x.clamp(-1, 1)).numpy())
            print(f"{name}: {rows.stop} of {samples}", end="\r", flush=True)
        parts.append(torch.from_numpy(np.load(path)))
    return torch.cat(parts)


def statistics(found: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance."""
    array = found.double().numpy()
    return array.mean(0), np.cov(array, rowvar=False)


def frechet(one: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> float:
    """|m - n|^2 + tr(A + B - 2 (A B)^(1/2)): Heusel et al. 2017, arXiv 1706.08500."""
    (m, a), (n, b) = one, other
    # The eigenvalues of A B are those of a positive matrix; rounding may leave the tiny ones below zero.
    root = np.sqrt(np.maximum(np.linalg.eigvals(a @ b).real, 0)).sum()
    return float(((m - n) ** 2).sum() + np.trace(a) + np.trace(b) - 2 * root)


def picture(denoiser: Denoiser, cond: Condition, tableaux: list[Tableau], path: Path) -> None:
    """A row of samples a tableau, the same noise in every row."""
    assert denoiser.shape is not None
    noise = standard_noise(SEED, 20, denoiser.shape, stream=FIRST)
    own = cycle(cond, 0, len(noise))
    rows = torch.stack([dode.sample(denoiser, tableau, noise, **own) for tableau in tableaux])
    save_samples(rows.flatten(0, 1), path, len(noise), overwrite=True)


if __name__ == "__main__":
    main()
