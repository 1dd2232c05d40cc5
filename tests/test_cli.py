"""The real command, in a process of its own: what it writes, and what it says of bad input."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import dode
from dode.solvers import REGISTRY

FAST = ("--paper", "--samples", "4", "--held-out", "2", "--teacher-scale", "2")

NETWORKS = """
import torch
import dode

def linear():
    return dode.Denoiser(lambda x, t: x * 0.5, dode.schedules.VP.linear(), shape=(1, 8, 8), name="linear")

def curved():
    return dode.Denoiser(lambda x, t: (0.7 * x).tanh() + 0.1, dode.schedules.VP.linear(), shape=(1, 8, 8), name="curved")

def scaled():
    return dode.Denoiser(lambda x, t: x * 0.5, dode.schedules.VP.scaled_linear(), shape=(1, 8, 8), name="scaled")

def vector():
    return dode.Denoiser(lambda x, t: x * 0.5, dode.schedules.VP.linear(), shape=(5,))

def broken():
    return dode.Denoiser(lambda x, t: x * float("nan") if t[0] < 600 else x, dode.schedules.VP.linear(), shape=(1, 8, 8))

def slow():
    import time
    from pathlib import Path

    def net(x, t):
        Path("called").touch()
        time.sleep(0.05)
        return x * 0.5

    return dode.Denoiser(net, dode.schedules.VP.linear(), shape=(1, 8, 8))

def wrong():
    return 3
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "networks.py").write_text(NETWORKS)
    return tmp_path


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dode", *arguments]
    environment = os.environ | {"COLUMNS": "120", "NO_COLOR": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, env=environment)


def succeed(folder: Path, *arguments: str) -> str:
    done = run(folder, *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def fail(folder: Path, message: str, *arguments: str) -> None:
    """One line on standard error with the message, exit code 2, no new file."""
    before = sorted(folder.rglob("*"))
    done = run(folder, *arguments)
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert "Traceback" not in done.stdout + done.stderr
    assert [p for p in sorted(folder.rglob("*")) if "__pycache__" not in p.parts] == [
        p for p in before if "__pycache__" not in p.parts
    ]


def test_main_job_on_the_bundled_network(folder: Path) -> None:
    shown = succeed(folder, "distill", "fashion", "--solver", "deis", "--nfe", "4", "--out", "deis-4.json", *FAST)
    assert "held-out" in shown
    assert dode.Tableau.load(folder / "deis-4.json").nfe == 4
    succeed(folder, "sample", "fashion", "--tableau", "deis-4.json", "-n", "10", "--seed", "0", "--out", "grid.png")
    assert Image.open(folder / "grid.png").size == (4 * 58 - 2, 3 * 58 - 2)
    assert "lambda" in succeed(folder, "show", "deis-4.json")


def test_same_seed_writes_the_same_file(folder: Path) -> None:
    for name in ("a.npy", "b.npy"):
        succeed(folder, "sample", "networks:linear", "--solver", "ddim", "--nfe", "3", "-n", "5", "--out", name)
    first, second = (np.load(folder / name) for name in ("a.npy", "b.npy"))
    assert first.shape == (5, 1, 8, 8)
    assert (first == second).all()


def test_solver_options_grids_and_times(folder: Path) -> None:
    base = ("distill", "networks:linear", *FAST, "--nfe", "4")
    succeed(folder, *base, "--solver", "deis", "-o", "order=1", "-o", "variable=rho", "--grid", "quadratic", "--out", "a.json")
    tableau = dode.Tableau.load(folder / "a.json")
    assert tableau.solver == "deis(order=1, variable='rho')"
    assert tableau.grid == "quadratic"
    succeed(folder, *base, "--solver", "ddim", "--grid", "999,500,250,100,-1", "--out", "b.json")
    assert dode.Tableau.load(folder / "b.json").times.tolist() == [999, 500, 250, 100, -1]


@pytest.mark.parametrize("effort", ["fast", "balanced", "thorough"])
def test_efforts_and_what_the_summary_says_of_them(folder: Path, effort: str) -> None:
    """A network whose ODE is curved, so that there is something to fit."""
    base = ("distill", "networks:curved", "--nfe", "3", "--effort", effort, "--samples", "12", "--validation", "8")
    shown = " ".join(succeed(folder, *base, "--solver", "ddim", "--held-out", "8", "--out", "a.json").split())
    for text in ("given out:", "12 fitting and 8 validation samples", f"effort {effort}", "off the reference", "evaluations:"):
        assert text in shown
    assert ("end-to-end fit:" in shown) == (effort != "fast")
    assert "tried, by error" in shown
    assert " ".join(shown.split()[:-2]) in " ".join(succeed(folder, "show", "a.json").split())  # but for "wrote a.json"
    succeed(folder, "sample", "networks:curved", "--tableau", "a.json", "-n", "4", "--out", "a.npy")


def test_auto_names_the_solver_that_it_took(folder: Path) -> None:
    base = ("distill", "networks:curved", "--nfe", "3", "--effort", "fast", "--samples", "12", "--validation", "8")
    shown = succeed(folder, *base, "--solver", "auto", "--held-out", "8", "--out", "auto.json")
    assert "tried, by error" in shown
    assert dode.Tableau.load(folder / "auto.json").solver.split("(")[0] in REGISTRY
    fail(folder, "chooses solver and grid itself", *base, "--solver", "auto", "--grid", "karras", "--out", "b.json")
    fail(folder, "tries all solvers as they are", *base, "--solver", "auto", "-o", "order=2", "--out", "b.json")


def test_a_budget_too_small_is_said(folder: Path) -> None:
    base = ("distill", "networks:curved", "--solver", "ddim", "--nfe", "3", "--samples", "12", "--validation", "8")
    shown = " ".join(succeed(folder, *base, "--budget", "100", "--out", "a.json").split())
    assert "the end-to-end fit made no step (the budget is spent)" in shown


def test_compare_makes_a_report_and_goes_on_in_it(folder: Path) -> None:
    small = ("--samples", "4", "--reference-nfe", "20", "--out", "report")
    out = folder / "report"
    shown = succeed(folder, "compare", "networks:curved", "--solver", "ddim", "--nfe", "2", "--effort", "paper", *small)
    assert "wrote report/index.html" in shown
    assert {p.name for p in out.iterdir()} == {"cache", "index.html", "plots", "results.csv", "results.json", "tableaux"}
    assert [p.name for p in (out / "tableaux").iterdir()] == ["ddim-paper-2.json"]
    # A saved tableau and a solver more; what is there is no hindrance.
    (out / "tableaux" / "ddim-paper-2.json").rename(folder / "mine.json")
    more = ("--solver", "ddim,pndm", "--nfe", "2", "--effort", "paper", "--tableau", "mine.json", *small)
    shown = succeed(folder, "compare", "networks:curved", *more)
    assert "pndm" in shown and "mine.json" in shown
    rows = json.loads((out / "results.json").read_text())
    assert [(row["solver"], row["method"], bool(row["skipped"])) for row in rows] == [
        ("ddim", "base", False), ("ddim", "paper", False), ("pndm", "base", True), ("pndm", "paper", True),
        ("ddim", "mine.json", False),
    ]  # fmt: skip
    assert rows[1]["error"] == rows[4]["error"]
    (out / "index.html").unlink()
    assert "wrote report/index.html" in succeed(folder, "report", "report")
    assert (out / "index.html").is_file()
    # Bad input is one line, before any work.
    fail(folder, "made for the schedule", "compare", "networks:scaled", "--tableau", "mine.json", "--out", "other")
    fail(folder, "holds a report on curved", "compare", "networks:linear", "--solver", "ddim", "--nfe", "2", *small)
    fail(folder, "holds no finished report", "report", ".")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "results.csv").touch()
    foreign = ("--solver", "ddim", "--nfe", "2", "--out", "foreign")
    fail(folder, "which no report of dode made", "compare", "networks:linear", *foreign)


def test_models_and_solvers_are_listed(folder: Path) -> None:
    assert "fashion" in succeed(folder, "models")
    assert "dpm-solver++" in succeed(folder, "models", "--solvers")
    assert succeed(folder, "--version").strip() == dode.__version__


@pytest.mark.parametrize("command", ["distill", "sample", "show", "models", "compare", "study", "report"])
def test_help_of_every_command(folder: Path, command: str) -> None:
    assert "Usage" in succeed(folder, command, "--help")


def test_bad_input_is_one_line_and_exit_code_2(folder: Path) -> None:
    base = ("distill", "networks:linear", *FAST, "--out", "x.json")
    fail(folder, "did you mean 'deis'", *base, "--solver", "dies", "--nfe", "4")
    fail(folder, "nfe must be at least 1, got 0", *base, "--solver", "deis", "--nfe", "0")
    fail(folder, "unknown option of deis 'ordr': did you mean 'order'", *base, "--solver", "deis", "--nfe", "4", "-o", "ordr=2")
    fail(folder, "order of deis must be one of", *base, "--solver", "deis", "--nfe", "4", "-o", "order=9")
    fail(folder, "did you mean 'karras'", *base, "--solver", "deis", "--nfe", "4", "--grid", "karas")
    fail(folder, "decrease strictly", *base, "--solver", "deis", "--nfe", "4", "--grid", "999,500,500,100,-1")
    fail(folder, "Invalid value for '--nfe'", *base, "--solver", "deis", "--nfe", "four")
    fail(folder, "--nfe", *base, "--solver", "deis")
    fail(folder, "--classes: linear is not class-conditional", *base, "--solver", "deis", "--nfe", "4", "--classes", "3")
    fail(folder, "the folder nowhere does not exist", *base[:-1], "nowhere/x.json", "--solver", "deis", "--nfe", "4")
    fail(folder, "did you mean 'fashion'", "distill", "fashon", "--solver", "deis", "--nfe", "4", "--out", "x.json")
    fail(folder, "does not exist", "distill", "./no-folder", "--solver", "deis", "--nfe", "4", "--out", "x.json")
    fail(
        folder, "must return a dode.Denoiser", "distill", "networks:wrong", "--solver", "deis", "--nfe", "4", "--out", "x.json"
    )
    fail(folder, "did you mean 'thorough'", *base, "--solver", "deis", "--nfe", "4", "--effort", "thoroug")
    fail(folder, "No such command", "destill")


def test_bad_files_are_one_line_and_exit_code_2(folder: Path) -> None:
    sample = ("sample", "networks:linear", "--out", "x.npy", "--tableau")
    fail(folder, "none.json", *sample, "none.json")
    fail(folder, "none.json", "show", "none.json")
    (folder / "bad.json").write_text("{")
    fail(folder, "bad.json: it is not JSON", *sample, "bad.json")
    fail(folder, "bad.json: it is not JSON", "show", "bad.json")
    (folder / "other.json").write_text(json.dumps({"a": 1}))
    fail(folder, "is not a tableau", *sample, "other.json")
    succeed(folder, "distill", "networks:scaled", *FAST, "--solver", "ddim", "--nfe", "2", "--out", "scaled.json")
    fail(folder, "was made for the schedule", *sample, "scaled.json")
    succeed(folder, *sample, "scaled.json", "--no-strict", "-n", "2")
    fail(folder, "x.npy exists", *sample, "scaled.json", "--no-strict")
    fail(folder, ".png", "sample", "networks:linear", "--out", "x.jpeg", "--tableau", "scaled.json")
    fail(folder, "either --tableau FILE or --solver", "sample", "networks:linear", "--out", "y.npy")
    fail(folder, "pictures have shape", "sample", "networks:vector", "--out", "v.png", "--solver", "ddim", "--nfe", "2")


def test_nan_from_the_network_names_the_step(folder: Path) -> None:
    sample = ("sample", "networks:broken", "--solver", "ddim", "--nfe", "5", "--out", "x.npy")
    fail(folder, "the network gave NaN values at step 3 of 5 (t = 599)", *sample)
    fail(folder, "is not finite", "distill", "networks:broken", *FAST, "--solver", "ddim", "--nfe", "5", "--out", "x.json")


def test_interrupt_leaves_no_file(folder: Path) -> None:
    command = [sys.executable, "-m", "dode", "distill", "networks:slow", "--solver", "ddim", "--nfe", "20", "--out", "x.json"]
    # A shell that runs the tests in the background makes its children ignore the signal.
    heed = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed)
    while not (folder / "called").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not list(folder.glob("*.json"))
    assert not list(folder.glob(".*"))


def test_files_of_others_are_refused_or_shown_as_text(folder: Path) -> None:
    base = ("sample", "networks:linear", "--tableau", "bad.json", "--out", "x.npy")
    (folder / "bad.json").write_text("[" * 100_000)
    fail(folder, "bad.json: it has lists within lists", *base)
    fail(folder, "bad.json: it has lists within lists", "show", "bad.json")
    fail(folder, "sys:exit failed: SystemExit", "sample", "sys:exit", "--solver", "ddim", "--nfe", "2", "--out", "x.npy")
    tableau = dode.solver("ddim").tableau(dode.schedules.VP.linear(), 2)
    dataclasses.replace(tableau, solver="[/x]\x1b[31mred" + "x" * 1000, noise_scale=7.0).save(
        folder / "bad.json", overwrite=True
    )
    fail(folder, "scales the noise by 7, and its schedule by 1", *base)
    shown = succeed(folder, "show", "bad.json", "--numbers")
    assert "[/x][31mredxxx" in shown
    assert "\x1b" not in shown
    (folder / "bad.json").write_text((folder / "bad.json").read_text().replace("7.0", "1.0"))
    assert "changed after it was made" in succeed(folder, "show", "bad.json")
