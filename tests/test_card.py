"""A scheduler folder and its model card, from Python: what the card says, what it shows, and that it is written whole or not at all."""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from PIL import Image
from tiny_pipelines import dit, stable_diffusion

import dode
from dode.files import write_folder
from dode.integrations.diffusers import DodeScheduler, drive, save_scheduler
from dode.integrations.diffusers.saved import network_hash
from dode.sharing.markdown import escaped

CALL: dict[str, Any] = {"prompts": ["a cat", "the sun"], "guidance_scale": 2.0, "height": 16}
SETTING = {
    "pipeline": "StableDiffusionPipeline",
    "prediction": "epsilon",
    "shape": [4, 8, 8],
    "guidance_scale": 2.0,
    "prompts": 2,
}


@pytest.fixture(scope="module")
def pipe() -> Any:
    return stable_diffusion()


@pytest.fixture(scope="module")
def made() -> dode.DistilledSet:
    """What a distillation gives, with a network that is no pipeline's: cards are of numbers."""
    network = dode.Denoiser(lambda x, t: (0.7 * x).tanh() + 0.1, dode.schedules.VP.scaled_linear(), shape=(4, 8, 8))
    options: dict[str, Any] = {"effort": "fast", "samples": 8, "validation": 4, "held_out": 4, "teacher_nfe": 20}
    return fitted(dode.distill(network, "deis", (2, 3), firsts=["network"], **options), **SETTING)


def fitted(made: dode.DistilledSet, **setting: Any) -> dode.DistilledSet:
    """The same with another setting in its tableaux."""
    return dode.DistilledSet(
        tuple(dataclasses.replace(each, tableau=each.tableau.with_meta(fitted_for=setting)) for each in made)
    )


def card(made: Any, pipe: Any, folder: Path, **options: Any) -> str:
    save_scheduler(made, pipe, folder, **{"pictures": False, **CALL, **options})
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_card_has_settings_errors_code_and_pictures(made: dode.DistilledSet, pipe: Any, tmp_path: Path) -> None:
    text = card(made, pipe, tmp_path / "sd", pictures=True, command="dode distill sd")
    assert DodeScheduler.from_pretrained(tmp_path / "sd").held == [2, 3]
    for result in made:
        low, high = result.held_out.gain.low, result.held_out.gain.high  # type: ignore[union-attr]
        row = next(line for line in text.splitlines() if line.startswith(f"| {result.tableau.nfe} |"))
        assert f"{result.held_out.end[0]:.2e}" in row and f"{result.held_out.end[1]:.2e}" in row  # type: ignore[union-attr]
        assert f"({low:.3g} to {high:.3g})" in row
        for warning in result.warnings:
            assert escaped(warning, 2000) in text
        assert f"(pictures-{result.tableau.nfe}.png)" in text
        width, height = Image.open(tmp_path / "sd" / f"pictures-{result.tableau.nfe}.png").size
        assert width < height  # two prompts; base, distilled and teacher
    assert "held-out noises that neither fitted nor chose" in text
    assert "    dode distill sd\n" in text and "seed 0" in text and "diffusers 0." in text
    assert f"dode {dode.__version__}" in text
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    call = next(node for node in ast.walk(ast.parse(code[1])) if isinstance(node, ast.Call) and node.keywords)
    told = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    assert told == {"prompt": "a prompt", "guidance_scale": 2.0, "height": 16, "num_inference_steps": 3}


def test_pictures_of_one_result_start_from_the_same_noise(made: dode.DistilledSet, pipe: Any, tmp_path: Path) -> None:
    """Where the base is given out, its row and that of the scheduler are one."""
    result = dataclasses.replace(made[3], tableau=dataclasses.replace(made[3].base, meta=made[3].tableau.meta))
    card(result, pipe, tmp_path / "sd", pictures=True)
    picture = Image.open(tmp_path / "sd" / "pictures-3.png")
    row = (picture.height + 2) // 3
    rows = [picture.crop((0, i * row, picture.width, i * row + row - 2)).tobytes() for i in range(3)]
    assert rows[0] == rows[1] != rows[2]


def test_the_model_is_named_where_others_can_find_it(made: dode.DistilledSet, pipe: Any, tmp_path: Path) -> None:
    text = card(fitted(made, **SETTING, model="someone/their-model"), pipe, tmp_path / "a")
    assert 'base_model: "someone/their-model"' in text
    assert 'from_pretrained("someone/their-model")' in text
    text = card(fitted(made, **SETTING, model=str(tmp_path / "private" / "model")), pipe, tmp_path / "b")
    assert "base_model" not in text and str(tmp_path) not in text
    assert "| model | model |" in text


def test_foreign_text_is_shown_as_it_is(made: dode.DistilledSet, pipe: Any, tmp_path: Path) -> None:
    bad = "x](http://a)|<b>`#\n---\nlicense: y\x1b[31m"
    changed = fitted(made, **{**SETTING, "pipeline": bad, "model": bad, "network": bad})
    text = card(changed, pipe, tmp_path / "a", prompts=[bad], command="dode " + bad)
    assert "\x1b" not in text
    assert "\nlicense" not in text
    shown = "".join(line for line in text.splitlines() if not line.startswith("    "))
    assert "<b>" not in shown.replace("\\<b\\>", "") and "](http://a" not in shown.replace("\\](http", "")
    assert text.startswith("---\nlibrary_name: diffusers\ntags:\n- dode\n- diffusion-solver\n---\n")


def test_different_settings_have_a_column_each(made: dode.DistilledSet, pipe: Any, tmp_path: Path) -> None:
    two = fitted(made, **SETTING), fitted(made, **{**SETTING, "guidance_scale": 3.0})
    text = card(dode.DistilledSet((two[0].results[0], two[1].results[1])), pipe, tmp_path / "a")
    assert "| fitted for | 2 calls | 3 calls |" in text
    assert "| guidance scale | 2 | 3 |" in text


def test_nothing_held_out_is_said(made: dode.DistilledSet, pipe: Any, tmp_path: Path) -> None:
    meta = {**made[2].tableau.meta["distillation"], "held_out": None}
    text = card(dataclasses.replace(made[2], tableau=made[2].tableau.with_meta(distillation=meta)), pipe, tmp_path / "a")
    assert "noises that were **fitted**" in text
    assert "StableDiffusionPipeline in 2 network calls" in text


def test_a_pipeline_that_cannot_decode_keeps_its_tables(made: dode.DistilledSet, tmp_path: Path) -> None:
    broken = stable_diffusion()
    broken.vae.decode = None
    with pytest.warns(UserWarning, match="the card has no pictures: StableDiffusionPipeline made none: TypeError"):
        text = card(made, broken, tmp_path / "a", pictures=True)
    assert "None: StableDiffusionPipeline made none: TypeError" in text
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["README.md", "scheduler_config.json"]
    with pytest.raises(ValueError, match="schedule"):  # of another network
        save_scheduler(made, dit(), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError("disk full")], ids=["Ctrl-C", "disk"])
def test_what_fails_leaves_what_was_there(
    error: Any, made: dode.DistilledSet, pipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = card(made, pipe, tmp_path / "a")

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr("dode.integrations.diffusers.saved.write_card", fail)
    for name in ("a", "b"):
        with pytest.raises(error if isinstance(error, type) else type(error)):
            card(made[2], pipe, tmp_path / name, overwrite=True)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "README.md").read_text(encoding="utf-8") == before
    assert DodeScheduler.from_pretrained(tmp_path / "a").held == [2, 3]


def test_a_folder_is_replaced_as_a_whole_and_only_if_it_is_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(number: int) -> Any:
        return lambda folder: (folder / f"made-{number}.json").touch()

    place = tmp_path / "a"
    place.mkdir()
    write_folder(place, write(1), ["made-*.json"])  # an empty one is nobody's
    with pytest.raises(FileExistsError, match="a exists: choose another name"):
        write_folder(place, write(2), ["made-*.json"])
    (tmp_path / "link").symlink_to(place)
    write_folder(tmp_path / "link", write(2), ["made-*.json"], overwrite=True)
    assert [path.name for path in place.iterdir()] == ["made-2.json"]
    (place / "mine").mkdir()
    with pytest.raises(FileExistsError, match="such as mine"):
        write_folder(place, write(3), ["made-*.json", "m*"], overwrite=True)
    (place / "mine").rmdir()

    rename = Path.rename

    def once(path: Path, target: Path) -> Any:
        if ".dode-" in path.name and target == place:
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", once)
    with pytest.raises(KeyboardInterrupt):
        write_folder(place, write(3), ["made-*.json"], overwrite=True)
    assert [path.name for path in place.iterdir()] == ["made-2.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "link"]


def test_the_network_is_known_by_the_driver_and_here_alike(pipe: Any) -> None:
    with drive(pipe, prompts=["a cat"]) as (denoiser, _):
        assert denoiser.net.setting["network_hash"] == network_hash(pipe)  # type: ignore[union-attr]
    assert json.dumps(network_hash(pipe))
