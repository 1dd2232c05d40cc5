"""Exports and compiled runs: what a step costs beside the network, and how near their samples are to those of `dode.sample`.

    python benchmarks/exports.py [--repeats 9] [--inductor] [--out docs/benchmarks]

Every line is of times taken in turn in one process, the quickest of the repetitions: what other work on the machine does not hold up.
The networks are exported by torch.onnx.export and compiled with inductor here, which takes minutes.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnxruntime
import torch
from common import publish
from torch import Tensor, nn

import dode
from dode.integrations.export import to_onnx, to_python
from dode.noise import standard_noise

NFE, BATCH = 4, 4
STEPS = 20


class ByPosition(nn.Module):
    """A network whose condition `torch.onnx.export` can name."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return self.net(x, t, class_labels=class_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--inductor", action="store_true", help="compile the bundled networks too, minutes for each")
    parser.add_argument("--out", type=Path, help="folder for the page")
    args = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore")
    lines = [
        "# Exports",
        "",
        f"`python benchmarks/exports.py --repeats {args.repeats}`; torch {torch.__version__}, onnxruntime "
        f"{onnxruntime.__version__}, {platform.machine()}, one thread, on a machine that did much other work: the quickest "
        "of many times taken in turn, to be read with a fifth of doubt.",
        "",
        *overhead(20 * args.repeats),
        "",
        *compiled(20 * args.repeats),
        "",
        *whole_runs(args.repeats, args.inductor),
    ]
    publish(lines, "exports", args.out)


def overhead(repeats: int) -> list[str]:
    """A step of `dode.sample` and of the Python file, over a network of one multiplication."""
    schedule = dode.schedules.VP.linear()
    lines = [
        f"## A step beside the network, µs ({STEPS} steps, less as many calls of a network that multiplies once)",
        "",
        "| solver | states | `dode.sample` | Python file | difference of samples |",
        "|---|---|---|---|---|",
    ]
    for solver in ("ddim", "deis"):
        for shape in ((1, 4, 64, 64), (16, 3, 32, 32)):
            tableau = dode.solver(solver).tableau(schedule, STEPS)
            net: Callable[..., Tensor] = lambda x, t: x * 0.5  # noqa: E731
            denoiser, noise, times = dode.Denoiser(net, schedule), torch.randn(shape), torch.zeros(shape[0])
            sample = sampler(tableau, "epsilon")

            def bare(net: Callable[..., Tensor] = net, noise: Tensor = noise, times: Tensor = times) -> None:
                for _ in range(STEPS):
                    net(noise, times)

            def ours(denoiser: Any = denoiser, tableau: Any = tableau, noise: Tensor = noise) -> Tensor:
                found: Tensor = dode.sample(denoiser, tableau, noise)
                return found

            def file(sample: Any = sample, net: Any = net, noise: Tensor = noise) -> Tensor:
                found: Tensor = sample(net, noise)
                return found

            network, mine, theirs = quickest([bare, ours, file], repeats)
            a_step = [f"{(seconds - network) / STEPS * 1e6:.0f}" for seconds in (mine, theirs)]
            lines.append(f"| {solver} | {shape} | {' | '.join(a_step)} | {largest(ours(), file())} |")
    return lines


def compiled(repeats: int) -> list[str]:
    """Whole runs over a network of two operations, in one graph of inductor and eager."""
    schedule = dode.schedules.VP.linear()
    lines = [
        f"## Compiled whole, `torch.compile(fullgraph=True)` with inductor, over eager: a network of two operations, NFE {NFE}",
        "",
        "| solver | states | ratio of times | largest difference of a number | compiled in, s |",
        "|---|---|---|---|---|",
    ]
    for solver in ("ddim", "deis"):
        denoiser = dode.Denoiser(lambda x, t: torch.tanh(x) * 0.5, schedule)
        tableau, noise = dode.solver(solver).tableau(schedule, NFE), torch.randn(16, 3, 32, 32)
        run = torch.compile(lambda noise, d=denoiser, tableau=tableau: dode.sample(d, tableau, noise), fullgraph=True)
        began = time.perf_counter()
        run(noise)
        seconds = time.perf_counter() - began

        def eager(d: Any = denoiser, tableau: Any = tableau, noise: Tensor = noise) -> Tensor:
            found: Tensor = dode.sample(d, tableau, noise)
            return found

        ours, theirs = quickest([eager, lambda run=run, noise=noise: run(noise)], repeats)
        shape = tuple(noise.shape)
        lines.append(f"| {solver} | {shape} | {theirs / ours:.2f} | {largest(run(noise), eager())} | {seconds:.0f} |")
    return lines


def whole_runs(repeats: int, inductor: bool) -> list[str]:
    """Whole runs with the bundled networks, over `dode.sample`."""
    lines = [
        f"## Whole runs over `dode.sample`, DPM-Solver++ 2M, NFE {NFE}, {BATCH} samples",
        "",
        "| network | run | ratio of times | largest difference of a pixel | to float64 (`dode.sample`'s) | made in, s |",
        "|---|---|---|---|---|---|",
    ]
    for name in ("fashion", "fashion-flow"):
        denoiser = dode.load(name)
        cond = {"class_labels": torch.arange(BATCH)} if name == "fashion" else {}
        noise = standard_noise(0, BATCH, denoiser.shape or ())
        tableau = dode.solver("dpm-solver++").tableau(denoiser.schedule, NFE)
        wide = dode.load(name)
        exact = dode.sample(wide.replace(net=wide.net.double()), tableau, noise.double(), **cond)  # type: ignore[union-attr]

        def ours(denoiser: Any = denoiser, tableau: Any = tableau, noise: Tensor = noise, cond: Any = cond) -> Tensor:
            found: Tensor = dode.sample(denoiser, tableau, noise, **cond)
            return found

        runs: dict[str, tuple[Callable[[], Tensor], float]] = {}
        makers = {"Python file": as_file, "ONNX, onnxruntime": as_onnx}
        if inductor:
            makers["network by `torch.compile`, inductor"] = as_compiled
        for what, make in makers.items():
            began = time.perf_counter()
            run = make(denoiser, tableau, noise, cond)
            run()
            runs[what] = run, time.perf_counter() - began
        mine, *others = quickest([ours, *(run for run, _ in runs.values())], repeats)
        for (what, (run, seconds)), other in zip(runs.items(), others, strict=True):
            found = run()
            to_exact = f"{largest(found, exact)} ({largest(ours(), exact)})"
            lines.append(f"| `{name}` | {what} | {other / mine:.2f} | {largest(found, ours())} | {to_exact} | {seconds:.1f} |")
    return lines


def sampler(tableau: dode.Tableau, prediction: str) -> Callable[..., Tensor]:
    """`sample` of an exported file."""
    namespace: dict[str, Any] = {}
    exec(to_python(tableau, prediction), namespace)
    found: Callable[..., Tensor] = namespace["sample"]
    return found


def as_file(denoiser: dode.Denoiser, tableau: dode.Tableau, noise: Tensor, cond: dict[str, Any]) -> Callable[[], Tensor]:
    sample, net = sampler(tableau, denoiser.output), denoiser.net
    return lambda: sample(net, noise, **cond)


def as_onnx(denoiser: dode.Denoiser, tableau: dode.Tableau, noise: Tensor, cond: dict[str, Any]) -> Callable[[], Tensor]:
    net = ByPosition(denoiser.net) if cond else denoiser.net  # type: ignore[arg-type]
    given = (noise, torch.full((len(noise),), 500.0), *cond.values())
    batch = {0: torch.export.Dim("batch")}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "net.onnx"
        torch.onnx.export(net, given, path, dynamo=True, verbose=False, dynamic_shapes=(batch,) * len(given))
        model = to_onnx(tableau, path, prediction=denoiser.output)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    feed = {"noise": noise.numpy(), **{name: value.numpy() for name, value in cond.items()}}
    return lambda: torch.from_numpy(session.run(None, feed)[0])


def as_compiled(denoiser: dode.Denoiser, tableau: dode.Tableau, noise: Tensor, cond: dict[str, Any]) -> Callable[[], Tensor]:
    held = denoiser.replace(net=torch.compile(denoiser.net))
    return lambda: dode.sample(held, tableau, noise, **cond)


def quickest(jobs: list[Callable[[], object]], repeats: int) -> list[float]:
    """The least seconds of each job, run in turn."""
    times: list[list[float]] = [[] for _ in jobs]
    for _ in range(repeats):
        for job, run in enumerate(jobs):
            began = time.perf_counter()
            run()
            times[job].append(time.perf_counter() - began)
    return [min(each) for each in times]


def largest(one: Tensor, other: Tensor) -> str:
    difference = float((one - other).abs().max())
    return f"{difference:.0e}" if difference else "0"


if __name__ == "__main__":
    main()
