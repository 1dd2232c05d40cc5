"""Do samples with few network calls help to train a classifier as much as samples with many?

    python examples/augmentation.py --out runs/augmentation [--model fashion-edm]

The bundled kind of classifier is trained on a few photographs of each class: alone, and with samples of a few calls (base solver, best
undistilled one, distilled one), of many calls, or with as many more photographs. Samples are from the same noise whoever makes them, and
all trainings take the same number of steps. Accuracy is that on the test photographs, for several seeds: of photographs, noise, first
weights and order. Writes augmentation.csv, augmentation.md and augmentation.svg; distilled tableau and samples with many calls stay in
the folder, and are taken from there the next time.

The network itself was trained on all training photographs, so its samples bring more than the few: that is a leak, the same for all.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import photographs
import torch
import torch.nn.functional as F
from augmentation_sheet import MANY, MORE, PHOTOGRAPHS, Trained, chart, markdown, write_csv
from image_samplers import Samplers, base_tableau, best_undistilled, condition, distilled, many_calls
from torch import Tensor, nn

import dode
from dode.charts import require_altair
from dode.denoisers import Denoiser
from dode.distances import mean_square_distance
from dode.files import check_writable, write_atomically
from dode.images import save_samples
from dode.models import FashionClassifier, fashion_classifier
from dode.noise import REPORT, VALIDATION, standard_noise


def main() -> None:
    args = parse_arguments()
    try:
        run(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"augmentation.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for figures, chart, tableau and samples")
    parser.add_argument("--model", choices=("fashion", "fashion-edm"), default="fashion-edm")
    parser.add_argument("--solver", default="deis", help="what is distilled, and the base")
    parser.add_argument("--nfe", type=int, default=5, help="network calls of a sample")
    parser.add_argument("--effort", default="balanced", help="of the distillation: paper, fast, balanced, thorough")
    parser.add_argument("--tableau", type=Path, help="a saved tableau in place of one that is distilled here")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance scale; 1 is none")
    parser.add_argument("--many", type=int, default=200, help="calls of the samples that others are compared with")
    parser.add_argument("--photographs", type=int, default=10, help="of each class, to train on")
    parser.add_argument("--added", type=int, default=10, help="samples, or more photographs, of each class")
    parser.add_argument("--steps", type=int, default=200, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--test", type=int, default=1000, help="test photographs of each class, at the most 1000")
    parser.add_argument("--data", type=Path, default=photographs.DEFAULT_FOLDER, help="folder of the IDX files")
    parser.add_argument("--generated", action="store_true", help="images that the network made in place of all photographs")
    parser.add_argument("--force", action="store_true", help="overwrite results")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Check, sample, train, write."""
    for name in ("photographs", "added", "steps", "seeds", "test", "nfe"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name} must be at least 1, got {getattr(args, name)}")
    require_altair()
    files = [args.out / f"augmentation.{ending}" for ending in ("csv", "md", "svg")]
    args.out.mkdir(parents=True, exist_ok=True)
    for path in files:
        check_writable(path, overwrite=args.force)

    net = dode.load(args.model, batch_size=50, guidance_scale=args.guidance)
    training, testing = (images_of(args, net, split) for split in ("train", "test"))
    samplers = samplers_of(args, net)
    found: list[Trained] = []
    for seed in range(args.seeds):
        for trained in trainings(args, net, samplers, training, testing, seed):
            print(f"seed {seed}: {trained.added}, accuracy {trained.accuracy:.1%}", flush=True)
            found.append(trained)
    table = markdown(found)
    writers = (lambda p: write_csv(p, found), lambda p: p.write_text(table), lambda p: chart(found).save(p))
    for path, write in zip(files, writers, strict=True):
        write_atomically(path, write, overwrite=args.force)
    print(table)


def images_of(args: argparse.Namespace, net: Denoiser, split: str) -> tuple[Tensor, Tensor]:
    """Photographs of a split with their labels: of each class no more than are asked for of the test set."""
    if args.generated:
        count = args.test if split == "test" else args.photographs + args.added
        labels = torch.arange(count * photographs.CLASSES) % photographs.CLASSES
        return photographs.generated(net, labels, args.seeds + (split == "test"), VALIDATION), labels
    images, labels = photographs.load(split, args.data)
    return photographs.picked(images, labels, args.test, 0) if split == "test" else (images, labels)


def samplers_of(args: argparse.Namespace, net: Denoiser, choosing: int = 16) -> Samplers:
    """The samplers that are compared. The undistilled one is chosen on noise of its own, against a run that is fine enough for that."""
    classes = torch.arange(photographs.CLASSES)
    noise = standard_noise(0, choosing, net.shape or (), stream=VALIDATION)
    cond = condition(net, classes[torch.arange(choosing) % photographs.CLASSES])
    target = dode.sample(net, many_calls(net.schedule, min(args.many, 50)), noise, **cond)
    if args.tableau is None:
        name = f"{args.model}-guidance{args.guidance:g}-{args.solver}-{args.effort}-{args.nfe}-seed0"
        options = {"effort": args.effort, **condition(net, classes)}
        made = distilled(net, args.solver, args.nfe, args.out / "tableaux", name, **options)
    else:
        made = dode.Tableau.load(args.tableau)
        if made.nfe != args.nfe:
            raise ValueError(f"{args.tableau} has {made.nfe} calls, and the others {args.nfe}: give --nfe {made.nfe}")
    return Samplers(
        base=base_tableau(net.schedule, args.solver, args.nfe),
        undistilled=best_undistilled(net.schedule, args.nfe, lambda t: dode.sample(net, t, noise, **cond), target),
        distilled=made,
        many=many_calls(net.schedule, args.many),
    )


def trainings(
    args: argparse.Namespace,
    net: Denoiser,
    samplers: Samplers,
    training: tuple[Tensor, Tensor],
    testing: tuple[Tensor, Tensor],
    seed: int,
) -> Iterator[Trained]:
    """All trainings of a seed."""
    images, labels = photographs.picked(*training, args.photographs + args.added, seed)
    own = torch.arange(len(images)) % (args.photographs + args.added) < args.photographs

    def trained(added: str, calls: str, x: Tensor, y: Tensor, **more: float) -> Trained:
        x, y = torch.cat([images[own], x]), torch.cat([labels[own], y])
        return Trained(added, calls, seed, len(x), accuracy(train(x, y, args.steps, seed), *testing), **more)

    yield trained(PHOTOGRAPHS, "", images[:0], labels[:0])
    wanted = torch.arange(args.added * photographs.CLASSES) % photographs.CLASSES
    noise = standard_noise(seed, len(wanted), net.shape or (), stream=REPORT)
    made = {name: sampled(args, net, name, tableau, noise, wanted, seed) for name, tableau in samplers.named()}
    for name, x in made.items():
        distance = float(mean_square_distance(x, made[MANY]).mean())
        seen = accuracy(fashion_classifier(), x, wanted)
        calls = args.many if name == MANY else args.nfe
        yield trained(name, str(calls), x.clamp(-1, 1), wanted, distance=distance, seen=seen)
    yield trained(MORE, "", images[~own], labels[~own])


def sampled(
    args: argparse.Namespace, net: Denoiser, name: str, tableau: dode.Tableau, noise: Tensor, labels: Tensor, seed: int
) -> Tensor:
    """Samples; those with many calls are kept in a file, since they take long."""

    def sample() -> Tensor:
        made: Tensor = dode.sample(net, tableau, noise, **condition(net, labels))
        return made

    if name != MANY:
        return sample()
    kept = args.out / "samples" / f"{args.model}-guidance{args.guidance:g}-{args.many}-calls-seed{seed}-{len(noise)}.npy"
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        save_samples(sample(), kept)
    return torch.from_numpy(np.load(kept, allow_pickle=False))


def train(images: Tensor, labels: Tensor, steps: int, seed: int, batch_size: int = 50, lr: float = 4e-3) -> nn.Module:
    """The bundled kind of classifier, by the recipe of training/train_classifier.py with fewer steps: cross-entropy with label smoothing
    0.05, AdamW, one-cycle learning rate, random horizontal flips.

    Args:
        images: (n, 1, 28, 28) in [-1, 1].
        labels: (n,).
        steps: of `batch_size` images each, drawn in turn from shuffled images, as often as it takes.
        seed: of weights and order.
    """
    torch.manual_seed(seed)
    net = FashionClassifier()
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.02)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    rounds = -(-steps * batch_size // len(images))
    order = torch.cat([torch.randperm(len(images)) for _ in range(rounds)])
    for index in order.split(batch_size)[:steps]:
        x = images[index]
        x = torch.where(torch.rand(len(x), 1, 1, 1) < 0.5, x.flip(3), x)
        loss = F.cross_entropy(net(x), labels[index], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        rate.step()
    return net


@torch.inference_mode()
def accuracy(net: nn.Module, images: Tensor, labels: Tensor) -> float:
    """The share of images whose class the network says."""
    net.eval()
    return sum(int((net(x).argmax(1) == y).sum()) for x, y in zip(images.split(500), labels.split(500))) / len(images)


if __name__ == "__main__":
    main()
