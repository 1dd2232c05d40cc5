"""`dode export --to comfyui`: one file of nodes that samples what dode samples, in a process that has no dode."""

from __future__ import annotations

import ast
import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import dode
from dode.cli import app
from dode.integrations.export import to_comfyui
from dode.integrations.export.comfyui import rounded_by_comfyui
from dode.schedules import EDM, VP, Flow

INTERFACE = Path(__file__).parent / "comfyui_interface"


def run(*arguments: str | Path) -> Any:
    return CliRunner().invoke(app, [*map(str, arguments)])


def in_comfyui(folder: Path, nodes: Path, net: Any, given: dict[str, Tensor], kind: str) -> dict[str, Any]:
    """What exported nodes make of noise there."""
    network, noise, out = folder / "network.pt", folder / "noise.pt", folder / "images.pt"
    x = given["noise"]
    with torch.no_grad():
        torch.jit.trace(net, (x, x.new_full((len(x),), 500.0)), check_trace=False).save(str(network))
    torch.save(given, noise)
    command = [sys.executable, INTERFACE / "run.py", nodes, network, noise, out, kind]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(INTERFACE)})
    assert done.returncode == 0, done.stderr
    return torch.load(out)


@pytest.mark.filterwarnings("ignore:`torch.jit.trace` is deprecated", "ignore::torch.jit.TracerWarning")
@pytest.mark.parametrize("kind", ["eps", "flow"])
def test_exported_nodes_make_the_images_of_dode_where_there_is_no_dode(tmp_path: Path, kind: str) -> None:
    """Two numbers of steps of one file, in both mappings. Sigmas are float32 there, so that times of flows are too."""
    denoiser = dode.load("fashion").replace(integer_times=True) if kind == "eps" else dode.load("fashion-flow")
    denoiser.net.double().eval().requires_grad_(False)
    labels = torch.tensor([3, 7])
    cond = {"class_labels": labels} if kind == "eps" else {}
    held = dode.TableauSet(tuple(dode.solver("deis").tableau(denoiser.schedule, nfe) for nfe in (3, 4)))
    held.save(tmp_path / "deis.json")
    nodes = tmp_path / "fashion nodes.py"
    done = run("export", tmp_path / "deis.json", "--to", "comfyui", "--out", nodes)
    assert done.exit_code == 0, done.output
    assert "nodes for 3 and 4 NFE: put the file into ComfyUI's folder custom_nodes" in done.output.replace("\n", " ")

    given = {"noise": torch.randn(2, 1, 28, 28, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    if kind == "eps":
        alpha, sigma = (torch.tensor(each(np.arange(1000))) for each in (denoiser.schedule.alpha, denoiser.schedule.sigma))
        given["sigmas"] = sigma / alpha
    made = in_comfyui(tmp_path, nodes, lambda x, t: denoiser.net(x, t, **cond), given, kind)
    assert list(made) == ["v3", "v1"]
    for each in made.values():
        assert each["ids"] == ["DodeSampler_fashion_nodes", "DodeSigmas_fashion_nodes"]
        assert list(each["images"]) == ["3", "4"]
        for nfe, images in each["images"].items():
            expected = dode.sample(denoiser, held, given["noise"], nfe=int(nfe), **cond)
            torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)


def test_a_file_needs_torch_and_comfyui_alone_and_reads_well(tmp_path: Path) -> None:
    text = to_comfyui(dode.solver("deis").tableau(VP.linear(), 4))
    asked = {
        name.split(".")[0]
        for node in ast.walk(ast.parse(text))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert asked - set(sys.stdlib_module_names) == {"torch", "tqdm", "comfy", "comfy_api"}
    assert "    deis" not in text
    assert "\ndeis" in text.split('"""')[1]
    assert "SAMPLER_NAMES" not in text
    # Checks of undefined and unused names, where the project's linter is there.
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "-"], input=text, capture_output=True, text=True
    )
    assert done.returncode == 0 or "No module named" in done.stderr, done.stdout


def test_words_of_a_file_cannot_become_code() -> None:
    bad = '""" + __import__("os").system("false") + """\\'
    tableau = dataclasses.replace(dode.solver("ddim").tableau(EDM(), 2), solver=bad, grid=bad)
    text = to_comfyui(tableau, name='a"; import os; "b')
    module = ast.parse(text)
    assert not any(isinstance(node, ast.Name) and node.id == "__import__" for node in ast.walk(module))
    assert 'DodeSampler_a___import_os___b"' in text


def test_one_of_a_set_and_what_cannot_be_exported(tmp_path: Path) -> None:
    file = tmp_path / "set.json"
    dode.TableauSet(tuple(dode.solver("ddim").tableau(VP.linear(), nfe) for nfe in (3, 4))).save(file)
    done = run("export", file, "--to", "comfyui", "--nfe", "3")
    assert done.exit_code == 0
    assert '"nfe": 3' in done.stdout
    assert '"nfe": 4' not in done.stdout
    said = done.stderr.replace("\n", " ")
    assert "nodes for 3 NFE" in said
    assert "asks such a model at whole times alone, and t = 665.667 is none" in said
    for options, message in (
        (("--nfe", "5"), "there is no tableau of 5 evaluations: there are 3 and 4"),
        (("--final",), "--final is of --to times and sigmas, not of comfyui"),
        (("--unshift", "3"), "--unshift is of --to sigmas, not of comfyui"),
    ):
        with pytest.raises(ValueError, match=message):
            raise run("export", file, "--to", "comfyui", *options).exception
    dode.solver("ddim").tableau(VP.linear().rescaled_zero_terminal_snr(), 3).save(tmp_path / "zero.json")
    with pytest.raises(ValueError, match="pure noise"):
        raise run("export", tmp_path / "zero.json", "--to", "comfyui", "--out", tmp_path / "zero.py").exception
    assert not (tmp_path / "zero.py").exists()


def test_the_scheduler_of_a_pipeline_is_exported_whole(tmp_path: Path) -> None:
    from diffusers import DDPMScheduler

    from dode.integrations.diffusers import DodeScheduler

    tableaux = [dode.solver("ddim").tableau(VP.linear(), nfe) for nfe in (3, 4)]
    DodeScheduler.from_tableaux(tableaux, DDPMScheduler()).save_pretrained(tmp_path / "held")
    done = run("export", tmp_path / "held", "--to", "comfyui")
    assert done.exit_code == 0, done.output
    assert "nodes for 3 and 4 NFE" in done.stderr


def test_what_comfyui_would_round_is_said() -> None:
    for schedule, rounded in ((VP.linear(), True), (VP.linear().with_integer_times(), False), (EDM(), False), (Flow(), False)):
        found = rounded_by_comfyui(dode.solver("ddim").tableau(schedule, 7))
        assert (found is not None) == rounded
