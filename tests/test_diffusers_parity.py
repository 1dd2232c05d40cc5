"""The solvers against diffusers' schedulers, on one network, the same times and the same noise.

In float32, as diffusers runs, and in float64 with the scheduler's tables made float64, where all that is left is rounding.
Euler, Heun, the EDM schedulers, FlowMatchEuler and DPMSolverMultistep work in float32 whatever they are given.

The times and sigmas are read from the scheduler and handed to `dode.grids.Explicit`, so that only the solvers are compared;
DDIM and PNDM choose no sigmas of their own and run on `dode`'s own grids.

What our options mean where diffusers' differ:

- deis: `order` is the polynomial's degree, diffusers' `solver_order` less one; diffusers has log rho only.
- `lower_order_final` always lowers the last orders; diffusers' multistep schedulers do so below 15 steps only. So it is set
  here by the number of steps. To sigma = 0 the last step has order 1 in both.
- pndm: `nfe` counts the calls, N + 1 (PLMS) or N + 9 (Runge-Kutta) for diffusers' `num_inference_steps` N.
- starts: Euler and Heun hold x / alpha, so they are given noise / alpha. EDM's would start from noise * sqrt(sigma_max^2 + 1)
  and flows from unscaled noise also where sigma < 1; ours start from noise * sigma, and diffusers' are given that.

What cannot coincide, and why:

- DDIM with "linspace", and "trailing" where N does not divide T: diffusers steps to t - T // N, which is not the next time.
- DDIM with an active `clip_sample`: D is clipped there, the epsilon of the same step is not.
- PNDM with v-prediction: diffusers extrapolates the raw outputs, which are not epsilon.
- IPNDM's first step: at alpha = 0 diffusers replaces D by 0. From the second time on it is our ipndm on a cosine schedule.
- singlestep, order 2, `lower_order_final`, an even number of steps to sigma_min: diffusers ends in two first-order steps. Ours
  does not (nor do the papers): it is diffusers' `lower_order_final=False`.
- multistep, order 3, `euler_at_final` to sigma_min: diffusers lowers the last step alone.
- UniPC to sigma = 0 with bh1, or in the epsilon form: NaN in diffusers.
"""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import dode
from dode.grids import Explicit, Leading, Trailing
from dode.schedules import EDM, VP, CosineVP, Flow

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

# diffusers' float32 coefficients and states: up to 1.2e-6 is seen, 2.3e-6 for dpmsolver's third order.
FLOAT32 = 3e-6
# DEIS' float32 quadratures over three nodes cancel (up to 3e-6 is seen; 2e-5 with v-prediction, which runs in float64 only).
FLOAT32_THREE_NODES = 1e-5
# With the scheduler's own tables made float64 and float64 states: rounding (4e-14 for DEIS' quadratures, 2e-15 elsewhere).
FLOAT64 = 1e-12
# Where diffusers lowers the last orders of multistep schedulers.
FEW_STEPS = 15

STEPS = (5, 10, 20)
UNEVEN = 7  # does not divide 1000
DTYPES = (torch.float32, torch.float64)
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}

Network = Callable[[Tensor, Any], Tensor]


def network(x: Tensor, t: Any) -> Tensor:
    """Give something smooth and nonlinear, of the size of an epsilon."""
    weights = torch.tensor([[0.5, -0.3, 0.2, 0.1], [0.3, 0.6, -0.1, 0.2], [-0.2, 0.1, 0.7, 0.3], [0.1, -0.2, -0.3, 0.4]])
    time = torch.as_tensor(t).to(x.dtype).reshape(-1, 1) / 300
    return torch.tanh(x @ weights.to(x) + 0.3 * torch.cos(time)) + 0.4 * x


def noise(dtype: torch.dtype) -> Tensor:
    return torch.randn(16, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def make(name: str, **config: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # algorithm_type="dpmsolver" is said to be deprecated
        return getattr(diffusers, name)(**config)


def run(scheduler: Any, x: Tensor, net: Network = network, first: int = 0) -> Tensor:
    """Run diffusers' loop from the state x at the timestep of index `first`."""
    if first:
        scheduler.set_begin_index(first)
    if x.dtype == torch.float64:
        for table in ("sigmas", "alphas_cumprod", "final_alpha_cumprod", "alphas", "betas"):
            if hasattr(scheduler, table):
                setattr(scheduler, table, getattr(scheduler, table).double())
    for t in scheduler.timesteps[first:]:
        given = scheduler.scale_model_input(x, t) if hasattr(scheduler, "scale_model_input") else x
        x = scheduler.step(net(given, t), t, x, return_dict=False)[0]
    return x


def variance_preserving(scheduler: Any) -> VP:
    return VP(alphas_cumprod=scheduler.alphas_cumprod.double().clamp(min=2.0**-24))


def vp_points(scheduler: Any, times: Tensor | None = None, sigmas: Tensor | None = None) -> Explicit:
    """Read the scheduler's times and sigmas; its sigma is sigma / alpha."""
    times, sigmas = scheduler.timesteps if times is None else times, scheduler.sigmas if sigmas is None else sigmas
    rho = sigmas.double()
    last = -1.0 if rho[-1] == 0 or times[-1] == 0 else 0.0
    alphas = 1 / (1 + rho**2).sqrt()
    return Explicit((*times.double().tolist(), last), tuple(alphas.tolist()), tuple((rho * alphas).tolist()))


def flow_points(scheduler: Any) -> Explicit:
    sigmas = scheduler.sigmas.double()
    return Explicit((*scheduler.timesteps.double().tolist(), 0.0), tuple((1 - sigmas).tolist()), tuple(sigmas.tolist()))


def ours(schedule: Any, prediction: str, solver: dode.Solver, grid: Any, x: Tensor, nfe: int | None = None) -> Tensor:
    denoiser = dode.Denoiser(network, schedule, prediction)
    result: Tensor = dode.sample(denoiser, solver.tableau(schedule, nfe, grid), x)
    return result


def assert_same(found: Tensor, expected: Tensor, tolerance: float | None = None) -> None:
    """To float64 rounding for float64 states, to `tolerance` (or float32 rounding) otherwise."""
    if tolerance is None:
        tolerance = FLOAT64 if found.dtype == torch.float64 else FLOAT32
    assert bool(torch.isfinite(expected).all())
    difference = float((found.double() - expected.double()).abs().max() / expected.double().abs().max())
    assert difference < tolerance


every = pytest.mark.parametrize("steps", STEPS)
both = pytest.mark.parametrize("dtype", DTYPES, ids=("float32", "float64"))


@both
@pytest.mark.parametrize(
    ("spacing", "steps"), [*itertools.product(["leading", "trailing"], STEPS), ("leading", UNEVEN)], ids=str
)
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_matches_diffusers_ddim(spacing: str, prediction: str, steps: int, dtype: torch.dtype) -> None:
    scheduler = make(
        "DDIMScheduler",
        **BETAS,
        clip_sample=False,
        timestep_spacing=spacing,
        prediction_type=prediction if prediction == "epsilon" else "v_prediction",
    )
    scheduler.set_timesteps(steps)
    grid = Leading() if spacing == "leading" else Trailing()
    found = ours(variance_preserving(scheduler), prediction, dode.solver("ddim"), grid, noise(dtype), steps)
    assert_same(found, run(scheduler, noise(dtype)))


@both
def test_matches_diffusers_ddim_at_zero_terminal_snr(dtype: torch.dtype) -> None:
    scheduler = make(
        "DDIMScheduler",
        **BETAS,
        clip_sample=False,
        timestep_spacing="trailing",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
    )
    scheduler.set_timesteps(10)
    assert scheduler.alphas_cumprod[-1] == 0
    schedule = VP(alphas_cumprod=scheduler.alphas_cumprod)
    assert_same(ours(schedule, "v", dode.solver("ddim"), "trailing", noise(dtype), 10), run(scheduler, noise(dtype)))


@both
@every
@pytest.mark.parametrize("final", ["zero", "sigma_min"])
@pytest.mark.parametrize("warm_up", ["plms", "runge-kutta"])
def test_matches_diffusers_pndm(warm_up: str, final: str, steps: int, dtype: torch.dtype) -> None:
    scheduler = make(
        "PNDMScheduler",
        **BETAS,
        skip_prk_steps=warm_up == "plms",
        set_alpha_to_one=final == "zero",
        steps_offset=1,  # as Stable Diffusion's: without it the step to sigma_min, from t = 0, is none
    )
    scheduler.set_timesteps(steps)
    solver = dode.solver("pndm", warm_up=warm_up, bounded=False)
    grid = Leading(final=final, steps_offset=1)
    nfe = len(scheduler.timesteps)
    found = ours(variance_preserving(scheduler), "epsilon", solver, grid, noise(dtype), nfe)
    assert_same(found, run(scheduler, noise(dtype)))


@both
@every
def test_matches_diffusers_ipndm_from_its_second_time(steps: int, dtype: torch.dtype) -> None:
    """Its own schedule is sigma = sin(pi t / 2), and the network's output a v."""
    scheduler = make("IPNDMScheduler")
    scheduler.set_timesteps(steps)
    scheduler.betas = scheduler.betas.to(dtype)
    scheduler.alphas = (1 - scheduler.betas**2).sqrt()
    alphas, sigmas = scheduler.alphas[1:].double(), scheduler.betas[1:].double()
    grid = Explicit((*scheduler.timesteps[1:].double().tolist(), 0.0), tuple(alphas.tolist()), tuple(sigmas.tolist()))
    found = ours(CosineVP(s=0.0, t_max=1.0), "v", dode.solver("ipndm", bounded=False), grid, noise(dtype))
    assert_same(found, run(scheduler, noise(dtype), first=1))


SINGLESTEP = [
    (algorithm, order, solver_type, final)
    for algorithm, finals in (("dpmsolver", ["sigma_min"]), ("dpmsolver++", ["sigma_min", "zero"]))
    for order in (1, 2, 3)
    for solver_type in ("midpoint", "heun")
    for final in finals
]


@both
@every
@pytest.mark.parametrize(("algorithm", "order", "solver_type", "final"), SINGLESTEP)
def test_matches_diffusers_dpm_solver_singlestep(
    algorithm: str, order: int, solver_type: str, final: str, steps: int, dtype: torch.dtype
) -> None:
    # Of an even number of second-order steps to sigma_min diffusers would lower the last two.
    lower = not (order == 2 and final == "sigma_min" and steps % 2 == 0)
    scheduler = make(
        "DPMSolverSinglestepScheduler",
        **BETAS,
        algorithm_type=algorithm,
        solver_order=order,
        solver_type=solver_type,
        final_sigmas_type=final,
        lower_order_final=lower,
    )
    scheduler.set_timesteps(steps)
    name = "dpm-solver" if algorithm == "dpmsolver" else "dpm-solver++"
    solver = dode.solver(name, order=order, method="singlestep", solver_type=solver_type, lower_order_final=lower)
    found = ours(variance_preserving(scheduler), "epsilon", solver, vp_points(scheduler), noise(dtype))
    assert_same(found, run(scheduler, noise(dtype)))


def multistep(order: int, solver_type: str, steps: int, algorithm: str = "dpmsolver++", lower: bool = True) -> dode.Solver:
    name = "dpm-solver" if algorithm == "dpmsolver" else "dpm-solver++"
    lower = lower and steps < FEW_STEPS
    return dode.solver(name, order=order, method="multistep", solver_type=solver_type, lower_order_final=lower)


@both
@every
@pytest.mark.parametrize("lower", [True, False], ids=["lower_order_final", ""])
@pytest.mark.parametrize(("algorithm", "order", "solver_type", "final"), SINGLESTEP)
def test_matches_diffusers_dpm_solver_multistep(
    algorithm: str, order: int, solver_type: str, final: str, lower: bool, steps: int, dtype: torch.dtype
) -> None:
    scheduler = make(
        "DPMSolverMultistepScheduler",
        **BETAS,
        algorithm_type=algorithm,
        solver_order=order,
        solver_type=solver_type,
        final_sigmas_type=final,
        lower_order_final=lower,
    )
    scheduler.set_timesteps(steps)
    solver = multistep(order, solver_type, steps, algorithm, lower)
    found = ours(variance_preserving(scheduler), "epsilon", solver, vp_points(scheduler), noise(dtype))
    assert_same(found, run(scheduler, noise(dtype)), FLOAT32)


SIGMAS: dict[str, dict[str, Any]] = {
    "karras": {"use_karras_sigmas": True},
    "lu": {"use_lu_lambdas": True},
    "zero-snr": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
}


@both
@every
@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize(
    ("sigmas", "prediction"), [("karras", "epsilon"), ("karras", "v"), ("lu", "epsilon"), ("lu", "v"), ("zero-snr", "v")]
)
def test_matches_diffusers_dpm_solver_multistep_on_other_sigmas(
    sigmas: str, prediction: str, order: int, steps: int, dtype: torch.dtype
) -> None:
    kind = prediction if prediction == "epsilon" else "v_prediction"
    scheduler = make("DPMSolverMultistepScheduler", **BETAS, solver_order=order, prediction_type=kind, **SIGMAS[sigmas])
    scheduler.set_timesteps(steps)
    found = ours(
        variance_preserving(scheduler), prediction, multistep(order, "midpoint", steps), vp_points(scheduler), noise(dtype)
    )
    assert_same(found, run(scheduler, noise(dtype)), FLOAT32)


@both
@every
@pytest.mark.parametrize("order", [1, 2, 3])
def test_matches_diffusers_dpm_solver_multistep_for_a_flow(order: int, steps: int, dtype: torch.dtype) -> None:
    scheduler = make(
        "DPMSolverMultistepScheduler",
        solver_order=order,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
    )
    scheduler.set_timesteps(steps)
    found = ours(Flow(), "flow", multistep(order, "midpoint", steps), flow_points(scheduler), noise(dtype))
    start = noise(dtype) * Flow().noise_scale(float(scheduler.timesteps[0]))
    assert_same(found, run(scheduler, start), FLOAT32)


@every
@pytest.mark.parametrize(
    ("prediction", "dtype"), [("epsilon", torch.float32), ("epsilon", torch.float64), ("v", torch.float64)]
)
@pytest.mark.parametrize("order", [0, 1, 2])
def test_matches_diffusers_deis(order: int, prediction: str, steps: int, dtype: torch.dtype) -> None:
    kind = prediction if prediction == "epsilon" else "v_prediction"
    scheduler = make("DEISMultistepScheduler", **BETAS, solver_order=order + 1, prediction_type=kind)
    scheduler.set_timesteps(steps)
    solver = dode.solver("deis", order=order, variable="log-rho", lower_order_final=steps < FEW_STEPS, bounded=False)
    found = ours(variance_preserving(scheduler), prediction, solver, vp_points(scheduler), noise(dtype))
    tolerance = FLOAT32_THREE_NODES if dtype == torch.float32 and order == 2 else None
    assert_same(found, run(scheduler, noise(dtype)), tolerance)


@every
@pytest.mark.parametrize("order", [0, 1, 2])
def test_matches_diffusers_deis_on_karras_sigmas(order: int, steps: int) -> None:
    """Diffusers repeats the last sigma: the last step goes nowhere."""
    scheduler = make("DEISMultistepScheduler", **BETAS, solver_order=order + 1, use_karras_sigmas=True)
    scheduler.set_timesteps(steps)
    solver = dode.solver("deis", order=order, variable="log-rho", lower_order_final=steps < FEW_STEPS, bounded=False)
    found = ours(variance_preserving(scheduler), "epsilon", solver, vp_points(scheduler), noise(torch.float64))
    assert_same(found, run(scheduler, noise(torch.float64)))


@both
@every
@pytest.mark.parametrize("prediction", ["epsilon", "v"])
@pytest.mark.parametrize("scheduler_name", ["EulerDiscreteScheduler", "HeunDiscreteScheduler"])
def test_matches_diffusers_in_sigma_space(scheduler_name: str, prediction: str, steps: int, dtype: torch.dtype) -> None:
    kind = prediction if prediction == "epsilon" else "v_prediction"
    scheduler = make(scheduler_name, **BETAS, prediction_type=kind)
    scheduler.set_timesteps(steps)
    times, sigmas, method = scheduler.timesteps, scheduler.sigmas, "euler"
    if scheduler_name.startswith("Heun"):  # it lists all but the first time twice
        times, method = torch.cat([times[:1], times[1::2]]), "heun"
        sigmas = torch.cat([sigmas[:1], sigmas[1:-1:2], sigmas[-1:]])
    solver = dode.solver("edm", method=method)
    found = ours(variance_preserving(scheduler), prediction, solver, vp_points(scheduler, times, sigmas), noise(dtype))
    start = noise(dtype) * math.sqrt(1 + float(sigmas[0]) ** 2)
    assert_same(found, run(scheduler, start), FLOAT32)


@both
@every
@pytest.mark.parametrize(
    ("scheduler_name", "solver"),
    [
        ("EDMEulerScheduler", dode.solver("edm", method="euler")),
        ("EDMDPMSolverMultistepScheduler", dode.solver("dpm-solver++", order=2)),
        ("EDMDPMSolverMultistepScheduler", dode.solver("dpm-solver++", order=2, solver_type="heun")),
        ("EDMDPMSolverMultistepScheduler", dode.solver("dpm-solver++", order=3)),
    ],
    ids=str,
)
def test_matches_diffusers_edm(scheduler_name: str, solver: dode.Solver, steps: int, dtype: torch.dtype) -> None:
    config: dict[str, Any] = {}
    if solver.name == "dpm-solver++":
        config = {"solver_order": solver.settings["order"], "solver_type": solver.settings["solver_type"]}
        solver = multistep(**{"order": config["solver_order"], "solver_type": config["solver_type"], "steps": steps})
    scheduler = make(scheduler_name, **config)
    scheduler.set_timesteps(steps)
    sigmas = scheduler.sigmas.double()
    grid = Explicit(tuple(sigmas.tolist()))

    def preconditioned(x: Tensor, sigma: Tensor) -> Tensor:
        s = sigma.to(x.dtype).reshape(-1, 1)
        total = s**2 + 0.25
        return 0.25 / total * x + 0.5 * s / total.sqrt() * network(x / total.sqrt(), 0.25 * s.log())

    schedule = EDM(sigma_min=float(sigmas[-2]), sigma_max=float(sigmas[0]))
    denoiser = dode.Denoiser(preconditioned, schedule, "edm")
    found = dode.sample(denoiser, solver.tableau(schedule, grid=grid), noise(dtype))
    assert_same(found, run(scheduler, noise(dtype) * float(sigmas[0])), FLOAT32)


@both
@every
@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_matches_diffusers_flow_match_euler(shift: float, steps: int, dtype: torch.dtype) -> None:
    scheduler = make("FlowMatchEulerDiscreteScheduler", shift=shift)
    scheduler.set_timesteps(steps)
    found = ours(Flow(), "flow", dode.solver("edm", method="euler"), flow_points(scheduler), noise(dtype))
    assert_same(found, run(scheduler, noise(dtype)), FLOAT32)


@both
@every
@pytest.mark.parametrize("corrector", [True, False], ids=["corrector", "predictor"])
@pytest.mark.parametrize(
    ("prediction", "variant", "final"),
    [
        ("sample", "bh1", "sigma_min"),
        ("sample", "bh2", "sigma_min"),
        ("sample", "bh2", "zero"),
        ("epsilon", "bh1", "sigma_min"),
        ("epsilon", "bh2", "sigma_min"),
    ],
)
@pytest.mark.parametrize("order", [1, 2, 3])
def test_matches_diffusers_unipc(
    order: int, prediction: str, variant: str, final: str, corrector: bool, steps: int, dtype: torch.dtype
) -> None:
    scheduler = make(
        "UniPCMultistepScheduler",
        **BETAS,
        solver_order=order,
        solver_type=variant,
        final_sigmas_type=final,
        predict_x0=prediction == "sample",
        disable_corrector=[] if corrector else list(range(steps)),
    )
    scheduler.set_timesteps(steps)
    solver = dode.solver("unipc", order=order, variant=variant, prediction=prediction, corrector=corrector)
    found = ours(variance_preserving(scheduler), "epsilon", solver, vp_points(scheduler), noise(dtype))
    assert_same(found, run(scheduler, noise(dtype)))


@both
@every
@pytest.mark.parametrize("order", [1, 2, 3])
def test_matches_diffusers_unipc_for_a_flow(order: int, steps: int, dtype: torch.dtype) -> None:
    scheduler = make(
        "UniPCMultistepScheduler",
        solver_order=order,
        prediction_type="flow_prediction",
        use_flow_sigmas=True,
        flow_shift=3.0,
    )
    scheduler.set_timesteps(steps)
    found = ours(Flow(), "flow", dode.solver("unipc", order=order), flow_points(scheduler), noise(dtype))
    start = noise(dtype) * Flow().noise_scale(float(scheduler.timesteps[0]))
    assert_same(found, run(scheduler, start))
