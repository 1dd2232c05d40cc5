"""Tableaux: validation, saving, printing, the rewriting for a prediction."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

import dode
from dode.schedules import VP, Flow
from dode.solvers import REGISTRY
from dode.tableau import output_to_sample

SCHEDULE = VP.linear()


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
    refused({"b": [[1.0], ["x", 1.0]]}, "damaged")
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
