"""The comparison of base and distilled solvers: what its numbers are, when it says worse, what it does about runs that fail."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from mixture import Mixture, mixture_denoiser
from torch import Tensor

import dode
from dode.distillation import PAPER
from dode.noise import REPORT, standard_noise
from dode.report import Comparison, Entry, compare
from dode.report.reference import reference_tableau

SCHEDULE = dode.schedules.VP.linear()
HOW = {**PAPER, "samples": 8, "teacher_scale": 3}
SMALL = {"held_out": 6, "reference_nfe": 30, "options": HOW}


def entry(base: list[float], distilled: list[float], nfe: int = 4) -> Entry:
    return Entry("ddim", nfe, np.array(base), np.array(distilled))


def comparison(*entries: Entry) -> Comparison:
    return Comparison(entries, "mixture", "deis with 30 NFE", 3, "defaults", 0)


def test_errors_are_distances_to_the_reference_on_noise_that_no_fit_saw() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    noise = standard_noise(3, 6, (4,), stream=REPORT)
    fine = dode.sample(denoiser, reference_tableau(SCHEDULE, 30), noise)
    solvers = {str(s): s for s in (dode.solver("ddim"), dode.solver("deis", order=2))}
    found = compare(denoiser, solvers.values(), [3, 5], seed=3, **SMALL)
    assert [(e.solver, e.nfe) for e in found.entries] == [(name, nfe) for name in solvers for nfe in (3, 5)]
    for e in found.entries:
        fitted = dode.distill(denoiser, solvers[e.solver], e.nfe, seed=3, held_out=0, **HOW)
        for tableau, errors in ((fitted.base, e.base), (fitted.tableau, e.distilled)):
            end = dode.sample(denoiser, tableau, noise)
            np.testing.assert_allclose(errors, (end - fine).double().square().mean(1), rtol=1e-6)


def test_condition_is_fitted_and_measured_row_by_row() -> None:
    shifts = torch.tensor([[0.0], [2.0], [-1.0]])

    def net(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        D = Mixture(SCHEDULE, "sample")(x, t) + shift
        alpha, sigma = float(SCHEDULE.alpha(float(t[0]))), float(SCHEDULE.sigma(float(t[0])))
        return (x - alpha * D) / sigma

    denoiser = dode.Denoiser(net, SCHEDULE, shape=(4,))
    noise = standard_noise(0, 6, (4,), stream=REPORT)
    cond = {"shift": shifts.repeat(2, 1)}
    fine = dode.sample(denoiser, reference_tableau(SCHEDULE, 30), noise, **cond)
    (found,) = compare(denoiser, ["ddim"], [4], **SMALL, shift=shifts).entries
    end = dode.sample(denoiser, dode.solver("ddim").tableau(SCHEDULE, 4), noise, **cond)
    np.testing.assert_allclose(found.base, (end - fine).double().square().mean(1), rtol=1e-5)
    assert found.ratio < 1


def test_interrupted_comparison_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    def run(records: Path | None, stop_after: int = 0, std: float = 0.3, **changes: object) -> tuple[list[dict], int]:
        denoiser, done = dode.Denoiser(Mixture(SCHEDULE, std=std), SCHEDULE, shape=(4,), name="same name"), []

        def stop(entry: Entry) -> None:
            done.append(entry)
            if len(done) == stop_after:
                raise KeyboardInterrupt

        options = SMALL | {"records": records, "on_entry": stop} | changes
        found = compare(denoiser, ["pndm", "ddim"], [2, 3], **options)
        return [e.to_json() for e in found.entries] + [{"doubt": found.reference_error}], denoiser.evaluations

    whole, all_evaluations = run(None)
    records = tmp_path / "comparison.jsonl"
    for stop_after in (1, 3):
        with pytest.raises(KeyboardInterrupt):
            run(records, stop_after)
    resumed, evaluations = run(records)
    assert resumed == whole
    assert 0 < evaluations < all_evaluations
    assert run(records) == (whole, 0)
    # What an entry depends on makes another one of it.
    for changes in ({"std": 0.5}, {"held_out": 7}, {"reference_nfe": 31}, {"seed": 3}, {"options": HOW | {"samples": 9}}):
        found, evaluations = run(records, **changes)
        assert evaluations > 0 and found != whole
    assert run(records, restart=True)[1] == all_evaluations


def test_budget_that_a_solver_does_not_have_is_skipped_and_named() -> None:
    found = compare(mixture_denoiser(SCHEDULE), ["pndm", "ddim"], [2], **SMALL)
    skipped, run = found.entries
    assert "pndm takes its first step twice" in skipped.skipped
    assert not run.skipped
    assert "| pndm | - |" in found.markdown()
    assert found.exceptions()[0].startswith("Distilled is worse than its base in 0 of 1 cases")


def test_surely_worse_is_beyond_two_standard_errors_of_the_paired_difference() -> None:
    sure = entry([1.0, 2.0, 3.0], [1.2, 2.2, 3.21])
    doubtful = entry([1.0, 2.0, 3.0], [0.5, 2.0, 4.0], nfe=5)
    better = entry([1.0, 2.0, 3.0], [0.5, 1.0, 1.5], nfe=6)
    mean, error = doubtful.difference
    assert mean == pytest.approx(0.5 / 3)
    assert error == pytest.approx(np.std([-0.5, 0.0, 1.0], ddof=1) / 3**0.5)
    assert [(e.worse, e.surely_worse) for e in (sure, doubtful, better)] == [(True, True), (True, False), (False, False)]
    head, *lines = comparison(sure, doubtful, better).exceptions()
    assert head == "Distilled is worse than its base in 2 of 3 cases, beyond two standard errors in 1."
    assert [("within two standard errors" in line) for line in lines] == [False, True]


def test_run_that_diverges_is_infinitely_wrong_not_an_error() -> None:
    rescued = entry([1.0, np.inf, 2.0], [0.5, 0.5, 0.5])
    ruined = entry([1.0, 1.0, 1.0], [1.0, np.inf, 1.0], nfe=5)
    both = entry([1.0, np.inf, 1.0], [0.5, np.inf, 0.5], nfe=6)
    assert rescued.ratio == 0
    assert [e.surely_worse for e in (rescued, ruined, both)] == [False, True, False]
    assert [e.worse for e in (rescued, ruined, both)] == [False, True, False]
    head, line = comparison(rescued, ruined, both).exceptions()
    assert head == "Distilled is worse than its base in 1 of 3 cases, beyond two standard errors in 1."
    assert line.startswith("- ddim, NFE 5: ratio inf")


def test_table_in_a_file_has_the_numbers_of_the_entries(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = compare(mixture_denoiser(SCHEDULE), ["ddim", "pndm"], [2, 4], **SMALL)
    found.save(tmp_path)
    with (tmp_path / "comparison.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for e, row in zip(found.entries, rows, strict=True):
        assert (row["solver"], row["nfe"], row["skipped"]) == (e.solver, str(e.nfe), e.skipped)
        if not e.skipped:
            assert float(row["distilled"]) == pytest.approx(e.distilled.mean(), rel=1e-5)
            assert float(row["ratio"]) == pytest.approx(e.ratio, rel=1e-5)
    with pytest.raises(FileExistsError, match="already has"):
        found.save(tmp_path)


def test_files_of_an_unfinished_comparison_are_no_hindrance(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found = compare(mixture_denoiser(SCHEDULE), ["ddim"], [4], records=tmp_path / "comparison.jsonl", **SMALL)
    written = found.save(tmp_path)
    assert [path.name for path in written] == ["comparison.csv", "comparison.png", "comparison.md"]
    (tmp_path / "comparison.md").unlink()  # as a kill leaves it
    assert found.save(tmp_path) == written
    (tmp_path / "comparison.md").unlink()
    (tmp_path / "comparison.jsonl").unlink()  # files of another origin
    with pytest.raises(
        FileExistsError, match=r"already has comparison.csv, comparison.png: choose another folder, or start over"
    ):
        found.save(tmp_path)


@pytest.mark.parametrize(
    ("denoiser", "options", "message"),
    [
        (mixture_denoiser(SCHEDULE), {"held_out": 1}, "held_out must be at least 2, got 1"),
        (dode.Denoiser(Mixture(SCHEDULE), SCHEDULE), {}, "the shape of a sample is not known"),
    ],
)
def test_bad_input_is_one_clear_line(denoiser: dode.Denoiser, options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(denoiser, ["ddim"], [4], **{**SMALL, **options})
