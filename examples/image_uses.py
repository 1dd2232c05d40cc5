"""What images are made for, each with several samplers from the same noise: generation, two ways to edit, inpainting, interpolation.

A run from noise z at guidance w and class c is F(z; c). Then

    generation        F(z; c)
    strength          from alpha x + sigma z at a time in the middle, x a photograph of another class
    inversion         F(G(x; c'); c), G walking upwards with x's own class c', both without guidance
    inpainting        F(z; c) with the pixels of x outside a mask put into each state
    interpolation     F(z_s; c),   z_s = (sin((1 - s) w) z_0 + sin(s w) z_1) / sin w,   w the angle between z_0 and z_1
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from image_samplers import Samplers, base_tableau, best_undistilled, condition, distilled, many_calls
from torch import Tensor

import dode
from dode.denoisers import Denoiser
from dode.tableau import Tableau

# Images of a path from one noise to another, both ends among them.
POINTS = 10


@dataclass(frozen=True)
class Subject:
    """A network and how it is sampled.

    Attributes:
        name: of the network.
        plain, guided: without guidance and with it; the same where the network knows no classes.
        solver, nfe, effort, seed: of the distillation.
        fitting, budget: its samples and network evaluations; by effort if None.
        many: calls of the run that others are measured against.
        ratio: sigma / alpha at which an edit by strength begins.
        edit: the class of the photographs that are edited, and the class that they are to be of.
        folder: of the distilled tableaux.
    """

    name: str
    plain: Denoiser
    guided: Denoiser
    solver: str
    nfe: int
    effort: str
    seed: int
    fitting: int | None
    budget: int | None
    many: int
    ratio: float
    edit: tuple[int, int]
    folder: Path

    @property
    def start(self) -> float:
        """The time of `ratio`."""
        return float(self.plain.schedule.time(-2 * math.log(self.ratio)))

    def distilled(self, denoiser: Denoiser, start: float | None = None) -> Tableau:
        """The tableau for a guidance scale and a first time, kept under a name that says what it is."""
        scale = f"guidance{denoiser.guidance_scale:g}"
        begun = "" if start is None else f"-start{start:.0f}"
        less = "".join(f"-{n}{what}" for n, what in ((self.fitting, "samples"), (self.budget, "evaluations")) if n is not None)
        name = f"{self.name}-{scale}{begun}-{self.solver}-{self.effort}{less}-{self.nfe}-seed{self.seed}"
        cond = condition(denoiser, torch.arange(10))
        options = {"effort": self.effort, "samples": self.fitting, "budget": self.budget, "seed": self.seed, "start": start}
        return distilled(denoiser, self.solver, self.nfe, self.folder, name, **options, **cond)


@dataclass(frozen=True)
class Material:
    """What the uses are tried on.

    Attributes:
        noise: (n, *shape), standard normal.
        labels: (n,), the classes in turn.
        photographs: (n, *shape), clean, of these classes.
        originals: (n, *shape), clean, of the class that is edited.
    """

    noise: Tensor
    labels: Tensor
    photographs: Tensor
    originals: Tensor


@dataclass(frozen=True)
class Use:
    """What the samplers made in one use.

    Attributes:
        title: of the use.
        calls: how many the few-call samplers took, in words.
        made: (n, *shape) by sampler; the last one is what the others are measured against.
        wanted: (n,) the classes that were asked for; None where none was.
        given: (n, *shape) what it began from; None for noise.
        masked: `given` as the picture shows it.
        tableaux: the titles of the samplers' tableaux.
    """

    title: str
    calls: str
    made: Mapping[str, Tensor]
    wanted: Tensor | None
    tableaux: Mapping[str, str]
    given: Tensor | None = None
    masked: Tensor | None = None


def guided_samplers(subject: Subject, other: Material) -> Samplers:
    """For runs from pure noise; `other` chooses the undistilled one."""
    many = many_calls(subject.guided.schedule, subject.many)
    return _samplers(subject, subject.guided, many, lambda t: _generated(subject, t, other))


def generation(subject: Subject, samplers: Samplers, material: Material) -> Use:
    """Images of each class."""
    made = {name: _generated(subject, t, material) for name, t in samplers.named()}
    return Use("generation", str(subject.nfe), made, _wanted(subject, material.labels), _titles(samplers))


def interpolation(subject: Subject, samplers: Samplers, material: Material) -> Use:
    """Paths of `POINTS` images between two noises, a class a path; as many paths as there is noise for, one at the least."""
    paths = max(1, len(material.noise) // POINTS)
    noise = spherical(*material.noise[: 2 * paths].chunk(2), torch.linspace(0, 1, POINTS))
    # The picture shows the first path: of bags, which differ more than boots or shirts.
    labels = (8 - torch.arange(paths)).remainder(10).repeat_interleave(POINTS)
    made = {name: dode.sample(subject.guided, t, noise, **condition(subject.guided, labels)) for name, t in samplers.named()}
    return Use("interpolation", str(subject.nfe), made, _wanted(subject, labels), _titles(samplers))


def spherical(first: Tensor, last: Tensor, shares: Tensor) -> Tensor:
    """Noises on the arcs from `first` to `last`: (n * len(shares), *shape), path after path. Each has the length that noise has.

    Args:
        first, last: (n, *shape), standard normal.
        shares: of the angle, 0 to 1.
    """
    a, b = first.flatten(1), last.flatten(1)
    angle = torch.arccos(torch.nn.functional.cosine_similarity(a, b))[:, None, None]
    s = shares[None, :, None]
    arc = (torch.sin((1 - s) * angle) * a[:, None] + torch.sin(s * angle) * b[:, None]) / torch.sin(angle)
    return arc.reshape(-1, *first.shape[1:])


def inpainting(subject: Subject, samplers: Samplers, material: Material) -> Use:
    """The lower half of photographs, made again."""
    known = material.photographs
    mask = torch.zeros(known.shape[-2:])
    mask[known.shape[-2] // 2 :] = 1
    cond = condition(subject.guided, material.labels)
    made = {
        name: dode.sample(subject.guided, t, material.noise, known=known, mask=mask, **cond) for name, t in samplers.named()
    }
    masked = known * (1 - mask)  # grey where it is made
    return Use("inpainting", str(subject.nfe), made, material.labels, _titles(samplers), known, masked)


def strength(subject: Subject, other: Material, material: Material) -> Use:
    """Photographs of one class with noise of `ratio`, taken from there to another class."""
    label = torch.tensor(subject.edit[1:])
    cond, many = condition(subject.guided, label), many_calls(subject.guided.schedule, subject.many, subject.start)

    def edited(tableau: Tableau, of: Material) -> Tensor:
        return dode.sample(subject.guided, tableau, of.noise, image=of.originals, **cond)

    samplers = _samplers(subject, subject.guided, many, lambda t: edited(t, other), subject.start)
    made = {name: edited(t, material) for name, t in samplers.named()}
    wanted = _wanted(subject, label.expand(len(material.noise)))
    return Use("edit by strength", str(subject.nfe), made, wanted, _titles(samplers), material.originals)


def inversion(subject: Subject, other: Material, material: Material) -> list[Use]:
    """Photographs taken up to noise and back: as their own class (the round trip), and as another one (the edit).

    A distilled tableau runs down alone. So the way up is an undistilled solver's: the base's for the base, the best one's for the
    others; and once more with many calls for all of them, so that the way back is seen by itself.
    """
    net, schedule, nfe = subject.plain, subject.plain.schedule, subject.nfe
    source, target = (condition(net, torch.tensor([label])) for label in subject.edit)
    far_up, far_down = many_calls(schedule, subject.many, reverse=True), many_calls(schedule, subject.many)

    def up(tableau: Tableau, of: Material) -> Tensor:
        return dode.invert(net, tableau, of.originals, **source)

    noise = up(far_up, other)
    best_up = best_undistilled(schedule, nfe, lambda t: up(t, other), noise, reverse=True)
    samplers = Samplers(
        base=base_tableau(schedule, subject.solver, nfe),
        undistilled=best_undistilled(schedule, nfe, lambda t: dode.sample(net, t, noise, **source), other.originals),
        distilled=subject.distilled(net),
        many=far_down,
    )
    base_up = base_tableau(schedule, subject.solver, nfe, reverse=True)
    first, best, far = ((tableau, up(tableau, material)) for tableau in (base_up, best_up, far_up))
    few = dict(zip(_titles(samplers), (first, best, best, far), strict=True))
    found = []
    for what, cond, label in (("round trip", source, subject.edit[0]), ("edit by inversion", target, subject.edit[1])):
        wanted = _wanted(subject, torch.tensor([label]).expand(len(material.noise)))
        for way, ups, calls in (
            (f"{nfe} calls up", few, f"{nfe} + {nfe}"),
            ("many calls up", dict.fromkeys(few, far), f"{subject.many} + {nfe}"),
        ):
            made = {name: dode.sample(net, t, ups[name][1], **cond) for name, t in samplers.named()}
            titles = {name: f"{ups[name][0].title} up, {title} down" for name, title in _titles(samplers).items()}
            found.append(Use(f"{what}, {way}", calls, made, wanted, titles, material.originals))
    return found


def _samplers(
    subject: Subject, denoiser: Denoiser, many: Tableau, run: Callable[[Tableau], Tensor], start: float | None = None
) -> Samplers:
    schedule = denoiser.schedule
    return Samplers(
        base=base_tableau(schedule, subject.solver, subject.nfe, start),
        undistilled=best_undistilled(schedule, subject.nfe, run, run(many), start),
        distilled=subject.distilled(denoiser, start),
        many=many,
    )


def _generated(subject: Subject, tableau: Tableau, material: Material) -> Tensor:
    return dode.sample(subject.guided, tableau, material.noise, **condition(subject.guided, material.labels))


def _wanted(subject: Subject, labels: Tensor) -> Tensor | None:
    """The classes asked for, if the network can be asked for any."""
    return labels if condition(subject.guided, labels) else None


def _titles(samplers: Samplers) -> dict[str, str]:
    return {name: tableau.title for name, tableau in samplers.named()}
