"""What the uses of images come to: figures for each sampler, as a table, and one picture."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from image_uses import POINTS, Use
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from dode import statistics
from dode.distances import mean_square, mean_square_distance
from dode.images import to_grid
from dode.metrics.intervals import share
from dode.models import fashion_classifier

# Samples of a row of the picture.
SHOWN = 10
COLUMNS = (
    "use", "sampler", "calls", "samples", "mean", "mean low", "mean high", "median", "over best undistilled", "ratio low", "ratio high",
    "seen as wanted", "share low", "share high", "from original", "between neighbours", "tableau",
)  # fmt: skip


def figures(use: Use) -> Iterator[dict[str, object]]:
    """A row for each sampler: distances to the run with many calls, class, distance to what was given."""
    *few, far = use.made
    target = use.made[far]
    judge = fashion_classifier()
    errors = {name: mean_square_distance(x, target) for name, x in use.made.items()}
    for name, x in use.made.items():
        row: dict[str, object] = {"use": use.title, "sampler": name, "calls": use.calls, "samples": len(x)}
        if name in few:
            mean, ratio = statistics.mean(errors[name]), statistics.ratio(errors[name], errors["best undistilled"])
            row |= dict(zip(("mean", "mean low", "mean high"), mean, strict=True)) | {"median": float(np.median(errors[name]))}
            row |= dict(zip(("over best undistilled", "ratio low", "ratio high"), ratio, strict=True))
        else:
            row["calls"] = "many"
        if use.wanted is not None:
            with torch.no_grad():
                hits = int((judge(x).argmax(1) == use.wanted).sum())
            row |= dict(zip(("seen as wanted", "share low", "share high"), share(hits, len(x)), strict=True))
        if use.given is not None:
            row["from original"] = float(mean_square_distance(x, use.given).mean())
        if use.title == "interpolation":
            paths = x.unflatten(0, (-1, POINTS))
            row["between neighbours"] = float(mean_square((paths[:, 1:] - paths[:, :-1]).flatten(0, 1)).mean())
        yield {**row, "tableau": use.tableaux[name]}


def write_csv(path: Path, rows: Sequence[dict[str, object]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def markdown(rows: Sequence[dict[str, object]]) -> str:
    """The figures as a table a use; what a use does not have is left out."""
    lines = []
    for use in dict.fromkeys(str(row["use"]) for row in rows):
        own = [row for row in rows if row["use"] == use]
        more = [name for name in ("seen as wanted", "from original", "between neighbours") if name in own[0]]
        head = ["sampler", "calls", "mean (90 %)", "median", "over best undistilled", *more]
        lines += [f"**{use}**, {own[0]['samples']} samples", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
        for row in own:
            cells = [row["sampler"], row["calls"], *_errors(row), *(f"{row[name]:.3g}" for name in more)]
            lines.append(f"| {' | '.join(map(str, cells))} |")
        lines.append("")
    return "\n".join(lines)


def _errors(row: dict[str, object]) -> tuple[str, str, str]:
    """Mean, median, ratio; nothing for the run that is measured against."""
    if "mean" not in row:
        return "", "", ""
    mean, ratio = (
        statistics.Figure(*(float(str(row[column])) for column in columns))
        for columns in (("mean", "mean low", "mean high"), ("over best undistilled", "ratio low", "ratio high"))
    )
    return str(mean), f"{row['median']:.2g}", "" if row["sampler"] == "best undistilled" else str(ratio)


def drawn(uses: Sequence[Use]) -> Image.Image:
    """The first samples of each use, a row for each sampler; what was given above them."""
    font, bold = ImageFont.load_default(13), ImageFont.load_default(16)
    parts: list[tuple[str, Tensor | None]] = []
    for use in uses:
        if "many calls up" in use.title:  # the same as with few, to the eye
            continue
        parts.append((use.title, None))
        shown = use.given if use.masked is None else use.masked
        if shown is not None:
            parts.append(("given", shown[:SHOWN]))
        parts += [(f"{name}, {use.calls}" if name != "many calls" else name, x[:SHOWN]) for name, x in use.made.items()]
    strips = [(words, None if x is None else to_grid(x, columns=SHOWN, enlarge=2)) for words, x in parts]
    left, gap, title = 180, 3, 30
    width = left + max(strip.width for _, strip in strips if strip is not None) + gap
    height = sum(title if strip is None else strip.height + gap for _, strip in strips) + gap
    sheet = Image.new("L", (width, height), 255)
    pen, y = ImageDraw.Draw(sheet), 0
    for words, strip in strips:
        if strip is None:
            pen.text((gap, y + title // 2), words, font=bold, fill=0, anchor="lm")
            y += title
        else:
            pen.text((gap, y + strip.height // 2), words, font=font, fill=0, anchor="lm")
            sheet.paste(strip, (left, y))
            y += strip.height + gap
    return sheet
