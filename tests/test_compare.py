"""Comparisons: what their numbers are, that each cell is made once and depends on no other, what they do about runs that fail."""

from __future__ import annotations

import csv
import json
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture import Mixture, mixture_denoiser
from PIL import Image
from torch import Tensor, nn

import dode
from dode.distillation import PAPER
from dode.noise import REPORT, noise_parts, standard_noise
from dode.report import Comparison, compare
from dode.report.clock import network_clock
from dode.report.files import load, rows, save
from dode.report.parts import samples_of_part
from dode.report.reference import reference_tableau
from dode.report.results import METRICS, to_json

SCHEDULE = dode.schedules.VP.linear()
SAMPLES = 6
SMALL: dict[str, Any] = {"efforts": ("paper",), "samples": SAMPLES, "reference_nfe": 30}


def images_denoiser(**options: Any) -> dode.Denoiser:
    """Grey images of 2 x 2 pixels, whose values are those of the mixture."""
    return dode.Denoiser(Mixture(SCHEDULE, **options), SCHEDULE, shape=(1, 2, 2), name="images")


def lasting(found: Comparison) -> dict[str, Any]:
    """All that does not tell of the time that was taken, or of what was there already."""
    data = to_json(found)
    data["reference"].pop("seconds")
    for result in data["results"]:
        for name in ("seconds", "sampling_seconds"):
            result.pop(name)
        if result["tableau"] is not None:
            for name in ("seconds", "evaluations", "saved"):
                result["tableau"]["meta"].get("distillation", {}).pop(name, None)
    return {name: data[name] for name in ("results", "setting", "reference")}


def by_cell(found: Comparison) -> dict[str, Any]:
    return {str(result["cell"]): result for result in lasting(found)["results"]}


def test_errors_are_distances_to_the_reference_on_noise_that_no_fit_saw() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    noise = standard_noise(3, SAMPLES, (4,), stream=REPORT)
    fine = dode.sample(denoiser, reference_tableau(SCHEDULE, 30), noise)
    solvers = [dode.solver("ddim"), dode.solver("deis", order=2)]
    found = compare(denoiser, solvers, [3], seed=3, **SMALL)
    assert [str(r.cell) for r in found.results] == [f"{s} {method} NFE 3" for s in solvers for method in ("base", "paper")]
    for base, distilled in zip(found.results[::2], found.results[1::2], strict=True):
        solver = next(s for s in solvers if str(s) == base.cell.solver)
        fitted = dode.distill(denoiser, solver, base.cell.nfe, seed=3, held_out=0, **PAPER)
        for tableau, result in ((fitted.base, base), (fitted.tableau, distilled)):
            end = dode.sample(denoiser, tableau, noise)
            errors = (end - fine).double().square().mean(1).numpy()
            np.testing.assert_allclose(result.errors, errors, rtol=1e-6)
            assert result.figures["error"].value == pytest.approx(errors.mean())
            assert result.figures["relative"].value == pytest.approx((errors / found.reference.power).mean())
        assert distilled.lambdas is not None and distilled.evaluations == fitted.cost
        np.testing.assert_array_equal(distilled.lambdas, [fitted.lambdas, fitted.standard_errors[:, 0]])
        assert base.lambdas is None and base.evaluations == 0


def test_condition_is_fitted_and_measured_row_by_row() -> None:
    shifts = torch.tensor([[0.0], [2.0], [-1.0]])

    def net(x: Tensor, t: Tensor, shift: Tensor) -> Tensor:
        D = Mixture(SCHEDULE, "sample")(x, t) + shift
        alpha, sigma = float(SCHEDULE.alpha(float(t[0]))), float(SCHEDULE.sigma(float(t[0])))
        return (x - alpha * D) / sigma

    denoiser = dode.Denoiser(net, SCHEDULE, shape=(4,))
    noise = standard_noise(0, SAMPLES, (4,), stream=REPORT)
    cond = {"shift": shifts.repeat(2, 1)}
    fine = dode.sample(denoiser, reference_tableau(SCHEDULE, 30), noise, **cond)
    base, distilled = compare(denoiser, ["ddim"], [4], **SMALL, shift=shifts).results
    end = dode.sample(denoiser, dode.solver("ddim").tableau(SCHEDULE, 4), noise, **cond)
    np.testing.assert_allclose(base.errors, (end - fine).double().square().mean(1), rtol=1e-5)
    assert distilled.errors.mean() < base.errors.mean()


def test_samples_come_in_parts_and_are_the_same_however_many_there_are() -> None:
    size = samples_of_part(None)
    noise = standard_noise(1, 2 * size + 3, (1, 2, 2), stream=REPORT)
    torch.testing.assert_close(
        torch.cat(list(noise_parts(1, len(noise), (1, 2, 2), size, stream=REPORT))), noise, rtol=0, atol=0
    )
    assert [samples_of_part(n) for n in (1, 4, 48, 200)] == [64, 64, 48, 200]
    few, many = (
        compare(images_denoiser(), ["ddim"], [2], efforts=(), samples=n, reference_nfe=12, seed=1) for n in (size, len(noise))
    )
    assert len(many.results[0].errors) == len(many.reference.power) == len(noise)
    np.testing.assert_array_equal(many.results[0].errors[:size], few.results[0].errors)


def test_interrupted_comparison_goes_on_and_comes_to_the_same(tmp_path: Path) -> None:
    def run(cache: Path | None, stop_at: int = 0, std: float = 0.3, **changes: Any) -> tuple[dict[str, Any], int]:
        denoiser, calls = images_denoiser(std=std), 0
        net = denoiser.net

        def counted(x: Tensor, t: Tensor) -> Tensor:
            nonlocal calls
            calls += 1
            if calls == stop_at:
                raise KeyboardInterrupt
            return net(x, t)  # type: ignore[no-any-return]

        denoiser.net = counted
        found = compare(denoiser, ["ddim"], [2, 3], extractor=flat, **{**SMALL, "cache": cache, **changes})
        return lasting(found), calls

    whole, all_calls = run(None)
    cache = tmp_path / "cache"
    made = 0
    for stop_at in (60, 200):
        with pytest.raises(KeyboardInterrupt):
            run(cache, stop_at)
        made += stop_at
    resumed, calls = run(cache)
    assert resumed == whole
    assert calls < all_calls - 30 and made + calls < 1.4 * all_calls
    again, few = run(cache)
    assert again == whole and few < 10  # it is asked who it is
    # What a cell depends on makes another one of it.
    for changes in ({"std": 0.5}, {"samples": 7}, {"reference_nfe": 31}, {"seed": 3}):
        changed, calls = run(cache, efforts=(), **changes)
        assert calls > few and changed["results"] != whole["results"]
    assert run(cache, restart=True) == (whole, all_calls)


def test_a_cell_depends_on_no_other_and_more_cells_make_themselves_alone(tmp_path: Path) -> None:
    options = {**SMALL, "efforts": ("fast",), "extractor": flat}
    alone = by_cell(compare(images_denoiser(), ["deis"], [3], **options))
    denoiser = images_denoiser()
    first = by_cell(compare(denoiser, ["deis"], [4], cache=tmp_path, **options))
    both = by_cell(compare(denoiser, ["deis"], [3, 4], cache=tmp_path, **options))
    assert alone | first == both
    before = denoiser.evaluations
    tableau = dode.solver("unipc").tableau(SCHEDULE, 4)
    more = compare(denoiser, ["deis"], [3, 4], cache=tmp_path, tableaux={"mine": tableau}, **options)
    # And what it takes to see that the reference's states are those of this network.
    assert 4 * SAMPLES <= denoiser.evaluations - before <= 4 * SAMPLES + 15
    assert (more.results[-1].cell.method, more.results[-1].cell.nfe) == ("mine", 4)
    assert {name: by_cell(more)[name] for name in both} == both


def test_what_is_damaged_is_said_and_made_again(tmp_path: Path) -> None:
    def run() -> dict[str, Any]:
        return lasting(compare(images_denoiser(), ["ddim"], [3], cache=tmp_path, extractor=flat, **SMALL))

    whole = run()
    for pattern in ("reference-*", "seen-*", "teacher-*"):
        (path,) = tmp_path.glob(pattern)
        content = path.read_bytes()
        path.write_bytes(content[:-3] + bytes([content[-3] ^ 8]) + content[-2:])
        records = tmp_path / "comparison.jsonl"
        lines = records.read_text().splitlines()
        records.write_text("\n".join(lines[:-1]) + "\n" + lines[-1][: len(lines[-1]) // 2])
        with pytest.warns(UserWarning, match="made again") as said:
            assert run() == whole
        assert 1 <= sum("made again" in str(warning.message) for warning in said) <= 2
        if path.read_bytes() != content:  # nobody asked for it
            path.unlink()


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a full disk: writing more is an error of the system's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [100, 4000, 9000])
def test_a_full_disk_is_one_line_and_what_was_kept_is_whole(room: int, tmp_path: Path) -> None:
    options = {**SMALL, "cache": tmp_path, "tableaux": {"mine": dode.solver("unipc").tableau(SCHEDULE, 4)}}
    with no_file_larger_than(room), pytest.raises(OSError, match="cannot be written .*: what was kept before is whole"):
        compare(images_denoiser(), ["ddim"], [3], **options)
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = compare(images_denoiser(), ["ddim"], [3], **options)
    assert lasting(found) == lasting(compare(images_denoiser(), ["ddim"], [3], **{**options, "cache": None}))


def test_budget_that_a_solver_does_not_have_is_skipped_and_named() -> None:
    found = compare(mixture_denoiser(SCHEDULE), ["pndm", "ddim"], [2], **SMALL)
    base, distilled, *others = found.results
    assert all("pndm takes its first step twice" in r.skipped and r.tableau is None for r in (base, distilled))
    assert not any(r.skipped for r in others)


def test_grids_give_bases_of_their_own() -> None:
    found = compare(mixture_denoiser(SCHEDULE), ["ddim"], [3], grids=["karras", "log-snr"], **{**SMALL, "efforts": ()})
    assert [r.cell.grid for r in found.results] == ["", "karras", "log-snr"]
    assert [r.tableau.grid for r in found.results[1:] if r.tableau] == ["karras", "log-snr"]
    assert len({r.errors.mean() for r in found.results}) == 3


def flat(images: Tensor) -> tuple[Tensor, Tensor]:
    """Features are the pixels, classes by the first two."""
    pixels = images.flatten(1)
    return pixels, pixels[:, :2]


def test_the_reference_is_at_no_distance_to_itself() -> None:
    fine = reference_tableau(SCHEDULE, 12)
    (found,) = compare(images_denoiser(), [], [], tableaux={"fine": fine}, extractor=flat, samples=12, reference_nfe=12).results
    assert found.figures["error"].value == found.figures["feature_distance"].value == 0
    # The traces of covariances of order one cancel, but for the rounding of float64.
    assert 0 <= found.figures["fid"].value < 1e-13
    assert found.figures["psnr"].value == 100 and found.figures["same_class"].value == 1
    assert set(found.figures) <= set(METRICS)
    assert found.course is not None
    np.testing.assert_allclose(found.course.errors, 0, atol=1e-12)


def test_courses_end_at_the_errors_and_are_measured_at_their_own_times() -> None:
    found = compare(images_denoiser(), ["ddim"], [4], **{**SMALL, "efforts": (), "reference_nfe": 60})
    (result,), noise = found.results, standard_noise(0, 4, (1, 2, 2), stream=REPORT)
    course, reference = result.course, found.reference.course
    assert course is not None and reference is not None and result.tableau is not None
    np.testing.assert_array_equal(course.t, result.tableau.times)
    assert course.errors[0] == 0 and course.errors[-1] == pytest.approx(result.errors[:4].mean(), rel=1e-5)
    assert course.plane.shape == (4, 5, 2) and np.isfinite(course.log_snr).all() and (np.diff(course.log_snr) > 0).all()
    # Against the truth at a time in the middle: a run that is much finer, ended there.
    time = float(course.t[2])
    fine = dode.solver("dpm-solver++", order=3).tableau(SCHEDULE, grid=list(np.linspace(999, time, 400)))
    state = dode.sample(images_denoiser(), fine, noise)
    mine = dode.sample(images_denoiser(), result.tableau, noise, return_trajectory=True).states[2]
    assert course.errors[2] == pytest.approx(float((mine - state).square().mean()), rel=0.02)
    # Both begin at the same place of the plane, on the right of the end.
    np.testing.assert_allclose(course.plane[:, 0], reference.plane[:, 0], atol=1e-6)
    assert (reference.plane[:, 0, 0] > reference.plane[:, -1, 0]).all()


def test_pictures_are_those_of_the_samples() -> None:
    def decode(x: Tensor) -> Tensor:
        return x.repeat_interleave(48, 2).repeat_interleave(48, 3).expand(-1, 3, -1, -1)

    found = dode.compare(images_denoiser(), ["ddim"], [3], decode=decode, shown=5, **{**SMALL, "efforts": ()})
    (result,) = found.results
    assert found.setting.shown == 5 and result.course is not None
    for picture, count in ((result.pictures, 5), (found.reference.pictures, 5), (result.course.denoised, 3)):
        with Image.open(BytesIO(picture)) as image:
            assert image.format == "WEBP" and image.size == (64 * count, 64)
    with Image.open(BytesIO(found.reference.pictures)) as image:
        shown = np.asarray(image.convert("L"), float)
    fine = dode.sample(images_denoiser(), reference_tableau(SCHEDULE, 30), standard_noise(0, 5, (1, 2, 2), stream=REPORT))
    middles = np.concatenate([shown[[16, 48]][:, [64 * i + 16, 64 * i + 48]] for i in range(5)]).reshape(5, 2, 2)
    np.testing.assert_allclose(middles, (fine[:, 0].clamp(-1, 1).numpy() + 1) * 127.5, atol=8)
    # A small margin of loss is WebP's.
    assert compare(mixture_denoiser(SCHEDULE), ["ddim"], [3], **{**SMALL, "efforts": ()}).results[0].pictures == b""


def test_a_run_that_diverges_is_infinitely_wrong_where_it_does() -> None:
    times = dode.solver("ddim").tableau(SCHEDULE, 3).times

    class Breaking(Mixture):
        """Breaks for some states at a time that the reference is never at."""

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            out = super().__call__(x, t)
            return torch.where((x.flatten(1)[:, :1, None, None] > 0.5) & (t[0] == times[1]), torch.inf, out)

    denoiser = dode.Denoiser(Breaking(SCHEDULE), SCHEDULE, shape=(1, 2, 2))
    found = compare(denoiser, ["ddim", "deis"], [3], **{**SMALL, "efforts": (), "samples": 12})
    broken = found.results[0]
    assert 0 < broken.diverged < 12 and np.isinf(broken.errors).sum() == broken.diverged
    assert broken.figures["error"].value == np.inf and "psnr" not in broken.figures
    assert f"{broken.diverged} of 12 samples diverge" in broken.notes[0]
    assert np.isfinite(found.reference.power).all()


def test_too_few_samples_for_a_covariance_are_said() -> None:
    wide = compare(images_denoiser(), ["ddim"], [2], efforts=(), samples=4, reference_nfe=12, extractor=flat)
    assert "fid" not in wide.results[0].figures and "feature_distance" in wide.results[0].figures
    assert wide.setting.notes[0].startswith("there is no Frechet distance: 4 samples for 4 features")
    enough = compare(images_denoiser(), ["ddim"], [2], efforts=(), samples=30, reference_nfe=12, extractor=flat)
    assert enough.results[0].figures["fid"].value > 0
    assert "biased up" in enough.setting.notes[0]


def test_images_may_be_compared_with_others(tmp_path: Path) -> None:
    images = np.random.default_rng(0).normal(size=(30, 1, 2, 2)).astype(np.float32).clip(-1, 1)
    np.savez(tmp_path / "images.npz", images)
    options = {**SMALL, "efforts": (), "samples": 30, "extractor": flat}
    found = dode.compare(images_denoiser(), ["ddim"], [3], images=tmp_path / "images.npz", **options)
    own = dode.compare(images_denoiser(), ["ddim"], [3], **options)
    assert found.setting.images.endswith("images.npz") and own.setting.images == "the reference's own samples"
    assert found.reference.figures["fid"].value > 0 and "fid" not in own.reference.figures
    assert found.results[0].figures["fid"].value != own.results[0].figures["fid"].value
    assert found.results[0].figures["psnr"] == own.results[0].figures["psnr"]


@pytest.mark.parametrize("module", [False, True], ids=["function", "module"])
def test_the_network_is_timed_by_its_own_calls(module: bool) -> None:
    class Slow(nn.Module):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            torch.manual_seed(0)
            for _ in range(3):
                x @ torch.randn(4, 20000)
            return x * 0.5

    net = Slow()
    denoiser = dode.Denoiser(net if module else net.forward, SCHEDULE, shape=(4,))
    with network_clock(denoiser) as clock:
        assert clock.seconds == 0
        denoiser(torch.randn(2, 4), 500.0)
    once = clock.seconds
    assert once > 0
    denoiser(torch.randn(2, 4), 500.0)
    assert clock.seconds == once
    found = compare(denoiser, ["ddim"], [2], efforts=(), samples=4, reference_nfe=40)
    assert 0.2 < found.network_share < 1


def test_a_network_share_is_of_what_was_made(tmp_path: Path) -> None:
    first, again = (compare(mixture_denoiser(SCHEDULE), ["ddim"], [3], cache=tmp_path, **SMALL) for _ in range(2))
    assert 0 < first.network_share < 1 and np.isnan(again.network_share)
    assert again.evaluations == first.evaluations > 0 and again.seconds == first.seconds


def test_files_have_the_numbers_of_the_cells_and_are_read_again(tmp_path: Path) -> None:
    pytest.importorskip("altair")
    found = compare(images_denoiser(), ["ddim", "pndm"], [2], extractor=flat, **SMALL)
    folder = tmp_path / "report"
    written = found.save(folder)
    assert all(path.is_file() for path in written)
    with (folder / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    data = json.loads((folder / "results.json").read_text())
    for result, row, line, record in zip(found.results, rows(found), table, data, strict=True):
        assert (line["solver"], line["nfe"], line["skipped"]) == (result.cell.solver, "2", result.skipped)
        for name, figure in result.figures.items():
            assert (row[name], row[f"{name}_low"]) == pytest.approx(figure[:2], nan_ok=True)
            assert float(line[name]) == record[name] == figure.value
    assert to_json(load(folder)) == to_json(found)
    tableau = dode.Tableau.load(folder / "tableaux" / "ddim-paper-2.json")
    assert tableau == found.results[1].tableau
    with pytest.raises(FileExistsError, match="has index.html, .*of a report that is there"):
        save(found, folder)
    save(found, folder, overwrite=True)
    path = folder / "cache" / "comparison.json"
    path.write_text(path.read_text().replace("ddim", "deis", 1))
    with pytest.warns(UserWarning, match="comparison.json is damaged"):
        assert load(folder) is None


def broken(images: Tensor) -> Tensor:
    return images.flatten()


BAD: list[tuple[Callable[[], dode.Denoiser], dict[str, Any], str]] = [
    (lambda: mixture_denoiser(SCHEDULE), {"samples": 1}, "samples must be at least 2, got 1"),
    (lambda: dode.Denoiser(Mixture(SCHEDULE), SCHEDULE), {}, "the shape of a sample is not known"),
    (lambda: mixture_denoiser(SCHEDULE), {"solvers": ["ddim", "ddim"]}, "solver ddim is given twice"),
    (lambda: mixture_denoiser(SCHEDULE), {"efforts": ["fest"]}, "unknown effort 'fest'.*fast"),
    (lambda: mixture_denoiser(SCHEDULE), {"nfe": [0]}, "nfe must be at least 1, got 0"),
    (lambda: mixture_denoiser(SCHEDULE), {"solvers": []}, "nothing to compare"),
    (lambda: mixture_denoiser(SCHEDULE), {"shown": 9999}, "shown must be from 0 to"),
    (lambda: images_denoiser(), {"images": "nowhere"}, "need an extractor"),
    (lambda: images_denoiser(), {"extractor": broken}, "must return features"),
    (lambda: images_denoiser(), {"extractor": "fashion"}, "takes images"),
]


@pytest.mark.parametrize(("make", "changes", "message"), BAD, ids=[message[:24] for *_, message in BAD])
def test_bad_input_is_one_clear_line(make: Callable[[], dode.Denoiser], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        compare(make(), **{"solvers": ["ddim"], "nfe": [4], **SMALL, **changes})


def test_a_tableau_of_another_schedule_is_refused_before_the_network_is_asked(tmp_path: Path) -> None:
    tableau = dode.solver("ddim").tableau(dode.schedules.VP.scaled_linear(), 3)
    tableau.save(tmp_path / "other.json")
    denoiser = mixture_denoiser(SCHEDULE)
    with pytest.raises(ValueError, match=r"other.json: this tableau was made for the schedule"):
        compare(denoiser, ["ddim"], [3], tableaux=[tmp_path / "other.json"], **SMALL)
    with pytest.raises(FileNotFoundError, match="nowhere.json does not exist"):
        compare(denoiser, ["ddim"], [3], tableaux=[tmp_path / "nowhere.json"], **SMALL)
    assert denoiser.evaluations == 0


def test_a_condition_without_content_needs_no_cache_but_has_none(tmp_path: Path) -> None:
    class Token:
        pass

    def net(x: Tensor, t: Tensor, token: Token) -> Tensor:
        return Mixture(SCHEDULE)(x, t)

    denoiser = dode.Denoiser(net, SCHEDULE, shape=(4,))
    options = {**SMALL, "efforts": (), "token": Token()}
    with pytest.raises(TypeError, match="cannot be told from another's"):
        compare(denoiser, ["ddim"], [3], cache=tmp_path, **options)
    assert compare(denoiser, ["ddim"], [3], **options).results[0].errors.mean() > 0


def test_what_is_neither_network_nor_pipeline_is_refused() -> None:
    with pytest.raises(TypeError, match="compare takes a Denoiser"):
        dode.compare(replace, ["ddim"], [3])
    with pytest.raises(TypeError, match="prompts belongs to a pipeline"):
        dode.compare(mixture_denoiser(SCHEDULE), ["ddim"], [3], prompts=["a"])
