"""Files that others wrote: whatever is wrong in them is one line with the path, and costs neither memory nor time.

A mutator changes bytes, keys, types and sizes of a real tableau, of the configurations of a small network and of its weights. DODE_FUZZ
is how many mutants of each kind are tried; few by default, and then without diffusers, whose import takes longer than all of them.
"""

from __future__ import annotations

import json
import os
import random
import struct
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import small_unet
import torch
from safetensors.torch import save_file

import dode
from dode.distillation.summary import render, summary
from dode.held import SET_FORMAT, SET_VERSION, read_held
from dode.models import UNet
from dode.sharing.card import card
from dode.sharing.network import about_network
from dode.sharing.pictures import Pictures
from dode.sharing.summary import summary as held_summary
from dode.tableau import Tableau

ASKED = os.environ.get("DODE_FUZZ")
COUNT = int(ASKED or 80)
TABLEAU = Path(__file__).parent.parent / "docs" / "benchmarks" / "tableaux" / "fashion" / "deis-thorough-4.json"
CONFIG = small_unet.CONFIG | {"time_embedding_type": "positional", "norm_eps": 1e-5, "flip_sin_to_cos": True}
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
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 10**300 and rng.random() < 0.5:
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


def failure(action: Callable[[], Any], *more: type[Exception]) -> str:
    """What an action says where it fails in a way that is allowed; "" where it works. Errors and warnings are one line."""
    line = ""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", UserWarning)
        try:
            action()
        except (ValueError, TypeError, OSError, ImportError, *more) as error:
            line = str(error)
    for text in [line, *(str(warning.message) for warning in said if warning.category is UserWarning)]:
        assert text.isprintable()
        assert len(text) < 1500
    return line


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
        failure(lambda strict=strict: dode.sample(denoiser, Tableau.load(path), noise, strict=strict), FloatingPointError)


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
        line = failure(lambda: shown(path))
        assert not line or str(path) in line
        if not line:
            works += 1
            sampled(path)
    assert 0 < works < COUNT


def test_changed_sets_are_shown_and_have_a_card_or_say_in_one_line_why_not(tmp_path: Path) -> None:
    """What a set says of its making and its setting is foreign text in the terminal, and in Markdown."""
    path = tmp_path / "set.json"
    setting = {"model": "fashion", "weights_hash": "ab", "prediction": "epsilon", "shape": [1, 28, 28], "guidance_scale": 1.0}
    tableau = Tableau.load(TABLEAU).with_meta(fitted_for=setting)
    good = {"format": SET_FORMAT, "version": SET_VERSION, "tableaux": [tableau.to_json()]}
    works = 0

    def looked_at() -> None:
        held = read_held(path)
        whole = dode.TableauSet.load(path).tableaux
        for text in (render(held_summary(held)), card(about_network(whole, "set", {}), whole, Pictures(missing="none"))):
            assert all(line.isprintable() for line in text.split("\n"))
            assert len(text) < 100_000

    for seed in range(COUNT // 2):
        rng = random.Random(seed)
        if rng.random() < 0.5:
            path.write_bytes(mutant(good, rng))
        else:
            meta = changed(tableau.meta, rng)
            path.write_text(json.dumps({**good, "tableaux": [{**tableau.to_json(), "meta": meta}]}))
        line = failure(looked_at)
        assert not line or str(path) in line
        works += not line
    assert 0 < works < COUNT // 2


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
        line = failure(lambda: dode.load(folder))
        assert not line or str(folder) in line
        if not line:
            works += 1
            failure(lambda: dode.solver("ddim").tableau(dode.load(folder).schedule, 3))
    assert 0 < works < COUNT


# Each of these took gigabytes, tens of seconds, or ended in a traceback.
LARGE_TABLEAUX: dict[str, Callable[[dict[str, Any]], str]] = {
    "nested": lambda data: "[" * 100_000,
    "rows": lambda data: json.dumps(data | {"a": [[1.0]] * 100_000, "b": [[1.0]] * 100_000}),
    "a long name": lambda data: json.dumps(data | {"solver": "x" * 10**7}),
    "a wide name": lambda data: json.dumps(data | {"solver": "x" * 10**7 + "\U0001f600"}, ensure_ascii=False),
    "lists": lambda data: '{"format": "dode.tableau", "version": 1, "meta": [' + "[]," * 10**7 + "1]}",
    "keys": lambda data: json.dumps(data | {f"k{i}": i for i in range(250_000)}),
    "numbers": lambda data: json.dumps(data | {"times": "many"}).replace('"many"', f"[{'1.5,' * 4_000_000}1]"),
}
LARGE_NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "layers": ("unet/config.json", {"layers_per_block": 10**6}),
    "channels": ("unet/config.json", {"block_out_channels": [4096, 2**20]}),
    "more channels": ("unet/config.json", {"block_out_channels": [10**7, 10**7]}),
    "classes": ("unet/config.json", {"num_class_embeds": 10**6}),
    "size": ("unet/config.json", {"sample_size": 10**5}),
    "steps": ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}),
}
MEASURE = """
import ctypes, json, resource, sys, time
from pathlib import Path
import dode
from dode.distillation.summary import render, summary

def memory(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1024

def tried(action):
    open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
    before, start = memory("VmRSS"), time.process_time()
    try:
        action()
        said = ""
    except (ValueError, TypeError, OSError) as error:
        said = str(error)
    return said, memory("VmHWM") - before, time.process_time() - start

kind, found = json.loads(sys.argv[1]), {}
dode.load(kind["good"])
for name, path in kind["tableaux"].items():
    found[name] = tried(lambda: render(summary(dode.Tableau.load(path))))
for name, (path, content) in kind["networks"].items():
    good = Path(path).read_text()
    Path(path).write_text(content)
    found[name] = tried(lambda: dode.load(kind["good"]))
    Path(path).write_text(good)
print(json.dumps(found))
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak of memory is read from Linux")
def test_refusals_cost_neither_memory_nor_time(folder: Path) -> None:
    data = json.loads(TABLEAU.read_text())
    good = {"unet/config.json": CONFIG, "scheduler/scheduler_config.json": SCHEDULERS[0]}
    for place, content in good.items():
        (folder / place).write_text(json.dumps(content))
    tableaux = {name: str(folder / f"{i}.json") for i, name in enumerate(LARGE_TABLEAUX)}
    for name, path in tableaux.items():
        Path(path).write_text(LARGE_TABLEAUX[name](data), encoding="utf-8")
    networks = {
        name: (str(folder / place), json.dumps(good[place] | change)) for name, (place, change) in LARGE_NETWORKS.items()
    }
    asked = json.dumps({"good": str(folder), "tableaux": tableaux, "networks": networks})
    done = subprocess.run([sys.executable, "-c", MEASURE, asked], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.keys() == LARGE_TABLEAUX.keys() | LARGE_NETWORKS.keys()
    for name, (said, megabytes, seconds) in found.items():
        assert str(folder) in said, name
        assert said.isprintable(), name
        assert megabytes < 300, name
        assert seconds < 5, name
