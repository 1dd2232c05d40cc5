"""Lists of times and sigmas: real programs that take them sample what `dode.sample` does."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from mixture import mixture_denoiser
from torch import Tensor
from typer.testing import CliRunner

import dode
from dode.cli import app
from dode.denoisers import Denoiser
from dode.integrations.export import lists
from dode.integrations.frames import frame_of, in_frame, levels, scales
from dode.noise import standard_noise
from dode.schedules import EDM, VP, Flow, NoiseSchedule
from dode.tableau import Tableau

SD: dict[str, Any] = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
NOISE = standard_noise(0, 8, (4,), dtype=torch.float64)
# diffusers keeps its schedules in float32.
FLOAT32 = 2e-5


def learned(denoiser: Denoiser, name: str, nfe: int = 6, **more: Any) -> Tableau:
    few: dict[str, Any] = {"samples": 20, "validation": 12, "held_out": 2, "budget": 6_000, **more}
    made: Tableau = dode.distill(denoiser, name, nfe, learn="times", **few).tableau
    return made


def run(denoiser: Denoiser, scheduler: Any, **given: Any) -> Tensor:
    """The plain loop of a pipeline of diffusers, on its own times or sigmas."""
    scheduler.set_timesteps(**given)
    x = NOISE * float(scheduler.init_noise_sigma) if hasattr(scheduler, "init_noise_sigma") else NOISE
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(denoiser.net(scaled, t.double().repeat(len(x))), t, x).prev_sample
    return x


@pytest.mark.parametrize(
    ("name", "scheduler"),
    [
        ("dpm-solver++", DPMSolverMultistepScheduler(**SD)),
        ("ddim", DDIMScheduler(**SD, clip_sample=False, set_alpha_to_one=True)),
    ],
    ids=["DPMSolverMultistep", "DDIM"],
)
def test_a_list_of_whole_times_in_diffusers(name: str, scheduler: Any) -> None:
    denoiser = mixture_denoiser(VP.scaled_linear()).replace(integer_times=True)
    tableau = learned(denoiser, name)
    times = lists.times(tableau)
    assert all(t == round(t) for t in times) and len(times) == 6
    if isinstance(scheduler, DDIMScheduler):
        # It takes no list; its rule is that of DPM-Solver's first order.
        scheduler = DPMSolverMultistepScheduler(**SD, solver_order=1)
    expected = dode.sample(denoiser, tableau, NOISE)
    found = run(denoiser, scheduler, timesteps=[round(t) for t in times])
    assert torch.allclose(found, expected, atol=FLOAT32 * float(expected.abs().max()) * 10)


def test_a_list_of_sigmas_in_diffusers() -> None:
    # Between whole times programs differ in what sigma they have there.
    denoiser = mixture_denoiser(VP.scaled_linear()).replace(integer_times=True)
    tableau = learned(denoiser, "ddim")
    sigmas = lists.sigmas(tableau)  # this one wants the last 0 too
    scheduler = EulerDiscreteScheduler(**SD, timestep_spacing="trailing")
    scheduler.set_timesteps(sigmas=sigmas)
    # Its first state is sigma eps, that of a VP network alpha x_0 + sigma eps: both are pure noise.
    expected = dode.sample(denoiser, tableau, NOISE)
    c = np.sqrt(sigmas[0] ** 2 + 1) / sigmas[0]
    x = NOISE * c * sigmas[0]
    for t in scheduler.timesteps:
        x = scheduler.step(denoiser.net(scheduler.scale_model_input(x, t), t.double().repeat(8)), t, x).prev_sample
    assert torch.allclose(x, expected, atol=1e-3)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_sigmas_of_a_flow_that_diffusers_shifts_itself(shift: float) -> None:
    denoiser = mixture_denoiser(Flow(shift=shift), "flow")
    tableau = learned(denoiser, "ddim", move_start=False)  # its pipelines hand over the noise as it is
    expected = dode.sample(denoiser, tableau, NOISE)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    found = run(denoiser, scheduler, sigmas=lists.sigmas(tableau, final=False, unshift=shift))
    assert torch.allclose(found, expected, atol=FLOAT32 * 10)
    if shift != 1:
        twice = run(denoiser, scheduler, sigmas=lists.sigmas(tableau, final=False))
        assert not torch.allclose(twice, expected, atol=1e-2)


def test_sigmas_of_a_flow_for_unipc() -> None:
    # It rounds the times that it asks the network at, not its sigmas.
    denoiser = mixture_denoiser(Flow(), "flow").replace(integer_times=True)
    tableau = learned(denoiser, "unipc", move_start=False)
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=1.0)
    found = run(denoiser, scheduler, sigmas=np.array(lists.sigmas(tableau, final=False)))
    # It begins at sigma = 1 - 1e-6, whose log-SNR is finite, and so has a difference in its second step that vanishes in the limit.
    assert torch.allclose(found, dode.sample(denoiser, tableau, NOISE), atol=3e-2)


@pytest.mark.parametrize("schedule", [VP.linear(), EDM(), Flow(shift=3.0)], ids=["vp", "edm", "flow"])
def test_rows_in_a_frame_walk_the_same_states(schedule: NoiseSchedule) -> None:
    denoiser = mixture_denoiser(schedule, "flow" if isinstance(schedule, Flow) else "epsilon")
    tableau = dode.solver("dpm-solver++").tableau(schedule, 5)
    assert frame_of(tableau) == ("flow" if isinstance(schedule, Flow) else "edm")
    whole = dode.sample(denoiser, tableau, NOISE, return_trajectory=True)
    rows, c, s = in_frame(tableau), scales(tableau), levels(tableau)
    y = [whole.states[0] / c[0]]
    for k in range(tableau.rows):
        pairs = zip(rows.a[k], rows.b[k], y, whole.denoised)
        y.append(sum((a * state + b * D for a, b, state, D in pairs), torch.zeros_like(NOISE)))
        assert torch.allclose(y[-1] * c[k + 1], whole.states[k + 1], atol=1e-10)
    assert s[-1] == 0 and (np.diff(s) < 0).all()


def test_plain_decimals_without_exponents() -> None:
    assert lists.decimals([80.0, 0.002, 1e-7, 0.0, 14.6146412293]) == "80, 0.002, 0.0000001, 0, 14.6146412"
    schedule = EDM(1e-6, 80.0)
    text = lists.decimals(lists.sigmas(dode.solver("ddim").tableau(schedule, 8, "log-snr")))
    assert re.fullmatch(r"[\d.]+(, [\d.]+)*", text)


def test_heuns_list_has_each_stop_once() -> None:
    tableau = dode.solver("edm").tableau(EDM(), 7)
    assert len(lists.sigmas(tableau)) == 5 and len(lists.times(tableau)) == 4
    assert lists.times(tableau, final=True) == [*lists.times(tableau), 0.0]


def test_what_a_list_cannot_say_is_refused() -> None:
    denoiser = mixture_denoiser(VP.linear())
    fitted = dode.distill(denoiser, "ddim", 4, effort="fast", samples=20, validation=12, held_out=2, budget=4000).tableau
    base = dode.solver("ddim").tableau(denoiser.schedule, 4)
    cases = {
        "its coefficients are fitted": fitted if fitted.first == "network" else replace(fitted, first="network"),
        "its first output is no call of the network": replace(base, first="zero"),
        "asks the network between": dode.solver("dpm-solver", stages="log-snr").tableau(denoiser.schedule, 4),
        "was changed after it was made": replace(base, made="0" * 64),
    }
    for said, tableau in cases.items():
        with pytest.raises(ValueError, match=said):
            lists.sigmas(tableau)
    with pytest.raises(ValueError, match="unshift is for flow models"):
        lists.sigmas(base, unshift=3.0)
    with pytest.raises(ValueError, match="unshift must be above 0"):
        lists.sigmas(base, unshift=-3.0)
    noise_only = dode.solver("ddim").tableau(VP.linear().rescaled_zero_terminal_snr(), 4)
    assert len(lists.times(noise_only)) == 4
    with pytest.raises(ValueError, match=r"alpha = 0.*no list of sigmas begins there"):
        lists.sigmas(noise_only)


def test_the_command_prints_a_list_and_says_what_it_is(tmp_path: Path) -> None:
    file, out = tmp_path / "flow.json", tmp_path / "sigmas.txt"
    tableau = dode.solver("unipc").tableau(Flow(shift=3.0), 5)
    tableau.save(file)
    command = CliRunner()
    plain = command.invoke(app, ["export", str(file), "--to", "sigmas"])
    assert plain.stdout.splitlines() == [lists.decimals(lists.sigmas(tableau))]
    assert "shifted already" in plain.stderr and plain.exit_code == 0
    before = command.invoke(app, ["export", str(file), "--to", "sigmas", "--unshift", "3", "--no-final"])
    assert before.stdout.splitlines() == ["1, 0.8, 0.6, 0.4, 0.2"] and "before a shift by 3" in before.stderr
    written = command.invoke(app, ["export", str(file), "--to", "times", "--out", str(out)])
    assert written.exit_code == 0 and out.read_text() == lists.decimals(lists.times(tableau)) + "\n"
    again = command.invoke(app, ["export", str(file), "--to", "times", "--out", str(out)])
    assert isinstance(again.exception, FileExistsError)
    with pytest.raises(ValueError, match="there are tableaux of 4 and 5 evaluations"):
        held = tmp_path / "set.json"
        dode.TableauSet.of([tableau, dode.solver("unipc").tableau(Flow(shift=3.0), 4)]).save(held)
        command.invoke(app, ["export", str(held), "--to", "times"], catch_exceptions=False)


def test_a_pipeline_with_its_own_scheduler_and_learned_sigmas() -> None:
    """What people ask: which sigmas for so many steps of exactly this model, at this resolution and guidance."""
    from fresh_pipelines import put, sampled
    from tiny_pipelines import PIPELINES

    from dode.integrations.diffusers import DodeScheduler

    tiny = PIPELINES["sd3"]
    pipe = tiny.make()
    own = pipe.scheduler
    few: dict[str, Any] = {"samples": 6, "validation": 4, "held_out": 0, "teacher": "unipc", "teacher_nfe": 12, "batch_size": 6}
    call = {
        "prompts": ["a boat", "a shoe"],
        **{key: value for key, value in tiny.call(1).items() if key in ("height", "width")},
    }
    few |= {"refine": 2, "shrink": False, "budget": 2_000}
    made = dode.distill(pipe, "ddim", 4, learn="times", grid="karras", **few, **call).tableau
    assert made.grid == "learned"
    pipe.scheduler = own
    sigmas = lists.sigmas(made, final=False, unshift=own.config.shift)
    found = sampled(tiny, pipe, 4, sigmas=sigmas, num_inference_steps=4)
    table = sampled(tiny, put(pipe, DodeScheduler.from_tableaux(made, own)), 4)
    assert torch.allclose(found, table, atol=1e-4 * float(table.abs().max()))
