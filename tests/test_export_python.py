"""The exported Python file: `dode.sample` to the last bit, where dode cannot be imported."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture import Mixture
from torch import Tensor
from typer.testing import CliRunner

import dode
from dode.cli import app
from dode.integrations.export import to_python

SCHEDULE = dode.schedules.VP.linear()


def tableau_of(nfe: int = 4, **changes: Any) -> dode.Tableau:
    return replace(dode.solver("deis").tableau(SCHEDULE, nfe), **changes)


def sampler(text: str) -> Callable[..., Tensor]:
    """`sample` of an exported file."""
    namespace: dict[str, Any] = {}
    exec(compile(text, "sampler.py", "exec"), namespace)
    found: Callable[..., Tensor] = namespace["sample"]
    return found


def noise_of(shape: tuple[int, ...] = (3, 4), dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


def network(x: Tensor, t: Tensor) -> Tensor:
    return torch.sin(x * (1 + t[:, None] / 1000))


# A module of the name dode cannot be imported here.
ALONE = """
import runpy, sys
sys.modules["dode"] = None
import torch
sample = runpy.run_path("sampler.py")["sample"]
noise = torch.load("noise.pt")
network = lambda x, t: torch.sin(x * (1 + t[:, None] / 1000))
torch.save([sample(network, noise, nfe=nfe) for nfe in (2, 4)], "samples.pt")
assert not any(name.startswith("dode.") for name in sys.modules)
"""


def test_the_file_samples_where_dode_cannot_be_imported(tmp_path: Path) -> None:
    held = dode.TableauSet.of([tableau_of(2), tableau_of(4)])
    (tmp_path / "sampler.py").write_text(to_python(held, "epsilon"), encoding="utf-8")
    torch.save(noise_of(), tmp_path / "noise.pt")
    subprocess.run([sys.executable, "-c", ALONE], cwd=tmp_path, check=True)
    denoiser = dode.Denoiser(network, SCHEDULE)
    for nfe, found in zip((2, 4), torch.load(tmp_path / "samples.pt"), strict=True):
        assert torch.equal(found, dode.sample(denoiser, held, noise_of(), nfe=nfe))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["fashion", "fashion-flow", "fashion-edm"])
def test_bundled_networks_give_the_same_samples_to_the_last_bit(name: str, dtype: torch.dtype) -> None:
    loaded = dode.load(name)
    denoiser = loaded.replace(net=loaded.net.to(dtype).eval())
    cond = {"class_labels": torch.tensor([1, 7])} if name == "fashion" else {}
    held = dode.TableauSet.of([dode.solver("deis").tableau(denoiser.schedule, nfe) for nfe in (2, 3)])
    sample = sampler(to_python(held, denoiser.output))
    noise = noise_of((2, *denoiser.shape), dtype)
    for nfe in held.nfe:
        assert torch.equal(sample(denoiser.net, noise, nfe, **cond), dode.sample(denoiser, held, noise, nfe=nfe, **cond))


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow", "score", "edm"])
@pytest.mark.parametrize("solver", ["ddim", "dpm-solver", "unipc", "edm"])
def test_every_prediction_and_kind_of_solver(prediction: str, solver: str) -> None:
    """Solvers with inner stages, and those whose rows name old states, among them."""
    schedule = dode.schedules.EDM() if prediction == "edm" else SCHEDULE
    net = (lambda x, t: x / (1 + t[:, None] ** 2)) if prediction == "edm" else Mixture(schedule, prediction)
    denoiser = dode.Denoiser(net, schedule, prediction)
    tableau = dode.solver(solver).tableau(schedule, 5 if solver == "edm" else 4)
    assert torch.equal(sampler(to_python(tableau, prediction))(net, noise_of()), dode.sample(denoiser, tableau, noise_of()))


@pytest.mark.parametrize("first", [{"first": "zero"}, {"first": "mean", "mean": np.linspace(-1, 1, 4)}], ids=["zero", "mean"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_first_output_that_is_no_call(first: dict[str, Any], dtype: torch.dtype) -> None:
    tableau, calls = tableau_of(4, **first), []

    def counted(x: Tensor, t: Tensor) -> Tensor:
        calls.append(t)
        return network(x, t)

    sample = sampler(to_python(tableau, "epsilon"))
    noise = noise_of(dtype=dtype)
    assert torch.equal(sample(counted, noise), dode.sample(dode.Denoiser(network, SCHEDULE), tableau, noise))
    assert len(calls) == tableau.nfe == 3
    if first["first"] == "mean":
        with pytest.raises(ValueError, match="network without condition"):
            sample(counted, noise, label=3)


def test_whole_times_are_said_and_asked() -> None:
    schedule = SCHEDULE.with_integer_times()
    tableau = dode.solver("deis").tableau(schedule, 4)
    table = torch.linspace(0.1, 0.9, 1000, dtype=torch.float64)
    net = lambda x, t: x * table[t][:, None]  # noqa: E731
    text = to_python(tableau, "epsilon")
    assert "whole numbers" in text
    found = sampler(text)(lambda x, t: net(x, t.long()), noise_of())
    assert torch.equal(found, dode.sample(dode.Denoiser(net, schedule, integer_times=True), tableau, noise_of()))
    assert "whole numbers" not in to_python(tableau_of(7), "epsilon")


def test_a_network_with_one_buffer_for_all_of_its_outputs() -> None:
    buffer = torch.empty(3, 4, dtype=torch.float64)
    held = lambda x, t: buffer.copy_(network(x, t))  # noqa: E731
    assert torch.equal(
        sampler(to_python(tableau_of(), "epsilon"))(held, noise_of()),
        dode.sample(dode.Denoiser(network, SCHEDULE), tableau_of(), noise_of()),
    )


def test_the_prediction_is_that_of_the_distillation() -> None:
    clipped = tableau_of(meta={"distillation": {"prediction": "sample"}})
    assert "must give the clean sample D, after clipping" in to_python(clipped)
    assert "must give v =" in to_python(clipped, "v")


def test_names_in_a_file_do_not_become_code() -> None:
    wicked = tableau_of(solver='deis"""\nraise SystemExit  # \\', grid="\u2028raise SystemExit\r\nraise SystemExit")
    sampler(to_python(wicked, "epsilon"))


BAD = {
    "no prediction": (lambda: to_python(tableau_of()), "does not say what its network gives: say it with prediction"),
    "unknown": (lambda: to_python(tableau_of(), "noise"), "unknown prediction 'noise'"),
    "two": (
        lambda: to_python([tableau_of(n, meta={"distillation": {"prediction": p}}) for n, p in ((2, "v"), (3, "epsilon"))]),
        "for networks that give v and epsilon",
    ),
    "a mean by condition": (lambda: to_python(tableau_of(first="mean"), "v"), "mean for each condition.*distil with firsts"),
    "a large mean": (lambda: to_python(tableau_of(first="mean", mean=np.zeros((3, 64, 64))), "v"), "12,288 numbers, too many"),
    "upwards": (
        lambda: to_python(dode.solver("ddim").tableau(SCHEDULE, 3, reverse=True), "epsilon"),
        "runs upwards, to invert",
    ),
    "no budget": (lambda: sampler(to_python([tableau_of(2), tableau_of(3)], "v"))(network, noise_of()), r"one of \[2, 3\]"),
    "another budget": (
        lambda: sampler(to_python(tableau_of(2), "v"))(network, noise_of(), 4),
        "samples with 2 calls, got nfe=4",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused(name: str) -> None:
    made, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        made()


def test_the_command_writes_all_budgets_or_one(tmp_path: Path) -> None:
    held, out = tmp_path / "held.json", tmp_path / "sampler.py"
    dode.TableauSet.of([tableau_of(2), tableau_of(4)]).save(held)
    arguments = ["export", str(held), "--to", "python", "--prediction", "epsilon"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    assert out.read_text(encoding="utf-8") == to_python(dode.TableauSet.load(held), "epsilon")
    one = CliRunner().invoke(app, [*arguments, "--nfe", "4"])
    assert one.stdout == to_python(tableau_of(4), "epsilon")
    wrong = CliRunner().invoke(app, [*arguments, "--network", "net.onnx"])
    assert isinstance(wrong.exception, ValueError) and "--network is of --to onnx, not of python" in str(wrong.exception)
