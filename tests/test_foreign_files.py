"""Files that others wrote: whatever is wrong in them is one line with the path, and costs neither memory nor time.

A mutator changes bytes, keys, types and sizes of a real tableau, of the configurations of a small network and of its weights. DODE_FUZZ
is how many mutants of each kind are tried; few by default, and then without diffusers, whose import takes longer than all of them.
"""

from __future__ import annotations

import json
import os
import random
import struct
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import dode
from dode.distillation.summary import render, summary
from dode.models import UNet
from dode.tableau import Tableau

ASKED = os.environ.get("DODE_FUZZ")
COUNT = int(ASKED or 120)
TABLEAU = Path(__file__).parent.parent / "docs" / "benchmarks" / "tableaux" / "fashion" / "deis-thorough-4.json"
CONFIG = {
    "_class_name": "UNet2DModel",
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
    "attention_head_dim": 8,
    "norm_num_groups": 4,
    "num_class_embeds": 6,
    "time_embedding_type": "positional",
    "norm_eps": 1e-5,
    "flip_sin_to_cos": True,
}
SCHEDULERS = (
    {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": 1000,
        "beta_start": 1e-4,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "prediction_type": "epsilon",
        "trained_betas": None,
        "variance_type": "fixed_small",
    },
    {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "use_dynamic_shifting": True, "max_shift": 1.15},
    {"_class_name": "EDMEulerScheduler", "sigma_min": 0.002, "sigma_max": 80.0, "sigma_data": 0.5},
)
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2, 1.5, -0.0, 1e308, -1e308, 1e-308, 10**9, 2**63, 10**19, 10**400),
    *("", "1", "x" * 300_000, "[/x]", "[bold]", "\x1b[31mred\x1b[0m", "\ud800", "a\nb\r\tc", "\u202e", "../../etc/passwd"),
    *([], {}, [[]], [1, 2], ["a"], [None], [[1.0]] * 3, {"a": 1}, list(range(3000)), [0.5] * 3000),
)


def changed(value: Any, rng: random.Random) -> Any:
    """The JSON value with something somewhere in it another."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        key = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        copy: Any = dict(value) if isinstance(value, dict) else list(value)
        match rng.random():
            case r if r < 0.7:
                copy[key] = changed(value[key], rng)
            case r if r < 0.8:
                del copy[key]
            case r if r < 0.9 and isinstance(copy, dict):
                copy[rng.choice(["another", f"{key} ", "_x", "\x1b[2J", key[:-1]])] = copy.pop(key)
            case _ if isinstance(copy, list):
                copy = copy * rng.choice([2, 50]) if rng.random() < 0.5 else copy[: rng.randrange(len(copy))]
        return copy
    if isinstance(value, int | float) and not isinstance(value, bool) and rng.random() < 0.5:
        return rng.choice([value * 2, -value, value * 1e6, value + 1, float(value), str(value), value * 1e-9])
    return rng.choice(NASTY)


def changed_text(text: str, rng: random.Random) -> bytes:
    """JSON text with some of its characters others, or what no value can say."""
    data = bytearray(text.encode())
    place = rng.randrange(len(data))
    match rng.randrange(7):
        case 0:
            data[place] = rng.randrange(256)
        case 1:
            del data[place:]
        case 2:
            del data[place : place + rng.randrange(1, 200)]
        case 3:
            data[place:place] = data[place : place + rng.randrange(1, 200)]
        case 4:
            data[place:place] = rng.choice([b"[" * 100_000, b"NaN", b"1e999", b"9" * 5000, b"\xff\xfe", b"\0", b"\x1b[2J"])
        case 5:  # the last value of a key that is there twice would win
            data = bytearray(text.encode().rstrip()[:-1] + b', "' + rng.choice([*json.loads(text)]).encode() + b'": 1}')
        case _:
            start = data.find(b":", place)
            data[start + 1 : start + 2] = rng.choice([b" NaN", b" Infinity", b" -", b" " + b"1" * 401, b" {}", b" "])
    return bytes(data)


def mutant(content: Any, rng: random.Random) -> bytes:
    if rng.random() < 0.3:
        return changed_text(json.dumps(content), rng)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        content = changed(content, rng)
    return json.dumps(content).encode()


def mutant_weights(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with another header, another length of it, or other bytes."""
    (length,) = struct.unpack("<Q", data[:8])
    header, body = data[8 : 8 + length], data[8 + length :]
    if rng.random() < 0.7:
        header = mutant(json.loads(header), rng)
        return struct.pack("<Q", len(header)) + header + body
    if rng.random() < 0.5:
        return struct.pack("<Q", rng.choice([0, 1, length - 1, length + 1, 2**24 + 1, 2**40, 2**63])) + header + body
    place = rng.randrange(len(data))
    return data[:place] + rng.choice([b"", bytes(100), data[place + 1 :]])


def judged(action: Callable[[], Any], named: str) -> bool:
    """Whether an action works; else it must say in one line, with the file's path, why not. So must warnings."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        try:
            action()
            works, lines = True, []
        except (ValueError, TypeError, OSError, ImportError) as error:
            works, lines = False, [str(error)]
            assert named in str(error)
    for line in [*lines, *(str(warning.message) for warning in said if warning.category is UserWarning)]:
        assert line.isprintable()
        assert len(line) < 1500
    return works


def shown(path: Path) -> None:
    """Load a tableau and print what `dode show --numbers` prints."""
    tableau = Tableau.load(path)
    text = f"{render(summary(tableau))}\n{tableau}\n{tableau!r}"
    assert all(line.isprintable() for line in text.split("\n"))
    assert len(text) < 100_000


def sampled(path: Path) -> None:
    """Run a tableau that loads; what it says of itself is refused or true."""
    denoiser = dode.Denoiser(lambda x, t: 0.5 * x, dode.schedules.VP.linear())
    noise = torch.ones(1, 3)
    for strict in (True, False):
        try:
            found = dode.sample(denoiser, Tableau.load(path), noise, strict=strict)
            assert bool(torch.isfinite(found).all())
        except (ValueError, FloatingPointError) as error:
            assert str(error).isprintable()


def test_changed_tableaux_work_or_say_in_one_line_why_not(tmp_path: Path) -> None:
    path = tmp_path / "tableau.json"
    sources = [json.loads(TABLEAU.read_text())]
    for name in ("unipc", "edm"):
        dode.solver(name).tableau(dode.schedules.VP.linear(), 3).save(path, overwrite=True)
        sources.append(json.loads(path.read_text()))
    works = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        path.write_bytes(mutant(rng.choice(sources), rng))
        if judged(lambda: shown(path), str(path)):
            works += 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                sampled(path)
    assert 0 < works < COUNT


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of diffusers with a small network."""
    if not ASKED:
        monkeypatch.setitem(sys.modules, "diffusers", None)
    place = tmp_path / "network"
    (place / "unet").mkdir(parents=True)
    (place / "scheduler").mkdir()
    torch.manual_seed(0)
    save_file(UNet.from_config(CONFIG).half().state_dict(), place / WEIGHTS)
    return place


def test_changed_folders_work_or_say_in_one_line_why_not(folder: Path) -> None:
    weights = (folder / WEIGHTS).read_bytes()
    index = {"metadata": {}, "weight_map": dict.fromkeys(UNet.from_config(CONFIG).state_dict(), "part.safetensors")}
    places = ["unet/config.json", "scheduler/scheduler_config.json", "dode.json", WEIGHTS, f"{WEIGHTS}.index.json"]
    works = 0
    for seed in range(COUNT):
        rng = random.Random(seed)
        content: dict[str, Any] = {
            places[0]: CONFIG,
            places[1]: rng.choice(SCHEDULERS),
            places[2]: {"space_to_depth": 2, "null_class": 5, "classes": list("abcde")},
        }
        for place, good in content.items():
            (folder / place).write_text(json.dumps(good))
        (folder / WEIGHTS).write_bytes(weights)
        (folder / places[4]).unlink(missing_ok=True)
        place = rng.choice(places if ASKED else places[:4])
        if place == places[4]:
            (folder / WEIGHTS).rename(folder / "unet" / "part.safetensors")
        damaged = mutant_weights(weights, rng) if place == WEIGHTS else mutant(content.get(place, index), rng)
        (folder / place).write_bytes(damaged)
        works += judged(lambda: used(folder), str(folder))
    assert 0 < works < COUNT


def used(folder: Path) -> None:
    """Load a folder; a schedule that was read has a solver's numbers, or says why not."""
    denoiser = dode.load(folder)
    try:
        dode.solver("ddim").tableau(denoiser.schedule, 3)
    except ValueError as error:
        assert str(error).isprintable()
