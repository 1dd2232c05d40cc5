"""The command line for pipelines: a scheduler folder is written, sampled with and shown; what is wrong is one line and leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tiny_pipelines import PIXELS, ddpm, stable_diffusion

import dode
from dode import cli
from dode.cli.target import found_of
from dode.held import read_held
from dode.integrations.diffusers import DodeScheduler

pytestmark = pytest.mark.xdist_group("cli pipelines")  # the folder of a distilled pipeline is made once, in one worker

FAST = ("--effort", "fast", "--samples", "4", "--validation", "2", "--held-out", "2", "--teacher-nfe", "3", "--budget", "50")
QUICK = (*FAST[:-6], "--held-out", "0", *FAST[-4:], "--no-pictures")
PROMPTS = ("a cat", "the sun over a lake")

MADE = """
import dode
from tiny_pipelines import dit as classes, stable_diffusion

def text():
    return stable_diffusion()

def broken():
    pipe = stable_diffusion()
    pipe.unet.register_forward_hook(lambda net, given, output: tuple(part * float("nan") for part in output))
    return pipe

def pixels():
    import diffusers
    from tiny_pipelines import STABLE_DIFFUSION, pixel_unet

    return diffusers.DDPMPipeline(pixel_unet(), diffusers.DDPMScheduler(**STABLE_DIFFUSION))

def network():
    return dode.Denoiser(lambda x, t: (0.7 * x).tanh() + 0.1, dode.schedules.VP.linear(), shape=(1, 8, 8), name="curved")
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of pipelines, a list of prompts, and functions that make pipelines."""
    folder = tmp_path_factory.mktemp("models")
    stable_diffusion().save_pretrained(folder / "sd")
    (folder / "prompts.txt").write_text("\ufeff# two prompts\n" + "\n\n  ".join(PROMPTS) + "\n", encoding="utf-8")
    (folder / "made.py").write_text(MADE)
    return folder


@pytest.fixture(scope="module")
def saved(models: Path) -> Path:
    """What `dode distill` wrote for the text pipeline."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(models)
        arguments = [
            "distill",
            "sd",
            "--prompts",
            "prompts.txt",
            "--guidance-scale",
            "5",
            "--nfe",
            "3,2",
            "--out",
            "sd-dode",
            *FAST,
        ]
        patch.setattr(sys, "argv", ["dode", *arguments])
        with pytest.raises(SystemExit) as end:
            cli.main()
    assert end.value.code == 0
    return models / "sd-dode"


class Command:
    """`dode` in this process, in a folder of its own."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch, captured: pytest.CaptureFixture[str]) -> None:
        self.folder, self._patch, self._captured = folder, patch, captured

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self._patch.setattr(sys, "argv", ["dode", *map(str, arguments)])
        self._captured.readouterr()
        with pytest.raises(SystemExit) as end:
            cli.main()
        return int(end.value.code or 0), *self._captured.readouterr()

    def succeed(self, *arguments: object) -> str:
        code, out, said = self(*arguments)
        assert code == 0, said
        return out + said

    def fail(self, message: str, *arguments: object) -> None:
        """One line with the message, exit code 2, no new file."""
        before = sorted(self.folder.rglob("*"))
        code, _, said = self(*arguments)
        lines = said.strip().splitlines()
        assert code == 2, said
        assert len(lines) == 1 and lines[0].startswith("error: "), said
        assert message in lines[0]
        assert sorted(self.folder.rglob("*")) == before


@pytest.fixture
def command(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(models)
    monkeypatch.setenv("COLUMNS", "150")
    return Command(tmp_path, monkeypatch, capsys)


def test_a_scheduler_folder_with_its_card_and_pictures(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [
        "README.md",
        "pictures-2.png",
        "pictures-3.png",
        "scheduler_config.json",
    ]
    held = read_held(saved)
    assert held.nfe == DodeScheduler.from_pretrained(saved).held == [2, 3]
    assert [tableau.meta["fitted_for"]["guidance_scale"] for tableau in held.tableaux] == [5, 5]
    rows = [Image.open(saved / f"pictures-{calls}.png").size for calls in held.nfe]
    assert rows[0] == rows[1] and rows[0][0] > 2 * PIXELS
    card = (saved / "README.md").read_text(encoding="utf-8")
    for words in (
        "library_name: diffusers",
        "| 2 | deis, uniform grid |",
        'from_pretrained("sd-dode")',
        "guidance_scale=5",
        "a cat",
    ):
        assert words in card
    assert not list(saved.parent.glob(".*"))


def test_the_real_command_samples_with_it(models: Path, saved: Path, tmp_path: Path) -> None:
    arguments = [
        "sample",
        models / "sd",
        "--scheduler",
        saved,
        "--nfe",
        "2",
        "--prompt",
        "a cat",
        "--prompt",
        "a dog",
        "-n",
        "3",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "dode", *map(str, arguments), "--out", "grid.png"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"NO_COLOR": "1", "HF_HUB_OFFLINE": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    assert done.stdout.strip() == "wrote grid.png: 3 samples, 2 NFE"
    assert Image.open(tmp_path / "grid.png").size[0] > 2 * PIXELS
    assert [path.name for path in tmp_path.iterdir()] == ["grid.png"]


def test_samples_are_the_pipelines_own(models: Path, saved: Path, command: Command) -> None:
    given = ("sample", models / "sd", "--scheduler", saved, "--prompt", "a cat", "--prompt", "a dog")
    said = command.succeed(*given, "-n", 3, "--batch-size", 2, "--out", "a.npy")
    assert "wrote a.npy: 3 samples, 3 NFE, the most of 2, 3 (--nfe)" in said
    found = np.load("a.npy")
    assert found.shape == (3, 3, PIXELS, PIXELS)
    command.succeed(*given, "-n", 1, "--seed", 0, "--nfe", 3, "--out", "b.npy")
    assert np.allclose(np.load("b.npy")[0], found[0], atol=1e-5)  # whatever else is in its call
    command.succeed(*given, "-n", 1, "--seed", 1, "--nfe", 3, "--out", "c.npy")
    assert not np.allclose(np.load("c.npy")[0], found[0], atol=1e-2)


def test_another_guidance_or_network_than_fitted_is_warned_of_once(models: Path, saved: Path, command: Command) -> None:
    given = ("--scheduler", saved, "--prompt", "a cat", "-n", 2, "--batch-size", 1, "--nfe", 2)
    said = command.succeed("sample", models / "sd", *given, "--guidance-scale", 3, "--out", "a.npy")
    assert said.count("warning:") == 1 and "fitted at guidance_scale = 5 and is run at 3" in said
    assert "warning" not in command.succeed("sample", models / "sd", *given, "--guidance-scale", 5, "--out", "b.npy")
    command.succeed("sample", models / "sd", *given, "--out", "c.npy")  # as it was fitted
    assert np.array_equal(np.load("b.npy"), np.load("c.npy"))
    shutil.copytree(models / "sd", "other")
    config = Path("other/unet/config.json")
    config.write_text(json.dumps({**json.loads(config.read_text()), "dropout": 0.25}))
    said = command.succeed("sample", "other", *given, "--out", "d.npy")
    assert said.count("warning:") == 1 and "were fitted for another network (sd)" in said


def test_show_says_which_calls_and_for_what(saved: Path, command: Command) -> None:
    shown = command.succeed("show", saved)
    assert shown.startswith("calls held: 2, 3")
    for words in (
        "pipeline: StableDiffusionPipeline",
        "guidance scale: 5",
        "size of a state: 4 x 8 x 8",
        "deis, NFE 2",
        "deis, NFE 3",
    ):
        assert words in shown
    assert "x_next" in command.succeed("show", saved, "--numbers")


def test_pipelines_from_functions_by_class_and_by_call(command: Command) -> None:
    given = ("distill", "made:classes", "--classes", "0,3", "--call", "guidance_scale=1.5", "--nfe", 2, *QUICK)
    command.succeed(*given, "--out", "classes")
    assert read_held(Path("classes")).tableaux[0].meta["fitted_for"]["guidance_scale"] == 1.5
    assert "class_labels=[0]" in Path("classes/README.md").read_text()
    assert "None: they were not asked for." in Path("classes/README.md").read_text()
    command.succeed("sample", "made:classes", "--scheduler", "classes", "--classes", "0-2", "--out", "grid.png")
    command.fail(
        "this tableau was made for the schedule",
        "sample",
        "made:text",
        "--scheduler",
        "classes",
        "--prompt",
        "a",
        "--out",
        "x.png",
    )


def test_a_network_and_several_budgets_make_one_file(command: Command) -> None:
    given = ("distill", "made:network", "--nfe", "3,2", *QUICK[:-1], "--out")
    assert "wrote curved.json: 2, 3 calls" in command.succeed(*given, "curved.json")
    assert dode.TableauSet.load("curved.json").nfe == (2, 3)
    shown = command.succeed("show", "curved.json")
    assert shown.startswith("calls held: 2, 3") and shown.index("deis, NFE 2") < shown.index("deis, NFE 3")
    sample = ("sample", "made:network", "--tableau", "curved.json", "-n", 2, "--out", "a.npy")
    command.fail("curved.json: there are tableaux of 2 and 3 evaluations: say which with nfe", *sample)
    command.fail("curved.json: there is no tableau of 5 evaluations: there are 2 and 3", *sample, "--nfe", 5)
    assert "2 samples, 3 NFE" in command.succeed(*sample, "--nfe", 3)
    command.fail("curved.json exists", *given, "curved.json")


def test_the_output_says_whether_a_folder_is_a_pipeline(models: Path, command: Command) -> None:
    """A network that can be asked alone is, for a file; --prompts, --call and an --out that is no file ask for the whole."""
    ddpm().save_pretrained("ddpm")
    assert found_of("ddpm", True).pipeline
    assert not found_of("ddpm", False).pipeline
    assert not found_of("fashion", True).pipeline
    assert found_of("made:text", False).pipeline
    command.fail(
        "a pipeline's tables are written into a folder", "distill", "ddpm", "--nfe", 2, "--out", "a.json", "--call", "eta=0"
    )


def test_force_replaces_a_scheduler_folder_and_nothing_else(models: Path, saved: Path, command: Command) -> None:
    shutil.copytree(saved, "sd-dode")
    given = ("distill", models / "sd", "--prompts", models / "prompts.txt", "--nfe", 2, *QUICK, "--out")
    command.fail("sd-dode exists", *given, "sd-dode")
    command.succeed(*given, "sd-dode", "--force")
    assert sorted(path.name for path in Path("sd-dode").iterdir()) == ["README.md", "scheduler_config.json"]
    Path("sd-dode/mine.txt").touch()
    command.fail("has other things than what is written there, such as mine.txt", *given, "sd-dode", "--force")
    command.fail("name a folder", *given, "sd-dode/mine.txt")
    command.fail("the folder nowhere does not exist", *given, "nowhere/x")


@pytest.fixture
def changed(models: Path, command: Command) -> Path:
    shutil.copytree(models / "sd", "changed")
    return Path("changed")


def rewrite(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"_class_name": "LCMScheduler"}, "LCMScheduler is for networks distilled to jump to the end (consistency models)"),
        ({"_class_name": "MyScheduler"}, "MyScheduler is not a scheduler that dode reads"),
        ({"prediction_type": "noise"}, "unknown prediction_type 'noise'"),
        ({"beta_schedule": "cubic"}, "unknown beta_schedule 'cubic'"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(map(str, value.values())),
)
def test_schedulers_that_are_no_known_ode(
    values: dict[str, object], message: str, models: Path, changed: Path, command: Command
) -> None:
    rewrite(changed / "scheduler" / "scheduler_config.json", **values)
    command.fail(message, "distill", changed, "--prompts", models / "prompts.txt", "--nfe", 2, "--out", "x", *QUICK)


def test_folders_that_are_not_loaded(models: Path, changed: Path, command: Command) -> None:
    given = ("distill", changed, "--prompts", models / "prompts.txt", "--nfe", 2, "--out", "x", *QUICK)
    index = changed / "model_index.json"
    kept = index.read_text()
    rewrite(index, text_encoder=["antigravity", "Encoder"])
    command.fail("is not imported because a file says so", *given)
    rewrite(index, text_encoder=["transformers", "CLIPTextModel"], _class_name="NoSuchPipeline")
    command.fail("which is not in diffusers", *given)
    rewrite(index, _class_name=["pipeline", "Mine"])
    command.fail("its _class_name is not that of a pipeline", *given)
    index.write_text(kept)
    weights = changed / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    command.fail("is a pickle, which is not read", *given)
    weights.with_suffix(".bin").unlink()
    command.fail("changed cannot be loaded by diffusers", *given)


def test_a_missing_extra_is_named(models: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    given = ("distill", models / "sd", "--prompts", models / "prompts.txt", "--nfe", 2, "--out", "x")
    command.fail("pipelines need transformers: pip install dode[diffusers]", *given)
    monkeypatch.setitem(sys.modules, "diffusers", None)
    command.fail("pipelines need diffusers: pip install dode[diffusers]", *given)


def test_prompts_and_calls_that_cannot_be(models: Path, command: Command) -> None:
    Path("empty.txt").write_text("# nothing\n\n")
    Path("bytes.txt").write_bytes(b"\xff\xfe\x00")
    given = ("distill", models / "sd", "--nfe", 2, "--out", "x", *QUICK)
    told = (*given, "--prompts", models / "prompts.txt")
    command.fail("empty.txt has no prompts", *given, "--prompts", "empty.txt")
    command.fail("bytes.txt: it is not UTF-8", *given, "--prompts", "bytes.txt")
    command.fail("none.txt does not exist", *given, "--prompts", "none.txt")
    command.fail("give prompts or --classes, not both", *told, "--classes", "3")
    command.fail("give prompts or --call prompt=..., not both", *told, "--call", "prompt=a cat")
    command.fail("--call takes KEY=VALUE", *told, "--call", "height")
    command.fail("--call seed is no argument", *told, "--call", "seed=3")
    command.fail(
        "unknown argument of StableDiffusionPipeline's call 'heigth': did you mean 'height'", *told, "--call", "heigth=8"
    )
    command.fail("latents is set by the distillation", *told, "--call", "latents=8")
    command.fail("--prompts is for pipelines, and fashion is taken as a network", *told[:1], "fashion", *told[2:])
    command.fail("--guidance-interval is for networks", *told, "--guidance-scale", 3, "--guidance-interval", "100,800")
    command.fail(
        "a pipeline's tables are written into a folder", *given[:4], "--out", "x.json", "--prompts", models / "prompts.txt"
    )
    command.fail("a pipeline whose network needs its text_encoder", *given[:4], "--out", "x.json")
    command.fail("unknown --dtype 'half'", *told, "--dtype", "half")
    command.fail("--nfe has a number twice", "distill", models / "sd", "--nfe", "4,4", "--out", "x")
    # Its own message, with the call.
    command.fail("Provide either `prompt` or `prompt_embeds`", *given)
    command.fail("(in StableDiffusionPipeline's call with height)", *given, "--call", "height=16")


def test_nan_names_step_and_prompt(models: Path, command: Command) -> None:
    given = ("distill", "made:broken", "--prompts", models / "prompts.txt", "--nfe", 2, "--out", "x", *QUICK)
    command.fail("NaN values at step 1 of", *given)
    command.fail("in StableDiffusionPipeline's call with prompt=['a cat']", *given)


def test_schedulers_that_do_not_belong(models: Path, saved: Path, changed: Path, command: Command) -> None:
    given = ("--prompt", "a cat", "--out", "x.png", "--scheduler")
    config = changed / "scheduler" / "scheduler_config.json"
    rewrite(config, prediction_type="v_prediction")
    command.fail("of a network that predicts epsilon, this pipeline's predicts v", "sample", changed, *given, saved)
    rewrite(config, prediction_type="epsilon", beta_end=0.02)
    command.fail("was made for the schedule", "sample", changed, *given, saved)
    sample = ("sample", models / "sd", *given)
    command.fail("there is no tableau of 7 evaluations: there are 2 and 3", *sample, saved, "--nfe", 7)
    command.fail("none is no folder", *sample, "none")
    command.fail("sd has no scheduler_config.json", *sample, models / "sd")
    command.fail("it holds PNDMScheduler, not a DodeScheduler", *sample, models / "sd" / "scheduler")
    command.fail("--scheduler is for pipelines, and fashion is a network", "sample", "fashion", *given[2:], saved)
    command.fail("give either --tableau FILE or --solver", *sample[:-1])


def test_states_of_another_size_are_refused(saved: Path, command: Command) -> None:
    code, _, said = command("sample", "made:pixels", "--scheduler", saved, "--out", "x.png")
    assert code == 2
    assert "error: the table was fitted on states of shape (4, 8, 8), got (3, 8, 8)" in said
    assert not Path("x.png").exists()


def test_damaged_scheduler_folders(saved: Path, command: Command) -> None:
    shutil.copytree(saved, "damaged")
    path = Path("damaged/scheduler_config.json")
    kept = json.loads(path.read_text())
    rewrite(path, tableaux=[{**kept["tableaux"][0], "times": [3.0]}])
    command.fail("tableau 1", "show", "damaged")
    rewrite(path, tableaux=7)
    command.fail("tableaux must be a list", "show", "damaged")
    path.write_text("{")
    command.fail("it is not JSON", "show", "damaged")


def test_other_precision(models: Path, saved: Path, command: Command) -> None:
    given = ("sample", models / "sd", "--scheduler", saved, "--nfe", 2, "--prompt", "a cat")
    command.succeed(*given, "--out", "whole.npy")
    command.succeed(*given, "--dtype", "bfloat16", "--out", "half.npy")
    whole, half = np.load("whole.npy"), np.load("half.npy")
    assert not np.array_equal(whole, half)
    assert np.abs(whole - half).mean() < 0.2
