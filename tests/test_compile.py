"""`dode.sample` in a graph of `torch.compile`, whole: the same samples, made again for no other reason than other arguments.

With backends that run PyTorch's own operators: what the compiler's code generation changes is rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dode

SCHEDULE = dode.schedules.VP.linear()
LABELS = torch.arange(5)


class Net(nn.Module):
    """A perceptron of the sample, the time and perhaps a label."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second = nn.Linear(17, 32), nn.Linear(32, 16)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        h = torch.cat([x, (t / 1000)[:, None].to(x.dtype)], dim=1)
        output = self.second(torch.tanh(self.first(h)))
        return output if label is None else output + 0.1 * label[:, None].to(x.dtype)


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(denoiser: dode.Denoiser, tableau: Any, backend: str = "eager", **options: Any) -> Callable[..., Any]:
    return torch.compile(
        lambda noise, **cond: dode.sample(denoiser, tableau, noise, **options, **cond), fullgraph=True, backend=backend
    )


def noise_of(batch: int = 5) -> Tensor:
    return torch.randn(batch, 16, generator=torch.Generator().manual_seed(1))


def tableau_of(nfe: int = 2) -> dode.Tableau:
    return dode.solver("deis").tableau(SCHEDULE, nfe)


def edm() -> tuple[dode.Denoiser, dode.Tableau]:
    schedule = dode.schedules.EDM()
    net = dode.models.EDMPreconditioned(nn.Linear(16, 16), 0.5)
    net.forward = lambda x, sigma: x / (1 + sigma[:, None] ** 2)  # type: ignore[method-assign]
    return dode.Denoiser(net, schedule, "edm"), dode.solver("dpm-solver++").tableau(schedule, 2)


GUIDED = {"null_condition": {"label": 7}}
CASES: dict[str, Callable[[], tuple[dode.Denoiser, Any, dict[str, Any], dict[str, Tensor]]]] = {
    "plain": lambda: (dode.Denoiser(Net(), SCHEDULE), tableau_of(), {}, {}),
    "float64": lambda: (dode.Denoiser(Net().double(), SCHEDULE), tableau_of(), {"dtype": torch.float64}, {}),
    "set": lambda: (dode.Denoiser(Net(), SCHEDULE), dode.TableauSet.of([tableau_of(), tableau_of(3)]), {"nfe": 3}, {}),
    "guided": lambda: (
        dode.Denoiser(Net(), SCHEDULE, guidance_scale=3.0, guidance_rescale=0.5, **GUIDED),
        tableau_of(),
        {},
        {"label": LABELS},
    ),
    "by step": lambda: (
        dode.Denoiser(Net(), SCHEDULE, guidance_scale=[1, 2], **GUIDED),
        tableau_of(),
        {},
        {"label": LABELS},
    ),
    "clipped, in parts": lambda: (dode.Denoiser(Net(), SCHEDULE, clip=1.0, batch_size=2), tableau_of(), {}, {}),
    "whole times": lambda: (
        dode.Denoiser(Net(), SCHEDULE, integer_times=True),
        dode.solver("deis").tableau(SCHEDULE.with_integer_times(), 2),
        {},
        {},
    ),
    "edm": lambda: (*edm(), {}, {}),
    "zero": lambda: (dode.Denoiser(Net(), SCHEDULE), replace(tableau_of(), first="zero"), {}, {}),
    "mean": lambda: (dode.Denoiser(Net(), SCHEDULE), replace(tableau_of(), first="mean", mean=np.linspace(-1, 1, 16)), {}, {}),
    "inpainting": lambda: (
        dode.Denoiser(Net(), SCHEDULE),
        tableau_of(),
        {"known": noise_of(), "mask": torch.arange(16) % 2},
        {},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_a_compiled_run_gives_the_same_samples_and_is_compiled_once(case: Callable[[], Any]) -> None:
    denoiser, tableau, options, cond = case()
    run = compiled(denoiser, tableau, **options)
    found = run(noise_of(), **cond)
    counted = denoiser.evaluations
    assert torch.equal(found, dode.sample(denoiser, tableau, noise_of(), **options, **cond))
    with torch._dynamo.config.patch(error_on_recompile=True):
        again = run(2 * noise_of(), **cond)
    assert torch.equal(again, dode.sample(denoiser, tableau, 2 * noise_of(), **options, **cond))
    assert counted == 0


def test_another_tableau_or_network_is_compiled_anew() -> None:
    run = torch.compile(dode.sample, fullgraph=True, backend="eager")
    net = Net()
    for denoiser in (dode.Denoiser(net, SCHEDULE), dode.Denoiser(net, SCHEDULE, "v")):
        for tableau in (tableau_of(2), tableau_of(3)):
            assert torch.equal(run(denoiser, tableau, noise_of()), dode.sample(denoiser, tableau, noise_of()))


def test_the_bundled_network_compiles_with_its_class_labels() -> None:
    denoiser = dode.load("fashion")
    tableau = dode.solver("ddim").tableau(denoiser.schedule, 1)
    noise, labels = torch.randn(2, 1, 28, 28), torch.tensor([3, 7])
    found = compiled(denoiser, tableau, "aot_eager")(noise, class_labels=labels)
    assert torch.equal(found, dode.sample(denoiser, tableau, noise, class_labels=labels))


def test_a_network_that_writes_into_its_input_does_not_change_the_states() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        return x.mul_(0.5)

    denoiser = dode.Denoiser(net, SCHEDULE)
    noise = noise_of()
    found = compiled(denoiser, tableau_of(), "aot_eager")(noise)
    assert torch.equal(noise, noise_of())
    assert torch.equal(found, dode.sample(denoiser, tableau_of(), noise))


def test_what_is_wrong_with_a_tableau_is_said_when_it_is_compiled() -> None:
    denoiser = dode.Denoiser(Net(), dode.schedules.VP.scaled_linear())
    with pytest.raises(Exception, match="this tableau was made for the schedule"):
        compiled(denoiser, tableau_of())(noise_of())


def test_numbers_are_looked_at_outside_of_a_graph_alone() -> None:
    denoiser, bad = dode.Denoiser(Net(), SCHEDULE), noise_of() * float("nan")
    assert compiled(denoiser, tableau_of())(bad).isnan().all()
    with pytest.raises(ValueError, match="noise has NaN values"):
        dode.sample(denoiser, tableau_of(), bad)
