"""Say how good a class-conditional network is: the share of its samples that the bundled classifier takes for the class asked for.

    python training/evaluate_fashion.py --model fashion --grid samples.png

Samples 100 images a class with DDIM, class-conditional, without guidance. The classifier itself is right on 93.3 % of the
photographs of the test set, so that is what samples can be measured against.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table
from torch import Tensor
from train_fashion import CLASSES, NULL_CLASS, build_network

import dode
from dode.loading import load
from dode.models import fashion_classifier
from dode.models.diffusers import adapt, config_of
from dode.models.traits import traits_of
from dode.noise import standard_noise
from dode.progress import evaluation_progress


def main() -> None:
    args = parse_arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    denoiser = load(args.model) if args.checkpoint is None else from_checkpoint(args.checkpoint)
    denoiser = denoiser.replace(batch_size=args.batch_size, guidance_scale=args.guidance)
    labels = torch.arange(len(CLASSES)).repeat_interleave(args.per_class)
    images = sample(denoiser, labels, args.steps, args.seed)
    report(classify(images, args.batch_size), labels)
    if args.grid is not None:
        save_grid(images.unflatten(0, (len(CLASSES), -1))[:, :10], args.grid)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="fashion", help="the bundled network, or a folder")
    parser.add_argument("--checkpoint", type=Path, help="in place of a model: the checkpoint.pt of a training run")
    parser.add_argument("--per-class", type=int, default=100, help="images a class")
    parser.add_argument("--steps", type=int, default=200, help="steps of DDIM")
    parser.add_argument("--guidance", type=float, default=1.0, help="guidance scale; 1 is none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 leaves PyTorch's choice")
    parser.add_argument("--grid", type=Path, help="PNG file for up to ten images a class, one class a row")
    return parser.parse_args()


def from_checkpoint(checkpoint: Path) -> dode.Denoiser:
    """The averaged network of a training run, finished or not."""
    net = build_network()
    net.load_state_dict(torch.load(checkpoint, map_location="cpu", weights_only=True)["average"])
    made = adapt(net, traits_of(config_of(net), null_class=NULL_CLASS), space_to_depth=2)
    schedule = dode.schedules.VP.linear()
    return dode.Denoiser(made.net, schedule, shape=made.shape, null_condition=made.null_condition, name=checkpoint.name)


def sample(denoiser: dode.Denoiser, labels: Tensor, steps: int, seed: int) -> Tensor:
    tableau = dode.solver("ddim").tableau(denoiser.schedule, nfe=steps)
    noise = standard_noise(seed, len(labels), (1, 28, 28))
    with evaluation_progress(denoiser, steps * len(labels), "sampling", show=True):
        images: Tensor = dode.sample(denoiser, tableau, noise, class_labels=labels)
    return images


@torch.inference_mode()
def classify(images: Tensor, batch_size: int) -> Tensor:
    classifier = fashion_classifier()
    return torch.cat([classifier(part).argmax(1) for part in images.clamp(-1, 1).split(batch_size)])


def report(found: Tensor, labels: Tensor) -> None:
    table = Table("class", "recognised", "most often taken for", title=f"{len(labels)} samples")
    for label, name in enumerate(CLASSES):
        of_class = found[labels == label]
        wrong = of_class[of_class != label]
        other = CLASSES[int(wrong.mode().values)] if len(wrong) else ""
        table.add_row(name, f"{(of_class == label).float().mean():.0%}", other)
    table.add_row("all", f"{(found == labels).float().mean():.1%}", "")
    Console().print(table)


def save_grid(images: Tensor, path: Path) -> None:
    """One PNG of (rows, columns, 1, height, width)."""
    rows, columns, _, height, width = images.shape
    pixels = images.clamp(-1, 1).add(1).mul(127.5).round().byte()
    sheet = pixels.permute(0, 3, 1, 4, 2).reshape(rows * height, columns * width)
    Image.fromarray(sheet.numpy()).save(path)


if __name__ == "__main__":
    main()
