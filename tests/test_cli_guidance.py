"""Guidance on the command line, through the parser of the real command."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dode
from dode import cli
from dode.guidance import Interval
from dode.noise import standard_noise

NETWORKS = """
import torch
import dode

def picky():
    def net(x, t):
        assert len(x) == 2, "guided, one sample at a time"
        return x * 0.5

    options = {"guidance_scale": [2.0, 2.0], "null_condition": {}, "batch_size": 1}
    return dode.Denoiser(net, dode.schedules.VP.linear(), shape=(1, 8, 8), **options)
"""


def dode_command(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """What `dode ARGUMENTS` exits with."""
    monkeypatch.setattr("sys.argv", ["dode", *arguments])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return int(left.value.code or 0)


OPTIONS: list[tuple[list[str], dict[str, Any]]] = [
    (["--guidance-scale", "2.5"], {"guidance_scale": 2.5}),
    (["--guidance-scale", "1,3"], {"guidance_scale": [1.0, 3.0]}),
    (["--guidance-scale", "3", "--guidance-interval", "200,600"], {"guidance_scale": Interval(3.0, 200, 600)}),
    (["--guidance-scale", "3", "--guidance-rescale", "0.7"], {"guidance_scale": 3.0, "guidance_rescale": 0.7}),
]


@pytest.mark.parametrize(
    ("arguments", "options"), OPTIONS, ids=lambda value: " ".join(value) if isinstance(value, list) else ""
)
def test_sample_guides_as_the_library_does(
    arguments: list[str], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "x.npy"
    common = ["sample", "fashion", "--solver", "ddim", "--nfe", "2", "-n", "2", "--device", "cpu", "--out", str(out)]
    assert dode_command(monkeypatch, *common, *arguments) == 0
    denoiser = dode.load("fashion", **options)
    tableau = dode.solver("ddim").tableau(denoiser.schedule, 2)
    expected = dode.sample(denoiser, tableau, standard_noise(0, 2, denoiser.shape), class_labels=torch.tensor([0, 1]))
    np.testing.assert_array_equal(np.load(out), expected.numpy())


def test_what_is_not_given_stays_as_the_model_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "guided_networks.py").write_text(NETWORKS)
    monkeypatch.chdir(tmp_path)
    common = ["sample", "guided_networks:picky", "--solver", "ddim", "--nfe", "2", "-n", "3", "--out", "x.npy"]
    assert dode_command(monkeypatch, *common) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "--guidance-scale", "x"], "--guidance-scale takes numbers separated by commas, got 'x'"),
        (["sample", "--guidance-scale", "1,2"], "has 2 numbers, one an evaluation, for a run of 3 evaluations"),
        (["sample", "--guidance-scale", "2", "--guidance-interval", "5"], "--guidance-interval takes LO,HI beside"),
        (["sample", "--guidance-interval", "5,6"], "--guidance-interval takes LO,HI beside a --guidance-scale of one number"),
        (["sample", "--guidance-scale", "2", "--guidance-interval", "6,5"], "from a lower to a higher time, got 6 .. 5"),
        (["sample", "--guidance-scale", "2", "--guidance-rescale", "2"], "guidance_rescale must lie in [0, 1], got 2.0"),
        (["distill", "--guidance-scale", "1,2,3"], "--guidance-scale takes one number here"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_guidance_is_one_line(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = arguments
    common = [command, "fashion", "--solver", "ddim", "--nfe", "3", "--out", str(tmp_path / "x.npy")]
    assert dode_command(monkeypatch, *common, *options) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("error: ") and message in line
