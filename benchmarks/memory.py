"""What a distillation holds on the network's device, and on the host, against the number of its samples.

    python benchmarks/memory.py [--samples 16 64 256] [--out docs/benchmarks]

Samples of shape (16, 128, 128), 1 MiB each, and a network that does next to nothing, on the tests' device in disguise, which counts
the bytes of the tensors on it. Each line is a process of its own. Anonymous memory is what a process itself holds; the teacher's states
are on the host, in memory without a cache, else mapped from its files.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch
from common import publish
from torch import Tensor, nn

import dode
from dode.schedules import VP

SHAPE = (16, 128, 128)
VALIDATION, NFE, TEACHER_NFE = 16, 3, 15
# Evaluations a fitting sample: the teacher, the closed form, and a few steps of the end-to-end fit.
BUDGET = 60
CASES = (("balanced", False), ("balanced", True), ("thorough", True))


class Faint(nn.Module):
    """Next to nothing, with a parameter that says where it is."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return torch.tanh(x * self.weight)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, nargs="+", default=(16, 64, 256))
    parser.add_argument("--out", type=Path, help="folder for the page")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        sys.stdout.write(json.dumps(one(**json.loads(args.one))))
        return
    lines = [
        "# Memory",
        "",
        f"`python benchmarks/memory.py --out docs/benchmarks`; samples of shape {SHAPE}, 1 MiB each, and {VALIDATION} for validation; "
        f"NFE {NFE}, a teacher of {TEACHER_NFE} calls, a network that does next to nothing; MiB at the most.",
        "",
        "| effort | states | samples | on the device | the process, anonymous | s |",
        "|---|---|---|---|---|---|",
    ]
    for effort, cached in CASES:
        for samples in args.samples:
            asked = json.dumps({"effort": effort, "cached": cached, "samples": samples})
            done = subprocess.run([sys.executable, __file__, "--one", asked], check=True, capture_output=True, text=True)
            found = json.loads(done.stdout)
            states = "mapped from a cache" if cached else "in memory"
            lines.append(
                f"| {effort} | {states} | {samples} | {found['device']:.0f} | {found['host']:.0f} | {found['seconds']:.0f} |"
            )
    publish(lines, "memory", args.out)


def one(effort: str, samples: int, *, cached: bool) -> dict[str, float]:
    """Peaks of one distillation, in MiB, less what the process held before."""
    from fake_device import FakeDevice

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, FakeDevice() as device, Watch() as host:
        denoiser = dode.Denoiser(Faint(device.put(torch.ones(1))), VP.linear(), shape=SHAPE)
        began = time.perf_counter()
        dode.distill(
            denoiser,
            "deis",
            NFE,
            effort=effort,
            samples=samples,
            validation=VALIDATION,
            held_out=0,
            teacher_nfe=TEACHER_NFE,
            budget=BUDGET * samples,
            cache=folder if cached else None,
        )
        return {"device": device.peak / 2**20, "host": host.peak - host.before, "seconds": time.perf_counter() - began}


class Watch:
    """The most anonymous memory of this process, in MiB, looked at every 20 ms."""

    def __enter__(self) -> Watch:
        self.before = self.peak = anonymous()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(0.02):
            self.peak = max(self.peak, anonymous())


def anonymous() -> float:
    """MiB of this process that no file backs."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (line,) = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return float(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
