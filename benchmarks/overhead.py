"""What dode costs beside the network: a step of `sample` against diffusers' schedulers, whole runs of `sample` and `distill`.

    python benchmarks/overhead.py [--threads 1] [--out docs/benchmarks/overhead.md]

Every line is a ratio of two times taken in turn in one process; medians over the repetitions.
"""

from __future__ import annotations

import argparse
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch

import dode
from dode.distillation import PAPER
from dode.distillation.effort import EFFORTS
from dode.noise import standard_noise
from dode.teacher import make_teacher, teacher_states

STEPS = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=31)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--peak-memory", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.peak_memory:
        print(peak_memory_of_a_teacher(args.peak_memory))
        return

    lines = [
        "# Overhead",
        "",
        f"`python benchmarks/overhead.py --threads {args.threads}`; torch {torch.__version__}, diffusers "
        f"{diffusers.__version__}, {platform.machine()}, {args.threads} thread(s). Medians of {args.repeats} runs in turn.",
        "",
        *steps(args.repeats),
        "",
        *whole_runs(),
        "",
        *efforts(),
        "",
        *scaling(),
    ]
    text = "\n".join(lines) + "\n"
    print(text)
    if args.out:
        args.out.write_text(text, encoding="utf-8")


def steps(repeats: int) -> list[str]:
    """One step: ours is a whole `sample` over a network that does nothing, divided by its steps; theirs is `step()`."""
    pairs = {
        "DDIM": (dode.solver("ddim"), diffusers.DDIMScheduler(clip_sample=False, timestep_spacing="trailing")),
        "DPM-Solver++ 2M": (
            dode.solver("dpm-solver++"),
            diffusers.DPMSolverMultistepScheduler(timestep_spacing="trailing", final_sigmas_type="zero"),
        ),
    }
    lines = ["| solver | states | dode, µs a step | diffusers `step()`, µs | ratio |", "|---|---|---|---|---|"]
    for name, (solver, scheduler) in pairs.items():
        for shape in ((16, 3, 32, 32), (1, 4, 64, 64)):
            noise, output = torch.randn(shape), torch.randn(shape)
            denoiser = dode.Denoiser(lambda x, t, output=output: output, dode.schedules.VP.linear())
            tableau = solver.tableau(denoiser.schedule, STEPS)

            def ours(denoiser=denoiser, tableau=tableau, noise=noise) -> None:
                dode.sample(denoiser, tableau, noise)

            def theirs(scheduler=scheduler, noise=noise, output=output) -> None:
                x = noise
                for t in scheduler.timesteps:
                    x = scheduler.step(output, t, scheduler.scale_model_input(x, t), return_dict=False)[0]

            def prepare(scheduler=scheduler) -> None:
                scheduler.set_timesteps(STEPS)
                if hasattr(scheduler, "set_begin_index"):
                    scheduler.set_begin_index(0)

            mine, other = in_turn([(ours, None), (theirs, prepare)], repeats)
            ratio = mine / other
            lines.append(f"| {name} | {shape} | {mine / STEPS * 1e6:.0f} | {other / STEPS * 1e6:.0f} | {ratio:.2f} |")
    return lines


def whole_runs() -> list[str]:
    """`sample` and `distill` with the bundled network over the bare calls of it that they make."""
    denoiser = dode.load("fashion")
    net = denoiser.net
    labels = torch.arange(10)
    batch, nfe = 16, 8
    noise = standard_noise(0, batch, denoiser.shape)
    own_labels = labels[torch.arange(batch) % 10]
    tableau = dode.solver("dpm-solver++").tableau(denoiser.schedule, nfe)

    def bare(calls: int, x: torch.Tensor, own: torch.Tensor) -> None:
        with torch.inference_mode():
            for i in range(calls):
                net(x, torch.full((len(x),), float(i)), class_labels=own)

    mine, other = in_turn(
        [
            (lambda: dode.sample(denoiser, tableau, noise, class_labels=own_labels), None),
            (lambda: bare(nfe, noise, own_labels), None),
        ],
        15,
    )
    lines = [
        "| whole run with `fashion` | dode, s | bare network calls, s | ratio |",
        "|---|---|---|---|",
        f"| `sample`, {batch} samples, DPM-Solver++ 2M, NFE {nfe} | {mine:.3f} | {other:.3f} | {mine / other:.3f} |",
    ]
    samples, held_out = 32, 16
    result = dode.distill(denoiser, "deis", 5, samples=samples, held_out=held_out, class_labels=labels, **PAPER)
    total = sum(result.evaluations.values())
    fitting_noise = standard_noise(0, samples, denoiser.shape)
    every = labels[torch.arange(samples) % 10]

    def bare_distill() -> None:
        bare(round(total / samples), fitting_noise, every)

    mine, other = in_turn(
        [
            (lambda: dode.distill(denoiser, "deis", 5, samples=samples, held_out=held_out, class_labels=labels, **PAPER), None),
            (bare_distill, None),
        ],
        3,
    )
    lines.append(
        f"| `distill`, DEIS, NFE 5, {samples} + {held_out} samples, {total:,} evaluations | {mine:.2f} | {other:.2f} | "
        f"{mine / other:.3f} |"
    )
    return lines


class Timed(torch.nn.Module):
    """A network that counts the seconds spent in it."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seconds = 0.0

    def forward(self, *args: object, **cond: object) -> object:
        began = time.perf_counter()
        output = self.net(*args, **cond)
        self.seconds += time.perf_counter() - began
        return output


def efforts() -> list[str]:
    """`distill` by effort over the time that it spends in the network, in the same run."""
    denoiser = dode.load("fashion-flow")
    lines = [
        "| `distill` with `fashion-flow`, DEIS, NFE 5 | evaluations | s | in the network, s | ratio |",
        "|---|---|---|---|---|",
    ]
    for effort in EFFORTS:
        timed = Timed(denoiser.net)
        began = time.perf_counter()
        result = dode.distill(denoiser.replace(net=timed), "deis", 5, effort=effort, held_out=0)
        seconds, total = time.perf_counter() - began, sum(result.evaluations.values())
        lines.append(f"| {effort} | {total:,} | {seconds:.1f} | {timed.seconds:.1f} | {seconds / timed.seconds:.3f} |")
    return lines


def scaling() -> list[str]:
    """Time of `distill` against samples; peak memory against the teacher's steps, each in a process of its own."""
    denoiser = dode.load("fashion")
    lines = ["| fitting samples | `distill`, DEIS, NFE 5, s | s a sample |", "|---|---|---|"]
    for samples in (16, 32, 64, 128):
        began = time.perf_counter()
        dode.distill(denoiser, "deis", 5, samples=samples, held_out=0, class_labels=torch.arange(10), **PAPER)
        seconds = time.perf_counter() - began
        lines.append(f"| {samples} | {seconds:.2f} | {seconds / samples:.4f} |")
    lines += ["", "| teacher NFE | peak memory of the process, MB |", "|---|---|"]
    for scale in (2, 8, 32):
        command = [sys.executable, __file__, "--peak-memory", str(scale)]
        megabytes = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        lines.append(f"| {5 * scale} | {megabytes} |")
    return lines


def peak_memory_of_a_teacher(scale: int) -> int:
    """MB after the targets of 256 samples of (3, 64, 64) with a network that does next to nothing."""
    denoiser = dode.Denoiser(lambda x, t: x * 0.5, dode.schedules.VP.linear())
    solver = dode.solver("deis")
    student, path = solver.tableau(denoiser.schedule, 5), solver.path(denoiser.schedule, 5)
    teacher = make_teacher(solver, path, student, scale=scale)
    teacher_states(denoiser, teacher, torch.randn(256, 3, 64, 64), {})
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def in_turn(jobs: list[tuple[Callable[[], object], Callable[[], object] | None]], repeats: int) -> list[float]:
    """Median seconds of each job, run in turn; the second of a pair is run before each time and not counted."""
    times: list[list[float]] = [[] for _ in jobs]
    for i in range(repeats + 1):
        for job, (run, prepare) in enumerate(jobs):
            if prepare is not None:
                prepare()
            began = time.perf_counter()
            run()
            if i:
                times[job].append(time.perf_counter() - began)
    return [statistics.median(t) for t in times]


if __name__ == "__main__":
    main()
