"""A run that was stopped anywhere and goes on comes to what an uninterrupted one does, to the last bit; nothing half-written is seen."""

from __future__ import annotations

import csv
import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from forked import Server, serving
from gaussian import gaussian_denoiser
from mixture import mixture_denoiser
from PIL import Image
from torch import Tensor

import dode

SCHEDULE = dode.schedules.VP.linear()
NETWORKS: dict[str, Callable[[], dode.Denoiser]] = {
    "mixture": lambda: mixture_denoiser(SCHEDULE),
    "gaussian": lambda: gaussian_denoiser(SCHEDULE),
}
# Interrupts of each kind of run, and kills of each command: one for a hundred examples of other tests, as each takes seconds.
FUZZ = int(os.environ.get("DODE_FUZZ", "0")) // 100
INTERRUPTS, KILLS = FUZZ or 3, FUZZ or 2
EFFORTS = [
    ("balanced", "mixture"),
    ("thorough", "gaussian"),
    *([("balanced", "gaussian"), ("thorough", "mixture")] if FUZZ else []),
]

SMALL = {"solver": "deis", "nfe": 3, "samples": 16, "validation": 8, "held_out": 4, "budget": 4000}


def content(tableau: dode.Tableau) -> dict[str, Any]:
    """All of a tableau but what its making took: wall time, and which evaluations were made in this run."""
    made = tableau.to_json()
    made["meta"]["distillation"] = {
        key: value for key, value in made["meta"]["distillation"].items() if key not in ("seconds", "evaluations", "saved")
    }
    return made


def distilled(network: str, effort: str, cache: Path | None, cut: int = 0) -> tuple[dode.Distilled, int]:
    """A result, and how often the network was called for it; interrupted at the call `cut`."""
    denoiser, calls = NETWORKS[network](), 0
    net = denoiser.net

    def counted(x: Tensor, t: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == cut:
            raise KeyboardInterrupt
        return net(x, t)  # type: ignore[no-any-return]

    denoiser.net = counted
    return dode.distill(denoiser, effort=effort, cache=cache, **SMALL), calls


@pytest.mark.parametrize(("effort", "network"), EFFORTS)
def test_a_run_interrupted_at_any_call_goes_on_to_the_same_end(effort: str, network: str, tmp_path: Path) -> None:
    plain, _ = distilled(network, effort, None)
    whole, calls = distilled(network, effort, tmp_path / "whole")
    assert content(whole.tableau) == content(plain.tableau), "a cache changes no number"
    assert whole.saved == plain.saved == 0
    saved = []
    for i in range(INTERRUPTS):
        cache = tmp_path / str(i)
        with pytest.raises(KeyboardInterrupt):
            distilled(network, effort, cache, cut=round((i + 0.7) / INTERRUPTS * calls))
        resumed, _ = distilled(network, effort, cache)
        assert content(resumed.tableau) == content(whole.tableau)
        # What counts as saved is what the resumed run did not make.
        assert resumed.cost + resumed.saved <= whole.cost
        assert resumed.cost + resumed.saved == pytest.approx(whole.cost, rel=0.05)
        saved.append(resumed.saved)
    assert saved == sorted(saved) and saved[-1] > 0


NETWORK = """
import dode
from mixture import Mixture

def quick():
    schedule = dode.schedules.VP.linear()
    return dode.Denoiser(Mixture(schedule), schedule, shape=(4,), name="mixture")
"""
COMMANDS = {
    "balanced": "distill quick_networks:quick --solver ddim --nfe 3 --samples 16 --validation 8 --held-out 4 --budget 4000 --cache kept "
    "--grid uniform",
    "thorough": "distill quick_networks:quick --solver ddim --nfe 3 --samples 16 --validation 8 --held-out 4 --budget 4000 --cache kept "
    "--effort thorough",
    "compare": "compare quick_networks:quick --solver ddim --nfe 3,4 --samples 4 --reference-nfe 20 --effort paper",
    "study": "study quick_networks:quick --nfe 3 --samples 8 --held-out 6 --reference-nfe 20 --axes seeds --values seeds=0,1",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server of commands, and the folder in which they run."""
    with serving(tmp_path_factory, "quick_networks.py", NETWORK) as started:
        yield started


def found(out: Path) -> dict[str, Any]:
    """The finished files of an output by name, with all in them that another run has too; each must be whole."""
    if out.suffix == ".json":
        return {"tableau": content(dode.Tableau.load(out))} if out.exists() else {}
    files: dict[str, Any] = {}
    for path in out.glob("[!.]*"):
        if path.suffix == ".png":
            with Image.open(path) as picture:
                picture.load()
                files[path.name] = picture.tobytes()
        elif path.suffix == ".csv":
            with path.open(newline="") as file:
                files[path.name] = [_lasting(row) for row in csv.DictReader(file)]
        elif path.suffix == ".json":
            files[path.name] = [_lasting(row) for row in json.loads(path.read_text())]
        elif path.suffix == ".html":
            assert path.read_text().rstrip().endswith("</html>")
            files[path.name] = "whole"
        elif path.suffix == ".md":
            lines = path.read_text().splitlines()
            assert lines[0].startswith("# mixture")
            # What it took, and the command with the name of the folder.
            files[path.name] = [line for line in lines if not line.startswith(("In all ", "`dode "))]
    return files


def _lasting(row: dict[str, Any]) -> dict[str, Any]:
    """What does not tell of the time that was taken."""
    return {key: value for key, value in row.items() if "seconds" not in key}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_killed_run_leaves_whole_files_and_goes_on_to_the_same_end(command: str, place: tuple[Server, Path]) -> None:
    server, folder = place
    chance = random.Random(command)

    def arguments(name: str) -> tuple[list[str], Path]:
        out = name + (".json" if "--cache" in COMMANDS[command] else "")
        return [*COMMANDS[command].replace("--cache kept", f"--cache {name}-cache").split(), "--out", out], folder / out

    whole_arguments, whole_out = arguments(f"{command}-whole")
    began = time.perf_counter()
    code, errors = server.run(*whole_arguments)
    assert code == 0, errors
    took, whole = time.perf_counter() - began, found(whole_out)
    kills = run = 0
    while kills < KILLS:
        run += 1
        mine, out = arguments(f"{command}-{run}")
        for _ in range(50):
            moment = chance.uniform(0.0, took)
            code = server.start(*mine).kill(after=moment)
            seen = found(out)
            assert all(whole[name] == seen[name] for name in seen)
            if code == 0:
                took = moment  # it takes no longer than that
                break
            assert code == -9
            kills += 1
            if kills >= KILLS:
                break
        if code:
            code, errors = server.run(*mine)
            # A kill between the last file and the end of the process leaves a finished run, which is not made again.
            assert code == 0 or (code == 2 and set(seen) == set(whole)), errors
            assert "Traceback" not in errors
        assert found(out) == whole
        left = [
            path.name for path in (out.iterdir() if out.is_dir() else folder.glob(f".{command}-{run}.*")) if path.name[0] == "."
        ]
        assert code == 2 or not left
