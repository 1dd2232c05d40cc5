"""The sampler in k-diffusion's form: dode's own loop, in k-diffusion's scale, found by sigma; run against the real package.

k-diffusion 0.1.1.post1 depends on torchvision, clip, kornia, wandb and more, none of which its samplers and wrappers use. So it is
installed without dependencies, and imported without its `__init__`, which imports all of its modules.
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dode
from dode.grids import Explicit
from dode.integrations import k_diffusion
from dode.schedules import EDM, VE, VP, ContinuousVP, CosineVP, Flow, NoiseSchedule

# What the wrappers' cancellation at large sigma costs, D = x - sigma eps: x is some hundred at sigma = 157, and float32 keeps 3e-5 of it.
WRAPPED_FLOAT32 = 3e-4
SOLVERS = ("ddim", "deis", "dpm-solver", "dpm-solver++", "edm", "ipndm", "unipc")


@pytest.fixture(scope="module")
def package() -> Iterator[types.SimpleNamespace]:
    """k_diffusion.sampling and k_diffusion.external as they are; `utils` names torchvision at import, and uses it for files of images."""
    found = importlib.util.find_spec("k_diffusion")
    if found is None:
        pytest.skip("k-diffusion is not installed: pip install --no-deps k-diffusion==0.1.1.post1")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(found.submodule_search_locations or [])
    placeholder = {name: types.ModuleType(name) for name in ("torchvision", "torchvision.transforms")}
    placeholder["torchvision.transforms"].functional = None  # type: ignore[attr-defined]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "k_diffusion", package)
        with pytest.MonkeyPatch.context() as importing:
            for name, module in placeholder.items():
                importing.setitem(sys.modules, name, module)
            parts = {name: importlib.import_module(f"k_diffusion.{name}") for name in ("sampling", "external", "utils")}
        yield types.SimpleNamespace(**parts)
        for name in parts:
            del sys.modules[f"k_diffusion.{name}"]


def model(x: Tensor, sigma: Tensor, shift: float = 0.0) -> Tensor:
    """D of some network, in either scale."""
    return torch.tanh(x / (1 + sigma.reshape(-1, *[1] * (x.ndim - 1)))) + shift


def noise_of(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape or (3, 2, 4), dtype=dtype, generator=torch.Generator().manual_seed(0))


def denoiser_of(schedule: NoiseSchedule, net: Callable[..., Tensor] = model) -> dode.Denoiser:
    return dode.Denoiser(net, schedule, "sample" if isinstance(schedule, Flow) else "edm")


# The loop.


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("schedule", [EDM(), Flow(shift=3.0, time_scale=1.0)], ids=["edm", "flow"])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_loop_is_dodes_own_to_the_last_bit(name: str, schedule: NoiseSchedule, dtype: torch.dtype) -> None:
    """Where the states are in k-diffusion's scale already and the network gives D: the same sums in the same order."""
    tableau = dode.solver(name).tableau(schedule, 7 if name == "edm" else 6)
    sampler = k_diffusion.sampler(tableau)
    noise = noise_of(dtype=dtype)
    result = sampler(model, noise * sampler.noise_scale(), sampler.sigmas(dtype=dtype), disable=True)
    assert result.dtype == dtype
    assert torch.equal(result, dode.sample(denoiser_of(schedule), tableau, noise))


@pytest.mark.parametrize(
    "schedule", [VP.linear(), ContinuousVP(), VE(0.01, 30.0), EDM(), Flow()], ids=lambda s: type(s).__name__
)
@pytest.mark.parametrize("name", SOLVERS)
def test_every_schedule_gives_the_samples_of_dode(name: str, schedule: NoiseSchedule) -> None:
    """x / alpha in place of x, and D in place of what the network gives."""
    denoiser = dode.Denoiser(lambda x, t: torch.tanh(x), schedule, "flow" if isinstance(schedule, Flow) else "epsilon")
    tableau = dode.solver(name).tableau(schedule, 7 if name == "edm" else 6)
    sampler = k_diffusion.sampler(tableau)
    points = {k_diffusion.levels(tableau)[k]: point for k, point in enumerate(tableau.points)}

    def wrapped(y: Tensor, sigma: Tensor) -> Tensor:
        point = points[min(points, key=lambda own: abs(own - float(sigma[0])))]
        x = y if isinstance(schedule, Flow) else y * point.alpha
        return denoiser.denoised(x, torch.tanh(x), point)

    noise = noise_of()
    result = sampler(wrapped, noise * sampler.noise_scale(), sampler.sigmas(dtype=torch.float64), disable=True)
    torch.testing.assert_close(result, dode.sample(denoiser, tableau, noise), rtol=1e-10, atol=1e-10)


def test_a_distilled_set_runs_by_the_list_that_it_is_given() -> None:
    denoiser = denoiser_of(EDM())
    options = {"samples": 8, "held_out": 4, **dode.distillation.PAPER}
    shaped = denoiser.replace(shape=(2, 4))
    held = dode.TableauSet(tuple(dode.distill(shaped, "deis", nfe=nfe, **options).tableau for nfe in (3, 4)))
    sampler = k_diffusion.sampler(held)
    assert sampler.nfe == (3, 4)
    for nfe in sampler.nfe:
        noise = noise_of()
        x = sampler(model, noise * sampler.noise_scale(nfe), sampler.sigmas(nfe, dtype=torch.float64), disable=True)
        assert torch.equal(x, dode.sample(denoiser, held, noise, nfe=nfe))
    with pytest.raises(ValueError, match="there are tableaux of 3, 4 evaluations, got nfe=5"):
        sampler.sigmas(5)
    with pytest.raises(ValueError, match="there are tableaux of 3, 4 evaluations, got nfe=None"):
        sampler.sigmas()


def test_arguments_and_callback_are_those_of_k_diffusion() -> None:
    sampler = k_diffusion.sampler(dode.solver("dpm-solver++").tableau(EDM(), 4))
    sigmas, seen = sampler.sigmas(dtype=torch.float64), []
    result = sampler(model, noise_of() * 80, sigmas, {"shift": 0.5}, seen.append, True)
    assert not torch.equal(result, sampler(model, noise_of() * 80, sigmas, disable=True))
    assert [set(step) for step in seen] == [{"x", "i", "sigma", "sigma_hat", "denoised"}] * 4
    for i, step in enumerate(seen):
        assert step["i"] == i
        assert step["sigma"] == step["sigma_hat"] == sigmas[i]
        assert torch.equal(step["denoised"], model(step["x"], sigmas[i] * step["x"].new_ones(3), shift=0.5))


def test_progress_is_shown_unless_disabled(capsys: pytest.CaptureFixture[str]) -> None:
    sampler = k_diffusion.sampler(dode.solver("ddim").tableau(EDM(), 4))
    for disable, shown in ((True, False), (None, False), (False, True)):  # None: on a terminal
        sampler(model, noise_of(), sampler.sigmas(), disable=disable)
        assert ("4/4" in capsys.readouterr().err) == shown


@pytest.mark.parametrize("shape", [(2, 5), (2, 4, 8, 8), (1, 4, 3, 8, 8)])
def test_every_shape_and_lower_precision(shape: tuple[int, ...]) -> None:
    """Element by element; in half precision the model is asked in it, and what is kept is float32."""
    sampler = k_diffusion.sampler(dode.solver("deis").tableau(EDM(), 5))
    x = noise_of(*shape, dtype=torch.float32) * 80
    flat = sampler(model, x.flatten()[:, None], sampler.sigmas(), disable=True)
    torch.testing.assert_close(sampler(model, x, sampler.sigmas(), disable=True), flat.reshape(shape), rtol=1e-6, atol=1e-6)
    given: list[torch.dtype] = []

    def half(x: Tensor, sigma: Tensor) -> Tensor:
        given.append(x.dtype)
        return model(x, sigma)

    result = sampler(half, x.bfloat16(), sampler.sigmas(), disable=True)
    assert {result.dtype, *given} == {torch.bfloat16}
    assert (result.float() - flat.reshape(shape)).abs().mean() < 0.02


def test_the_host_waits_at_the_start_and_at_the_end_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def heard(name: str) -> Callable[..., Any]:
        own = getattr(Tensor, name)
        return lambda self, *args: (asked.append(name), own(self, *args))[1]

    for name in ("tolist", "item", "__bool__", "__float__", "cpu", "numpy"):
        monkeypatch.setattr(Tensor, name, heard(name))
    for nfe in (3, 9):
        asked.clear()
        sampler = k_diffusion.sampler(dode.solver("deis").tableau(EDM(), nfe))
        sampler(model, noise_of(), sampler.sigmas(), disable=True)
        assert asked == ["tolist", "__bool__"]


# Against the package.


class CompVis(nn.Module):
    """fashion as a model of CompVis: `alphas_cumprod` and `apply_model`."""

    def __init__(self, denoiser: dode.Denoiser, dtype: torch.dtype) -> None:
        super().__init__()
        self.net = denoiser.net
        self.register_buffer("alphas_cumprod", torch.tensor(denoiser.schedule.alpha(np.arange(1000)) ** 2, dtype=dtype))

    def apply_model(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.net(x, t, **cond)


@pytest.fixture
def fashion() -> dode.Denoiser:
    """In whole times: CompVisDenoiser interpolates log sigma between them, and dode's schedule log alpha-bar; or rounds to them."""
    return dode.load("fashion").replace(integer_times=True)


def dense(tableau: dode.Tableau) -> dode.Tableau:
    """With rows that name all that was before, as thorough fits have."""
    change = np.tril(np.random.default_rng(0).normal(scale=0.02, size=(2, tableau.rows, tableau.rows)))
    return dataclasses.replace(tableau, a=tableau.a + change[0], b=tableau.b + change[1], integrand=None)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, WRAPPED_FLOAT32)], ids=["64", "32"])
@pytest.mark.parametrize("quantize", [True, False])
def test_fashion_in_compvis_denoiser_gives_the_images_of_dode(
    package: types.SimpleNamespace,
    fashion: dode.Denoiser,
    dtype: torch.dtype,
    tolerance: float,
    quantize: bool,
) -> None:
    fashion.net.to(dtype)
    wrapped = package.external.CompVisDenoiser(CompVis(fashion, dtype), quantize=quantize).eval().requires_grad_(False)
    labels = torch.arange(3)
    noise = noise_of(3, 1, 28, 28, dtype=dtype)
    for tableau in (dode.solver("ddim").tableau(fashion.schedule, 4), dense(dode.solver("deis").tableau(fashion.schedule, 4))):
        sampler = k_diffusion.sampler(tableau)
        images = sampler(
            wrapped, noise * sampler.noise_scale(), sampler.sigmas(dtype=dtype), {"class_labels": labels}, disable=True
        )
        difference = images - dode.sample(fashion, tableau, noise, class_labels=labels)
        assert difference.abs().max() < tolerance
        assert difference.square().mean().sqrt() < tolerance / 10


def test_fashion_in_eps_denoiser_from_a_sigma_as_in_stable_diffusion(
    package: types.SimpleNamespace, fashion: dode.Denoiser
) -> None:
    """From sigma = 14.6, which is where Stable Diffusion begins, float32 keeps a digit more in k-diffusion's scale."""
    inner = lambda x, t, **cond: fashion.net(x, t, **cond)  # noqa: E731
    alphas = torch.tensor(fashion.schedule.alpha(np.arange(1000)) ** 2, dtype=torch.float32)
    wrapped = package.external.DiscreteEpsDDPMDenoiser(inner, alphas, quantize=True)
    start = int(np.searchsorted(((1 - alphas) / alphas).sqrt().numpy(), 14.6))
    tableau = dode.solver("deis").tableau(fashion.schedule, 6, grid=dode.grids.Uniform(start=start))
    sampler = k_diffusion.sampler(tableau)
    labels, noise = torch.arange(3), noise_of(3, 1, 28, 28, dtype=torch.float32)
    fashion.net.eval()
    images = sampler(wrapped, noise * sampler.noise_scale(), sampler.sigmas(), {"class_labels": labels}, disable=True)
    torch.testing.assert_close(images, dode.sample(fashion, tableau, noise, class_labels=labels), rtol=0, atol=5e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=["64", "32"])
def test_fashion_flow_gives_the_images_of_dode(dtype: torch.dtype, tolerance: float) -> None:
    """A thorough tableau, which begins with a mean. k-diffusion has no wrapper of flows; D = x - sigma v is what others give it."""
    denoiser = dode.load("fashion-flow")
    denoiser.net.to(dtype).eval()
    tableau = dode.Tableau.load(Path(__file__).parents[1] / "docs/benchmarks/tableaux/fashion-flow/deis-thorough-5.json")
    assert tableau.mean is not None
    sampler = k_diffusion.sampler(tableau)
    noise = noise_of(3, 1, 28, 28, dtype=dtype)
    flow = lambda x, sigma: x - sigma.reshape(-1, 1, 1, 1) * denoiser.net(x, sigma * 1000)  # noqa: E731
    images = sampler(flow, noise * sampler.noise_scale(), sampler.sigmas(dtype=dtype), disable=True)
    torch.testing.assert_close(images, dode.sample(denoiser, tableau, noise), rtol=0, atol=tolerance)


def test_v_denoiser_gives_the_samples_of_dode(package: types.SimpleNamespace) -> None:
    """Its time is atan(sigma) 2 / pi, that of the cosine schedule without offset."""
    schedule = CosineVP(s=0.0, t_max=0.99)
    denoiser = dode.Denoiser(lambda x, t: torch.tanh(x) * t.reshape(-1, 1, 1), schedule, "v")
    wrapped = package.external.VDenoiser(denoiser.net)
    sampler = k_diffusion.sampler(tableau := dode.solver("unipc").tableau(schedule, 6))
    noise = noise_of()
    result = sampler(wrapped, noise * sampler.noise_scale(), sampler.sigmas(dtype=torch.float64), disable=True)
    torch.testing.assert_close(result, dode.sample(denoiser, tableau, noise), rtol=1e-9, atol=1e-9)


# Parts of a list.


@pytest.mark.parametrize("schedule", [EDM(), Flow(shift=3.0, time_scale=1.0)], ids=["edm", "flow"])
@pytest.mark.parametrize("name", SOLVERS)
def test_a_list_that_ends_early_gives_the_state_there(name: str, schedule: NoiseSchedule) -> None:
    tableau = dode.solver(name).tableau(schedule, 7 if name == "edm" else 6)
    sampler, noise = k_diffusion.sampler(tableau), noise_of()
    states = dode.sample(denoiser_of(schedule), tableau, noise, return_trajectory=True).states
    sigmas = sampler.sigmas(dtype=torch.float64)
    for n in range(len(sigmas)):
        x = sampler(model, noise * sampler.noise_scale(), sigmas[: n + 1], disable=True)
        assert torch.equal(x, states[n])


def test_a_list_that_begins_in_the_middle_is_walked_by_k_diffusions_own_2m(package: types.SimpleNamespace) -> None:
    sampler = k_diffusion.sampler(dode.solver("deis").tableau(EDM(), 7))
    sigmas = sampler.sigmas(dtype=torch.float64)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for first in (1, 3, 6):
            x = noise_of() * sigmas[first]
            expected = package.sampling.sample_dpmpp_2m(model, x, sigmas[first:], disable=True)
            torch.testing.assert_close(sampler(model, x, sigmas[first:], disable=True), expected, rtol=1e-12, atol=1e-12)
    (warning,) = said
    assert "step 2 of the tableau of 7 evaluations, which needs outputs from before it" in str(warning.message)
    assert warning.filename == __file__


def test_of_a_flow_too() -> None:
    schedule = Flow(shift=3.0, time_scale=1.0)
    tableau = dode.solver("deis").tableau(schedule, 6)
    sampler = k_diffusion.sampler(tableau)
    x = noise_of()
    with pytest.warns(UserWarning, match="DPM-Solver\\+\\+\\(2M\\) walks the rest"):
        result = sampler(model, x, sampler.sigmas(dtype=torch.float64)[2:], disable=True)
    grid = Explicit(*(tuple(each[2:].tolist()) for each in (tableau.times, tableau.alphas, tableau.sigmas)))
    rest = dode.solver("dpm-solver++").tableau(schedule, grid=grid)
    (expected, *_) = (dode.sample(denoiser_of(schedule), rest, x / rest.noise_scale),)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_rows_that_need_nothing_from_before_are_run_as_they_are() -> None:
    tableau = dode.solver("ddim").tableau(EDM(), 6)
    sampler, sigmas = (made := k_diffusion.sampler(tableau)), made.sigmas(dtype=torch.float64)
    states = dode.sample(denoiser_of(EDM()), tableau, noise_of(), return_trajectory=True).states
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(sampler(model, states[2], sigmas[2:], disable=True), states[-1])
        assert torch.equal(sampler(model, states[2], sigmas[2:5], disable=True), states[4])


def test_heuns_method_goes_on_between_its_steps_and_is_replaced_within_one() -> None:
    """Its sigmas come twice, for its two calls; what walks the rest asks once."""
    tableau = dode.solver("edm").tableau(EDM(), 7)
    sampler = k_diffusion.sampler(tableau)
    sigmas = sampler.sigmas(dtype=torch.float64)
    assert sigmas[1] == sigmas[2]
    states = dode.sample(denoiser_of(EDM()), tableau, noise_of(), return_trajectory=True).states
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(sampler(model, states[2], sigmas[2:], disable=True), states[-1])
    once = torch.unique_consecutive(sigmas)
    walked = k_diffusion.sampler(dode.solver("dpm-solver++").tableau(EDM(), grid=once.tolist()))
    calls = []
    counted = lambda x, sigma: (calls.append(sigma), model(x, sigma))[1]  # noqa: E731
    with pytest.warns(UserWarning, match="walks the rest"):
        result = sampler(counted, states[1], sigmas[1:], disable=True)
    assert len(calls) == len(once) - 2
    with pytest.warns(UserWarning, match="walks the rest"):
        expected = walked(model, states[1], once[1:], disable=True)
    torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)


def test_lists_of_few_digits_are_understood_and_no_steps_are_none() -> None:
    sampler = k_diffusion.sampler(dode.solver("deis").tableau(EDM(), 6))
    sigmas = sampler.sigmas()
    typed = torch.tensor([float(f"{sigma:.4g}") for sigma in sigmas.tolist()])
    exact = sampler(model, noise_of() * 80, sigmas, disable=True)
    torch.testing.assert_close(sampler(model, noise_of() * 80, typed, disable=True), exact, rtol=0, atol=1e-3)
    x = noise_of()
    assert sampler(model, x, sigmas[:1], disable=True) is x
    assert sampler(model, x, sigmas[:0], disable=True) is x


# First outputs that are no call.


@pytest.mark.parametrize("first", ["zero", "mean"])
def test_a_shared_first_output_takes_no_call(first: str) -> None:
    schedule = EDM()
    tableau = dataclasses.replace(
        dode.solver("deis").tableau(schedule, 5), first=first, mean=noise_of(2, 4).numpy() if first == "mean" else None
    )
    sampler = k_diffusion.sampler(tableau)
    assert sampler.nfe == (4,)
    calls: list[Tensor] = []
    noise = noise_of()
    x = sampler(
        lambda x, sigma: (calls.append(sigma), model(x, sigma))[1],
        noise * sampler.noise_scale(),
        sampler.sigmas(dtype=torch.float64),
        disable=True,
    )
    assert len(calls) == 4
    torch.testing.assert_close(x, dode.sample(denoiser_of(schedule), tableau, noise), rtol=1e-13, atol=1e-13)


def test_a_mean_of_another_shape_or_by_condition_is_refused() -> None:
    tableau = dataclasses.replace(dode.solver("deis").tableau(EDM(), 5), first="mean", mean=np.zeros((2, 5)))
    sampler = k_diffusion.sampler(tableau)
    with pytest.raises(ValueError, match=r"the tableau begins with a mean of shape \(2, 5\), and x has \(2, 4\)"):
        sampler(model, noise_of(), sampler.sigmas(), disable=True)
    with pytest.raises(ValueError, match="mean for each condition.*distil with firsts=\\['network', 'zero'\\]"):
        k_diffusion.sampler(dataclasses.replace(tableau, mean=None))


# What is refused.


def listed(*sigmas: float) -> Callable[[Tensor], Tensor]:
    return lambda own: torch.tensor(sigmas)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (listed(90, 10, 0), "sigma = 90 is outside of the tableaux, which go from 80 to 0"),
        (listed(80, -1), "sigma = -1 is outside of the tableaux"),
        (listed(80, 50, 0), "sigma = 50 is none of the tableaux', it lies between their rows"),
        (lambda own: own.flip(0), "the sigmas go up, and the tableaux go down"),
        (lambda own: own[[0, 1, 1, 2]], "these 4 sigmas are no part of one tableau's: some are left out, come twice"),
        (lambda own: own[[0, 2, 3]], "these 3 sigmas are no part of one tableau's"),
        (lambda own: torch.cat([own, own[-1:]]), "these 8 sigmas are no part of one tableau's"),
        (lambda own: torch.full_like(own, torch.nan), "sigma = nan is outside of the tableaux"),
    ],
)
def test_other_lists_are_refused_in_one_line(change: Callable[[Tensor], Tensor], message: str) -> None:
    sampler = k_diffusion.sampler([dode.solver("deis").tableau(EDM(), nfe) for nfe in (4, 6)])
    with pytest.raises(ValueError, match=": take this sampler") as raised:
        sampler(model, noise_of(), change(sampler.sigmas(6)), disable=True)
    assert str(raised.value).startswith(message)
    assert str(raised.value).endswith(": take this sampler's own list, from its sigmas node or sigmas(nfe), nfe one of 4, 6")


def test_models_that_give_no_denoised_sample_are_refused(package: types.SimpleNamespace, fashion: dode.Denoiser) -> None:
    sampler = k_diffusion.sampler(dode.solver("deis").tableau(fashion.schedule, 5))
    inner = CompVis(fashion, torch.float32)
    for raw in (inner, fashion):
        with pytest.raises(ValueError, match="gives a prediction of its own, and a denoised sample is needed: wrap it"):
            sampler(raw, noise_of(2, 1, 28, 28), sampler.sigmas(), disable=True)
    for output, got in (({"sample": 1}, "dict"), (torch.zeros(2, 2, 28, 28), r"a tensor of \(2, 2, 28, 28\)")):
        message = f"must give the denoised sample, a tensor of \\(2, 1, 28, 28\\), and it gave {got}"
        with pytest.raises(ValueError, match=message):
            sampler(lambda x, sigma: output, noise_of(2, 1, 28, 28), sampler.sigmas(), disable=True)  # noqa: B023


def test_models_of_another_range_of_sigmas_are_refused(package: types.SimpleNamespace) -> None:
    """Their wrappers would ask at the nearest time that they have."""
    alphas = torch.tensor(VP.scaled_linear().alpha(np.arange(1000)) ** 2)
    wrapped = package.external.DiscreteEpsDDPMDenoiser(lambda x, t: x, alphas, quantize=True)
    linear, flow, own = (
        k_diffusion.sampler(dode.solver("deis").tableau(schedule, 5)) for schedule in (VP.linear(), Flow(), VP.scaled_linear())
    )
    with pytest.raises(ValueError, match="begins at sigma = 157.407, and this model's sigmas go up to 14.6146"):
        linear(wrapped, noise_of(), linear.sigmas(), disable=True)
    with pytest.raises(ValueError, match="was made for a model of a flow, and this one's sigmas go up to 14.6146"):
        flow(wrapped, noise_of(), flow.sigmas(), disable=True)
    own(wrapped, noise_of(), own.sigmas(), disable=True)


def test_tableaux_without_such_a_form_are_refused() -> None:
    with pytest.raises(ValueError, match="runs upwards, to invert"):
        k_diffusion.sampler(dode.solver("ddim").tableau(EDM(), 5, reverse=True))
    with pytest.raises(ValueError, match="pure noise .alpha = 0., whose sigma / alpha is infinite"):
        k_diffusion.sampler(dode.solver("ddim").tableau(VP.linear().rescaled_zero_terminal_snr(), 5))
    with pytest.raises(TypeError, match="tableaux, sets of them or results of distill are taken, got int"):
        k_diffusion.sampler(5)


def test_nan_is_reported_with_its_step() -> None:
    sampler = k_diffusion.sampler(dode.solver("deis").tableau(EDM(), 6))
    sigmas = sampler.sigmas()

    def broken(x: Tensor, sigma: Tensor) -> Tensor:
        return torch.where(sigma.reshape(-1, 1, 1) == sigmas[3], torch.nan, model(x, sigma))

    message = rf"the model gave values that are NaN or infinite at step 4 of 6 \(sigma = {float(sigmas[3]):.6g}\)"
    with pytest.raises(FloatingPointError, match=message):
        sampler(broken, noise_of(), sigmas, disable=True)
    second = k_diffusion.sampler(dode.solver("dpm-solver++").tableau(EDM(), 4))
    spike = torch.zeros(3, 2, 4)
    spike[0, 0, 0] = 3.4e38  # finite, and too large for the coefficient 1.1
    with pytest.raises(FloatingPointError, match="the state has values that are NaN or infinite at step 2 of 2"):
        second(lambda x, sigma: spike, noise_of(dtype=torch.float32), second.sigmas()[:3], disable=True)
