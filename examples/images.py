"""Four things that images are made for, with few calls: base solver, best undistilled solver and distilled one, beside many calls.

    python examples/images.py --out runs/images [--model fashion]

Generation with guidance; edits of photographs by strength and by inversion (a sneaker becomes a boot); inpainting; interpolation in
noise. Writes images.png, images.csv and images.md; the distilled tableaux stay in the folder, and are taken from there the next time.
The photographs are those of Debian's package dataset-fashion-mnist; --generated does without.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import photographs
import torch
from image_sheet import drawn, figures, markdown, write_csv
from image_uses import (
    Material,
    Subject,
    generation,
    guided_samplers,
    inpainting,
    interpolation,
    inversion,
    strength,
)

import dode
from dode.files import check_writable, write_atomically
from dode.noise import REPORT, VALIDATION, standard_noise


def main() -> None:
    args = parse_arguments()
    try:
        run(args)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        print(f"images.py: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for picture, figures and tableaux")
    parser.add_argument("--model", choices=("fashion", "fashion-edm", "fashion-flow"), default="fashion")
    parser.add_argument("--solver", default="deis", help="what is distilled, and the base")
    parser.add_argument("--nfe", type=int, default=5, help="network calls of a sample")
    parser.add_argument("--effort", default="balanced", help="of the distillation: paper, fast, balanced, thorough")
    parser.add_argument("--fitting", type=int, help="samples of the distillation; by effort if left out")
    parser.add_argument("--budget", type=int, help="network evaluations of each distillation; by effort if left out")
    parser.add_argument("--guidance", type=float, default=3.0, help="guidance scale, where the network knows classes")
    parser.add_argument("--samples", type=int, default=48, help="noises and photographs that each use is measured on")
    parser.add_argument("--choosing", type=int, default=16, help="others, which choose the best undistilled solver")
    parser.add_argument("--many", type=int, default=100, help="calls of the run that others are measured against")
    parser.add_argument("--ratio", type=float, default=4.0, help="sigma / alpha at which an edit by strength begins")
    parser.add_argument("--edit", type=int, nargs=2, default=(7, 9), metavar=("FROM", "TO"), help="classes of the edits")
    parser.add_argument("--data", type=Path, default=photographs.DEFAULT_FOLDER, help="folder of the IDX files")
    parser.add_argument("--generated", action="store_true", help="edit images that the network made, not photographs")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--force", action="store_true", help="overwrite results")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Check, make, measure, write."""
    for name in ("samples", "choosing"):
        if getattr(args, name) < 2:
            raise ValueError(f"--{name} must be at least 2, got {getattr(args, name)}")
    if args.nfe < 1 or args.many <= args.nfe:
        raise ValueError(f"--many must be more than --nfe, and that at least 1: got {args.many} and {args.nfe}")
    if not args.ratio > 0:
        raise ValueError(f"--ratio must be above 0, got {args.ratio:g}")
    if not all(0 <= label < photographs.CLASSES for label in args.edit):
        raise ValueError(f"--edit takes two classes, 0 to {photographs.CLASSES - 1}, got {args.edit[0]} and {args.edit[1]}")
    files = [args.out / f"images.{ending}" for ending in ("png", "csv", "md")]
    args.out.mkdir(parents=True, exist_ok=True)
    for path in files:
        check_writable(path, overwrite=args.force)

    plain = dode.load(args.model, batch_size=32)
    guided = plain if plain.null_condition is None else plain.replace(guidance_scale=args.guidance)
    subject = Subject(
        name=args.model, plain=plain, guided=guided, solver=args.solver, nfe=args.nfe, effort=args.effort, seed=args.seed,
        fitting=args.fitting, budget=args.budget, many=args.many, ratio=args.ratio, edit=tuple(args.edit), folder=args.out / "tableaux",
    )  # fmt: skip
    other = gathered(args, plain, args.choosing, VALIDATION, "train")
    material = gathered(args, plain, args.samples, REPORT, "test")
    samplers = guided_samplers(subject, other)
    uses = [
        generation(subject, samplers, material),
        strength(subject, other, material),
        *inversion(subject, other, material),
        inpainting(subject, samplers, material),
        interpolation(subject, samplers, material),
    ]
    rows = [row for use in uses for row in figures(use)]
    picture, table = drawn(uses), markdown(rows)
    for path, write in zip(files, (picture.save, lambda p: write_csv(p, rows), lambda p: p.write_text(table)), strict=True):
        write_atomically(path, write, overwrite=args.force)
    print(table)


def gathered(args: argparse.Namespace, net: dode.Denoiser, count: int, stream: int, split: str) -> Material:
    """Noise of a stream with images of a split."""
    labels = torch.arange(count).remainder(photographs.CLASSES)
    sources = torch.full((count,), args.edit[0])
    noise = standard_noise(args.seed, count, net.shape or (), stream=stream)
    if args.generated:
        made = photographs.generated(net, torch.cat([labels, sources]), args.seed + 1, stream)
        return Material(noise, labels, *made.chunk(2))
    images, classes = photographs.load(split, args.data)
    return Material(noise, labels, *(photographs.of_labels(images, classes, wanted) for wanted in (labels, sources)))


if __name__ == "__main__":
    main()
