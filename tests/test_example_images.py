"""The example of what images are made for: small settings, real networks."""

from __future__ import annotations

import csv
import re
import sys
from pathlib import Path

import pytest
import torch
from mixture import double_noise, mixture_denoiser
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))

import image_samplers
import images
import photographs
from image_samplers import Samplers, base_tableau, best_undistilled, many_calls
from image_uses import Material, Subject, inpainting, spherical, strength

import dode
from dode.distances import mean_square_distance
from dode.noise import standard_noise
from dode.schedules import VP

SMALL = ["--effort", "paper", "--fitting", "2", "--nfe", "2", "--samples", "2", "--choosing", "2", "--many", "6", "--generated"]


@pytest.fixture
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_samplers, "SOLVERS", ("ddim", "dpm-solver++"))
    monkeypatch.setattr(image_samplers, "GRIDS", image_samplers.GRIDS[:2])


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["images.py", *map(str, arguments)])
    images.main()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "images.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def uses_of(rows: list[dict[str, str]]) -> list[str]:
    return list(dict.fromkeys(row["use"] for row in rows))


@pytest.mark.usefixtures("few_candidates")
def test_each_use_has_each_sampler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--out", tmp_path, "--model", "fashion-edm", *SMALL)
    rows = rows_of(tmp_path)
    assert len(uses_of(rows)) == 8 and len(rows) == 4 * 8
    for row in rows:
        assert (row["mean"] == "") == (row["sampler"] == "many calls")
        assert (row["from original"] == "") == (row["use"] in ("generation", "interpolation"))
        assert row["seen as wanted"] != "" and float(row["mean"] or 1) > 0
    assert Image.open(tmp_path / "images.png").width > 10 * 56  # a path of ten
    table = (tmp_path / "images.md").read_text(encoding="utf-8")
    assert all(f"**{use}**" in table for use in uses_of(rows))

    # Guided, guided from the middle, without guidance: three, which are not made again.
    kept = {path: path.read_bytes() for path in (tmp_path / "tableaux").iterdir()}
    assert len(kept) == 3
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--out", tmp_path, "--model", "fashion-edm", *SMALL)
    assert kept == {path: path.read_bytes() for path in (tmp_path / "tableaux").iterdir()}


@pytest.mark.usefixtures("few_candidates")
def test_a_network_without_classes_is_asked_for_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With tableaux that are there already: they are taken."""
    schedule = dode.load("fashion-flow").schedule
    folder = tmp_path / "tableaux"
    folder.mkdir()
    for begun, start in (("", None), ("-start800", 800.0)):  # sigma / alpha = 4
        tableau = base_tableau(schedule, "unipc", 2, start)
        tableau.save(folder / f"fashion-flow-guidance1{begun}-deis-paper-2samples-2-seed0.json")
    run(monkeypatch, "--out", tmp_path, "--model", "fashion-flow", *SMALL)
    rows = rows_of(tmp_path)
    assert len(uses_of(rows)) == 8 and len(list(folder.iterdir())) == 2
    for row in rows:
        assert ("unipc" in row["tableau"].split(" up, ")[-1]) == (row["sampler"] == "distilled")
        # What is to be filled in has a class all the same.
        assert (row["seen as wanted"] != "") == (row["use"] == "inpainting")


@pytest.mark.usefixtures("few_candidates")
def test_inpainting_keeps_what_is_known_and_little_noise_keeps_the_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = dode.load("fashion-edm")
    subject = Subject(
        name="fashion-edm", plain=net, guided=net, solver="ddim", nfe=2, effort="paper", seed=0, fitting=None, budget=None,
        many=8, ratio=0.5, edit=(7, 9), folder=tmp_path,
    )  # fmt: skip
    labels = torch.tensor([7, 7])
    made = photographs.generated(net, labels, 3, 0)
    material = Material(standard_noise(0, 2, net.shape), labels, made, made)
    base = base_tableau(net.schedule, "ddim", 2)
    filled = inpainting(subject, Samplers(base, base, base, base), material)
    for x in filled.made.values():
        assert torch.equal(x[:, :, :14], made[:, :, :14])
        assert not torch.equal(x[:, :, 14:], made[:, :, 14:])

    monkeypatch.setattr(Subject, "distilled", lambda self, denoiser, start: base_tableau(net.schedule, "ddim", 2, start))
    use = strength(subject, material, material)
    assert mean_square_distance(use.made["many calls"], made).max() < 0.1


def test_arcs_between_noises_have_their_ends_and_the_length_of_noise() -> None:
    first, last = torch.randn(2, 3, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    arcs = spherical(first, last, torch.linspace(0, 1, 5)).unflatten(0, (3, 5))
    torch.testing.assert_close(arcs[:, 0], first)
    torch.testing.assert_close(arcs[:, -1], last)
    # A straight line is shorter by sqrt(2) in the middle.
    assert ((arcs.flatten(2).square().mean(2) - 1).abs() < 0.15).all()


def test_the_best_undistilled_tableau_is_no_worse_than_others() -> None:
    denoiser = mixture_denoiser(VP.linear())
    noise = double_noise(32, seed=1)

    def sample(tableau: dode.Tableau) -> torch.Tensor:
        return dode.sample(denoiser, tableau, noise)

    far = sample(many_calls(denoiser.schedule, 64))
    best = best_undistilled(denoiser.schedule, 4, sample, far)
    error = mean_square_distance(sample(best), far).mean()
    assert best.nfe == 4
    for solver in ("ddim", "deis", "unipc"):
        assert error <= mean_square_distance(sample(base_tableau(denoiser.schedule, solver, 4)), far).mean()


def test_tableaux_begin_where_they_are_to_and_run_upwards() -> None:
    schedule = VP.linear()
    for make in (lambda **more: base_tableau(schedule, "deis", 4, **more), lambda **more: many_calls(schedule, 4, **more)):
        assert make(start=500.0).times[0] == 500
        up = make(reverse=True)
        assert up.times[0] < up.times[-1] == schedule.t_max


def test_images_of_labels_are_of_these_labels_and_all_different() -> None:
    labels = torch.arange(40) % 10
    stock = torch.arange(40.0).reshape(40, 1, 1, 1).expand(40, 1, 28, 28)
    wanted = torch.tensor([7, 9, 7, 0])
    found = photographs.of_labels(stock, labels, wanted)[:, 0, 0, 0].long()
    assert (labels[found] == wanted).all() and len(set(found.tolist())) == 4
    chosen, classes = photographs.picked(stock, labels, 3, seed=0)
    numbers = chosen[:, 0, 0, 0].long()
    assert (labels[numbers] == classes).all() and len(set(numbers.tolist())) == 30
    with pytest.raises(ValueError, match="class 7 has 4 images, and 5 are asked for"):
        photographs.of_labels(stock, labels, torch.full((5,), 7))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere"], "nowhere.* is missing: install Debian's package dataset-fashion-mnist"),
        (["--many", "5"], "--many must be more than --nfe"),
        (["--edit", "7", "10"], "--edit takes two classes, 0 to 9, got 7 and 10"),
        (["--samples", "1"], "--samples must be at least 2, got 1"),
        (["--ratio", "0"], "--ratio must be above 0, got 0"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--out", tmp_path / "new", *arguments)
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(message, said)
