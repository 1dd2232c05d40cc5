"""Tableaux whose first output is no evaluation: zero, or a mean shared by the samples of a condition."""

from __future__ import annotations

import dataclasses

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
    # What is in a function cannot be seen: it is asked once more for each condition. See the next test for modules.
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


def test_a_mean_is_made_anew_when_the_network_changes() -> None:
    class Net(torch.nn.Linear):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x)

    net = Net(4, 4).double()
    denoiser = dode.Denoiser(net, SCHEDULE, "sample")
    x = noise_of()
    before = first_output(denoiser, shared("mean"), x, {})
    net.load_state_dict({"weight": net.weight * 2, "bias": net.bias * 2})
    after = first_output(denoiser, shared("mean"), x, {})
    assert before is not None and after is not None
    torch.testing.assert_close(after, 2 * before)
    other = first_output(denoiser, shared("mean", noise_scale=2.0), x, {})
    assert other is not None
    assert not torch.equal(other, after)
