"""`DodeScheduler.from_solver` against diffusers' own schedulers: the same loop, the same network, the same times.

Their times are read and handed over, so that only the solvers are compared. What cannot coincide, beyond the list in
test_diffusers_parity.py: a schedule here is a function of the time in float64, so that diffusers' sigmas that do not belong to the times
that it shows (rounded times of Karras and flow grids, fractional times, 4096 for a zero SNR) are not taken over.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

diffusers = pytest.importorskip("diffusers")
from test_diffusers_parity import BETAS, FLOAT32, FLOAT32_THREE_NODES, UNEVEN, assert_same, make  # noqa: E402
from test_dode_scheduler import VP_CONFIG, image, network, run, same_times  # noqa: E402

from dode.integrations.diffusers import DodeScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize(
    ("spacing", "steps"), [*itertools.product(["leading", "trailing"], [5, 10, 20]), ("leading", UNEVEN)], ids=str
)
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_equals_ddim(prediction: str, spacing: str, steps: int) -> None:
    theirs = make("DDIMScheduler", **BETAS, clip_sample=False, timestep_spacing=spacing, prediction_type=prediction)
    assert_same(run(same_times(theirs, "ddim", steps), image()), run(theirs, image()))


def test_equals_ddim_at_zero_terminal_snr() -> None:
    config = {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": "v_prediction"}
    theirs = make("DDIMScheduler", **BETAS, **config, rescale_betas_zero_snr=True)
    assert_same(run(same_times(theirs, "ddim", 10), image()), run(theirs, image()))


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["midpoint", "heun"])
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("method", ["Multistep", "Singlestep"])
def test_equals_dpm_solver_pp(method: str, order: int, kind: str, prediction: str, steps: int) -> None:
    theirs = make(
        f"DPMSolver{method}Scheduler",
        **BETAS,
        solver_order=order,
        solver_type=kind,
        prediction_type=prediction,
        final_sigmas_type="zero",
    )
    lower = method == "Singlestep" or steps < 15
    options = {"order": order, "solver_type": kind, "method": method.lower(), "lower_order_final": lower}
    assert_same(run(same_times(theirs, "dpm-solver++", steps, **options), image()), run(theirs, image()))


@pytest.mark.parametrize(
    ("scheduler", "name", "options"),
    [
        ("DPMSolverMultistepScheduler", "dpm-solver++", {"order": 2}),
        ("DPMSolverMultistepScheduler", "dpm-solver++", {"order": 3}),
        ("UniPCMultistepScheduler", "unipc", {"order": 2}),
        ("UniPCMultistepScheduler", "unipc", {"order": 3}),
    ],
)
def test_equals_multistep_solvers_of_a_flow_with_a_dynamic_shift(scheduler: str, name: str, options: dict[str, Any]) -> None:
    """diffusers rounds the times that it shows for these sigmas, so both loops ask at sigma itself."""
    config = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "use_dynamic_shifting": True}
    theirs = make(scheduler, **config, solver_order=options["order"], final_sigmas_type="zero")
    theirs.set_timesteps(8, mu=0.9)
    ours = DodeScheduler.from_solver(name, theirs.config, **options)
    sigmas = theirs.sigmas.double()
    ours.set_timesteps(sigmas=sigmas / (math.exp(0.9) - (math.exp(0.9) - 1) * sigmas), mu=0.9)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)

    def loop(scheduler: Any) -> Tensor:
        x = image()
        for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
            x = scheduler.step(network(x, 1000 * sigma), t, x, return_dict=False)[0]
        return x

    assert_same(loop(ours), loop(theirs))


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_deis(order: int, steps: int) -> None:
    """It ends at sigma_min: a grid of times says so."""
    theirs = make("DEISMultistepScheduler", **BETAS, solver_order=order)
    theirs.set_timesteps(steps)
    options = {"order": order - 1, "variable": "log-rho", "lower_order_final": steps < 15, "bounded": False}
    ours = DodeScheduler.from_solver("deis", theirs.config, grid=[*theirs.timesteps.tolist(), 0.0], **options)
    ours.set_timesteps(steps)
    tolerance = FLOAT32_THREE_NODES if order == 3 else FLOAT32
    assert_same(run(ours, image()), run(theirs, image()), tolerance)


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("corrector", [True, False])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_equals_unipc(order: int, corrector: bool, steps: int) -> None:
    theirs = make(
        "UniPCMultistepScheduler",
        **BETAS,
        solver_order=order,
        final_sigmas_type="zero",
        disable_corrector=[] if corrector else list(range(steps)),
    )
    assert_same(run(same_times(theirs, "unipc", steps, order=order, corrector=corrector), image()), run(theirs, image()))


@pytest.mark.parametrize("steps", [5, 10, 20])
def test_equals_pndm(steps: int) -> None:
    """N + 1 calls, its second time twice."""
    theirs = make("PNDMScheduler", **BETAS, skip_prk_steps=True, set_alpha_to_one=True, steps_offset=1)
    assert_same(run(same_times(theirs, "pndm", steps, bounded=False), image()), run(theirs, image()))


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize(("scheduler", "method"), [("EulerDiscreteScheduler", "euler"), ("HeunDiscreteScheduler", "heun")])
def test_equals_euler_and_heun(scheduler: str, method: str, steps: int) -> None:
    """They hold x / alpha, and diffusers' Heun shows its times twice, as ours does."""
    theirs = make(scheduler, **BETAS, timestep_spacing="trailing")
    ours = same_times(theirs, "edm", steps, method=method)
    assert_same(run(ours, image()), run(theirs, image() * math.sqrt(1 + float(theirs.sigmas[0]) ** 2)))
    ours.set_timesteps(timesteps=theirs.timesteps.unique().flip(0))
    assert_same(run(ours, image()), run(theirs_anew(theirs, steps), image() * math.sqrt(1 + float(theirs.sigmas[0]) ** 2)))


def theirs_anew(scheduler: Any, steps: int) -> Any:
    scheduler.set_timesteps(steps)
    return scheduler


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(
    ("scheduler", "name", "options"),
    [
        ("EDMEulerScheduler", "edm", {"method": "euler"}),
        ("EDMDPMSolverMultistepScheduler", "dpm-solver++", {"order": 2}),
        ("EDMDPMSolverMultistepScheduler", "dpm-solver++", {"order": 3}),
    ],
)
def test_equals_edm(scheduler: str, name: str, options: dict[str, Any], prediction: str, steps: int) -> None:
    """The network inside EDM's scalings: c_in, c_skip and c_out are the scheduler's."""
    settings = {"solver_order": options["order"]} if "order" in options else {}
    theirs = make(scheduler, prediction_type=prediction, **settings)
    theirs.set_timesteps(steps)
    if "order" in options:
        options = {**options, "lower_order_final": steps < 15}
    ours = DodeScheduler.from_solver(name, theirs.config, **options)
    ours.set_timesteps(timesteps=theirs.timesteps)
    assert ours.init_noise_sigma == 80
    torch.testing.assert_close(ours.timesteps, theirs.timesteps, atol=1e-6, rtol=1e-6)
    assert_same(run(ours, image() * 80), run(theirs, image() * 80))


@pytest.mark.parametrize("steps", [5, 10, 20])
@pytest.mark.parametrize("config", [{"shift": 1.0}, {"shift": 3.0}, {"use_dynamic_shifting": True}], ids=str)
def test_equals_flow_match_euler(config: dict[str, Any], steps: int) -> None:
    """As Flux and Stable Diffusion 3 call it: sigmas before the shift, and mu."""
    theirs = make("FlowMatchEulerDiscreteScheduler", **config)
    ours = DodeScheduler.from_solver("edm", theirs.config, method="euler")
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps), mu=0.8 if "use_dynamic_shifting" in config else None)
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    torch.testing.assert_close(ours.sigmas, theirs.sigmas)
    assert_same(run(ours, image()), run(theirs, image()))


@pytest.mark.parametrize("steps", [5, 10])
def test_equals_flow_match_euler_from_noise_to_data(steps: int) -> None:
    """Networks whose time runs up, and that give data - noise."""
    theirs = make("FlowMatchEulerDiscreteScheduler", shift=3.0, invert_sigmas=True)
    ours = DodeScheduler.from_solver("edm", theirs.config, method="euler")
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    torch.testing.assert_close(ours.timesteps, theirs.timesteps)
    assert_same(run(ours, image()), run(theirs, image()))


def test_mu_is_the_shift_of_a_solver() -> None:
    ours = DodeScheduler.from_solver("ddim", make("FlowMatchEulerDiscreteScheduler", use_dynamic_shifting=True).config)
    sigmas = {}
    for mu in (0.5, 1.15):
        ours.set_timesteps(4, mu=mu)
        sigmas[mu] = ours.sigmas[1].item()
        assert sigmas[mu] == pytest.approx(math.exp(mu) / (math.exp(mu) + 1 / 3))


@pytest.mark.parametrize("most", [1.0, 1.5])
@pytest.mark.parametrize("scheduler", ["DPMSolverMultistepScheduler", "DDIMScheduler", "UniPCMultistepScheduler"])
def test_thresholding_is_diffusers_own(scheduler: str, most: float) -> None:
    config = {**BETAS, "thresholding": True, "sample_max_value": most, "dynamic_thresholding_ratio": 0.9}
    settings: dict[str, Any] = {
        "DPMSolverMultistepScheduler": {"final_sigmas_type": "zero"},
        "DDIMScheduler": {"clip_sample": False, "timestep_spacing": "trailing"},
        "UniPCMultistepScheduler": {"final_sigmas_type": "zero"},
    }[scheduler]
    name = {"DPM": "dpm-solver++", "DDI": "ddim", "Uni": "unipc"}[scheduler[:3]]
    theirs = make(scheduler, **config, **settings)
    ours = same_times(theirs, name, 10, **({"order": 2} if name == "unipc" else {}))
    x = image()
    for t in theirs.timesteps:
        # DDIM goes on with the epsilon of the clipped sample only if asked.
        more = {"use_clipped_model_output": True} if scheduler.startswith("DDIM") else {}
        x = theirs.step(network(x, t), t, x, **more, return_dict=False)[0]
    assert_same(run(ours, image()), x)
    assert float(x.abs().max()) <= 1.0 + 1e-6


def test_add_noise_is_diffusers_own() -> None:
    ours, theirs = DodeScheduler.from_solver("deis", VP_CONFIG), make("DDPMScheduler", **BETAS)
    times = torch.arange(0, 1000, 37)
    x, noise = torch.randn(2, len(times), 4, 3, 3, generator=torch.Generator().manual_seed(0))
    assert_same(ours.add_noise(x, noise, times), theirs.add_noise(x, noise, times))
    half = ours.add_noise(x.bfloat16(), noise.bfloat16(), times)
    assert half.dtype == torch.bfloat16


def test_scale_noise_is_diffusers_own() -> None:
    theirs = make("FlowMatchEulerDiscreteScheduler", shift=3.0)
    ours = DodeScheduler.from_solver("deis", theirs.config)
    for scheduler in (ours, theirs):
        scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 8, 8))
    x, noise = image(batch=8), image(1, batch=8)
    assert_same(ours.scale_noise(x, ours.timesteps, noise), theirs.scale_noise(x, theirs.timesteps, noise))
