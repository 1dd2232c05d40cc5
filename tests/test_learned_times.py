"""Times alone: a solver keeps its own rule, and where it stops is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mixture import Mixture, mixture_denoiser
from typer.testing import CliRunner

import dode
from dode.cache import Cache
from dode.cli import app
from dode.conditions import as_condition
from dode.denoisers import Denoiser
from dode.distillation import linearisation
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors
from dode.distillation.end_to_end import refine
from dode.distillation.ruled import Ruled, free_stops
from dode.grids import LEARNED, Explicit, GridLike, Quadratic
from dode.held import is_whole
from dode.noise import FITTING, VALIDATION, standard_noise
from dode.schedules import EDM, VP, ContinuousVP, Flow, NoiseSchedule
from dode.solvers import solver_named
from dode.teacher import Teacher, teacher_states

SCHEDULES: dict[str, NoiseSchedule] = {
    "linear": VP.linear(),
    "exponential": ContinuousVP(1.0, 1.0, 10.0),
    "edm": EDM(),
    "flow": Flow(shift=3.0),
}
# Enough for some steps of the fit.
QUICK: dict[str, Any] = {"learn": "times", "samples": 60, "validation": 40, "held_out": 16, "budget": 12_000}


def denoiser_of(schedule: NoiseSchedule) -> Denoiser:
    return mixture_denoiser(schedule, "flow" if isinstance(schedule, Flow) else "epsilon")


def batch_of(denoiser: Denoiser, count: int, stream: int, dtype: torch.dtype = torch.float32) -> Batch:
    teacher = dode.solver("deis").tableau(denoiser.schedule, 48, "quadratic")
    noise, nothing = standard_noise(0, count, (4,), stream=stream, dtype=dtype), as_condition({})
    return Batch(noise, nothing, teacher_states(denoiser, Teacher(teacher, ()), noise, nothing, dense=True))


def ruled(denoiser: Denoiser, name: str, nfe: int, grid: GridLike = "uniform") -> Ruled:
    chosen = dode.solver(name)
    return Ruled.on(chosen.tableau(denoiser.schedule, nfe, grid), chosen, denoiser.schedule, denoiser.output)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("linear", "ddim"),
        ("exponential", "dpm-solver++"),
        ("edm", "edm"),
        ("flow", "unipc"),
        ("flow", "ddim"),
    ],
)
def test_no_worse_than_the_best_grid_and_still_the_solvers_own_rule(kind: str, name: str) -> None:
    schedule = SCHEDULES[kind]
    denoiser = denoiser_of(schedule)
    result = dode.distill(denoiser, name, 5, **{**QUICK, "budget": 20_000})
    assert result.held_out is not None and result.held_out.ratio <= 1
    families = [trial for trial in result.trials if trial.samples == 100 and trial.base.grid != LEARNED]
    assert len(families) > 1 and result.base == min(families, key=lambda trial: trial.candidate.error).base
    found = result.tableau
    rebuilt = solver_named(found.solver).tableau(schedule, 5, Explicit(tuple(dict.fromkeys(found.times))))
    assert np.array_equal(found.a, rebuilt.a) and np.array_equal(found.b, rebuilt.b)
    assert found.grid == LEARNED and found.first == "network" and found.nfe == 5
    assert found.times[-1] == schedule.t_clean
    assert found.noise_scale == schedule.noise_scale(float(found.times[0]))


@pytest.mark.parametrize("name", ["dpm-solver++", "unipc"])
def test_it_pays(name: str) -> None:
    """Where the families have no grid that fits: EDM's schedule on a mixture of few components."""
    result = dode.distill(denoiser_of(EDM()), name, 6, **{**QUICK, "budget": 24_000, "held_out": 64})
    assert result.held_out is not None and result.held_out.gain.high < 0.6
    assert result.held_out.medians[1] < 0.6 * result.held_out.medians[0]


@pytest.mark.parametrize("name", ["dpm-solver++", "unipc", "ipndm", "edm"])
def test_columns_of_times_are_the_derivatives_of_the_end_point(name: str) -> None:
    denoiser = denoiser_of(EDM())
    batch, student = batch_of(denoiser, 6, FITTING, torch.float64), ruled(denoiser, name, 5, Quadratic(start=60.0))
    unknowns = tuple(free_stops(student, first=True))
    steps = linearisation.Differences(time=1e-4)
    problem = linearisation.Problem(denoiser, student, unknowns, batch, 0.0, steps)
    ((_, run),) = problem.runs(student, 0, 6, 6)
    columns = run.columns(unknowns, run.forward(), steps, all_rows=False)

    def end(i: int, change: float) -> torch.Tensor:
        moved = np.zeros(len(unknowns))
        moved[i] = change
        changed = linearisation.changed(student, unknowns, moved, denoiser)
        assert changed is not None
        return dode.sample(denoiser, changed.tableau(), batch.noise)

    for i, (column,) in enumerate(columns):
        assert column is not None
        expected = (end(i, 1e-4) - end(i, -1e-4)) / 2e-4
        assert torch.allclose(column, expected, atol=2e-3 * float(expected.abs().max()))


def test_a_network_of_whole_times_is_asked_at_whole_times() -> None:
    denoiser = denoiser_of(VP.linear()).replace(integer_times=True)
    result = dode.distill(denoiser, "dpm-solver++", 6, **QUICK)
    times = result.tableau.times
    assert np.array_equal(times, np.rint(times)) and result.tableau.grid == LEARNED
    assert result.held_out is not None and result.held_out.ratio < 0.6


def test_a_named_grid_is_the_start_and_what_the_result_is_compared_with() -> None:
    result = dode.distill(denoiser_of(EDM()), "dpm-solver++", 5, grid="karras", **QUICK)
    assert result.base.grid == "karras" and not result.trials
    assert result.tableau.grid == LEARNED and result.held_out is not None and result.held_out.ratio < 1


@pytest.mark.parametrize("kind", ["linear", "flow"])
def test_where_it_begins_is_learned_too(kind: str) -> None:
    schedule = SCHEDULES[kind]
    kept, moved = (dode.distill(denoiser_of(schedule), "dpm-solver++", 4, move_start=move, **QUICK) for move in (False, True))
    assert kept.tableau.times[0] == schedule.t_max > moved.tableau.times[0]
    assert kept.held_out is not None and moved.held_out is not None
    assert moved.held_out.end[1] < 0.7 * kept.held_out.end[1] and moved.base == kept.base
    assert is_whole(moved.tableau, schedule.t_max)


def test_it_begins_in_the_middle() -> None:
    result = dode.distill(denoiser_of(VP.linear()), "dpm-solver++", 4, start=600.0, **QUICK)
    assert result.tableau.times[0] == 600.0 and result.tableau.grid in (result.base.grid, "learned(start=600)")
    assert not is_whole(result.tableau, 999.0)
    assert result.held_out is not None and result.held_out.ratio <= 1


def test_a_fit_that_was_interrupted_comes_to_the_same_to_the_last_bit(tmp_path: Path) -> None:
    denoiser = denoiser_of(EDM())
    fit, validation = batch_of(denoiser, 40, FITTING), batch_of(denoiser, 20, VALIDATION)
    start = ruled(denoiser, "unipc", 5, "karras")

    class Interrupted(Exception):
        pass

    def stop(iteration: int, *_: float) -> None:
        if iteration == 2:
            raise Interrupted

    whole = refine(denoiser, start.base, fit, validation, stops=start, iterations=5)
    entry = Cache(tmp_path).entry("fit.json")
    with pytest.raises(Interrupted):
        refine(denoiser, start.base, fit, validation, stops=start, iterations=5, checkpoint=entry, on_step=stop)
    gone_on = refine(denoiser, start.base, fit, validation, stops=start, iterations=5, checkpoint=entry)
    assert gone_on.tableau == whole.tableau and gone_on.iterations == whole.iterations > 2


def test_coarse_differences_see_over_what_is_rough_in_time() -> None:
    """A trained network has a ripple along its time: most of a derivative by fine differences, and hardly any of one by coarse ones."""
    schedule = VP.linear()
    mixture = Mixture(schedule, "epsilon")
    ripple = standard_noise(5, 64, (4,))

    def rough(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return mixture(x, t) + 0.01 * torch.sin(x @ ripple.T.to(x) + 40 * torch.log(t[:1] + 1)) @ ripple.to(x) / 8

    denoiser = Denoiser(rough, schedule, "epsilon", shape=(4,))
    fit = batch_of(denoiser, 40, FITTING)
    start = ruled(denoiser, "dpm-solver++", 6)
    coarse = refine(denoiser, start.base, fit, fit, stops=start)
    fine = refine(denoiser, start.base, fit, fit, stops=start, differences=linearisation.Differences())
    assert coarse.fitting[0] == fine.fitting[0]
    assert coarse.fitting[1] < 0.7 * fine.fitting[1]


def test_differences_become_finer_where_no_step_is_better() -> None:
    """On a smooth network the fit by coarse differences comes as far as that by fine ones."""
    denoiser = denoiser_of(VP.linear())
    fit, start = batch_of(denoiser, 40, FITTING), ruled(denoiser, "dpm-solver++", 4)
    coarse = refine(denoiser, start.base, fit, fit, stops=start, iterations=60, patience=60)
    fine = refine(
        denoiser, start.base, fit, fit, stops=start, iterations=60, patience=60, differences=linearisation.Differences()
    )
    assert coarse.fitting[1] < 1.02 * fine.fitting[1] < 0.2 * fine.fitting[0]
    steps = [linearisation.Differences().coarse()]
    while steps[-1] != linearisation.Differences():
        steps.append(steps[-1].finer(linearisation.Differences()))
    assert [step.time for step in steps] == pytest.approx([0.2, 0.05, 0.0125, 0.005])


def test_a_stop_at_the_lowest_time_but_for_rounding_has_a_derivative() -> None:
    """It comes back from its log-SNR a last bit beside the lowest time, which is no way to go."""
    schedule = ContinuousVP(1.0, 1.0, 10.0)
    denoiser = denoiser_of(schedule)
    lowest = float(np.nextafter(schedule.t_min, 1))
    student = ruled(denoiser, "unipc", 4, Explicit((6.6, 0.43, 0.05, lowest, 0.0)))
    problem = linearisation.Problem(
        denoiser, student, tuple(free_stops(student, first=True)), batch_of(denoiser, 6, FITTING), 0.0
    )
    model = problem.linearised(student, 6, 0)
    assert np.isfinite(model.normal).all() and (np.diag(model.normal) > 0).all()


def test_more_budget_is_not_worse_on_what_is_fitted() -> None:
    denoiser = denoiser_of(VP.linear())
    fit, validation = batch_of(denoiser, 40, FITTING), batch_of(denoiser, 20, VALIDATION)
    start = ruled(denoiser, "dpm-solver++", 6)
    errors = []
    for iterations in (1, 3, 8):
        found = refine(denoiser, start.base, fit, validation, stops=start, iterations=iterations)
        errors.append(found.fitting[1])
        # The fit walks in another form, which rounds otherwise.
        assert np.isclose(end_errors(denoiser, found.tableau, validation).mean(), found.validation[1], rtol=1e-3)
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] < end_errors(denoiser, start.base, fit).mean()


def test_summary_and_file_say_what_it_is(tmp_path: Path) -> None:
    result = dode.distill(denoiser_of(EDM()), "dpm-solver++", 4, **QUICK)
    text = str(result)
    assert "grid learned" in text and "the solver as it is" in text and "directions" not in text
    result.save(tmp_path / "times.json")
    found = dode.Tableau.load(tmp_path / "times.json")
    assert found == result.tableau and found.meta["distillation"]["learn"] == "times"


@pytest.mark.parametrize(
    ("solver", "options", "said"),
    [
        ("auto", {}, "leave out solver="),
        ("deis", {"directions": "paper"}, "leave out directions"),
        ("deis", {"firsts": ["network", "zero"]}, "leave out firsts"),
        ("deis", {"targets": torch.zeros(4, 2, 4), "noise": torch.zeros(2, 4)}, "leave out targets"),
        ("deis", {"learn": "sigmas"}, "unknown learn 'sigmas'"),
        (dode.solver("dpm-solver", stages="log-snr"), {}, "asks the network between the times that it stops at"),
        (dode.solver("pndm", warm_up="runge-kutta"), {}, "asks the network between the times that it stops at"),
    ],
)
def test_what_has_no_place_is_refused(solver: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dode.distill(denoiser_of(VP.linear()), solver, 4, **{"learn": "times", **options})


def test_the_command_learns_times_and_prints_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "curved.py").write_text(
        "import dode\n"
        "def network():\n"
        "    return dode.Denoiser(lambda x, t: (0.7 * x).tanh() + 0.1, dode.schedules.VP.linear(), shape=(4,), name='curved')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    command, quick = CliRunner(), ["--samples", "16", "--validation", "8", "--held-out", "4", "--budget", "4000"]
    made = ["distill", "curved:network", "--solver", "unipc", "--nfe", "3,4", "--learn", "times", "--out", "times.json"]
    assert command.invoke(app, [*made, *quick], catch_exceptions=False).exit_code == 0
    held = dode.TableauSet.load("times.json")
    assert held.nfe == (3, 4) and all(tableau.solver == "unipc" for tableau in held)
    printed = command.invoke(app, ["export", "times.json", "--nfe", "4", "--to", "times"], catch_exceptions=False)
    assert [float(t) for t in printed.stdout.split(",")] == pytest.approx(held[4].times[:-1])
    shown = command.invoke(app, ["show", "times.json"], catch_exceptions=False)
    assert "the solver as it is" in shown.stdout
    plain = ["distill", "curved:network", "--nfe", "3", "--effort", "fast", "--firsts", "network", "--out", "plain.json"]
    assert command.invoke(app, [*plain, *quick], catch_exceptions=False).exit_code == 0
    assert all("D0" not in trial["name"] for trial in dode.Tableau.load("plain.json").meta["distillation"]["trials"])


def test_a_pipeline_runs_a_set_that_begins_at_several_times() -> None:
    from toy_pipeline import SHAPE, Toy

    from dode.integrations.diffusers import DodeScheduler

    schedule = VP.linear()
    means = 0.7 * torch.randn(3, 256, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    mixture = Mixture(schedule, "sample", means=means)
    pipe = Toy(lambda x, t: mixture(x, torch.full((len(x),), float(t))))
    few: dict[str, Any] = {"samples": 24, "validation": 16, "held_out": 2, "budget": 8_000}
    made = dode.distill(pipe, "dpm-solver++", (3, 4), learn="times", calls=[{}], **few)
    assert len({result.tableau.times[0] for result in made}) == 2
    pipe.scheduler = DodeScheduler.from_tableaux(made, pipe.scheduler)
    assert pipe.scheduler.held == [3, 4]
    denoiser = Denoiser(mixture, schedule, "sample", shape=SHAPE)
    for nfe in (3, 4):
        noise = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(3))
        found = pipe(2, num_inference_steps=nfe, generator=torch.Generator().manual_seed(3))
        assert torch.allclose(found, dode.sample(denoiser, made[nfe].tableau, noise), atol=1e-5)
