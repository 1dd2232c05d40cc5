"""`distill` by effort: never worse than its base, what each effort spends, what it refuses and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from mixture import double_noise, mixture_denoiser

import dode
from dode.distillation import PAPER, Directions
from dode.distillation.directions import make_directions
from dode.distillation.effort import EFFORTS
from dode.schedules import VP, Flow, NoiseSchedule
from dode.solvers import REGISTRY

SCHEDULE = VP.linear()
PAPERS_COST = 1100  # times NFE: 100 samples, a teacher of ten parts a step and the fit


@pytest.mark.parametrize("nfe", [4, 6])
@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("schedule", [SCHEDULE, Flow()], ids=["vp", "flow"])
def test_never_worse_than_the_base_on_unseen_noise(schedule: NoiseSchedule, name: str, nfe: int) -> None:
    denoiser = mixture_denoiser(schedule, "flow" if isinstance(schedule, Flow) else "epsilon")
    result = dode.distill(denoiser, name, nfe, effort="fast", samples=40, validation=40, held_out=128)
    assert result.held_out is not None
    mean, error = result.held_out.difference
    assert mean <= 2 * error


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("nfe", [3, 6])
def test_an_effort_keeps_to_its_cost(effort: str, nfe: int) -> None:
    result = dode.distill(mixture_denoiser(SCHEDULE), "deis", nfe, effort=effort, held_out=0)
    assert result.cost <= EFFORTS[effort].budget * PAPERS_COST * nfe
    paper = dode.distill(mixture_denoiser(SCHEDULE), "deis", nfe, held_out=0, **PAPER)
    assert paper.cost == PAPERS_COST * nfe


def test_more_effort_ends_nearer_to_the_teacher() -> None:
    results = [dode.distill(mixture_denoiser(SCHEDULE), "deis", 5, effort=effort, held_out=128) for effort in EFFORTS]
    errors = [result.held_out.end[1] for result in results if result.held_out is not None]
    assert errors[0] > errors[1] > errors[2]
    # Every effort chooses the grid, which matters more than any coefficient (docs/benchmarks).
    bases = [result.held_out.end[0] for result in results if result.held_out is not None]
    assert errors[0] < bases[0] / 10


def test_the_base_is_given_out_where_nothing_can_be_learned() -> None:
    """The targets are the base's own states on the validation samples, and noise on those that are fitted."""
    denoiser, noise = mixture_denoiser(SCHEDULE), double_noise(50)
    tableau = dode.solver("deis").tableau(SCHEDULE, 4)
    states = dode.sample(denoiser, tableau, noise, return_trajectory=True).states[1:]
    disturbed = torch.randn(40, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    targets = [torch.cat([state[:40] + disturbed, state[40:]]) for state in states]
    result = dode.distill(denoiser, "deis", 4, noise=noise, targets=targets)
    assert result.chosen == "the base"
    assert result.tableau.a.tolist() == result.base.a.tolist()
    assert result.tableau.b.tolist() == result.base.b.tolist()


@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_auto_is_as_good_as_the_best_undistilled_solver_that_it_tried(effort: str) -> None:
    result = dode.distill(mixture_denoiser(SCHEDULE), "auto", 5, effort=effort, held_out=128)
    assert {trial.base.solver for trial in result.trials} >= {"ddim", "deis", "unipc"}
    # All were judged with a few samples, the best ones with more.
    most = max(trial.samples for trial in result.trials)
    finals = [trial for trial in result.trials if trial.samples == most]
    assert result.trials[: len(finals)] == tuple(finals)
    assert 2 <= len(finals) < len(result.trials)
    tried = [trial.base_error for trial in finals]
    names = {candidate.name: candidate.error for candidate in result.candidates}
    assert result.base in [trial.base for trial in result.trials if trial.base_error == min(tried)]
    assert names[result.chosen] <= names["the base"]
    assert result.held_out is not None
    mean, error = result.held_out.difference
    assert mean <= 2 * error


@pytest.mark.parametrize(("effort", "nfe"), [("balanced", 3), ("balanced", 5), ("thorough", 5)])
def test_auto_leaves_enough_of_its_budget_for_the_end_to_end_fit(effort: str, nfe: int) -> None:
    result = dode.distill(mixture_denoiser(SCHEDULE), "auto", nfe, effort=effort, held_out=0, seed=1)
    assert result.cost <= EFFORTS[effort].evaluations(nfe)
    assert result.refined is not None
    assert result.refined.iterations > 0


def test_a_direction_that_no_row_keeps_is_named() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    useful = make_directions("multistep", dode.solver("deis").tableau(SCHEDULE, 4))
    twice = Directions(
        (*useful.names, "again"), np.concatenate([useful.a, useful.a[:1]]), np.concatenate([useful.b, useful.b[:1]])
    )
    text = str(dode.distill(denoiser, "deis", 4, directions=twice, effort="fast", held_out=8))
    assert "in no row, being zero or in the span of the others: again" in " ".join(text.split())
    assert "in no row" not in str(dode.distill(denoiser, "deis", 4, effort="fast", held_out=8))


def test_thorough_moves_the_times_within_the_schedule() -> None:
    result = dode.distill(mixture_denoiser(SCHEDULE), "deis", 4, effort="thorough", held_out=16)
    times = result.tableau.times
    assert (np.diff(times) < 0).all()
    assert times[0] <= SCHEDULE.t_max
    assert times[-2] >= SCHEDULE.t_min
    assert times[-1] == SCHEDULE.t_clean
    assert result.tableau.nfe == 4
    assert not np.isin(times[1:-1], result.base.times).all()


def test_whole_times_stay_whole() -> None:
    denoiser = mixture_denoiser(SCHEDULE, integer_times=True)
    result = dode.distill(denoiser, "deis", 4, effort="thorough", samples=30, validation=20, held_out=0)
    if "with times" in result.chosen:
        moved = result.tableau.times[1:-1]
        assert moved.tolist() == np.round(moved).tolist()


def test_same_seed_same_result() -> None:
    first, again = (
        dode.distill(mixture_denoiser(SCHEDULE), "deis", 4, effort="thorough", samples=30, held_out=8, seed=3) for _ in range(2)
    )
    assert first.tableau.a.tolist() == again.tableau.a.tolist()
    assert first.tableau.b.tolist() == again.tableau.b.tolist()
    assert first.tableau.times.tolist() == again.tableau.times.tolist()


def test_a_saved_result_samples_the_same(tmp_path: Path) -> None:
    denoiser, noise = mixture_denoiser(SCHEDULE), double_noise(8)
    result = dode.distill(denoiser, "deis", 4, effort="thorough", held_out=8)
    result.save(tmp_path / "deis-4.json")
    loaded = dode.Tableau.load(tmp_path / "deis-4.json")
    assert torch.equal(dode.sample(denoiser, loaded, noise), dode.sample(denoiser, result.tableau, noise))


def test_a_budget_too_small_for_a_step_gives_the_closed_form_and_says_so() -> None:
    result = dode.distill(mixture_denoiser(SCHEDULE), "deis", 5, budget=1000, held_out=16)
    assert result.refined is not None
    assert result.refined.iterations == 0
    assert any("the end-to-end fit made no step (the budget is spent)" in text for text in result.warnings)
    closed = dode.distill(mixture_denoiser(SCHEDULE), "deis", 5, refine=0, budget=1000, held_out=16)
    assert result.tableau.b.tolist() == closed.tableau.b.tolist()


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_teacher_that_takes_the_whole_budget_leaves_the_search(effort: str) -> None:
    nfe = 2 * EFFORTS[effort].evaluations(5) // (EFFORTS[effort].samples + EFFORTS[effort].validation)
    result = dode.distill(mixture_denoiser(SCHEDULE), "deis", 5, effort=effort, teacher_nfe=nfe, held_out=0)
    assert result.evaluations["teacher"] > EFFORTS[effort].evaluations(5)
    assert len({trial.base.grid for trial in result.trials}) > 3
    assert result.tableau.grid != result.base.grid


def test_a_poor_teacher_is_warned_of() -> None:
    poor = dode.distill(mixture_denoiser(SCHEDULE), "unipc", 10, teacher="ddim", teacher_scale=1, held_out=16)
    assert any("off the reference: that is what limits the result" in text for text in poor.warnings)
    assert "that is what limits the result" in " ".join(str(poor).split())
    good = dode.distill(mixture_denoiser(SCHEDULE), "unipc", 5, teacher_nfe=128, held_out=16)
    assert not any("limits the result" in text for text in good.warnings)
    assert "off the reference" in " ".join(str(good).split())
    assert good.reference is not None and poor.reference is not None
    assert good.reference.teacher < poor.reference.teacher / 10


def test_a_closed_form_that_diverges_leaves_the_base() -> None:
    """A network that is not finite where no undistilled student of the test goes, but the corrected one does."""
    denoiser = mixture_denoiser(SCHEDULE)
    inner = denoiser.net

    def fragile(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        output = inner(x, t)
        return torch.where(x.abs().amax(1, keepdim=True) > 1e3, torch.nan, output)

    noise = double_noise(20)
    targets = [torch.full_like(noise, 1e5)] * 3 + [noise]
    result = dode.distill(denoiser.replace(net=fragile), "deis", 4, noise=noise, targets=targets, refine=0)
    assert result.chosen == "the base"
    assert any("the closed form diverged" in text for text in result.warnings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"samples": 3}, "5 directions need at least 5 fitting samples, got 3"),
        ({"validation": 1}, "validation must be at least 2 samples, got 1"),
        ({"effort": "through"}, "through"),
        ({"solver": "auto", "grid": "karras"}, "chooses solver and grid itself"),
        ({"solver": "auto", "directions": "paper"}, "chooses solver and grid itself"),
        ({"teacher": "edm", "teacher_nfe": 3, "effort": "thorough"}, "the teacher takes 3 evaluations, the student 5"),
        ({"teacher_scale": 1, "effort": "fast"}, "the teacher is the student itself, so there is nothing to learn"),
        ({"directions": "paperr"}, "paperr"),
        ({"held_out": -1}, "held_out must be at least 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_in_one_line(arguments: dict[str, object], message: str) -> None:
    given = {"solver": "deis", "nfe": 5, **arguments}
    with pytest.raises(ValueError, match=message) as caught:
        dode.distill(mixture_denoiser(SCHEDULE), **given)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("effort", ["balanced", "thorough"])
def test_an_interrupted_run_goes_on_from_its_folder(tmp_path: Path, effort: str) -> None:
    """Cut off late in the end-to-end fit, after its first step: what the folder holds is not paid again, and the result is the same."""
    whole = dode.distill(mixture_denoiser(SCHEDULE), "deis", 4, effort=effort, held_out=0)
    denoiser = mixture_denoiser(SCHEDULE)

    def cut(count: int) -> None:
        if denoiser.evaluations > whole.cost * 0.8 and any(tmp_path.glob("refine-*.json")):
            raise KeyboardInterrupt

    denoiser.watcher = cut
    with pytest.raises(KeyboardInterrupt):
        dode.distill(denoiser, "deis", 4, effort=effort, held_out=0, cache=tmp_path)
    fresh = mixture_denoiser(SCHEDULE)
    again = dode.distill(fresh, "deis", 4, effort=effort, held_out=0, cache=tmp_path)
    assert again.evaluations["teacher"] < whole.evaluations["teacher"] / 10
    assert again.evaluations["end-to-end"] < whole.evaluations["end-to-end"]
    assert again.chosen == whole.chosen
    assert again.tableau.times.tolist() == whole.tableau.times.tolist()
    assert again.tableau.b.tolist() == whole.tableau.b.tolist()
