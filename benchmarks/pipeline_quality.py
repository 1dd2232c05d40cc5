"""The bundled network as a pipeline of diffusers: how good its pictures are with the schedulers of diffusers, with outputs that are used
again, and with distilled schedulers, at equal network calls and guidance scales.

    python benchmarks/pipeline_quality.py [--samples 96] [--seed 0] [--work .benchmarks] [--out docs/benchmarks]

End-point error: mean square distance an element to a fine run from the same noise, whose own error, by another fine run of another solver
on another grid, is on the page; class accuracy and Frechet distance by the bundled classifier. Every scheduler is tried with every option
of its times; the few best on some of the noises go on to all of them, and the best there is shown: chosen on the noises that it is measured
on, which favours it. What `dode` shows was chosen on noise of its own. An interrupted run goes on where it was, and one with more samples
computes what is new. `--quick` shows in a minute that it runs.

Outputs that are used again: a schedule with 2 or 3 times as many steps, where every second and third one asks the network for nothing and
takes the last output (copied), or goes on in a straight line in t from the last two (extrapolated), as output caches do.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import inspect
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import numpy as np
import torch
from common import mean_and_error, publish
from frechet import frechet, statistics
from rich.console import Console
from torch import Tensor, nn

import dode
from dode.distances import mean_square_distance
from dode.fine import PAIR, FineRun, whole_span
from dode.integrations.diffusers import DodeScheduler
from dode.integrations.diffusers.class_conditional import ClassConditionalPipeline, fashion_pipeline
from dode.models import fashion_classifier
from dode.models.classifier import FashionClassifier
from dode.noise import REPORT, standard_noise
from dode.report.reference import reference_run

GUIDANCE = (1.0, 3.0, 5.0)
BUDGETS = (4, 6, 8)
SAMPLES = 96
REFERENCE_NFE = 100
QUICK_REFERENCE_NFE = 32
# Samples of one batch, of one kept file, of the first look at an option, and of the reference's own error.
PART = 16
# Options that go on from the first look: of a scheduler, of a way to use outputs again.
FINALISTS, REUSING_FINALISTS = 2, 1
CLASSES = 10
EFFORTS = ("fast",)
NAME = "pipeline_quality"
console = Console(width=140)


def main() -> None:
    args = arguments()
    began = time.perf_counter()
    torch.set_num_threads(args.threads)
    sections = [section(Bench(args, guidance), args) for guidance in args.guidance]
    lines = [*header(args), *(line for lines in sections for line in lines)]
    console.print(f"{(time.perf_counter() - began) / 60:.1f} minutes", highlight=False)
    publish(lines, NAME, args.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES, help=f"a multiple of {PART}")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, in the stream of reports")
    parser.add_argument("--guidance", type=float, nargs="+", default=GUIDANCE)
    parser.add_argument("--nfe", type=int, nargs="+", default=BUDGETS)
    parser.add_argument("--reference", type=int, default=REFERENCE_NFE, help="calls of the reference")
    parser.add_argument("--effort", nargs="+", default=EFFORTS, help="of dode's rows")
    parser.add_argument("--without-dode", action="store_true", help="diffusers' schedulers and used outputs alone")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="few samples, one budget, one guidance scale")
    parser.add_argument("--work", type=Path, default=Path(".benchmarks"), help="folder of unfinished results")
    parser.add_argument("--out", type=Path, help="folder for the page")
    parser.add_argument(
        "--data", type=Path, help="folder of Fashion-MNIST's IDX files, for Frechet distances to its test images"
    )
    args = parser.parse_args()
    if args.quick:
        args.samples, args.guidance, args.nfe, args.reference = PART, args.guidance[:1], args.nfe[:1], QUICK_REFERENCE_NFE
    if args.samples < PART or args.samples % PART:
        parser.error(f"--samples must be a multiple of {PART}, got {args.samples}")
    return args


def distilled(
    pipe: ClassConditionalPipeline, guidance: float, nfes: Sequence[int], efforts: Sequence[str], folder: Path
) -> dict[str, Any]:
    """dode's schedulers for the pipeline by the name of their row: one that serves all budgets for each way to distil; kept in a folder."""
    calls = [{"class_labels": label} for label in range(CLASSES)]
    found = {}
    for effort in efforts:
        kept = folder / f"scheduler-{guidance:g}-{effort}-{'-'.join(map(str, nfes))}"
        if not kept.exists():
            result = dode.distill(
                pipe, "deis", nfe=tuple(nfes), calls=calls, guidance_scale=guidance, effort=effort, held_out=0, batch_size=20
            )
            DodeScheduler.from_tableaux(result, pipe.scheduler).save_pretrained(kept)
        found[f"dode, {effort}"] = DodeScheduler.from_pretrained(kept)
    return found


class Way(NamedTuple):
    """A way to sample.

    Attributes:
        family: of its row in the table.
        option: how it differs from others of the family.
        scheduler: of diffusers.
        every: the network is asked in every so many steps.
        extrapolated: what it is not asked for is extrapolated, not copied.
    """

    family: str
    option: str
    scheduler: Any
    every: int = 1
    extrapolated: bool = False

    def __str__(self) -> str:
        return f"{self.family}: {self.option}"


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is measured of some samples, a row a sample: error (n,), whether the classifier sees the label (n,), features (n, 128)."""

    error: np.ndarray
    right: np.ndarray
    features: np.ndarray

    @classmethod
    def join(cls, parts: Sequence[Measured]) -> Measured:
        return cls(*(np.concatenate([getattr(part, f.name) for part in parts]) for f in dataclasses.fields(cls)))


class Reusing(nn.Module):
    """A network that is asked in every n-th call, and in the others gives what it gave before: copied, or in a straight line in t.
    For one run."""

    def __init__(self, unet: nn.Module, every: int, *, extrapolated: bool) -> None:
        super().__init__()
        self.unet = unet
        self.every = every
        self.extrapolated = extrapolated
        self.calls = 0
        self._known: list[tuple[float, Tensor]] = []

    @property
    def config(self) -> Any:
        return self.unet.config

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.dtype

    @property
    def device(self) -> torch.device:
        return self.unet.device

    def forward(self, x: Tensor, t: Any, **cond: Any) -> tuple[Tensor]:
        if self.calls % self.every == 0:
            self._known = [*self._known[-1:], (float(t), self.unet(x, t, **cond)[0])]
        self.calls += 1
        (now, output), (before, older) = self._known[-1], self._known[0]
        if self.extrapolated and now != before:
            output = output + (float(t) - now) / (now - before) * (output - older)
        return (output,)


class Bench:
    """Everything at one guidance scale."""

    def __init__(self, args: argparse.Namespace, guidance: float) -> None:
        self.guidance = guidance
        self.seed = args.seed
        self.calls = args.reference
        self.parts = [slice(first, first + PART) for first in range(0, args.samples, PART)]
        self.folder = args.work / NAME
        self.pipe = fashion_pipeline()
        self.pipe.set_progress_bar_config(disable=True)
        self.unet = self.pipe.unet
        self.asked = 0
        self.unet.register_forward_pre_hook(self._count)
        self.denoiser = dode.load("fashion", guidance_scale=guidance)
        self.classifier: FashionClassifier = fashion_classifier()
        self.noise = standard_noise(args.seed, args.samples, self.pipe.sample_shape, stream=REPORT)
        self.labels = torch.arange(args.samples) % CLASSES

    def reference(self, part: slice) -> Tensor:
        """The end points of the fine run."""
        return self._fine(reference_run(self.calls), "reference", part)

    def reference_error(self) -> np.ndarray:
        """Distances of the fine run to another one, (PART,): about the larger of their errors."""
        other = self._fine(FineRun(*PAIR[0], self.calls), "other", self.parts[0])
        return mean_square_distance(self.reference(self.parts[0]), other)

    def of_reference(self) -> Measured:
        return Measured.join([self._measure(self.reference(part), part) for part in self.parts])

    def best(self, ways: Sequence[Way], nfe: int, finalists: int) -> tuple[Way, Measured]:
        """The way with the least mean error on all noises, of those that have it on a few.

        Raises:
            ValueError: none of them has finite samples.
        """
        few = {way: float(self.measured(way, nfe, self.parts[:1]).error.mean()) for way in ways}
        good = sorted((way for way in ways if np.isfinite(few[way])), key=few.__getitem__)[:finalists]
        if not good:
            raise ValueError(f"no option of {ways[0].family} gives finite samples with {nfe} calls")
        final = {way: self.measured(way, nfe, self.parts) for way in good}
        best = min(final, key=lambda way: np.nan_to_num(final[way].error.mean(), nan=np.inf))
        error, doubt = mean_and_error(final[best].error.tolist())
        console.print(f"g {self.guidance:g}, {nfe} calls: {error:.2e} ± {doubt:.0e}  {best}", highlight=False)
        return best, final[best]

    def measured(self, way: Way, nfe: int, parts: Sequence[slice], *, keep: bool = True) -> Measured:
        """A way to sample on some of the noises."""
        return Measured.join([self._part(way, nfe, part, keep=keep) for part in parts])

    def _part(self, way: Way, nfe: int, part: slice, *, keep: bool) -> Measured:
        path = self.folder / f"{self._key(part)}-{self.calls}-{nfe}-{way}.npz".replace("/", " ").replace(" ", "_")
        if keep and path.exists():
            with np.load(path) as found:
                return Measured(**found)
        if not keep:
            return self._measure(self._sample(way, nfe, part), part)
        try:
            x = self._sample(way, nfe, part)
        except (ValueError, IndexError, RuntimeError) as error:  # what schedulers raise where they have no such times
            console.print(f"{way}, {nfe} calls: {type(error).__name__}: {error}", highlight=False)
            x = torch.full_like(self.noise[part], torch.nan)
        measured = self._measure(x, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **dataclasses.asdict(measured))
        return measured

    def _sample(self, way: Way, nfe: int, part: slice) -> Tensor:
        """End points.

        Raises:
            AssertionError: the network was asked another number of times.
            ValueError, IndexError, RuntimeError: the scheduler has no such times.
        """
        self.pipe.scheduler = way.scheduler
        reusing = Reusing(self.unet, way.every, extrapolated=way.extrapolated)
        self.pipe.unet = self.unet if way.every == 1 else reusing
        self.asked = 0
        try:
            x: Tensor = self.pipe(
                self.labels[part],
                self.guidance,
                num_inference_steps=nfe * way.every,
                latents=self.noise[part],
                output_type="latent",
            ).images
        finally:
            self.pipe.unet = self.unet
        assert self.asked == nfe, f"{way} asks {self.asked} times, not {nfe}"
        return x

    def _measure(self, x: Tensor, part: slice) -> Measured:
        with torch.inference_mode():
            features = self.classifier.features(x.clamp(-1, 1))
            right = self.classifier.head(features).argmax(1) == self.labels[part]
        return Measured(mean_square_distance(x, self.reference(part)), right.numpy(), features.numpy())

    def _fine(self, run: FineRun, name: str, part: slice) -> Tensor:
        path = self.folder / f"{self._key(part)}-{self.calls}-{name}.npy"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            tableau = run.tableau(self.denoiser.schedule, whole_span(self.denoiser.schedule))
            np.save(path, dode.sample(self.denoiser, tableau, self.noise[part], class_labels=self.labels[part]).numpy())
        return torch.from_numpy(np.load(path))

    def _key(self, part: slice) -> str:
        return f"{self.seed}-{self.guidance:g}-{part.start}-{part.stop}"

    def _count(self, module: nn.Module, given: Any) -> None:
        self.asked += 1


def section(bench: Bench, args: argparse.Namespace) -> Iterator[str]:
    """The table of one guidance scale."""
    reference = bench.of_reference()
    own = bench.reference_error()
    target = statistics(torch.from_numpy(reference.features))
    photographs = None if args.data is None else photographs_of(args.data, bench.classifier)
    yield ""
    yield f"## Guidance {bench.guidance:g}"
    yield ""
    yield (
        f"The reference is itself off by about {own.mean():.0e} (median {np.median(own):.0e}); the classifier sees the label in "
        f"{reference.right.mean():.1%} of its samples"
        + (
            ""
            if photographs is None
            else f", and their Frechet distance to the test images is {frechet(photographs, target):.3g}"
        )
        + "."
    )
    yield ""
    beside = "" if photographs is None else " to the reference's samples | to the test images |"
    yield "| calls | scheduler | option | error | median | class |" + (beside or " Frechet distance |")
    yield "|---" * (7 if photographs is None else 8) + "|"
    schedulers = distilled(bench.pipe, bench.guidance, args.nfe, [] if args.without_dode else args.effort, bench.folder)
    for nfe in args.nfe:
        rows: list[tuple[str, str, Measured]] = []
        families = [(family, FINALISTS) for family in peers()] + [(family, REUSING_FINALISTS) for family in reusing()]
        for family, finalists in families:
            way, found = bench.best(family, nfe, finalists)
            rows.append((way.family, way.option, found))
        for name, scheduler in schedulers.items():
            rows.append((name, "", bench.measured(Way(name, "", scheduler), nfe, bench.parts, keep=False)))
        for name, option, found in rows:
            features = statistics(torch.from_numpy(found.features))
            error, doubt = mean_and_error(found.error.tolist())
            distances = [frechet(goal, features) for goal in (target, photographs) if goal is not None]
            yield (
                f"| {nfe} | {name} | {option} | {error:.2e} ± {doubt:.0e} | {np.median(found.error):.2e} | {found.right.mean():.1%} | "
                + " | ".join(f"{distance:.3g}" for distance in distances)
                + " |"
            )


# The schedulers of diffusers by the name of their row.
PEERS = {
    "DPM-Solver++ 2M": diffusers.DPMSolverMultistepScheduler,
    "UniPC": diffusers.UniPCMultistepScheduler,
    "DEIS": diffusers.DEISMultistepScheduler,
    "Euler": diffusers.EulerDiscreteScheduler,
    "DDIM": diffusers.DDIMScheduler,
}
TIMES = {
    "leading": {"timestep_spacing": "leading"},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
    "Karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "Lu": {"use_lu_lambdas": True},
}
ENDS = {
    "": {},
    "to zero": {"final_sigmas_type": "zero"},
    "to sigma_min": {"final_sigmas_type": "sigma_min"},
    "to alpha 1": {"set_alpha_to_one": True},
    "to alpha_0": {"set_alpha_to_one": False},
}


def peers() -> list[list[Way]]:
    """Every scheduler with all its options."""
    return [[Way(name, option, scheduler) for option, scheduler in options_of(kind)] for name, kind in PEERS.items()]


def reusing() -> list[list[Way]]:
    """DDIM and DPM-Solver++ with outputs that are used again; to the clean sample, with the times that are cheap to tell apart."""
    found = []
    for name in ("DDIM", "DPM-Solver++ 2M"):
        schedulers = [
            (option, scheduler)
            for option, scheduler in options_of(PEERS[name])
            if not option.endswith(("sigma_min", "alpha_0")) and not option.startswith(("exponential", "beta"))
        ]
        for extrapolated in (False, True):
            family = f"{name}, outputs {'extrapolated' if extrapolated else 'copied'}"
            found.append(
                [Way(family, f"1 in {n}, {option}", made, n, extrapolated) for n in (2, 3) for option, made in schedulers]
            )
    return found


def options_of(kind: Any) -> Iterator[tuple[str, Any]]:
    """A scheduler with all times and ends that its class knows, by their name; those of the bundled network otherwise."""
    known = set(inspect.signature(kind.__init__).parameters)
    ends = {name: end for name, end in ENDS.items() if end and set(end) <= known} or {"": {}}
    for name, times in TIMES.items():
        if not set(times) <= known or (name == "beta" and importlib.util.find_spec("scipy") is None):
            continue
        for end, values in ends.items():
            clips = {"clip_sample": False} if "clip_sample" in known else {}
            yield f"{name} {end}".strip(), kind(**clips, **times, **values)


def photographs_of(folder: Path, classifier: FashionClassifier) -> tuple[np.ndarray, np.ndarray]:
    """Statistics of the features of the test images."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "training"))
    import fashion_mnist

    images, _ = fashion_mnist.load("test", folder)
    with torch.inference_mode():
        return statistics(torch.cat([classifier.features(part) for part in images.split(500)]))


def header(args: argparse.Namespace) -> list[str]:
    command = "python benchmarks/pipeline_quality.py"
    defaults = {"samples": SAMPLES, "seed": 0, "guidance": GUIDANCE, "nfe": BUDGETS, "reference": REFERENCE_NFE}
    for name, default in defaults.items():
        value = np.atleast_1d(getattr(args, name)).tolist()
        if value != np.atleast_1d(default).tolist():
            command += f" --{name} " + " ".join(f"{number:g}" for number in value)
    command += " --without-dode" if args.without_dode else ""
    threads = "1 thread" if args.threads == 1 else f"{args.threads} threads"
    return [
        "# The bundled network as a pipeline",
        "",
        f"`{command} --out docs/benchmarks`; diffusers {diffusers.__version__}, torch {torch.__version__}, {threads}, seed {args.seed}. "
        f"`fashion` as a pipeline of diffusers: the same {args.samples} noises for every row, with label i mod {CLASSES} for noise i. "
        f"Error: mean square distance of the end point to a {args.reference}-call reference, ± standard error, and the median over "
        "samples. Class: how often the bundled classifier sees the label that was asked for. Frechet distance: between its features of the "
        "row's samples and of the reference's from the same noises; with so few samples it compares rows of this page and nothing else.",
        "",
        f"diffusers' schedulers are tried with all their times ({', '.join(TIMES)}, where the class has them) and ends, and have their "
        f"default order; the best {FINALISTS} on {PART} of the noises go on to all, and the best there is shown: chosen on the noises that "
        "it is measured on, which favours it. *Outputs copied* and *extrapolated*: 2 or 3 times as many steps, of which 1 in 2 or 1 in 3 "
        "asks the network, and the others take its last output, or go on in a straight line in t from its last two. A call is one of the "
        "network's, with guidance one of both halves.",
    ]


if __name__ == "__main__":
    main()
