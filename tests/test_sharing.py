"""Folders to share: what their card says and shows, that they are whole or not there, and that they reach a Hub by its own client."""

from __future__ import annotations

import dataclasses
import re
import shutil
import sys
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import dode
from dode.cli import app
from dode.distillation import PAPER
from dode.distillation.setting import network_setting, warn_if_other
from dode.fingerprint import weights_hash
from dode.fitted_for import setting_of
from dode.sharing import push_to_hub, save_folder
from dode.sharing.markdown import escaped

SCHEDULE = dode.schedules.VP.linear()
LABELS = torch.arange(3)
FILES = ["README.md", "pictures-2.png", "pictures-3.png", "tableaux.json"]


def net(x: torch.Tensor, t: torch.Tensor, class_labels: Any = None) -> torch.Tensor:
    return (0.7 * x).tanh() + 0.1


DENOISER = dode.Denoiser(net, SCHEDULE, shape=(1, 8, 8), name="curved")


class Small(torch.nn.Module):
    """A network with weights."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


@pytest.fixture(scope="module")
def made() -> dode.DistilledSet:
    options: dict[str, Any] = {"effort": "fast", "samples": 8, "validation": 4, "held_out": 4, "teacher_nfe": 20}
    return dode.distill(DENOISER, "ddim", (2, 3), firsts=["network"], class_labels=LABELS, **options)


@pytest.fixture(scope="module")
def folder(made: dode.DistilledSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One that is only read."""
    place = tmp_path_factory.mktemp("shared") / "curved"
    return save_folder(made, place, DENOISER, command="dode distill curved", class_labels=LABELS)


def card(place: Path) -> str:
    return (place / "README.md").read_text(encoding="utf-8")


def test_a_folder_has_the_tables_their_card_and_pictures(made: dode.DistilledSet, folder: Path) -> None:
    assert sorted(path.name for path in folder.iterdir()) == FILES
    assert dode.TableauSet.load(folder) == made.tableaux
    text = card(folder)
    for result in made:
        errors = result.held_out
        assert errors is not None
        row = next(line for line in text.splitlines() if line.startswith(f"| {result.tableau.nfe} |"))
        assert all(f"{number:.2e}" in row for number in (*errors.end, *errors.medians))
        assert f"({errors.gain.low:.3g} to {errors.gain.high:.3g})" in row
        assert all(escaped(warning, 2000) in text for warning in result.warnings)
    assert "held-out noises that neither fitted nor chose" in text and "The reference may be off by" in text
    for words in (
        "| model | curved |",
        "| condition | class\\_labels 0, 1, 2 |",
        "| guidance scale | 1 |",
        "    dode distill curved\n",
    ):
        assert words in text
    assert "The network is not in this folder; it keeps its own licence" in text and "license:" not in text


def test_pictures_are_the_runs_themselves(made: dode.DistilledSet, folder: Path) -> None:
    picture = np.asarray(Image.open(folder / "pictures-3.png"))
    enlarge = 96 // 8
    rows = [picture[i * (8 * enlarge + 2) :: enlarge, ::enlarge][:8, :8] for i in range(3)]
    assert picture.shape[0] == 3 * (8 * enlarge + 2) - 2
    noise = dode.noise.standard_noise(0, 1, (1, 8, 8), stream=dode.noise.REPORT)
    for row, tableau in zip(rows, (made[3].base, made[3].tableau), strict=False):
        x = dode.sample(DENOISER, tableau, noise)[0, 0]
        assert np.array_equal(row, ((x.clamp(-1, 1) + 1) * 127.5).round().byte().numpy())
    assert "3 calls of ddim, uniform grid; 3 calls of these tables; dpm-solver++" in card(folder)


def test_a_set_from_a_file_is_shared_as_its_result_is(made: dode.DistilledSet, folder: Path, tmp_path: Path) -> None:
    """The base is made again from what the file says of it."""
    made.save(tmp_path / "made.json")
    held = dode.TableauSet.load(tmp_path / "made.json")
    save_folder(held, tmp_path / "curved", DENOISER, command="dode distill curved", class_labels=LABELS)
    for name in FILES:
        assert (tmp_path / "curved" / name).read_bytes() == (folder / name).read_bytes()


def test_files_that_say_the_model_alone_are_of_it(tmp_path: Path) -> None:
    tableau = dode.Tableau.load(Path(__file__).parent.parent / "docs/benchmarks/tableaux/fashion/deis-thorough-4.json")
    assert "fitted_for" not in tableau.meta and setting_of(tableau) == {"model": "fashion"}
    text = card(save_folder(tableau, tmp_path / "few"))
    assert "# fashion in 4 network calls" in text and "noises that were **fitted**" in text and 'license: "mit"' in text


def test_what_a_table_knows_of_its_network() -> None:
    small = Small()
    denoiser = dode.Denoiser(small, SCHEDULE, shape=(1, 8, 8), name="small", clip=2.0)
    options: dict[str, Any] = {**PAPER, "samples": 2, "held_out": 0, "teacher_nfe": 4, "validation": 0}
    setting = setting_of(dode.distill(denoiser, "ddim", 2, **options).tableau)
    assert setting == {
        "model": "small",
        "network": "Small",
        "weights_hash": weights_hash(small),
        "prediction": "epsilon",
        "schedule": SCHEDULE.fingerprint,
        "shape": [1, 8, 8],
        "dtype": "float32",
        "guidance_scale": 1.0,
        "clip": 2.0,
        "samples": 2,
    }
    assert weights_hash(small) is not None and weights_hash(net) is None


def test_another_network_or_guidance_than_fitted_is_warned_of() -> None:
    small, other = Small(), Small()
    denoiser = dode.Denoiser(small, SCHEDULE, shape=(1, 8, 8))
    tableau = dode.solver("ddim").tableau(SCHEDULE, 2)
    fitted = tableau.with_meta(fitted_for=network_setting(denoiser, {}, 1))
    guided = denoiser.replace(guidance_scale=3.0, null_condition={})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_other(fitted, denoiser)
        warn_if_other(tableau, guided)  # it says nothing
        warn_if_other(fitted, dode.Denoiser(Small().double(), SCHEDULE))  # its hash cannot be compared
    with pytest.warns(UserWarning, match=r"fitted for other weights \(\w{16}\) than it is run with"):
        warn_if_other(fitted, dode.Denoiser(other, SCHEDULE))
    with pytest.warns(UserWarning, match=r"fitted for another guidance scale \(1\.0\) than it is run with \(3\.0\)"):
        warn_if_other(fitted, guided)


@pytest.mark.parametrize(
    ("scale", "said"),
    [
        (2.0, 2.0),
        (dode.guidance.Interval(3.0, 200, 800), "3 in 200 <= t <= 800, else 1"),
        (lambda t: 1.0, "a function of t"),
    ],
)
def test_guidance_of_every_form_is_said(scale: Any, said: Any) -> None:
    denoiser = DENOISER.replace(guidance_scale=scale, null_condition={"class_labels": 3})
    options: dict[str, Any] = {**PAPER, "samples": 2, "held_out": 0, "validation": 0, "times": [999.0, 400.0, -1.0]}
    targets = torch.zeros(2, 2, 1, 8, 8)
    made = dode.distill(denoiser, "ddim", noise=torch.ones(2, 1, 8, 8), targets=targets, class_labels=LABELS[:2], **options)
    assert setting_of(made.tableau)["guidance_scale"] == said


def test_the_code_of_a_bundled_networks_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    denoiser = dode.load("fashion")
    tableaux = [
        dode.solver("ddim").tableau(denoiser.schedule, nfe).with_meta(fitted_for={"model": "fashion"}) for nfe in (1, 2)
    ]
    save_folder(tableaux, tmp_path / "few", denoiser, pictures=False, class_labels=LABELS)
    text = card(tmp_path / "few")
    assert text.startswith('---\nlibrary_name: dode\ntags:\n- dode\n- diffusion-solver\nlicense: "mit"\n---\n')
    assert "it comes with dode, and its licence is MIT" in text
    assert "not known" in text and "None: they were not asked for." in text and "Distilled-ODE" not in text
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block is not None and "nfe=2, class_labels=[0, 1, 2, 0]" in block[1]
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    exec(block[1], namespace)
    assert namespace["samples"].shape == (4, 1, 28, 28)


def test_foreign_text_is_shown_as_it_is(made: dode.DistilledSet, tmp_path: Path) -> None:
    bad = "x](http://a)|<b>`#\n---\nlicense: y\x1b[31m```"
    meta = {"fitted_for": {"model": bad, "prediction": bad, "shape": [bad], "condition": bad}}
    changed = dataclasses.replace(made[2].tableau, solver=bad, grid=bad).with_meta(**meta)
    save_folder(changed, tmp_path / "bad", command="dode " + bad)
    text = card(tmp_path / "bad")
    assert "\x1b" not in text and "\nlicense" not in text
    assert [line for line in text.splitlines() if line.startswith("```")] == ["```python", "```"]
    shown = "".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<b>" not in shown.replace("\\<b\\>", "") and "](http://a" not in shown.replace("\\](http", "")


def test_no_pictures_are_said_and_lose_nothing(made: dode.DistilledSet, tmp_path: Path) -> None:
    flat = DENOISER.replace(shape=(64,))
    with pytest.warns(UserWarning, match="the card has no pictures: samples of shape"):
        save_folder(made, tmp_path / "flat", flat)
    broken = dode.Denoiser(lambda x, t: x * float("nan"), SCHEDULE, shape=(1, 8, 8), name="broken")
    with pytest.warns(UserWarning, match="the card has no pictures: broken made none: FloatingPointError"):
        save_folder(made, tmp_path / "broken", broken)
    save_folder(made, tmp_path / "none")
    assert "None: the network was not at hand." in card(tmp_path / "none")
    for name in ("flat", "broken", "none"):
        assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["README.md", "tableaux.json"]


def test_what_cannot_be_shared(made: dode.DistilledSet, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="got object: of a pipeline save_scheduler writes a folder"):
        save_folder(made, tmp_path / "a", object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="made for the schedule"):
        save_folder(made, tmp_path / "a", dode.Denoiser(net, dode.schedules.VP.scaled_linear(), shape=(1, 8, 8)))
    with pytest.raises(TypeError, match="tableaux, sets of them or results"):
        save_folder("deis.json", tmp_path / "a")
    with pytest.raises(ValueError, match="are of a pipeline: dode.integrations.diffusers.save_scheduler"):
        save_folder(made[2].tableau.with_meta(fitted_for={"pipeline": "SD"}), tmp_path / "a")
    with pytest.raises(FileExistsError, match="curved exists"):
        save_folder(made, folder)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_replaced_only_if_it_is_one_of_ours(made: dode.DistilledSet, tmp_path: Path) -> None:
    place = save_folder(made, tmp_path / "a")
    save_folder(made[2], place, overwrite=True)
    assert dode.TableauSet.load(place).nfe == (2,)
    (place / "mine.txt").touch()
    with pytest.raises(FileExistsError, match=r"such as mine\.txt"):
        save_folder(made, place, overwrite=True)
    assert dode.TableauSet.load(place).nfe == (2,)


def test_the_command_writes_shows_and_samples_with_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shared_networks.py").write_text("from test_sharing import DENOISER\n\ndef curved():\n    return DENOISER\n")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["dode", *map(str, arguments)])
        done = CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "150"})
        assert done.exit_code == 0, done.output
        return done.stdout

    quick = ("--paper", "--samples", 4, "--held-out", 2, "--teacher-nfe", 6)
    shown = run("distill", "shared_networks:curved", "--nfe", "3,2", *quick, "--out", "curved")
    assert "wrote curved: 2, 3 calls" in shown
    assert sorted(path.name for path in Path("curved").iterdir()) == FILES
    assert "    dode distill shared_networks:curved --nfe 3,2 --paper" in card(Path("curved"))
    shown = run("show", "curved")
    assert shown.startswith("calls held: 2, 3\nfitted for:\n  model: curved\n") and "deis, NFE 3" in shown
    assert "@inproceedings" in run("show", "curved", "--cite")
    run("sample", "shared_networks:curved", "--tableau", "curved", "--nfe", 2, "-n", 2, "--out", "a.npy")
    noise = dode.noise.standard_noise(0, 2, (1, 8, 8))
    assert np.array_equal(np.load("a.npy"), dode.sample(DENOISER, dode.TableauSet.load("curved"), noise, nfe=2).numpy())
    run("distill", "shared_networks:curved", "--nfe", 2, *quick, "--no-pictures", "--out", "curved", "--force")
    assert sorted(path.name for path in Path("curved").iterdir()) == ["README.md", "tableaux.json"]


# The Hub: its own client, and a server on this machine.


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Any]:
    pytest.importorskip("huggingface_hub")
    from huggingface_hub.utils import disable_progress_bars, enable_progress_bars
    from local_hub import local_hub

    disable_progress_bars()
    with local_hub(tmp_path / "hub") as found:
        yield found
    enable_progress_bars()


def client(hub: Any, token: str | None = None) -> Any:
    from huggingface_hub import HfApi
    from local_hub import TOKEN

    return HfApi(endpoint=hub.address, token=token or TOKEN)


def test_a_folder_on_a_hub_is_the_folder(made: dode.DistilledSet, folder: Path, hub: Any, tmp_path: Path) -> None:
    address = push_to_hub(folder, "someone/curved", private=True, commit_message="Three calls", api=client(hub))
    assert address == f"{hub.address}/someone/curved"
    assert hub.files("someone/curved") == {name: (folder / name).read_bytes() for name in FILES}
    assert hub.made["someone/curved"]["visibility"] == "private" and hub.messages == ["Three calls"]
    assert hub.cards[-1] == {"library_name": "dode", "tags": ["dode", "diffusion-solver"]}
    # What comes back is loaded, and what a former version had goes.
    assert dode.TableauSet.load(hub.folder / "someone/curved/main") == made.tableaux
    save_folder(made[2], tmp_path / "fewer")
    push_to_hub(tmp_path / "fewer", "someone/curved", api=client(hub))
    assert sorted(hub.files("someone/curved")) == ["README.md", "tableaux.json"]


def test_a_pull_request(folder: Path, hub: Any) -> None:
    push_to_hub(folder, "curved", api=client(hub))
    before = hub.files("someone/curved")
    address = push_to_hub(folder, "someone/curved", api=client(hub), create_pr=True)
    assert address == f"{hub.address}/someone/curved/discussions/1"
    assert hub.files("someone/curved") == before and sorted(hub.files("someone/curved", "refs/pr/1")) == FILES
    with pytest.raises(FileNotFoundError, match="the Hub has no repository someone/none"):
        push_to_hub(folder, "someone/none", api=client(hub), create_pr=True)


def test_what_a_hub_refuses_is_one_line(folder: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(kind: type[Exception], message: str, repository: str = "someone/curved", **options: Any) -> None:
        with pytest.raises(kind, match=message) as caught:
            push_to_hub(folder, repository, **options)
        assert "\n" not in str(caught.value)

    refused(PermissionError, "does not let this token write to someone/curved .*hf auth login", api=client(hub, "wrong"))
    refused(PermissionError, "don't have the rights", "others/curved", api=client(hub))
    refused(ValueError, "no such/x is no name of a repository", "no such/x", api=client(hub))
    hub.address = "http://127.0.0.1:9"
    refused(ConnectionError, "the Hub is not reached: ConnectError", api=client(hub))
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    refused(PermissionError, "there is no token of the Hub: log in with `hf auth login`, or set HF_TOKEN")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused(ImportError, r"needs huggingface_hub: pip install dode\[hub\]")


def test_folders_that_are_not_ours_ask_no_hub(made: dode.DistilledSet, hub: Any, tmp_path: Path) -> None:
    def refused(kind: type[Exception], message: str, place: Path) -> None:
        with pytest.raises(kind, match=message):
            push_to_hub(place, "someone/curved", api=client(hub))
        assert hub.asked == []

    refused(FileNotFoundError, "none does not exist", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    refused(FileNotFoundError, r"empty has neither tableaux\.json", tmp_path / "empty")
    made.save(tmp_path / "made.json")
    refused(ValueError, r"made\.json is a file: write a folder with a card", tmp_path / "made.json")
    place = save_folder(made, tmp_path / "a")
    (place / "model.safetensors").touch()
    refused(ValueError, r"other things than a saved folder, such as model\.safetensors", place)
    (place / "model.safetensors").unlink()
    (place / "README.md").rename(tmp_path / "README.md")
    refused(FileNotFoundError, r"has no card, README\.md", place)
    (tmp_path / "README.md").rename(place / "README.md")
    (place / "tableaux.json").write_text("{}")
    refused(ValueError, "is not a tableau", place)


def test_what_came_from_a_hub_goes_back_without_what_is_the_hubs(folder: Path, hub: Any, tmp_path: Path) -> None:
    place = Path(shutil.copytree(folder, tmp_path / "copy"))
    (place / ".cache" / "huggingface").mkdir(parents=True)
    (place / ".cache" / "huggingface" / "a.json").touch()
    (place / ".gitattributes").touch()
    push_to_hub(place, "someone/curved", api=client(hub))
    assert sorted(hub.files("someone/curved")) == FILES


def test_the_command_shares_and_says_where(folder: Path, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi
    from local_hub import TOKEN

    monkeypatch.setattr("huggingface_hub.HfApi", partial(HfApi, endpoint=hub.address))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = CliRunner().invoke(app, ["share", str(folder), "someone/curved", "--message", "By hand"], env={"COLUMNS": "400"})
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == f"shared {folder}: {hub.address}/someone/curved"
    assert hub.messages == ["By hand"]
