"""The loop: what it computes, what it keeps, how it runs backwards and from the middle."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import torch
from mixture import MEANS, Mixture, mixture_denoiser
from scipy.integrate import solve_ivp
from torch import Tensor

import dode
from dode.noise import standard_noise
from dode.sampling import program
from dode.schedules import EDM, VP, ContinuousVP, Flow
from dode.solvers import REGISTRY

SCHEDULE = VP.linear()


def noise_of(batch: int = 6, dtype: torch.dtype = torch.float64) -> Tensor:
    return standard_noise(0, batch, (4,), dtype=dtype)


@pytest.mark.parametrize("name", REGISTRY)
def test_the_loop_computes_what_the_rows_say(name: str) -> None:
    """Against the definition, written out over D with all states kept."""
    denoiser, noise = mixture_denoiser(SCHEDULE), noise_of()
    tableau = dode.solver(name).tableau(SCHEDULE, 7)
    states, outputs = [noise * tableau.noise_scale], []
    for k in range(7):
        outputs.append(denoiser(states[k], float(tableau.times[k])))
        states.append(sum(tableau.a[k, j] * states[j] + tableau.b[k, j] * outputs[j] for j in range(k + 1)))
    trajectory = dode.sample(denoiser, tableau, noise, return_trajectory=True)
    # float64 rounding, magnified by 1 / alpha = 157 at the first time.
    for mine, expected in zip(trajectory.states, states, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-10, atol=1e-10)
    for mine, expected in zip(trajectory.denoised, outputs, strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow", "score"])
@pytest.mark.parametrize("schedule", [VP.linear(), ContinuousVP(), Flow(), EDM()], ids=lambda s: s.kind)
def test_every_prediction_gives_the_same_samples(prediction: str, schedule: dode.schedules.NoiseSchedule) -> None:
    start = 0.9 * schedule.t_max  # a flow's epsilon says nothing at alpha = 0
    tableau = dode.solver("unipc").tableau(schedule, 6, dode.grids.Uniform(start=start))
    expected = dode.sample(mixture_denoiser(schedule, "sample"), tableau, noise_of())
    found = dode.sample(mixture_denoiser(schedule, prediction), tableau, noise_of())
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_edm_prediction_asks_the_network_at_scaled_input() -> None:
    """A preconditioned network knows sigma alone; it serves any schedule."""
    edm = Mixture(EDM(), "sample")
    denoiser = dode.Denoiser(edm, SCHEDULE, "edm", shape=(4,))
    tableau = dode.solver("deis").tableau(SCHEDULE, 6)
    expected = dode.sample(mixture_denoiser(SCHEDULE), tableau, noise_of())
    torch.testing.assert_close(dode.sample(denoiser, tableau, noise_of()), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", REGISTRY)
def test_float32_agrees_with_float64(name: str) -> None:
    """Epsilon's rounding error of 1e-7 is magnified by 1 / alpha = 157 at t = 999, and shrinks from there on."""
    tableau = dode.solver(name).tableau(SCHEDULE, 8, "uniform")
    exact = dode.sample(mixture_denoiser(SCHEDULE), tableau, noise_of(64))
    single = dode.sample(mixture_denoiser(SCHEDULE), tableau, noise_of(64).float())
    assert (single - exact).abs().max() < 1e-4
    assert (single - exact).square().mean().sqrt() < 1e-5


def test_half_precision_states_come_back_in_their_dtype() -> None:
    tableau = dode.solver("ddim").tableau(SCHEDULE, 5)
    denoiser = mixture_denoiser(SCHEDULE)
    assert dode.sample(denoiser, tableau, noise_of().half()).dtype == torch.float16
    assert dode.sample(denoiser, tableau, noise_of().half(), dtype=torch.float32).dtype == torch.float32


def test_memory_holds_only_what_a_later_row_names() -> None:
    for name, most in (("ddim", 2), ("dpm-solver++", 4), ("ipndm", 5)):
        tableau = dode.solver(name).tableau(SCHEDULE, 20)
        alive: list[weakref.ref[Tensor]] = []
        peak = 0

        def net(x: Tensor, t: Tensor, alive: list[weakref.ref[Tensor]] = alive) -> Tensor:
            nonlocal peak
            output = x * 0.5
            alive += [weakref.ref(x), weakref.ref(output)]
            peak = max(peak, sum(ref() is not None for ref in alive))
            return output

        dode.sample(dode.Denoiser(net, SCHEDULE), tableau, noise_of(2))
        # One more: the previous state is still named while the network runs.
        assert peak <= most + 1, name


def test_rows_in_the_networks_own_prediction_name_outputs_not_old_states() -> None:
    rows = program(dode.solver("ipndm").tableau(SCHEDULE, 8).for_prediction("epsilon"))
    assert [len(row.terms) for row in rows] == [2, 3, 4, 5, 5, 5, 5, 5]
    rows = program(dode.solver("dpm-solver++").tableau(SCHEDULE, 8).for_prediction("sample"))
    assert max(len(row.terms) for row in rows) == 3


def test_iterate_yields_every_row_and_can_be_stopped() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    tableau = dode.solver("deis").tableau(SCHEDULE, 6)
    trajectory = dode.sample(denoiser, tableau, noise_of(), return_trajectory=True)
    steps = list(dode.iterate(denoiser, tableau, noise_of()))
    assert [step.row for step in steps] == list(range(6))
    assert [step.t for step in steps] == tableau.times[1:].tolist()
    for step in steps:
        assert torch.equal(step.x, trajectory.states[step.row + 1])
        assert torch.equal(step.D, trajectory.denoised[step.row])
    before = denoiser.evaluations
    for step in dode.iterate(denoiser, tableau, noise_of()):
        if step.row == 1:
            break
    assert denoiser.evaluations - before == 2 * 6


def test_samples_can_be_differentiated_through_afterwards() -> None:
    """They are ordinary tensors, no inference-mode ones."""
    x = dode.sample(mixture_denoiser(SCHEDULE), dode.solver("ddim").tableau(SCHEDULE, 3), noise_of())
    weight = torch.ones(4, dtype=torch.float64, requires_grad=True)
    (x * weight).sum().backward()
    assert weight.grad is not None


def test_samples_converge_to_the_probability_flow_ode() -> None:
    """scipy's integrator on dy / d rho = (y - D) / rho, y = x / alpha, as an independent solution."""
    schedule = ContinuousVP()
    noise = noise_of(3)
    net = Mixture(schedule)
    rho_start, rho_end = float(schedule.rho(1.0)), 1e-4

    def slope(rho: float, y: np.ndarray) -> np.ndarray:
        alpha = 1 / np.sqrt(1 + rho**2)
        x = torch.tensor(y.reshape(3, 4) * alpha)
        D = net.posterior_mean(x, alpha, rho * alpha)
        return ((y.reshape(3, 4) - D.numpy()) / rho).ravel()

    start = (noise / float(schedule.alpha(1.0))).numpy().ravel()
    solution = solve_ivp(slope, (rho_start, rho_end), start, method="DOP853", rtol=1e-9, atol=1e-9).y[:, -1].reshape(3, 4)
    tableau = dode.solver("dpm-solver++", order=3).tableau(schedule, 300, "log-snr")
    found = dode.sample(mixture_denoiser(schedule), tableau, noise)
    # sigma 1e-4 is left in scipy's end point.
    np.testing.assert_allclose(found.numpy(), solution, atol=5e-4)


@pytest.mark.parametrize("schedule", [VP.linear(), EDM(), Flow()], ids=lambda s: s.kind)
def test_inversion_finds_the_noise_of_an_image(schedule: dode.schedules.NoiseSchedule) -> None:
    prediction = {"vp": "epsilon", "edm": "sample", "flow": "flow"}[schedule.kind]
    denoiser = mixture_denoiser(schedule, prediction)
    solver = dode.solver("deis", order=1) if schedule.kind == "vp" else dode.solver("dpm-solver++")
    grid = "log-snr"
    noise = noise_of(16)
    # A flow's first time is pure noise, from which no inversion is unique: stop just below.
    top = dode.grids.LogSNR(start=0.98 * schedule.t_max) if schedule.kind == "flow" else dode.grids.LogSNR()
    image = dode.sample(denoiser, solver.tableau(schedule, 200, top), noise)
    upwards = solver.tableau(schedule, 200, top, reverse=True)
    assert (np.diff(upwards.times) > 0).all()
    found = dode.invert(denoiser, upwards, image)
    again = dode.sample(denoiser, solver.tableau(schedule, 200, top), found)
    assert (again - image).abs().max() < 0.02
    with pytest.raises(ValueError, match="reverse=True"):
        dode.invert(denoiser, solver.tableau(schedule, 5, grid), image)


def test_inversion_starts_where_the_network_may_be_asked() -> None:
    for schedule in (VP.linear(), ContinuousVP(), EDM(), Flow()):
        upwards = dode.solver("ddim").tableau(schedule, 6, "uniform", reverse=True)
        assert upwards.times[0] == schedule.t_min
        assert upwards.sigmas[0] > 0


def test_image_to_image_starts_from_the_noised_image() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    image = dode.sample(denoiser, dode.solver("deis").tableau(SCHEDULE, 50), noise_of(64))
    new = standard_noise(1, 64, (4,), dtype=torch.float64)

    def distance(start: float) -> float:
        tableau = dode.solver("deis").tableau(SCHEDULE, 20, dode.grids.Uniform(start=start))
        trajectory = dode.sample(denoiser, tableau, new, image=image, return_trajectory=True)
        expected = float(SCHEDULE.alpha(start)) * image + float(SCHEDULE.sigma(start)) * new
        torch.testing.assert_close(trajectory.states[0], expected)
        return float((trajectory.final - image).square().mean())

    near, far = distance(100.0), distance(900.0)
    assert near < 0.1 * far


def test_one_image_serves_all() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    tableau = dode.solver("deis").tableau(SCHEDULE, 5, dode.grids.Uniform(start=500.0))
    image = noise_of(1) * 0.5
    expected = dode.sample(denoiser, tableau, noise_of(), image=image.repeat(6, 1))
    for one in (image, image[0], image.float().double()):
        torch.testing.assert_close(dode.sample(denoiser, tableau, noise_of(), image=one), expected)
    last = list(dode.iterate(denoiser, tableau, noise_of(), image=image[0]))[-1].x
    assert torch.equal(last, expected)


MASK = torch.tensor([1.0, 0.0, 0.0, 1.0])
KNOWN = torch.tensor([0.3, -0.4, 0.2, 0.9], dtype=torch.float64)


@pytest.mark.parametrize("schedule", [VP.linear(), EDM(), Flow()], ids=lambda s: s.kind)
def test_known_pixels_are_those_of_a_masked_ddim_loop(schedule: dode.schedules.NoiseSchedule) -> None:
    prediction = {"vp": "epsilon", "edm": "sample", "flow": "flow"}[schedule.kind]
    denoiser = mixture_denoiser(schedule, prediction)
    tableau = dode.solver("ddim").tableau(schedule, 8)
    noise, repaint = noise_of(), MASK.bool()
    alphas, sigmas = tableau.alphas.tolist(), tableau.sigmas.tolist()
    x = noise * tableau.noise_scale
    for k in range(9):
        x = torch.where(repaint, x, alphas[k] * KNOWN + sigmas[k] * noise)
        if k < 8:
            D = denoiser(x, float(tableau.times[k]))
            x = alphas[k + 1] * D + sigmas[k + 1] * (x - alphas[k] * D) / sigmas[k]
    found = dode.sample(denoiser, tableau, noise, known=KNOWN, mask=MASK)
    torch.testing.assert_close(found, x, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", REGISTRY)
def test_known_pixels_stay_and_the_others_follow_them(name: str) -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    tableau = dode.solver(name).tableau(SCHEDULE, 24)
    noise = noise_of(32)
    trajectory = dode.sample(denoiser, tableau, noise, known=MEANS[0], mask=MASK, return_trajectory=True)
    kept = MASK == 0
    assert torch.equal(trajectory.final[:, kept], MEANS[0][kept].expand(32, 2))
    for point, state in zip(tableau.points[:-1], trajectory.states[:-1], strict=True):
        expected = point.alpha * MEANS[0] + point.sigma * noise
        torch.testing.assert_close(state[:, kept], expected[:, kept], rtol=1e-12, atol=1e-12)

    # Two pixels of a component tell which one it is, and the repainted ones follow.
    def distance(x: Tensor) -> float:
        return float((x - MEANS[0])[:, ~kept].square().mean())

    assert distance(trajectory.final) < 0.85 * distance(dode.sample(denoiser, tableau, noise))
    steps = list(dode.iterate(denoiser, tableau, noise, known=MEANS[0], mask=MASK))
    assert torch.equal(steps[-1].x, trajectory.final)


def test_masks_of_every_form_and_numbers_between() -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), dode.solver("deis").tableau(SCHEDULE, 6)
    expected = dode.sample(denoiser, tableau, noise_of(), known=KNOWN, mask=MASK)
    for mask in (MASK.bool(), MASK.int(), MASK[None], MASK.repeat(6, 1), MASK.numpy()):
        assert torch.equal(dode.sample(denoiser, tableau, noise_of(), known=KNOWN, mask=mask), expected)
    plain = dode.sample(denoiser, tableau, noise_of())
    # A mask of ones repaints all, whatever is there; one of zeros keeps all.
    nothing = torch.full((4,), torch.nan)
    torch.testing.assert_close(dode.sample(denoiser, tableau, noise_of(), known=nothing, mask=torch.ones(4)), plain)
    kept = dode.sample(denoiser, tableau, noise_of(), known=KNOWN, mask=torch.zeros(()))
    assert torch.equal(kept, KNOWN.expand(6, 4))
    ddim = dode.solver("ddim").tableau(SCHEDULE, 6)
    half = dode.sample(denoiser, ddim, noise_of(), known=KNOWN, mask=torch.full((4,), 0.25), return_trajectory=True)
    torch.testing.assert_close(half.final, 0.25 * half.denoised[-1] + 0.75 * KNOWN)


def test_a_mask_with_an_image_keeps_the_image_and_starts_from_it() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    tableau = dode.solver("deis").tableau(SCHEDULE, 6, dode.grids.Uniform(start=400.0))
    found = dode.sample(denoiser, tableau, noise_of(), image=KNOWN, mask=MASK, return_trajectory=True)
    start = float(SCHEDULE.alpha(400.0)) * KNOWN + float(SCHEDULE.sigma(400.0)) * noise_of()
    torch.testing.assert_close(found.states[0], start)
    assert torch.equal(found.final[:, 1:3], KNOWN[1:3].expand(6, 2))
    both = dode.sample(denoiser, tableau, noise_of(), image=KNOWN, known=KNOWN, mask=MASK)
    assert torch.equal(both, found.final)


def test_masks_that_cannot_be_are_refused() -> None:
    denoiser, tableau = mixture_denoiser(SCHEDULE), dode.solver("ddim").tableau(SCHEDULE, 2)

    def attempt(**options: object) -> None:
        dode.sample(denoiser, tableau, noise_of(), **options)

    with pytest.raises(ValueError, match="known pixels need a mask: .* 1 where the image is repainted"):
        attempt(known=KNOWN)
    with pytest.raises(ValueError, match="a mask needs the pixels that it keeps: give known"):
        attempt(mask=MASK)
    with pytest.raises(ValueError, match=r"mask must lie in \[0, 1\]"):
        attempt(known=KNOWN, mask=MASK * 255)
    with pytest.raises(ValueError, match=r"mask must be a tensor that broadcasts to the shape of noise \(6, 4\), got .*3"):
        attempt(known=KNOWN, mask=torch.ones(3))
    with pytest.raises(ValueError, match=r"known must have the shape of noise \(6, 4\), or \(4,\) for all, got \(3,\)"):
        attempt(known=KNOWN[:3], mask=MASK)
    with pytest.raises(TypeError, match="image must be a tensor, got list"):
        attempt(image=[1.0])


@pytest.mark.parametrize("name", REGISTRY)
def test_a_state_that_is_written_into_is_what_the_run_goes_on_from(name: str) -> None:
    denoiser, tableau, noise = mixture_denoiser(SCHEDULE, "sample"), dode.solver(name).tableau(SCHEDULE, 7), noise_of()
    states, outputs = [noise * tableau.noise_scale], []
    for step in dode.iterate(denoiser, tableau, noise):
        k = step.row
        outputs.append(denoiser(states[k], float(tableau.times[k])))
        states.append(sum(tableau.a[k, j] * states[j] + tableau.b[k, j] * outputs[j] for j in range(k + 1)))
        states[-1] = states[-1].clamp(-1, 1)
        step.x.clamp_(-1, 1)
        step.D.zero_()  # a copy
    torch.testing.assert_close(step.x, states[-1], rtol=1e-9, atol=1e-9)


def test_a_tableau_of_another_schedule_is_refused_unless_told() -> None:
    tableau = dode.solver("ddim").tableau(VP.scaled_linear(), 5)
    denoiser = mixture_denoiser(SCHEDULE)
    with pytest.raises(ValueError, match="made for the schedule vp:.* the network has vp:"):
        dode.sample(denoiser, tableau, noise_of())
    assert dode.sample(denoiser, tableau, noise_of(), strict=False).shape == (6, 4)
    # float32 betas of the same schedule are the same schedule.
    same = VP(torch.linspace(1e-4, 0.02, 1000))
    dode.sample(denoiser, dode.solver("ddim").tableau(same, 5), noise_of())


def test_wrong_shapes_are_refused_at_the_door() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    tableau = dode.solver("ddim").tableau(SCHEDULE, 2)
    with pytest.raises(ValueError, match=r"samples of shape \(4,\), got \(5,\): .* Denoiser with shape=\(5,\)"):
        dode.sample(denoiser, tableau, torch.zeros(2, 5))
    with pytest.raises(ValueError, match=r"\(batch, \*shape\)"):
        dode.sample(denoiser, tableau, torch.zeros(4))
    with pytest.raises(TypeError, match="floating-point"):
        dode.sample(denoiser, tableau, torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ValueError, match="image must have the shape of noise"):
        dode.sample(denoiser, tableau, torch.zeros(2, 4), image=torch.zeros(3, 4))
    with pytest.raises(ValueError, match="must return the shape of its input"):
        dode.sample(dode.Denoiser(lambda x, t: x[:1], SCHEDULE), tableau, torch.zeros(2, 4))
