"""Tableaux: validation, saving, printing, the rewriting for a prediction."""

from __future__ import annotations

import dataclasses
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dode
from dode.distillation.summary import render, summary
from dode.grids import Explicit
from dode.schedules import EDM, VE, VP, CosineVP, Flow
from dode.schemas import DistillationFile
from dode.solvers import REGISTRY
from dode.tableau import output_to_sample

SCHEDULE = VP.linear()
DISTILLED = Path(__file__).parent.parent / "docs" / "benchmarks" / "tableaux" / "fashion" / "deis-thorough-4.json"


@pytest.mark.parametrize("name", REGISTRY)
def test_saving_keeps_every_bit(name: str, tmp_path) -> None:
    tableau = dode.solver(name).tableau(SCHEDULE, 5)
    path = tmp_path / "t.json"
    tableau.save(path)
    loaded = dode.Tableau.load(path)
    assert loaded == tableau
    for field in ("times", "alphas", "sigmas", "a", "b"):
        assert (getattr(loaded, field) == getattr(tableau, field)).all()
    assert loaded.integrand is not None
    assert (loaded.integrand.factors == tableau.integrand.factors).all()
    assert [p.name for p in tmp_path.iterdir()] == ["t.json"]


def test_a_file_is_not_overwritten_unasked(tmp_path) -> None:
    path = tmp_path / "t.json"
    tableau = dode.solver("ddim").tableau(SCHEDULE, 2)
    tableau.save(path)
    other = dode.solver("ddim").tableau(SCHEDULE, 3)
    with pytest.raises(FileExistsError, match="exists"):
        other.save(path)
    assert dode.Tableau.load(path).nfe == 2
    other.save(path, overwrite=True)
    assert dode.Tableau.load(path).nfe == 3
    with pytest.raises(FileNotFoundError, match="does not exist"):
        tableau.save(tmp_path / "nowhere" / "t.json")


def test_damaged_files_are_refused_in_one_line(tmp_path) -> None:
    path = tmp_path / "t.json"
    dode.solver("ddim").tableau(SCHEDULE, 2).save(path)
    data = json.loads(path.read_text())

    def refused(change: dict[str, object], message: str) -> None:
        path.write_text(json.dumps({k: v for k, v in (data | change).items() if v is not None}))
        with pytest.raises(ValueError, match=message) as caught:
            dode.Tableau.load(path)
        assert "\n" not in str(caught.value)

    refused({"format": "other"}, "is not a tableau")
    refused({"version": 99}, "format version 99")
    refused({"a": None}, "'a' is missing")
    refused({"a": [[1.0], [1.0]]}, "row 1 must have 2 numbers")
    refused({"times": [1, 2]}, "times must have 3 values")
    refused({"b": [[1.0], ["x", 1.0]]}, r"damaged tableau: b\[1\]\[0\] should be a valid number, got 'x'")
    refused({"b": [[1.0], [True, 1.0]]}, r"b\[1\]\[0\] should be a valid number, got True")
    refused({"noise_scale": "1.0"}, "noise_scale should be a valid number, got '1.0'")
    refused({"version": True}, "format version True")
    refused({"version": 1.0}, r"format version 1\.0")
    refused({"integrand": []}, "integrand should be")
    refused({"integrand": {}}, "'integrand.kind' is missing")
    refused({"first": "mean", "mean": [["1"]]}, "mean: must hold numbers alone, got str")
    refused({"a": [[1.0]] * 100_000}, "row 1 must have 2 numbers")
    refused({"nois_scale": 1.0}, "unknown key 'nois_scale': did you mean 'noise_scale'")
    refused({"noise_scale": float("nan")}, "noise_scale")
    path.write_text("{")
    with pytest.raises(ValueError, match="is not JSON"):
        dode.Tableau.load(path)
    path.write_text("[1, 2]")
    with pytest.raises(ValueError, match="must hold a JSON object"):
        dode.Tableau.load(path)
    with pytest.raises(FileNotFoundError):
        dode.Tableau.load(tmp_path / "none.json")


def test_a_tableau_is_checked_when_it_is_made() -> None:
    good = dode.solver("ddim").tableau(SCHEDULE, 3)
    upper = np.triu(np.ones((3, 3)))
    for change, message in (
        ({"a": upper}, "lower triangular"),
        ({"b": np.eye(2)}, r"shape \(3, 3\)"),
        ({"a": np.full((3, 3), np.nan)}, "lower triangular|finite"),
        ({"times": np.array([9.0, 5, 7, 1])}, "one way"),
        ({"alphas": np.array([1.0, np.inf, 1, 1])}, "finite"),
        ({"noise_scale": 0.0}, "noise_scale"),
        ({"times": np.full(4, 500.0)}, "got 500 for all"),
        ({"a": np.zeros((3, 3)), "b": np.zeros((3, 3))}, "coefficients are all 0"),
        ({"a": np.diag([1e308, 1, 1])}, r"at most 1e\+30"),
        ({"alphas": np.array([-0.1, 0.5, 0.9, 1])}, "must not be negative"),
        ({"sigmas": np.array([1, 0.5, 0.1, -1e-9])}, "must not be negative"),
        ({"alphas": np.zeros(4), "sigmas": np.zeros(4)}, "nor both 0"),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(good, **change)


def test_a_tableau_cannot_be_changed() -> None:
    tableau = dode.solver("ddim").tableau(SCHEDULE, 3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tableau.noise_scale = 2.0  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        tableau.a[0, 0] = 2.0


def test_printing_shows_every_row() -> None:
    text = str(dode.solver("deis").tableau(SCHEDULE, 4))
    assert "deis" in text
    assert "NFE 4" in text
    assert len(text.splitlines()) == 6
    assert "x3" in text
    assert "D3" in text


@pytest.mark.parametrize("prediction", ["epsilon", "v", "flow", "score", "sample"])
def test_conversion_inverts_the_definition_of_the_prediction(prediction: str) -> None:
    x0, eps = 0.7, -1.3
    for schedule in (SCHEDULE, Flow()):
        t = 0.4 * schedule.t_max
        point = dode.grids.Point(t, float(schedule.alpha(t)), float(schedule.sigma(t)))
        x = point.alpha * x0 + point.sigma * eps
        output = {
            "epsilon": eps,
            "v": point.alpha * eps - point.sigma * x0,
            "flow": eps - x0,
            "score": -eps / point.sigma,
            "sample": x0,
        }[prediction]
        u, w = output_to_sample(prediction, point)
        assert u * x + w * output == pytest.approx(x0, abs=1e-12)


@pytest.mark.parametrize("prediction", ["epsilon", "score", "edm"])
def test_a_prediction_that_says_nothing_of_pure_noise_is_refused_there(prediction: str) -> None:
    tableau = dode.solver("ddim").tableau(Flow(), 3)
    with pytest.raises(
        ValueError, match=f"that predicts {prediction} says nothing about the sample at t = 1000, where alpha = 0"
    ):
        tableau.for_prediction(prediction)


def read_as_text(tableau: dode.Tableau, path: Path) -> str:
    tableau.save(path, overwrite=True)
    return path.read_text()


def test_what_is_read_and_written_again_is_the_same_text(tmp_path: Path) -> None:
    for tableau in (dode.solver("unipc").tableau(SCHEDULE, 4), dode.Tableau.load(DISTILLED)):
        text = read_as_text(tableau, tmp_path / "t.json")
        loaded = dode.Tableau.load(tmp_path / "t.json")
        assert not loaded.changed
        assert loaded == tableau
        assert read_as_text(loaded, tmp_path / "t.json") == text


def test_a_file_without_a_digest_is_read_in_silence() -> None:
    assert "digest" not in json.loads(DISTILLED.read_text())
    assert not dode.Tableau.load(DISTILLED).changed


def test_every_changed_digit_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    text = read_as_text(dode.Tableau.load(DISTILLED), path)
    numbers = list(re.finditer(r"(?<=[ \[])-?\d+\.\d+", text))
    assert len(numbers) > 100
    for found in numbers[:: len(numbers) // 40]:
        place = found.start() + found.group().index(".") + 1
        other = str((int(text[place]) + 1) % 10)
        path.write_text(text[:place] + other + text[place + 1 :])
        assert dode.Tableau.load(path).changed


def linear() -> dode.Denoiser:
    return dode.Denoiser(lambda x, t: 0.5 * x, SCHEDULE)


def test_a_changed_file_is_shown_and_said_once_and_used(tmp_path: Path) -> None:
    path = tmp_path / "t.json"
    data = json.loads(read_as_text(dode.Tableau.load(DISTILLED), path))
    data["a"][0][0] += 0.25
    path.write_text(json.dumps(data))
    tableau, noise = dode.Tableau.load(path), torch.ones(1, 2)
    assert tableau.a[0, 0] == data["a"][0][0]
    assert render(summary(tableau)).startswith("changed after it was made")
    with pytest.warns(UserWarning, match="changed after it was made"):
        dode.sample(linear(), tableau, noise, strict=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dode.sample(linear(), tableau, noise, strict=False)
    # Saved again it is still not what was made; a file that was only formatted anew is.
    text = read_as_text(tableau, path)
    assert dode.Tableau.load(path).changed
    assert read_as_text(dode.Tableau.load(path), path) == text
    read_as_text(dode.Tableau.load(DISTILLED), path)
    path.write_text(json.dumps(json.loads(path.read_text())))
    assert not dode.Tableau.load(path).changed


FAR: dict[str, tuple[dict[str, Any], str]] = {
    "times of nowhere": ({"times": np.array([5000.0, 600, 300, -1])}, "has times from 5000 to -1"),
    "times below the clean one": ({"times": np.array([999.0, 600, 300, -5])}, "has times from 999 to -5"),
    "times of other scales": ({"times": np.array([900.0, 600, 300, -1])}, "where the schedule .* has"),
    "alphas of another schedule": ({"alphas": VP.scaled_linear().alpha([999.0, 666, 333, -1])}, "where the schedule .* has"),
    "sigmas of another schedule": ({"sigmas": np.array([1.0, 0.9, 0.4, 0.0])}, "where the schedule .* has"),
    "another noise scale": ({"noise_scale": 7.0}, "scales the noise by 7, and its schedule by 1"),
}


@pytest.mark.parametrize("name", FAR)
def test_a_tableau_that_names_the_schedule_is_compared_with_it(name: str) -> None:
    change, message = FAR[name]
    times = np.array([999.0, 665.5, 332.25, -1])
    tableau = dode.solver("ddim").tableau(SCHEDULE, grid=times)
    tableau = dataclasses.replace(tableau, **change)
    assert tableau.schedule == SCHEDULE.fingerprint
    with pytest.raises(ValueError, match=message) as caught:
        dode.sample(linear(), tableau, torch.ones(1, 2))
    assert "--no-strict" in str(caught.value)
    dode.sample(linear(), tableau, torch.ones(1, 2), strict=False)


@pytest.mark.parametrize(
    "schedule", [SCHEDULE, Flow(), Flow(time_scale=1.0), EDM(), VE(), CosineVP(), Flow().with_integer_times()]
)
@pytest.mark.parametrize("name", REGISTRY)
def test_what_solvers_make_is_the_schedules(name: str, schedule: Any) -> None:
    for options in ({}, {"reverse": True}):
        dode.solver(name).tableau(schedule, 5, **options).check_schedule(schedule)


def test_times_that_were_rounded_may_have_scales_of_their_own() -> None:
    """As diffusers' Karras grid has them."""
    times = np.array([999.0, 500, 100, -1])
    exact = times + np.array([0, 0.4, -0.5, 0])
    grid = Explicit(tuple(times), tuple(SCHEDULE.alpha(exact)), tuple(SCHEDULE.sigma(exact)))
    dode.solver("ddim").tableau(SCHEDULE, grid=grid).check_schedule(SCHEDULE)
    exact = times + np.array([0, 3, 0, 0])
    grid = Explicit(tuple(times), tuple(SCHEDULE.alpha(exact)), tuple(SCHEDULE.sigma(exact)))
    with pytest.raises(ValueError, match="at t = 500"):
        dode.solver("ddim").tableau(SCHEDULE, grid=grid).check_schedule(SCHEDULE)


def test_coefficients_that_overflow_for_a_network_are_refused() -> None:
    tableau = dataclasses.replace(dode.solver("ddim").tableau(SCHEDULE, 2), alphas=np.array([1e-300, 0.5, 1.0]))
    with pytest.raises(ValueError, match="too large for a network that predicts epsilon"):
        tableau.for_prediction("epsilon")


def statistics() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(DISTILLED.read_text())["meta"]["distillation"]
    return made


@pytest.mark.parametrize("key", sorted(statistics()))
def test_statistics_that_lack_something_are_not_shown(key: str) -> None:
    tableau = dode.Tableau.load(DISTILLED)
    without = {k: v for k, v in statistics().items() if k != key}
    lacking = render(summary(tableau.with_meta(distillation=without)), 200)
    strange = render(summary(tableau.with_meta(distillation=without | {key: {"strange": [1]}})), 200)
    for text in (lacking, strange) if key in DistillationFile.model_fields else ():
        assert ("its statistics are not those of this version of dode" in text) != ("effort thorough" in text)
    assert f"{key!r} is missing" in lacking or "effort thorough" in lacking
    assert key not in DistillationFile.model_fields or f"version of dode: {key}" in strange.replace("'", "")


def test_names_in_a_file_are_shown_without_markup_control_characters_or_end() -> None:
    name = "[/x][bold]\x1b[31m" + "x" * 10_000
    tableau = dataclasses.replace(dode.Tableau.load(DISTILLED), solver=name, grid=name, schedule=name)
    made = statistics() | {"model": name, "teacher": name, "chosen": name, "warnings": [name], "evaluations": {name: 1}}
    made["trials"][0]["name"] = name
    for shown in (tableau.with_meta(distillation=made), tableau.with_meta(distillation=None)):
        text = f"{render(summary(shown))}\n{shown}\n{shown!r}"
        assert all(line.isprintable() for line in text.split("\n"))
        assert "[/x][bold][31mxxx" in text
        assert len(text) < 20_000
