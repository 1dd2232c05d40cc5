"""Networks of EDM, pickled and in hand: what is loaded is the network, asked as EDM asks it; a pickle is read where that is allowed.

The pickles are written here, in the layout of NVlabs/edm: every object is a call of `torch_utils.persistence._reconstruct_persistent_obj`
with the text of its module, the name of its class and its state.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dode
from dode.models import OneHotLabels

TEXT = """
import torch
import dnnlib
from torch_utils import misc
from torch_utils import persistence


@persistence.persistent_class
class Block(torch.nn.Module):
    def __init__(self, channels, label_dim, label_dropout):
        super().__init__()
        self.label_dropout = label_dropout
        self.mix = torch.nn.Conv2d(channels, channels, 3, padding=1)
        self.by_label = torch.nn.Linear(label_dim, channels, bias=False) if label_dim else None

    def forward(self, x, noise, labels):
        y = x + misc.const_like(x, [0.1]) * noise.cos().to(x.dtype).reshape(-1, 1, 1, 1)
        if self.by_label is not None:
            y = y + (labels @ self.by_label.weight.to(x.dtype).T)[:, :, None, None]
        weight, bias = (each.to(x.dtype) for each in (self.mix.weight, self.mix.bias))
        return torch.nn.functional.conv2d(y, weight, bias, padding=1).tanh()


@persistence.persistent_class
class Network(torch.nn.Module):
    def __init__(self, img_resolution=8, img_channels=2, label_dim=0, label_dropout=0, use_fp16=False, **limits):
        super().__init__()
        self.img_resolution, self.img_channels, self.label_dim = img_resolution, img_channels, label_dim
        self.use_fp16 = use_fp16
        self.sigma_min, self.sigma_max = limits.get("sigma_min", 0), limits.get("sigma_max", float("inf"))
        self.kept = dnnlib.EasyDict(data=0.5)
        self.model = Block(img_channels, label_dim, label_dropout)

    def forward(self, x, sigma, class_labels=None):
        x, sigma = x.float(), sigma.float().reshape(-1, 1, 1, 1)
        if self.label_dim:
            zeros = torch.zeros(1, self.label_dim, device=x.device)
            class_labels = zeros if class_labels is None else class_labels.float().reshape(-1, self.label_dim)
        power = sigma**2 + self.kept.data**2
        given = (x / power.sqrt()).to(torch.bfloat16 if self.use_fp16 else torch.float32)
        F = self.model(given, sigma.flatten().log() / 4, None if class_labels is None else class_labels.to(given.dtype))
        return self.kept.data**2 / power * x + sigma * self.kept.data / power.sqrt() * F.float()

    def round_sigma(self, sigma):
        return torch.as_tensor(sigma)


@persistence.persistent_class
class Loss:
    def __init__(self):
        self.P_mean = -1.2
"""
# That of a loss whose module stays where it was written.
NEEDS_MORE = "import a_module_of_the_training\n" + TEXT
NAMES = ("torch_utils", "torch_utils.persistence", "torch_utils.misc", "dnnlib", "dnnlib.util")


class EasyDict(dict):
    __getattr__ = dict.__getitem__


@contextmanager
def repository() -> Iterator[Callable[..., Any]]:
    """Modules of the names that the text imports, as where it was written; gives what the pickles call."""
    modules = {name: ModuleType(name) for name in NAMES}

    def _reconstruct_persistent_obj(meta: Any) -> None:
        raise AssertionError("nothing is read here")

    _reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
    _reconstruct_persistent_obj.__qualname__ = "_reconstruct_persistent_obj"
    EasyDict.__module__ = "dnnlib.util"
    modules["torch_utils.persistence"].__dict__.update(
        persistent_class=lambda made: made, _reconstruct_persistent_obj=_reconstruct_persistent_obj
    )
    modules["torch_utils.misc"].__dict__["const_like"] = lambda like, value: torch.tensor(value, dtype=like.dtype)
    modules["torch_utils"].__dict__.update({name: modules[f"torch_utils.{name}"] for name in ("persistence", "misc")})
    for name in ("dnnlib", "dnnlib.util"):
        modules[name].__dict__["EasyDict"] = EasyDict
    sys.modules.update(modules)
    try:
        yield _reconstruct_persistent_obj
    finally:
        for name in NAMES:
            del sys.modules[name]


def made(name: str = "Network", **options: Any) -> Any:
    """An object of a class of the text, with random weights of seed 0."""
    module = ModuleType("written")
    with repository(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        exec(TEXT, vars(module))
        found = getattr(module, name)(**options)
    return found.eval().requires_grad_(False) if isinstance(found, nn.Module) else found


def write(path: Path, content: Any, texts: dict[str, str] | None = None, **meta: Any) -> Path:
    """A pickle as EDM writes it; `texts`: those of some classes, in place of TEXT."""
    with repository() as reconstruct, path.open("wb") as file:

        class Writer(pickle.Pickler):
            def reducer_override(self, thing: Any) -> Any:
                if type(thing).__module__ != "written":
                    return NotImplemented
                name = type(thing).__name__
                text = (texts or {}).get(name, TEXT)
                said = {"type": "class", "version": 6, "module_src": text, "class_name": name, "state": vars(thing)}
                return reconstruct, (said | meta,)

        Writer(file).dump(content)
    return path


@pytest.fixture
def net() -> Any:
    return made(label_dim=3, label_dropout=0.1)


@pytest.fixture
def file(tmp_path: Path, net: Any) -> Path:
    return write(tmp_path / "network.pkl", {"ema": net, "loss_fn": made("Loss"), "dataset_kwargs": {"path": "x"}})


def load(path: Path, **options: Any) -> dode.Denoiser:
    return dode.load(f"edm:{path}", allow_pickle=True, **options)


def states(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def heun(net: Any, noise: Tensor, steps: int, rows: Tensor | None, low: float = 0.002, high: float = 80.0) -> Tensor:
    """Karras et al. 2022, algorithm 1, without churn, in float64."""
    i = torch.arange(steps, dtype=torch.float64)
    t = (high ** (1 / 7) + i / (steps - 1) * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    t = torch.cat([t, torch.zeros(1, dtype=torch.float64)])
    x = noise.double() * t[0]
    for now, then in pairwise(t):
        slope = (x - net(x, now, rows).double()) / now
        end = x + (then - now) * slope
        if then > 0:
            slope = (slope + (end - net(end, then, rows).double()) / then) / 2
            end = x + (then - now) * slope
        x = end
    return x


FRESH = """
import sys, numpy as np, torch, dode

def named():
    return [name for name in sys.modules if name.split(".")[0] in ("torch_utils", "dnnlib")]

denoiser = dode.load("edm:network.pkl", allow_pickle=True)
assert not named(), named()
for name in ("torch_utils", "dnnlib"):
    try:
        __import__(name)
    except ImportError:
        continue
    raise AssertionError(f"{name} can be imported")
noise = torch.from_numpy(np.load("noise.npy"))
tableau = dode.solver("edm").tableau(denoiser.schedule, nfe=11)
np.save("samples.npy", dode.sample(denoiser, tableau, noise, class_labels=[0, 2, 1]).numpy())
"""


def test_a_fresh_process_without_the_repository_samples_as_the_network_by_hand(file: Path, net: Any) -> None:
    noise = states(3, 2, 8, 8)
    np.save(file.parent / "noise.npy", noise.numpy())
    done = subprocess.run([sys.executable, "-c", FRESH], cwd=file.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = heun(net, noise, 6, torch.eye(3)[[0, 2, 1]])
    # float32 states against float64 ones, from a largest sigma of 80.
    np.testing.assert_allclose(np.load(file.parent / "samples.npy"), expected.numpy(), atol=2e-5)


def test_what_is_loaded(file: Path) -> None:
    denoiser = load(file)
    assert (denoiser.name, denoiser.prediction, denoiser.shape) == ("network.pkl", "edm", (2, 8, 8))
    assert (denoiser.schedule.t_min, denoiser.schedule.t_max) == (0.002, 80.0)
    assert denoiser.dtype == torch.float32 and not denoiser.net.net.training
    assert not any(parameter.requires_grad for parameter in denoiser.net.parameters())


@pytest.mark.parametrize(
    ("limits", "range_"),
    [
        ({}, (0.002, 80.0)),
        ({"sigma_min": 0.02, "sigma_max": 100.0}, (0.02, 80.0)),
        ({"sigma_min": 1e-4, "sigma_max": 50.0}, (0.002, 50.0)),
    ],
)
def test_noise_levels_are_those_at_which_edm_samples(limits: dict[str, float], range_: tuple[float, float]) -> None:
    schedule = dode.load(made(**limits)).schedule
    assert (schedule.t_min, schedule.t_max) == range_


def test_class_labels_are_integers(file: Path, net: Any) -> None:
    denoiser = load(file)
    x, sigma = states(2, 2, 8, 8), torch.tensor([2.0])
    for given in (2, [2, 2], torch.tensor([2, 2]), np.array([2]), range(2, 3)):
        assert torch.equal(denoiser(x, 2.0, class_labels=given), net(x, sigma, torch.eye(3)[[2, 2]]))
    without = net(x, sigma, torch.zeros(2, 3))
    assert torch.equal(denoiser(x, 2.0), without) and torch.equal(denoiser(x, 2.0, class_labels=3), without)
    for wrong in (4, -1, [0.5, 0.5]):
        with pytest.raises(ValueError, match="class"):
            denoiser(x, 2.0, class_labels=wrong)


def test_guidance_where_labels_were_dropped_in_training(file: Path, net: Any) -> None:
    x, sigma = states(2, 2, 8, 8), torch.tensor([2.0])
    given, null = (net(x, sigma, rows) for rows in (torch.eye(3)[[0, 1]], torch.zeros(2, 3)))
    found = load(file, guidance_scale=3.0)(x, 2.0, class_labels=[0, 1])
    torch.testing.assert_close(found, null + 3 * (given - null))


def test_a_network_that_always_saw_labels_has_no_null_class() -> None:
    denoiser = dode.load(made(label_dim=3))
    with pytest.raises(ValueError, match="give class_labels, 0 to 2"):
        denoiser(states(1, 2, 8, 8), 2.0)
    with pytest.raises(ValueError, match="needs null_condition"):
        dode.load(made(label_dim=3), guidance_scale=2.0)


def test_unconditional_networks_take_no_labels(tmp_path: Path) -> None:
    plain = made()
    x = states(2, 2, 8, 8)
    assert torch.equal(load(write(tmp_path / "n.pkl", {"ema": plain}))(x, 3.0), plain(x, torch.tensor([3.0])))


@pytest.mark.parametrize("kind", [torch.float16, torch.float32])
def test_weights_kept_in_half_precision_and_a_network_that_computes_in_it_give_float32(
    tmp_path: Path, kind: torch.dtype
) -> None:
    half = made(use_fp16=True).to(kind)
    denoiser = load(write(tmp_path / "n.pkl", {"ema": half}))
    D = denoiser(states(2, 2, 8, 8), 80.0)
    assert denoiser.dtype == D.dtype == torch.float32
    # bfloat16 inside, behind c_out of about 0.5, and the skip in float32.
    torch.testing.assert_close(D, made()(states(2, 2, 8, 8), torch.tensor([80.0])), atol=2e-2, rtol=0)


def test_a_network_in_hand_needs_no_pickle(file: Path, net: Any) -> None:
    x = states(2, 2, 8, 8)
    expected = load(file)(x, 5.0, class_labels=1)
    found = dode.load(net)
    assert (found.name, found.prediction, found.shape) == ("Network", "edm", (2, 8, 8))
    assert torch.equal(found(x, 5.0, class_labels=1), expected)

    def function(x: Tensor, sigma: Tensor, class_labels: Tensor | None = None) -> Tensor:
        assert class_labels is not None and class_labels.dtype == torch.float32
        return net(x, sigma, class_labels)

    labelled = OneHotLabels(function, classes=3)
    own = dode.Denoiser(labelled, dode.schedules.EDM(), "edm", shape=(2, 8, 8))
    assert torch.equal(own(x, 5.0, class_labels=1), expected)


def test_what_is_asked_for_replaces_what_the_network_says(file: Path) -> None:
    denoiser = load(file, schedule=dode.schedules.EDM(0.01, 20.0), shape=[2, 4, 4], batch_size=2)
    assert (denoiser.schedule.t_max, denoiser.shape, denoiser.batch_size) == (20.0, (2, 4, 4), 2)
    with pytest.raises(ValueError, match="did you mean 'batch_size'"):
        load(file, batch_sise=2)


def test_distillation(file: Path) -> None:
    denoiser = load(file)
    few = {"effort": "fast", "samples": 16, "validation": 8, "held_out": 8}
    result = dode.distill(denoiser, "ddim", nfe=3, class_labels=[0, 1, 2], **few)
    base, distilled = result.held_out.end
    assert distilled < base


class _Marks:
    """Leaves a mark when it is read."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return Path.mkdir, (self.place,)


def test_without_the_flag_nothing_of_a_pickle_is_read(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    path = tmp_path / "network.pkl"
    path.write_bytes(pickle.dumps({"ema": _Marks(mark)}))
    with pytest.raises(ValueError, match=r"network\.pkl is a pickle, and reading it runs code in it: give allow_pickle=True"):
        dode.load(f"edm:{path}")
    assert not mark.exists()
    with pytest.raises(ValueError, match="no network of EDM"):
        load(path)
    assert mark.exists()


def test_it_is_refused_before_pytorch_is_imported(file: Path) -> None:
    code = "import sys, dode\ntry:\n    dode.load('edm:network.pkl')\nexcept ValueError:\n    print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def refusal(path: Path | str) -> str:
    """The one line that is said of what cannot be loaded; afterwards no module is left behind."""
    with pytest.raises((ValueError, OSError, ImportError)) as caught:
        dode.load(f"edm:{path}", allow_pickle=True)
    assert not set(NAMES) & set(sys.modules)
    line = str(caught.value)
    assert "\n" not in line
    return line


def test_what_is_no_pickled_network_is_refused_in_one_line(tmp_path: Path, file: Path, net: Any) -> None:
    path = tmp_path / "other.pkl"
    assert "is no file" in refusal(tmp_path)
    assert "does not exist" in refusal(path)
    assert "networks are not downloaded: fetch the file" in refusal("https://example.org/network.pkl")
    whole = file.read_bytes()
    for content in (b"", b"<html>", b"PK\3\4", whole[:2000], whole[: len(whole) // 2], whole[:-1]):
        path.write_bytes(content)
        assert f"{path} cannot be read as a pickled network" in refusal(path)
    path.write_bytes(pickle.dumps([1]))
    assert "with the network as 'ema', as EDM saves it, got list" in refusal(path)
    path.write_bytes(pickle.dumps({"net": 1, "optimizer": 2}))
    assert "has no 'ema', which is the network in what EDM saves: it has net, optimizer" in refusal(path)
    path.write_bytes(pickle.dumps({"ema": nn.Conv2d(1, 1, 1)}))
    assert "is a Conv2d, no network of EDM: it has no img_channels, img_resolution, label_dim" in refusal(path)
    write(path, {"ema": net}, version=7)
    assert "it has objects of the kind 'class' in version 7, not 'class' in 6" in refusal(path)
    write(path, {"ema": net}, {"Network": "import sys\nsys.exit(0)"})
    assert "cannot be read as a pickled network: SystemExit" in refusal(path)
    with pytest.raises(ValueError, match=f"a pickled network of EDM is named edm:{path}"):
        dode.load(path)


def test_code_that_is_not_there_is_missed_by_its_name_where_the_network_needs_it(tmp_path: Path, net: Any) -> None:
    path = write(tmp_path / "network.pkl", {"ema": net}, {"Block": NEEDS_MORE})
    assert "needs a_module_of_the_training: put the repository that wrote the file on the path" in refusal(path)
    whole = write(path, {"loss_fn": made("Loss"), "ema": net}, {"Loss": NEEDS_MORE})
    assert load(whole)(states(1, 2, 8, 8), 1.0).isfinite().all()


def test_a_module_of_the_readers_own_by_such_a_name_stays(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = ModuleType("torch_utils")
    monkeypatch.setitem(sys.modules, "torch_utils", mine)
    load(file)
    assert sys.modules["torch_utils"] is mine and "dnnlib" not in sys.modules


def test_the_repository_is_used_where_it_is_on_the_path(file: Path) -> None:
    place = file.parent / "repository"
    (place / "torch_utils").mkdir(parents=True)
    (place / "dnnlib").mkdir()
    (place / "dnnlib" / "__init__.py").write_text("from dnnlib.util import EasyDict")
    (place / "dnnlib" / "util.py").write_text("class EasyDict(dict):\n    __getattr__ = dict.__getitem__")
    (place / "torch_utils" / "__init__.py").touch()
    (place / "torch_utils" / "misc.py").touch()
    (place / "torch_utils" / "persistence.py").write_text(
        "def _reconstruct_persistent_obj(meta):\n    raise ValueError('asked: ' + meta['class_name'])"
    )
    code = f"import sys; sys.path.insert(0, {str(place)!r}); import dode; dode.load('edm:network.pkl', allow_pickle=True)"
    done = subprocess.run([sys.executable, "-c", code], cwd=file.parent, capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].endswith("cannot be read as a pickled network: ValueError: asked: Block")


def test_the_command_line_from_pickle_to_pictures(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dode.cli import main

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["dode", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0)

    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    model = f"edm:{file}"
    fit = (
        "distill",
        model,
        "--solver",
        "ddim",
        "--paper",
        "--samples",
        "8",
        "--held-out",
        "8",
        "--nfe",
        "3",
        "--out",
        "t.json",
    )
    assert run(*fit) == 2
    said = capsys.readouterr().err
    assert "--allow-pickle" in said and len(said.splitlines()) == 1 and not list(folder.iterdir())
    assert run(*fit, "--allow-pickle", "--classes", "0,2") == 0
    assert run("sample", model, "--allow-pickle", "--tableau", "t.json", "-n", "4", "--out", "x.npy") == 0
    assert np.load("x.npy").shape == (4, 2, 8, 8)
    capsys.readouterr()
    assert run("show", "t.json") == 0
    shown = capsys.readouterr().out
    assert "network.pkl" in shown
    # Where the file lies is the maker's own affair.
    assert str(tmp_path) not in shown + Path("t.json").read_text()
