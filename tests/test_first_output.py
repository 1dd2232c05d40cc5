"""Tableaux whose first output is no evaluation: zero, or a mean shared by the samples of a condition."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from mixture import MEANS, WEIGHTS, Mixture, mixture_denoiser
from torch import Tensor

import dode
from dode.first_output import first_output
from dode.noise import standard_noise
from dode.schedules import EDM, VP
from dode.tableau import SHARED_EVALUATIONS

SCHEDULE = VP.linear()


def shared(first: str, schedule: dode.schedules.NoiseSchedule = SCHEDULE, rows: int = 5, **changes: object) -> dode.Tableau:
    return dataclasses.replace(dode.solver("deis").tableau(schedule, rows), first=first, **changes)


def noise_of(batch: int = 6) -> Tensor:
    return standard_noise(0, batch, (4,), dtype=torch.float64)


def test_nfe_counts_what_every_sample_pays() -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    for first, extra in (("network", 0), ("zero", 0), ("mean", SHARED_EVALUATIONS)):
        tableau = shared(first)
        assert tableau.rows == 5
        assert tableau.nfe == 5 - (first != "network")
        before = denoiser.evaluations
        dode.sample(denoiser, tableau, noise_of())
        assert denoiser.evaluations - before == 6 * tableau.nfe + extra


@pytest.mark.parametrize("prediction", ["epsilon", "v", "sample"])
def test_rows_use_the_constant_as_D(prediction: str) -> None:
    denoiser = mixture_denoiser(SCHEDULE, prediction)
    mean = np.array([0.1, -0.2, 0.3, 0.4])
    tableau = shared("mean", mean=mean)
    states, outputs = [noise_of()], [torch.tensor(mean).expand(6, 4)]
    for k in range(5):
        if k:
            outputs.append(denoiser(states[k], float(tableau.times[k])))
        states.append(sum(tableau.a[k, j] * states[j] + tableau.b[k, j] * outputs[j] for j in range(k + 1)))
    trajectory = dode.sample(denoiser, tableau, noise_of(), return_trajectory=True)
    torch.testing.assert_close(trajectory.final, states[-1], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(trajectory.denoised[0], outputs[0])
    zero = dode.sample(denoiser, shared("zero"), noise_of())
    same = dode.sample(denoiser, shared("mean", mean=np.zeros(4)), noise_of())
    torch.testing.assert_close(zero, same, rtol=1e-9, atol=1e-9)


def test_the_mean_is_that_of_the_data_where_sigma_is_large() -> None:
    schedule = EDM()
    x = noise_of(3) * 80
    found = first_output(mixture_denoiser(schedule, "sample"), shared("mean", schedule), x, {})
    assert found is not None
    expected = (torch.tensor(WEIGHTS).double()[:, None] * MEANS).sum(0)
    # At sigma = 80 the posterior still leans by about 1 / 80 of the spread, averaged over 16 noises.
    torch.testing.assert_close(found, expected.expand(3, 4), rtol=0, atol=0.02)


def test_every_condition_has_its_own_mean_and_a_later_call_pays_one_evaluation_to_trust_it() -> None:
    nets = (Mixture(SCHEDULE), Mixture(SCHEDULE, means=-MEANS))

    def net(x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
        return torch.where(kind[:, None] == 0, nets[0](x, t), nets[1](x, t))

    denoiser = dode.Denoiser(net, SCHEDULE)
    kinds = torch.tensor([0, 1, 1, 0, 1])
    found = first_output(denoiser, shared("mean"), noise_of(5), {"kind": kinds})
    assert found is not None
    assert denoiser.evaluations == 2 * SHARED_EVALUATIONS
    later = first_output(denoiser, shared("mean"), noise_of(2), {"kind": torch.tensor([1, 0])})
    assert later is not None
    assert torch.equal(later[0], found[1])
    # What is in a function cannot be seen: it is asked once more for each condition. Modules are not.
    assert denoiser.evaluations == 2 * SHARED_EVALUATIONS + 2
    for kind in (0, 1):
        rows = found[kinds == kind]
        assert (rows == rows[0]).all()
        alone = first_output(denoiser, shared("mean"), noise_of(1), {"kind": torch.tensor([kind])})
        assert alone is not None
        torch.testing.assert_close(rows[0], alone[0])
    assert not torch.equal(found[0], found[1])


def test_guidance_is_part_of_the_mean() -> None:
    def net(x: Tensor, t: Tensor, level: Tensor) -> Tensor:
        return x * 0 + level[:, None]

    denoiser = dode.Denoiser(net, SCHEDULE, "sample", guidance_scale=3.0, null_condition={"level": 1.0})
    found = first_output(denoiser, shared("mean"), noise_of(2), {"level": torch.tensor([2.0, 4.0])})
    torch.testing.assert_close(found, torch.tensor([[4.0] * 4, [10.0] * 4], dtype=torch.float64))


def test_a_kept_mean_for_another_condition_or_shape_is_refused() -> None:
    denoiser = dode.Denoiser(lambda x, t, **cond: x, SCHEDULE)
    tableau = shared("mean", mean=np.zeros(3))
    with pytest.raises(ValueError, match=r"a mean of shape \(3,\), the samples have \(4,\)"):
        dode.sample(denoiser, tableau, noise_of())
    with pytest.raises(ValueError, match="unconditional network, got the condition label"):
        dode.sample(denoiser, shared("mean", mean=np.zeros(4)), noise_of(), label=torch.zeros(6))
    with pytest.raises(ValueError, match="stored mean"):
        shared("zero", mean=np.zeros(4))
    with pytest.raises(ValueError, match="did you mean 'zero'"):
        shared("zeros")


def test_a_shared_first_output_survives_saving_and_is_printed(tmp_path) -> None:
    for i, tableau in enumerate((shared("zero"), shared("mean"), shared("mean", mean=np.arange(4.0)))):
        path = tmp_path / f"{i}.json"
        tableau.save(path)
        assert dode.Tableau.load(path) == tableau
    assert "D0 = 0" in str(shared("zero"))
    assert "NFE 4" in str(shared("mean"))


class Linear(torch.nn.Linear):
    """A network with a parameter, a buffer and an adapter's scale."""

    def __init__(self) -> None:
        super().__init__(4, 4, dtype=torch.float64)
        self.register_buffer("shift", torch.ones(4, dtype=torch.float64))
        self.scaling = {"default": 1.0}

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x) * self.scaling["default"] + self.shift


def load(net: Linear) -> None:
    net.load_state_dict({name: value * 1.001 for name, value in net.state_dict().items()})


def swap_through_data(net: Linear) -> None:
    """As an averaging helper does: in, without a version counter or an address that moves."""
    net.weight.data.copy_(net.weight.data * 1.001)


def exchange_data(net: Linear) -> None:
    net.weight.data = net.weight.data * 1.001


def in_place(net: Linear) -> None:
    with torch.no_grad():
        net.bias[0] += 1e-9


def through_numpy(net: Linear) -> None:
    net.weight.detach().numpy()[1, 2] += 1e-9


def another_parameter(net: Linear) -> None:
    net.weight = torch.nn.Parameter(net.weight.detach().T.clone())


def buffer(net: Linear) -> None:
    net.shift.data.mul_(1.001)


def adapter(net: Linear) -> None:
    net.scaling["default"] = 0.5


CHANGES = [load, swap_through_data, exchange_data, in_place, through_numpy, another_parameter, buffer, adapter]


@pytest.mark.parametrize("hidden", [False, True], ids=["module", "function"])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_kept_mean_notices_weights_that_are_replaced_in_any_way(change: Callable[[Linear], None], hidden: bool) -> None:
    net = Linear()
    denoiser = dode.Denoiser((lambda x, t: net(x, t)) if hidden else net, SCHEDULE, "sample")
    x = noise_of()
    before = first_output(denoiser, shared("mean"), x, {})
    change(net)
    after = first_output(denoiser, shared("mean"), x, {})
    right = first_output(dode.Denoiser(net, SCHEDULE, "sample"), shared("mean"), x, {})
    assert before is not None and after is not None and right is not None
    assert not torch.equal(after, before)
    torch.testing.assert_close(after, right, rtol=1e-12, atol=1e-14)


def test_a_module_that_is_the_same_is_not_asked_again() -> None:
    denoiser = dode.Denoiser(Linear(), SCHEDULE, "sample")
    for _ in range(3):
        first_output(denoiser, shared("mean"), noise_of(), {})
    assert denoiser.evaluations == SHARED_EVALUATIONS
    # Weights that were replaced and put back are the same weights; the mean of the others was kept last.
    with torch.no_grad():
        denoiser.net.weight.mul_(2)
        first_output(denoiser, shared("mean"), noise_of(), {})
        denoiser.net.weight.div_(2)
    first_output(denoiser, shared("mean"), noise_of(), {})
    assert denoiser.evaluations == 3 * SHARED_EVALUATIONS


def test_a_kept_mean_depends_on_the_settings_of_its_denoiser_and_on_the_first_state() -> None:
    denoiser = dode.Denoiser(Linear(), SCHEDULE, "sample")
    x = noise_of()
    before = first_output(denoiser, shared("mean"), x, {})
    denoiser.clip = 0.5
    clipped = first_output(denoiser, shared("mean"), x, {})
    assert before is not None and clipped is not None
    assert clipped.abs().max() <= 0.5 < before.abs().max()
    other = first_output(denoiser, shared("mean", noise_scale=2.0), x, {})
    assert other is not None
    assert not torch.equal(other, clipped)


@pytest.mark.parametrize("as_tensors", [False, True], ids=["numbers", "tensors"])
def test_values_that_change_places_between_names_are_another_condition(as_tensors: bool) -> None:
    denoiser = dode.Denoiser(lambda x, t, a, b: x * 0 + (10 * a + b), SCHEDULE, "sample")
    for cond in ({"a": 3.0, "b": -2.0}, {"b": 3.0, "a": -2.0}, {"a": 3.0, "b": -2.0}):
        given = {name: torch.tensor(value) for name, value in cond.items()} if as_tensors else cond
        for _ in range(2):
            found = first_output(denoiser, shared("mean"), noise_of(), given)
            assert found is not None
            assert (found == 10 * cond["a"] + cond["b"]).all()


def test_a_guidance_scale_that_is_set_after_a_mean_was_kept_counts() -> None:
    denoiser = dode.Denoiser(
        lambda x, t, level: x * 0 + level[:, None], SCHEDULE, "sample", guidance_scale=3.0, null_condition={"level": 1.0}
    )
    for scale, mean in ((3.0, 4.0), (6.0, 7.0), (1.0, 2.0), (3.0, 4.0)):
        denoiser.guidance_scale = scale
        found = first_output(denoiser, shared("mean"), noise_of(2), {"level": torch.tensor([2.0])})
        assert found is not None
        assert (found == mean).all()


def test_a_condition_without_known_content_has_a_mean_that_is_not_kept() -> None:
    denoiser = dode.Denoiser(lambda x, t, how: x * 0 + how.level, SCHEDULE, "sample")
    how = torch.nn.Module()
    for level in (1.0, 2.0):
        how.level = level
        found = first_output(denoiser, shared("mean"), noise_of(), {"how": how})
        assert found is not None
        assert (found == level).all()


def test_a_condition_with_too_few_rows_is_refused() -> None:
    denoiser = dode.Denoiser(lambda x, t, k: x, SCHEDULE)
    with pytest.raises(ValueError, match="a condition has 3 rows for 5 samples"):
        dode.sample(denoiser, shared("mean"), noise_of(5), k=[1, 2, 3])
