"""The door between a network and the solvers: conversions, guidance, clipping, batches, conditions."""

from __future__ import annotations

import pytest
import torch
from mixture import MEANS, Mixture, log_density, mixture_denoiser
from torch import Tensor, nn

import dode
from dode.noise import standard_noise
from dode.schedules import VP, Flow

SCHEDULE = VP.linear()
T = 400.0
ALPHA, SIGMA = float(SCHEDULE.alpha(T)), float(SCHEDULE.sigma(T))


def states(batch: int = 5) -> Tensor:
    return standard_noise(0, batch, (4,), dtype=torch.float64)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "flow", "score"])
def test_denoised_is_the_posterior_mean_whatever_the_prediction(prediction: str) -> None:
    expected = Mixture(SCHEDULE).posterior_mean(states(), ALPHA, SIGMA)
    torch.testing.assert_close(mixture_denoiser(SCHEDULE, prediction)(states(), T), expected)


def test_score_is_the_gradient_of_the_log_density() -> None:
    x = states().requires_grad_()
    (score,) = torch.autograd.grad(log_density(x, ALPHA, SIGMA, Mixture(SCHEDULE)).sum(), x)
    torch.testing.assert_close(Mixture(SCHEDULE, "score")(states(), torch.full((5,), T)), score)


def test_classifier_free_guidance_is_one_batched_call() -> None:
    calls = []

    def net(x: Tensor, t: Tensor, label: Tensor, scale: float = 1.0) -> Tensor:
        calls.append((len(x), label.tolist(), t.shape))
        return x * label[:, None] * scale

    denoiser = dode.Denoiser(net, SCHEDULE, "sample", guidance_scale=3.0, null_condition={"label": 1.0})
    x = states(2)
    D = denoiser(x, T, label=torch.tensor([2.0, 5.0], dtype=torch.float64), scale=10.0)
    # D_null + 3 (D_cond - D_null), with D = 10 label x.
    expected = 10 * x * torch.tensor([[1 + 3 * (2 - 1)], [1 + 3 * (5 - 1)]])
    torch.testing.assert_close(D, expected)
    assert calls == [(4, [2.0, 5.0, 1.0, 1.0], (4,))]
    assert denoiser.evaluations == 2


def test_guidance_scale_one_asks_for_the_condition_alone() -> None:
    seen = []
    denoiser = dode.Denoiser(lambda x, t, label: seen.append(label) or x, SCHEDULE, "sample", null_condition={"label": 0})
    denoiser(states(), T, label=3)
    assert seen == [3]


def test_guidance_in_the_networks_own_output_is_guidance_in_D() -> None:
    class TwoMixtures:
        def __init__(self) -> None:
            self.nets = (Mixture(SCHEDULE), Mixture(SCHEDULE, means=MEANS.flip(0) * 0.5))

        def __call__(self, x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
            first, second = (net(x, t) for net in self.nets)
            return torch.where(kind[:, None] == 0, first, second)

    x = states()
    plain = dode.Denoiser(TwoMixtures(), SCHEDULE, null_condition={"kind": 0})
    given, null = (plain(x, T, kind=torch.full((5,), k)) for k in (1, 0))
    guided = plain.replace(guidance_scale=2.5)(x, T, kind=torch.ones(5, dtype=torch.long))
    torch.testing.assert_close(guided, null + 2.5 * (given - null), rtol=1e-10, atol=1e-10)


def test_classifier_guidance_adds_the_gradient_of_the_log_probability() -> None:
    """Prior mixture times an exact class posterior is the class's own mixture: guidance of scale 1 must give its D."""
    whole = Mixture(SCHEDULE)
    one = Mixture(SCHEDULE, means=MEANS[1:2], weights=(1.0,))

    def classifier(x: Tensor, t: Tensor) -> Tensor:
        time = float(t[0])
        alpha, sigma = float(SCHEDULE.alpha(time)), float(SCHEDULE.sigma(time))
        return log_density(x, alpha, sigma, one) - log_density(x, alpha, sigma, whole)

    denoiser = dode.Denoiser(whole, SCHEDULE, classifier=classifier)
    torch.testing.assert_close(denoiser(states(), T), one.posterior_mean(states(), ALPHA, SIGMA), rtol=1e-8, atol=1e-8)
    samples = dode.sample(denoiser, dode.solver("deis").tableau(SCHEDULE, 30), states(64))
    assert (samples - MEANS[1]).square().mean().sqrt() == pytest.approx(0.3, rel=0.15)


def test_clipping_bounds_D_and_sampling_uses_the_clipped_D() -> None:
    denoiser = mixture_denoiser(SCHEDULE, clip=0.4)
    D = denoiser(states(), T)
    expected = mixture_denoiser(SCHEDULE)(states(), T).clamp(-0.4, 0.4)
    torch.testing.assert_close(D, expected)
    assert dode.sample(denoiser, dode.solver("ddim").tableau(SCHEDULE, 5), states()).abs().max() <= 0.4 + 1e-12


def test_dynamic_thresholding_scales_by_the_quantile() -> None:
    value = torch.linspace(-4, 4, 101, dtype=torch.float64).reshape(1, 101)
    denoiser = dode.Denoiser(lambda x, t: torch.cat([value, value / 8]), SCHEDULE, "sample", dynamic_threshold=0.9)
    large, small = denoiser(torch.zeros(2, 101, dtype=torch.float64), T)
    limit = torch.quantile(value.abs(), 0.9)
    torch.testing.assert_close(large, (value.clamp(-limit, limit) / limit)[0], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(small, value[0] / 8)  # its quantile is below 1: only clipped


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7])
def test_micro_batches_bound_the_call_and_change_nothing(batch_size: int) -> None:
    sizes = []

    class Net:
        def __call__(self, x: Tensor, t: Tensor, shift: Tensor, shared: str) -> Tensor:
            sizes.append(len(x))
            assert shared == "same"
            return x * 0.5 + shift

    shift = torch.arange(7, dtype=torch.float64)[:, None]
    tableau = dode.solver("deis").tableau(SCHEDULE, 4)
    whole = dode.sample(dode.Denoiser(Net(), SCHEDULE), tableau, states(7), shift=shift, shared="same")
    sizes.clear()
    denoiser = dode.Denoiser(Net(), SCHEDULE, batch_size=batch_size)
    parts = dode.sample(denoiser, tableau, states(7), shift=shift, shared="same")
    assert max(sizes) <= batch_size
    assert torch.equal(whole, parts)
    assert denoiser.evaluations == 28


def test_tensors_of_any_shape() -> None:
    for shape in ((3,), (2, 9), (1, 4, 5), (2, 3, 4, 5)):
        noise = standard_noise(0, 2, shape)
        denoiser = dode.Denoiser(lambda x, t: x * 0.5, SCHEDULE)
        assert dode.sample(denoiser, dode.solver("unipc").tableau(SCHEDULE, 4), noise).shape == (2, *shape)


def test_network_runs_in_its_own_dtype_and_times_stay_float32() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(0.5))

        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            seen.append((x.dtype, t.dtype, float(t[0]), torch.is_inference_mode_enabled(), self.training))
            return x * self.scale

    seen: list[object] = []
    net = Net().to(torch.bfloat16)
    result = dode.sample(dode.Denoiser(net, SCHEDULE), dode.solver("ddim").tableau(SCHEDULE, 1), states())
    assert seen == [(torch.bfloat16, torch.float32, 999.0, True, False)]
    assert result.dtype == torch.float64
    assert net.training


def test_outputs_of_diffusers_form_are_understood() -> None:
    class Output:
        def __init__(self, sample: Tensor) -> None:
            self.sample = sample

    tableau = dode.solver("ddim").tableau(SCHEDULE, 3)
    expected = dode.sample(dode.Denoiser(lambda x, t: x * 0.5, SCHEDULE), tableau, states())
    for wrap in (Output, lambda y: (y, None)):
        found = dode.sample(dode.Denoiser(lambda x, t, wrap=wrap: wrap(x * 0.5), SCHEDULE), tableau, states())
        assert torch.equal(found, expected)


def test_conditions_have_a_row_a_sample() -> None:
    denoiser = dode.Denoiser(lambda x, t, c: x * c["k"][:, None], SCHEDULE)
    tableau = dode.solver("ddim").tableau(SCHEDULE, 2)
    with pytest.raises(ValueError, match="a condition has 3 rows for 5 samples"):
        dode.sample(denoiser, tableau, states(), c={"k": torch.ones(3)})
    one = dode.sample(denoiser, tableau, states(), c={"k": torch.full((1,), 0.3)})
    each = dode.sample(denoiser, tableau, states(), c={"k": torch.full((5,), 0.3)})
    assert torch.equal(one, each)


def test_a_shape_may_be_a_list() -> None:
    denoiser = dode.Denoiser(Mixture(SCHEDULE), SCHEDULE, shape=[4])
    assert denoiser.shape == (4,) and denoiser.replace(clip=1.0).shape == (4,)
    dode.sample(denoiser, dode.solver("ddim").tableau(SCHEDULE, 2), states())


def test_errors_at_the_door() -> None:
    with pytest.raises(ValueError, match="unknown prediction 'eps': did you mean 'epsilon'|unknown prediction 'eps'"):
        dode.Denoiser(lambda x, t: x, SCHEDULE, "eps")
    with pytest.raises(ValueError, match="needs null_condition"):
        dode.Denoiser(lambda x, t: x, SCHEDULE, guidance_scale=2)
    with pytest.raises(TypeError, match="callable"):
        dode.Denoiser(3, SCHEDULE)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        dode.Denoiser(lambda x, t: x, SCHEDULE, batch_size=0)
    with pytest.raises(ValueError, match="guidance needs the condition label"):
        dode.Denoiser(lambda x, t: x, SCHEDULE, guidance_scale=2, null_condition={"label": 0})(states(), T)
    with pytest.raises(ValueError, match="says nothing about the sample"):
        flow = Flow()
        denoiser = dode.Denoiser(lambda x, t: x, flow, "epsilon")
        dode.sample(denoiser, dode.solver("ddim").tableau(flow, 3), states())
