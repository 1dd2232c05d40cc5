"""The measurements as files: a table as CSV and Markdown, charts as SVG and PNG, and the atoms themselves."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors.torch import save as to_bytes
from torch import Tensor

from dode.files import write_atomically
from examples.proteins import geometry
from examples.proteins.measure import CHECK, REFERENCE, Key, Stretches, checked, table
from examples.proteins.picture import picture


def write(folder: Path, samples: dict[Key, Tensor], places: Stretches) -> Iterator[Path]:
    """Write everything into a folder, and say what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = table(samples, places)
    texts = {"proteins.csv": as_csv(lines), "proteins.md": as_markdown(lines, samples, places)}
    for name, text in texts.items():
        yield _written(folder / name, text.encode())
    kept = {f"{calls} {sampler}": x.contiguous() for (sampler, calls), x in samples.items()}
    yield _written(folder / "samples.safetensors", to_bytes(kept))
    chart = picture(lines, samples, places)
    for suffix in ("svg", "png"):
        path = folder / f"proteins.{suffix}"
        write_atomically(
            path, lambda temporary, kind=suffix: chart.save(str(temporary), format=kind, scale_factor=2), overwrite=True
        )
        yield path


def _written(path: Path, content: bytes) -> Path:
    write_atomically(path, lambda temporary: temporary.write_bytes(content), overwrite=True)
    return path


def as_csv(lines: list[dict[str, Any]]) -> str:
    """A line for each run, with all figures."""
    names = list(dict.fromkeys(name for line in lines for name in line))
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(
        {name: f"{value:.5g}" if isinstance(value, float) else value for name, value in line.items()} for line in lines
    )
    return text.getvalue()


def as_markdown(lines: list[dict[str, Any]], samples: dict[Key, Tensor], places: Stretches) -> str:
    """Two tables, of errors and of geometry, and what they were measured on."""
    residues = places.residues
    where = ", ".join(f"{n} residues of {name}" for name, n in zip(places.names, places.lengths, strict=True))
    (fine,) = (calls for sampler, calls in samples if sampler == REFERENCE)
    rows = [
        f"Measured on {where} ({int(residues.moved.sum())} atoms), on noise that chose nothing. The reference is {REFERENCE} with {fine} "
        f"calls; it is {checked(samples, places):.2g} square angstrom from {CHECK} with as many.",
        "",
        "| sampler | calls | mean square, A^2 (90 %) | median | RMSD, A | of the best undistilled |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        if "error" in line:
            share = "{of_best:.2f} ({of_best_low:.2f} to {of_best_high:.2f})".format_map(line) if "of_best" in line else ""
            rows.append(
                "| {sampler} | {calls} | {error:.2g} ({low:.2g} to {high:.2g}) | {median:.2g} | {rmsd:.2g} |".format_map(line)
                + f" {share} |"
            )
    bonds = geometry.BONDS
    rows += [
        "",
        f"| sampler | calls | {' | '.join(bonds)} | mirrored | clashes | to the crystal, A |",
        f"|---|---|{'---|' * len(bonds)}---|---|---|",
    ]
    for line in sorted(lines, key=lambda line: (line["calls"], line.get("error", 0))):
        each = " | ".join(f"{line[bond]:.3f}" for bond in bonds)
        rows.append(
            f"| {line['sampler']} | {line['calls']} | {each} | {line['mirrored']} | {line['clashes']} | {line['to_crystal']:.2f} |"
        )
    return "\n".join(rows) + "\n"
