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
from image_samplers import base_tableau, best_undistilled, many_calls
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


@pytest.mark.usefixtures("few_candidates")
@pytest.mark.parametrize(("model", "asked"), [("fashion-edm", True), ("fashion-flow", False)])
def test_each_use_has_each_sampler(model: str, asked: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, "--out", tmp_path, "--model", model, *SMALL)
    with (tmp_path / "images.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    uses = list(dict.fromkeys(row["use"] for row in rows))
    assert len(uses) == 8 and len(rows) == 4 * len(uses)
    for row in rows:
        assert (row["mean"] == "") == (row["sampler"] == "many calls")
        assert (row["from original"] == "") == (row["use"] in ("generation", "interpolation"))
        # A network without classes is asked for none; what is to be filled in has one all the same.
        assert (row["seen as wanted"] != "") == (asked or row["use"] == "inpainting")
        assert float(row["mean"] or 1) > 0
    assert Image.open(tmp_path / "images.png").width > 10 * 56  # a path of ten
    kept = {path: path.read_bytes() for path in (tmp_path / "tableaux").iterdir()}
    assert len(kept) == (3 if asked else 2)

    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--out", tmp_path, "--model", model, *SMALL)
    assert kept == {path: path.read_bytes() for path in (tmp_path / "tableaux").iterdir()}


def small_subject(folder: Path) -> tuple[Subject, Material]:
    net = dode.load("fashion-edm")
    subject = Subject(
        name="fashion-edm", plain=net, guided=net, solver="ddim", nfe=2, effort="paper", seed=0, fitting=2, budget=None,
        many=8, ratio=0.5, edit=(7, 9), folder=folder,
    )  # fmt: skip
    labels = torch.tensor([7, 7])
    made = photographs.generated(net, labels, 3, 0)
    return subject, Material(standard_noise(0, 2, net.shape), labels, made, made)


@pytest.mark.usefixtures("few_candidates")
def test_inpainting_keeps_what_is_known_and_little_noise_keeps_the_image(tmp_path: Path) -> None:
    subject, material = small_subject(tmp_path)
    use = strength(subject, material, material)
    assert mean_square_distance(use.made["many calls"], material.originals).max() < 0.1
    tableau = base_tableau(subject.plain.schedule, "ddim", 2)
    filled = inpainting(subject, image_samplers.Samplers(tableau, tableau, tableau, tableau), material)
    for made in filled.made.values():
        assert torch.equal(made[:, :, :14], material.photographs[:, :, :14])
        assert not torch.equal(made[:, :, 14:], material.photographs[:, :, 14:])


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
