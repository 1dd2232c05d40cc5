"""The example of data augmentation: small settings, the real network and classifier."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import augmentation
import image_samplers
from augmentation import accuracy, train
from augmentation_sheet import MANY, MORE, PHOTOGRAPHS, Trained, markdown

import dode

SMALL = [
    "--generated",
    "--many",
    "6",
    "--nfe",
    "2",
    "--photographs",
    "1",
    "--added",
    "1",
    "--steps",
    "3",
    "--test",
    "1",
    "--seeds",
    "1",
]


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["augmentation.py", *map(str, arguments)])
    augmentation.main()


@pytest.fixture
def tableau(tmp_path: Path) -> Path:
    """A saved one: where it comes from does not matter."""
    path = tmp_path / "unipc-2.json"
    dode.solver("unipc").tableau(dode.load("fashion-edm").schedule, nfe=2).save(path)
    return path


def test_every_training_is_there_and_comes_out_the_same_again(
    tableau: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_samplers, "GRIDS", image_samplers.GRIDS[:1])
    run(monkeypatch, "--out", tmp_path, "--tableau", tableau, *SMALL)
    table = (tmp_path / "augmentation.csv").read_text(encoding="utf-8")
    rows = list(csv.DictReader(table.splitlines()))
    kinds = [row["added"] for row in rows]
    assert kinds == [PHOTOGRAPHS, "base", "best undistilled", "distilled", MANY, MORE]
    assert [int(row["images"]) for row in rows] == [10, *[20] * 5]
    assert float(rows[kinds.index(MANY)]["distance"]) == 0
    assert (tmp_path / "augmentation.svg").read_text(encoding="utf-8").startswith("<svg")

    # The samples with many calls are taken from their file.
    (kept,) = (tmp_path / "samples").iterdir()
    before = kept.stat().st_mtime_ns
    run(monkeypatch, "--out", tmp_path, "--tableau", tableau, *SMALL, "--force")
    assert (tmp_path / "augmentation.csv").read_text(encoding="utf-8") == table
    assert kept.stat().st_mtime_ns == before


def test_training_learns_what_is_there_to_be_learnt() -> None:
    """Ten kinds of stripes."""
    labels = torch.arange(50) % 10
    rows = torch.arange(28)[None, :] % (labels[:, None] + 2) == 0
    images = (rows[:, None, :, None] * 2.0 - 1).expand(50, 1, 28, 28).clone()
    net = train(images, labels, 60, seed=0)
    assert accuracy(net, images, labels) > 0.9
    assert accuracy(net, images, (labels + 1) % 10) < 0.1


def test_the_table_compares_seed_by_seed() -> None:
    """What varies with the seed alone is not in the difference."""
    found = [
        Trained(kind, "5", seed, 100, 0.7 + 0.05 * seed - less, 0.1, 0.9)
        for seed in range(3)
        for kind, less in ((MANY, 0.0), ("distilled", 0.02))
    ]
    row = next(line for line in markdown(found).splitlines() if line.startswith("| distilled"))
    assert "73.0 ± 5.0 %" in row and "2.0 ± 0.0 %" in row


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere.* is missing: install Debian's package dataset-fashion-mnist"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--photographs", "0"], "--photographs must be at least 1, got 0"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--out", tmp_path, *arguments)
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(message, said)


def test_a_tableau_with_other_calls_is_refused(
    tableau: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = [*SMALL, "--nfe", "3"]
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--out", tmp_path, "--tableau", tableau, *small)
    assert "has 2 calls, and the others 3: give --nfe 2" in capsys.readouterr().err
