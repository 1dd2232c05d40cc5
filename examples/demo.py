"""Distil a solver of the bundled network, sample with base and distilled, and draw both beside the reference.

    python examples/demo.py --out demo

Writes deis-5.json (the distilled solver) and demo.png: the same noise with 5 network calls of the base solver, with 5 of the
distilled one, and with 200.
"""

import argparse
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console

import dode
from dode.images import to_grid
from dode.noise import standard_noise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("demo"), help="folder for the results, made if it is not there")
    parser.add_argument("--solver", default="ddim")
    parser.add_argument("--nfe", type=int, default=5)
    parser.add_argument("--samples", type=int, default=100, help="fitting samples")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    denoiser = dode.load("fashion")
    labels = torch.arange(10)
    result = dode.distill(denoiser, args.solver, nfe=args.nfe, samples=args.samples, progress=True, class_labels=labels)
    saved = args.out / f"{args.solver}-{args.nfe}.json"
    result.save(saved, overwrite=True)
    Console().print(result.summary())

    # Noise that the fit has not seen: three samples of each class.
    noise = standard_noise(1, 30, denoiser.shape)
    reference = dode.solver("deis").tableau(denoiser.schedule, nfe=200)
    rows = {
        f"{args.solver}, {args.nfe} calls": result.base,
        f"distilled {args.solver}, {args.nfe} calls": dode.Tableau.load(saved),
        "200 calls": reference,
    }
    samples = {title: dode.sample(denoiser, t, noise, class_labels=labels.repeat(3)) for title, t in rows.items()}
    picture = args.out / "demo.png"
    draw(samples).save(picture)
    print(f"wrote {saved} and {picture}")


def draw(samples: dict[str, torch.Tensor]) -> Image.Image:
    """The grids one below the other, each under its title."""
    grids = {title: to_grid(x, columns=10, enlarge=2) for title, x in samples.items()}
    font = ImageFont.load_default(16)
    width, height = next(iter(grids.values())).size
    margin, header = 8, 26
    sheet = Image.new("L", (width + 2 * margin, len(grids) * (height + header + margin) + margin), 255)
    pen = ImageDraw.Draw(sheet)
    for i, (title, grid) in enumerate(grids.items()):
        y = margin + i * (height + header + margin)
        pen.text((margin, y), title, font=font, fill=0)
        sheet.paste(grid, (margin, y + header))
    return sheet


if __name__ == "__main__":
    main()
