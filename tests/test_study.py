"""The sensitivity study, on an exactly known network: what it measures, what it says of it, what it keeps."""

from __future__ import annotations

import csv
import html
import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from mixture import Mixture, mixture_denoiser
from torch import Tensor, nn

import dode
from dode import cli
from dode.conditions import cycle
from dode.distillation import PAPER
from dode.distillation.effort import effort_of
from dode.models import ClassLabels
from dode.noise import REPORT, standard_noise
from dode.report import Study, study
from dode.report.axes import AXES
from dode.report.outcomes import NAMES, Case, Fit, Outcome
from dode.report.page.study import section
from dode.report.reference import reference_tableau
from dode.report.results import to_json
from dode.report.study_files import load_study
from dode.report.study_results import study_from_json
from dode.report.study_tables import axis_table
from dode.schedules import VP, Array

SCHEDULE = VP.linear()
HELD_OUT = 12
SMALL = {"nfe": 3, "samples": 12, "teacher_scale": 3, "held_out": HELD_OUT, "reference_nfe": 30, "repeats": 2}
HOME = Fit("lambda", nfe=3, samples=12, teacher_scale=3, seed=0, guidance=1.0)


class Labelled(nn.Module):
    """Four classes, each a mixture of its own, and a null class; or the null class's whatever the label is."""

    def __init__(self, deaf: bool = False) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        means = [torch.randn(2, 4, generator=generator, dtype=torch.float64) for _ in range(4)]
        self.nets = [Mixture(SCHEDULE, means=m, weights=(0.6, 0.4)) for m in means] + [Mixture(SCHEDULE)]
        self.deaf = deaf

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        out = torch.empty_like(x)
        for label, net in enumerate(self.nets):
            rows = class_labels == label
            if rows.any():
                out[rows] = (self.nets[-1] if self.deaf else net)(x[rows], t[rows])
        return out


def labelled(deaf: bool = False) -> dode.Denoiser:
    net = ClassLabels(Labelled(deaf), classes=5, null_class=4)
    return dode.Denoiser(net, SCHEDULE, shape=(4,), null_condition={"class_labels": 4}, name="labelled")


def end_point_error(denoiser: dode.Denoiser, tableau: dode.Tableau, **cond: Tensor) -> float:
    """As a study measures it, written out."""
    noise = standard_noise(0, HELD_OUT, (4,), stream=REPORT)
    cond = cycle(cond, 0, HELD_OUT)
    fine = dode.sample(denoiser, reference_tableau(SCHEDULE, SMALL["reference_nfe"]), noise, **cond)
    return float((dode.sample(denoiser, tableau, noise, **cond) - fine).double().square().mean())


def by_value(found: Study, axis: str, method: str = "lambda", series: str = "") -> dict[float | str, Outcome]:
    return {r.case.value: r for r in found.results[axis] if (r.case.method, r.case.series) == (method, series)}


def test_error_is_the_distance_to_the_reference_on_noise_that_no_fit_saw() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    found = study(denoiser, "ddim", axes=["nfe"], values={"nfe": [3, 4]}, **SMALL)
    for nfe, result in by_value(found, "nfe").items():
        fitted = dode.distill(denoiser, "ddim", int(nfe), samples=12, teacher_scale=3, held_out=0, **PAPER)
        assert result.error == pytest.approx(end_point_error(denoiser, fitted.tableau))
        assert result.base.mean() == pytest.approx(end_point_error(denoiser, fitted.base))
        assert result.gain[0] == pytest.approx(result.error / result.base.mean())
        assert result.lambdas is not None
        np.testing.assert_allclose(result.lambdas[0], fitted.lambdas)


def test_end_to_end_at_the_efforts_own_settings_is_what_distill_gives() -> None:
    """The budget that a study works out for any number of samples and any teacher is the usual one at the usual ones."""
    denoiser, effort = mixture_denoiser(SCHEDULE), effort_of("balanced")
    usual = {"samples": effort.samples, "teacher_scale": 10}
    found = study(denoiser, "ddim", axes=["seeds"], values={"seeds": [0]}, **SMALL | usual)
    fitted = dode.distill(denoiser, "ddim", 3, effort="balanced", teacher_scale=10, held_out=0)
    assert by_value(found, "seeds", "end-to-end")[0].error == pytest.approx(end_point_error(denoiser, fitted.tableau))
    assert by_value(found, "seeds", "end-to-end")[0].cost == fitted.cost


def test_guidance_is_sampled_elsewhere_with_what_was_fitted_at_home() -> None:
    denoiser, labels = labelled(), torch.arange(4)
    found = study(denoiser, "ddim", axes=["guidance"], values={"guidance": [1, 2]}, **SMALL, class_labels=labels)
    guided = denoiser.replace(guidance_scale=2.0)
    options = {"samples": 12, "teacher_scale": 3, "held_out": 0, "class_labels": labels, **PAPER}
    home, there = (dode.distill(d, "ddim", 3, **options).tableau for d in (denoiser, guided))
    elsewhere = by_value(found, "guidance", series="fitted at 1")
    assert elsewhere[2.0].error == pytest.approx(end_point_error(guided, home, class_labels=labels))
    fitted_there = by_value(found, "guidance", series="fitted there")
    assert fitted_there[2.0].error == pytest.approx(end_point_error(guided, there, class_labels=labels))
    assert fitted_there[1.0].error == elsewhere[1.0].error


def test_classes_fitted_are_not_those_sampled() -> None:
    denoiser, labels = labelled(), torch.tensor([3, 0, 2, 1, 0])
    found = by_value(study(denoiser, "ddim", axes=["classes"], **SMALL, class_labels=labels), "classes")
    fitted_on = {"other classes": [0, 1, 0], "the classes sampled": [3, 2], "all classes": labels.tolist()}
    for name, classes in fitted_on.items():
        options = {"samples": 12, "teacher_scale": 3, "held_out": 0, "class_labels": torch.tensor(classes), **PAPER}
        tableau = dode.distill(denoiser, "ddim", 3, **options).tableau
        assert found[name].error == pytest.approx(end_point_error(denoiser, tableau, class_labels=torch.tensor([3, 2])))


def test_network_that_does_not_hear_its_labels_transfers_perfectly() -> None:
    values = {"classes": ["other classes", "the classes sampled"], "guidance": [1, 2]}
    found = study(labelled(deaf=True), "ddim", axes=values, values=values, **SMALL, class_labels=torch.arange(4))
    for answer in found.answers.values():
        assert answer.count("transfers: ") == 2
        assert answer.count("1.00 ± 0.00 times") == 2


def test_axes_that_a_model_does_not_have_are_skipped_and_said() -> None:
    found = study(mixture_denoiser(SCHEDULE), "pndm", values={"nfe": [2, 3]}, axes=["guidance", "classes", "nfe"], **SMALL)
    assert list(found.results) == ["nfe"]
    assert set(found.skipped) == {"guidance", "classes"}
    impossible = by_value(found, "nfe")[2]  # a budget that the solver does not have
    assert impossible.skipped and not by_value(found, "nfe")[3].skipped
    first = axis_table(AXES["nfe"], found.results["nfe"]).rows[0]
    assert impossible.skipped in [entry.text for entry in first.entries]
    context, charts = section(found)
    assert [axis["name"] for axis in context["axes"] if axis["skipped"]] == ["guidance", "classes"]
    assert [chart.name for chart in charts] == ["study-nfe"]
    with pytest.raises(ValueError, match="no axis is left: classes: "):
        study(mixture_denoiser(SCHEDULE), axes=["classes"], **SMALL)
    with pytest.raises(ValueError, match="no axis is left: guidance: guidance needs the condition class_labels"):
        study(labelled(), axes=["guidance"], **SMALL)


@pytest.fixture(scope="module")
def whole() -> Study:
    """A study of all axes."""
    values = {
        "samples": [8],
        "teacher-scale": [3, 4],
        "seeds": [0, 1],
        "guidance": [1, 2],
        "classes": ["all classes"],
        "nfe": [4],
    }
    return study(labelled(), "ddim", values=values, command="dode study", class_labels=torch.arange(4), **SMALL)


def test_study_goes_through_json_unchanged(whole: Study) -> None:
    text = json.dumps(to_json(whole), allow_nan=False)
    again = study_from_json(json.loads(text))
    assert json.dumps(to_json(again)) == text
    assert again.answers == whole.answers and again.caption == whole.caption
    assert again.rows() == whole.rows()


def test_rows_are_tidy_and_say_what_the_outcomes_do(whole: Study) -> None:
    frame = whole.to_frame()
    assert len(frame) == sum(len(each.case.fits) for outcomes in whole.results.values() for each in outcomes)
    keys = ["axis", "value", "series", "method", "seed"]
    assert not frame.duplicated(keys).any()
    means = frame[frame.axis == "samples"].groupby(["value", "method"]).error.mean()
    for each in whole.results["samples"]:
        assert means[each.case.value, each.case.method] == pytest.approx(each.error)


def test_notebooks_show_charts_answers_and_tables(whole: Study) -> None:
    for name in whole.results:
        spec = whole.plot(name).to_dict()
        (rows,) = spec["datasets"].values()
        assert rows and spec["width"] == 560
    shown = html.unescape(whole._repr_html_())
    assert all(answer[1:] in shown for answer in whole.answers.values())
    assert shown.count("<table") == len(whole.results) + 1  # over the seeds
    with pytest.raises(ValueError, match="unknown axis 'sample': did you mean 'samples'"):
        whole.plot("sample")


def test_charts_show_each_outcome_once_with_its_error_bar(whole: Study) -> None:
    _, charts = section(whole)
    assert [chart.name for chart in charts] == [
        *(
            "study-samples",
            "study-teacher-scale",
            "study-seeds",
            "study-seeds-lambda",
            "study-guidance",
            "study-classes",
            "study-nfe",
        )
    ]
    for name, outcomes in whole.results.items():
        chart = next(chart for chart in charts if chart.name == f"study-{name}")
        (rows,) = chart.rows.values()
        means = {(row["value"], row["method"], row["series"]): row for row in rows if row["kind"] == "mean"}
        for each in outcomes:
            row = means.pop((each.case.value, NAMES[each.case.method], each.case.series))
            assert (row["error"], row["high"]) == (each.error, pytest.approx(each.error + each.standard_error))
        assert not means
        assert sum(row["kind"] == "fit" for row in rows) == sum(len(e.errors) for e in outcomes if len(e.errors) > 1)
        assert whole.answers[name][1:] in chart.alt


def test_fits_that_axes_share_are_made_once_and_all_evaluations_are_counted(tmp_path: Path) -> None:
    denoiser, records = mixture_denoiser(SCHEDULE), tmp_path / "study.jsonl"
    values = {"teacher-scale": [3, 4], "seeds": [0, 1], "nfe": [3], "samples": [12]}
    found = study(denoiser, "ddim", axes=values, values=values, records=records, **SMALL)
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    fits = [json.dumps(line["fit"]) for line in lines if line["what"] == "fit"]
    assert len(fits) == len(set(fits)) == 6  # each method: at home, with another seed, with another teacher
    assert found.evaluations == denoiser.evaluations
    assert len({r.error for name in values for r in found.results[name] if r.case.fits == (HOME,)}) == 1


def test_interrupted_study_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    values = {"samples": [8], "nfe": [3]}

    def run(records: Path, on_result: Callable[..., None] | None = None, **changes: object) -> tuple[Study, int]:
        denoiser = mixture_denoiser(SCHEDULE)
        options = SMALL | {"axes": values, "values": values, "records": records, "on_result": on_result} | changes
        return study(denoiser, "ddim", **options), denoiser.evaluations

    def stop(name: str, result: Outcome, done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    whole, all_evaluations = run(tmp_path / "whole.jsonl")
    records = tmp_path / "study.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run(records, stop)
    kept = records.read_text()
    records.write_text(kept + '{"key": "half a li')
    with pytest.warns(UserWarning, match=re.escape(f"{records} is damaged (1 of ")):
        resumed, evaluations = run(records)
    assert 0 < evaluations < all_evaluations
    for name in values:
        for a, b in zip(whole.results[name], resumed.results[name], strict=True):
            assert a.case == b.case
            np.testing.assert_array_equal(a.errors, b.errors)
    assert run(records)[1] == 0
    assert run(records, seed=3)[1] > 0
    assert run(records, restart=True)[1] == all_evaluations


def test_another_network_takes_nothing_from_the_records(tmp_path: Path) -> None:
    errors = []
    for std in (0.3, 0.5):
        denoiser = dode.Denoiser(Mixture(SCHEDULE, std=std), SCHEDULE, shape=(4,), name="same name")
        found = study(denoiser, axes=["nfe"], values={"nfe": [3]}, records=tmp_path / "study.jsonl", **SMALL)
        errors.append(found.results["nfe"][0].error)
    assert errors[0] != errors[1]


def result(value: float, error: float | Array, base: float = 1.0, method: str = "lambda", series: str = "") -> Outcome:
    """A made-up result: (S, n) errors, or one number for all of four samples."""
    errors = np.asarray(error) if np.ndim(error) else np.full((1, 4), error)
    fits = tuple(replace(HOME, method=method, seed=i) for i in range(len(errors)))
    lambdas = np.array([[value, 0.5]] * len(errors)) if method == "lambda" else None
    return Outcome(Case(value, fits, HOME.place, series), errors, np.full(errors.shape[1], base), lambdas, 100.0, 1.0)


def test_answers_say_what_the_numbers_say() -> None:
    curve = {8: 2.0, 16: 1.02, 32: 1.2, 64: 1.04, 128: 0.9, 256: 1.0}
    answer = AXES["samples"].summary([result(v, e) for v, e in curve.items()])
    assert "lambda alone: from 64 samples on within 5 % of 256 samples (20 % above at 32)" in answer
    assert "end to end: no result" in answer
    curve = [result(2, 3.0), result(20, 1.1), result(50, 1.0)]
    assert "not settled before scale 50 (10 % above at 20)" in AXES["teacher-scale"].summary(curve)
    answer = AXES["seeds"].summary([result(v, e) for v, e in zip((0.1, 0.2, 0.3), (0.9, 1.0, 1.1), strict=True)])
    assert "between 3 seeds the error has a standard deviation of 10 %" in answer
    assert "lambda one of 0.100 at most (step 1, mean +0.200)" in answer
    answer = AXES["nfe"].summary([result(3, 0.2), result(5, 0.5), result(10, np.array([[1.1, 1.2, 1.3, 1.2]]))])
    assert "0.200 of the base's error at NFE 3 (most gained) to 1.200 at 10 (least), worse than the base at NFE 10" in answer


@pytest.mark.parametrize(
    ("elsewhere", "there", "verdict"),
    [
        (0.2, 0.2, "transfers: "),
        (0.4, 0.2, "transfers in part: "),
        (1.3, 0.2, "does not transfer: "),
        (1.3, 1.3, "transfers: "),
    ],
)
def test_verdict_on_transfer(elsewhere: float, there: float, verdict: str) -> None:
    pairs = [result(1.0, 0.1, series="fitted at 1"), result(1.0, 0.1, series="fitted there")]
    pairs += [result(3.0, elsewhere, series="fitted at 1"), result(3.0, there, series="fitted there")]
    pairs[3] = replace(pairs[3], case=replace(pairs[3].case, fits=(replace(HOME, guidance=3.0),)))
    answer = AXES["guidance"].summary(pairs)
    assert f"lambda alone: {verdict}at guidance 3, {elsewhere / there:.2f} ± 0.00 times the error of a fit there" in answer


def test_standard_error_and_spread() -> None:
    """Over samples, of the mean over fits; and between fits, of the mean over samples."""
    errors = np.array([[1.0, 2.0, 3.0, 6.0], [3.0, 2.0, 5.0, 10.0]])
    found = result(8, errors)
    assert found.error == 4
    assert found.standard_error == pytest.approx(np.array([2, 2, 4, 8]).std(ddof=1) / 2)
    assert found.spread == pytest.approx(np.sqrt(2))
    # A ratio to a base that is proportional on every sample is exact.
    assert replace(found, base=2 * errors.mean(0)).gain == pytest.approx((0.5, 0.0))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"axes": ["sampels"]}, "did you mean 'samples'"),
        ({"axes": []}, "no axis: name some of samples"),
        ({"values": {"seeds": [1]}}, "values of seeds are of no use"),
        ({"values": {"samples": [0]}}, "samples must be whole numbers of at least 1, got 0"),
        ({"values": {"samples": []}}, "values of samples are empty"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"repeats": 0}, "repeats must be at least 1, got 0"),
        ({"held_out": 1}, "held_out must be at least 2, got 1"),
        ({"reference_nfe": 3}, "the reference must take more evaluations than the 3 that are measured, got 3"),
        ({"nfe": 0}, "nfe must be at least 1, got 0"),
    ],
)
def test_bad_arguments_are_named_before_any_work(change: dict[str, object], message: str) -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    with pytest.raises(ValueError, match=re.escape(message)):
        study(denoiser, **SMALL | {"axes": ["samples"]} | change)
    assert denoiser.evaluations == 0


NETWORK = """
import dode
from mixture import Mixture

def study_mixture():
    schedule = dode.schedules.VP.linear()
    return dode.Denoiser(Mixture(schedule), schedule, shape=(4,), name="mixture")
"""
TINY = "--nfe 3 --samples 8 --repeats 2 --held-out 4 --reference-nfe 20"


def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, text: str) -> tuple[int, str, str]:
    """`dode ...` in this process: exit code, standard output, standard error."""
    monkeypatch.setattr("sys.argv", ["dode", *text.split()])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    shown = capsys.readouterr()
    return int(stopped.value.code or 0), shown.out, shown.err


def test_command_writes_a_section_and_goes_on_with_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study_networks.py").write_text(NETWORK)
    mine = f"study study_networks:study_mixture {TINY} --out found"
    first = f"{mine} --axes samples,classes --values samples=8"
    folder = tmp_path / "found"

    def rows() -> list[dict[str, str]]:
        with (folder / "study.csv").open() as file:
            return list(csv.DictReader(file))

    code, out, err = command(capsys, monkeypatch, first)
    assert code == 0, err
    assert "skipped classes: mixture was given no two class labels" in out
    assert "network evaluations of one sample" in out
    assert sorted(path.name for path in folder.iterdir()) == ["cache", "index.html", "plots", "study.csv", "study.json"]
    assert sorted(path.name for path in (folder / "plots").iterdir()) == ["study-samples.png", "study-samples.svg"]
    page = (folder / "index.html").read_text()
    assert f"dode {first}" in page and "How many samples?" in page and "How much is chance?" not in page
    assert len(rows()) == len(json.loads((folder / "study.json").read_text())) == 2 * 2  # two methods, two repeats
    assert all(len(row["lambdas"].split()) == (3 if row["method"] == "lambda" else 0) for row in rows())

    records, samples = (folder / "cache" / "study.jsonl").read_bytes(), rows()
    code, _, err = command(capsys, monkeypatch, first)
    assert code == 0, err
    assert (folder / "cache" / "study.jsonl").read_bytes() == records and rows() == samples, "nothing is made again"

    code, _, err = command(capsys, monkeypatch, f"{mine} --axes seeds --values seeds=0,1")
    assert code == 0, err
    page = (folder / "index.html").read_text()
    assert "How many samples?" in page and "How much is chance?" in page and "Skipped: mixture" in page
    assert f"dode {first}\n" in page
    assert rows()[:4] == samples and [row["axis"] for row in rows()[4:]] == ["seeds"] * 4

    for other in (" --solver ddim", " --force --values seeds=-1"):
        code, _, err = command(capsys, monkeypatch, mine + " --axes seeds" + other)
        assert code == 2 and len(err.strip().splitlines()) == 1
        assert (folder / "index.html").read_text() == page, "what is refused takes nothing away"

    code, _, err = command(capsys, monkeypatch, f"{mine} --axes seeds --values seeds=0 --solver ddim --force")
    assert code == 0, err
    assert [row["axis"] for row in rows()] == ["seeds"] * 2


def test_comparison_and_study_share_a_folder_and_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study_networks.py").write_text(NETWORK)
    model, folder = "study_networks:study_mixture", tmp_path / "found"
    comparing = f"compare {model} --solver ddim --nfe 3,4 --effort none --samples 4 --reference-nfe 20 --out found"
    studying = f"study {model} {TINY} --axes nfe --values nfe=3 --out found"
    for text in (comparing, studying):
        code, _, err = command(capsys, monkeypatch, text)
        assert code == 0, err

    def shown() -> tuple[bool, bool]:
        page = (folder / "index.html").read_text()
        return '<table id="results"' in page, studying in page

    assert shown() == (True, True)
    kept = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert {"results.csv", "study.csv"} <= {path.name for path in kept}
    for path in [*folder.glob("*.*"), *(folder / "plots").iterdir()]:
        path.unlink()
    code, _, err = command(capsys, monkeypatch, "report found")
    assert code == 0, err
    again = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert set(again) == set(kept)
    # Vega numbers the gradients of an SVG through all that it draws.
    assert all(again[path] == kept[path] for path in kept if path.suffix != ".svg")
    for text in (comparing, studying + " --force"):
        code, _, err = command(capsys, monkeypatch, text)
        assert code == 0 and shown()[0], err
    assert (folder / "cache" / "comparison.json").is_file() and "study-axis-nfe" in (folder / "index.html").read_text()
    (folder / "cache" / "study.json").write_text("{}")
    with pytest.warns(UserWarning, match="study.json is damaged"):
        assert load_study(folder) is None


def test_missing_library_is_named_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "altair", None)
    code, _, err = command(capsys, monkeypatch, "study fashion --axes samples --out found")
    assert code == 2 and err == "error: the page needs altair: pip install 'dode[report]'\n"
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--axes sampels", "unknown axis 'sampels': did you mean 'samples'"),
        ("--axes samples --values samples", "--values takes AXIS=V,V,..., got 'samples'"),
        ("--axes samples --values samples=few", "--values samples takes whole numbers separated by commas, got 'few'"),
        ("--axes samples --values sampels=8", "did you mean 'samples'"),
        ("--axes guidance --values guidance=a", "--values guidance takes numbers separated by commas, got 'a'"),
        ("--axes guidance", "no axis is left: guidance: mixture has no null condition"),
        ("--solver dies", "did you mean 'deis'"),
        ("--classes 3", "--classes: mixture is not class-conditional"),
        ("--reference-nfe 5 --axes samples", "the reference must take more evaluations than the 5"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("study_networks.py").write_text(NETWORK)
    code, _, err = command(capsys, monkeypatch, f"study study_networks:study_mixture --out found {arguments}")
    assert code == 2
    assert len(err.strip().splitlines()) == 1 and message in err
    assert not (tmp_path / "found").exists()
