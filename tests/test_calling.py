"""Networks that keep, hand out again or write into memory that others hold: the numbers are those of a clean network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dode
from dode.noise import standard_noise
from dode.schedules import VP
from dode.solvers import REGISTRY

SCHEDULE = VP.linear()
W = standard_noise(0, 8, (8,), stream=9) * 0.2


def clean(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(x @ W) * 0.8 + 0.25 * x


def scales_its_input(x: Tensor, t: Tensor) -> Tensor:
    x.mul_(0.5)  # exact, so that the numbers are those of `clean`
    return torch.tanh((2 * x) @ W) * 0.8 + 0.5 * x


def writes_its_output_into_its_input(x: Tensor, t: Tensor) -> Tensor:
    return x.copy_(clean(x, t))


class Engine:
    """Preallocated outputs, handed out in turn; as a view if `view`."""

    def __init__(self, buffers: int = 1, view: bool = False) -> None:
        self.buffers, self.view, self.calls = buffers, view, 0
        self.memory: dict[torch.Size, list[Tensor]] = {}

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        memory = self.memory.setdefault(x.shape, [torch.empty_like(x) for _ in range(self.buffers)])
        buffer = memory[self.calls % self.buffers]
        self.calls += 1
        buffer.copy_(clean(x, t))
        return buffer.view(-1).view(x.shape) if self.view else buffer


MAKERS: dict[str, Callable[[], Any]] = {
    "scales its input": lambda: scales_its_input,
    "output in its input": lambda: writes_its_output_into_its_input,
    "one buffer": Engine,
    "two buffers": lambda: Engine(2),
    "a view of a buffer": lambda: Engine(view=True),
}
networks = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def denoiser_of(net: Any, **options: Any) -> dode.Denoiser:
    return dode.Denoiser(net, SCHEDULE, shape=(8,), **options)


@networks
@pytest.mark.parametrize("name", REGISTRY)
def test_every_solver_samples_as_with_a_clean_network(name: str, make: Callable[[], Any]) -> None:
    tableau = dode.solver(name).tableau(SCHEDULE, 6)
    noise = standard_noise(1, 4, (8,))
    given = noise.clone()
    expected = dode.sample(denoiser_of(clean), tableau, noise, return_trajectory=True)
    found = dode.sample(denoiser_of(make()), tableau, given, return_trajectory=True)
    for mine, right in zip(found.states + found.denoised, expected.states + expected.denoised, strict=True):
        assert torch.equal(mine, right)
    assert torch.equal(given, noise)


@networks
@pytest.mark.parametrize("options", [{"batch_size": 3}, {"clip": 1.0}, {"integer_times": True}], ids=str)
def test_the_ways_to_run_a_network_share_nothing_either(options: dict[str, Any], make: Callable[[], Any]) -> None:
    right = denoiser_of(clean, **options)
    tableau, noise = dode.solver("deis").tableau(right.schedule, 6), standard_noise(1, 7, (8,))
    expected = dode.sample(right, tableau, noise)
    assert torch.equal(dode.sample(denoiser_of(make(), **options), tableau, noise), expected)


@networks
def test_inference_mode_around_the_whole_changes_nothing(make: Callable[[], Any]) -> None:
    tableau, noise = dode.solver("deis").tableau(SCHEDULE, 6), standard_noise(1, 4, (8,))
    expected = dode.sample(denoiser_of(clean), tableau, noise)
    with torch.inference_mode():
        assert torch.equal(dode.sample(denoiser_of(make()), tableau, noise), expected)


@networks
@pytest.mark.parametrize("effort", ["fast", "balanced"])
def test_a_distillation_is_that_of_a_clean_network(effort: str, make: Callable[[], Any]) -> None:
    settings: dict[str, Any] = {"effort": effort, "samples": 24, "validation": 16, "held_out": 16, "budget": 1500}
    expected = dode.distill(denoiser_of(clean), "deis", 4, **settings)
    found = dode.distill(denoiser_of(make()), "deis", 4, **settings)
    assert np.array_equal(found.tableau.b, expected.tableau.b)
    assert expected.held_out is not None and found.held_out is not None
    assert np.array_equal(found.held_out.distilled, expected.held_out.distilled)


def test_a_condition_that_the_network_writes_into_is_the_callers_still() -> None:
    def net(x: Tensor, t: Tensor, label: Tensor, level: Tensor, more: dict[str, Any]) -> Tensor:
        own = label.add_(1) * level.mul_(2) * more.pop("factor").mul_(1.5)
        return x * own[:, None] * 0.1

    cond = {"label": torch.ones(3), "level": torch.tensor(0.5), "more": {"factor": torch.full((3,), 2.0)}}
    kept = {"label": torch.ones(3), "level": torch.tensor(0.5), "more": {"factor": torch.full((3,), 2.0)}}
    tableau, noise = dode.solver("deis").tableau(SCHEDULE, 4), standard_noise(0, 3, (8,))
    found = dode.sample(dode.Denoiser(net, SCHEDULE), tableau, noise, **cond)
    assert torch.equal(found, dode.sample(dode.Denoiser(lambda x, t: x * 6.0 * 0.1, SCHEDULE), tableau, noise))
    assert torch.equal(cond["label"], kept["label"]) and torch.equal(cond["level"], kept["level"])
    assert torch.equal(cond["more"]["factor"], kept["more"]["factor"])


def test_what_a_network_takes_out_of_a_dictionary_is_there_at_the_next_call() -> None:
    seen = []
    denoiser = dode.Denoiser(lambda x, t, more: seen.append(more.pop("scale", None)) or x, SCHEDULE)
    given = {"scale": 2.0}
    dode.sample(denoiser, dode.solver("ddim").tableau(SCHEDULE, 3), standard_noise(0, 3, (8,)), more=given)
    assert seen == [2.0] * 3 and given == {"scale": 2.0}


def test_a_network_that_begins_to_write_later_is_named() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        if t[0] < 500:
            x.mul_(0.5)
        return x * 0.5

    tableau, noise = dode.solver("ddim").tableau(SCHEDULE, 5), standard_noise(0, 3, (8,))
    with pytest.raises(ValueError, match=r"the network \(late\) wrote into its input or condition at t = .* work on a copy"):
        dode.sample(denoiser_of(net, name="late"), tableau, noise)
    # What the message advises.
    dode.sample(denoiser_of(lambda x, t: net(x.clone(), t)), tableau, noise)


def test_a_guided_network_may_write_into_the_batch_that_was_made_for_it() -> None:
    def net(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return scales_its_input(x, t) * label[:, None]

    def right(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        return clean(x, t) * label[:, None]

    tableau, noise = dode.solver("deis").tableau(SCHEDULE, 6), standard_noise(0, 3, (8,))
    # Guided first and last, by the condition alone between.
    options: dict[str, Any] = {
        "guidance_scale": lambda t: 1.0 if 200 < t < 800 else 1.5,
        "null_condition": {"label": 0.5},
    }
    found, expected = (dode.sample(denoiser_of(n, **options), tableau, noise, label=[1.0, 0.9, 0.8]) for n in (net, right))
    assert torch.equal(found, expected)


def test_the_denoiser_itself_leaves_its_states_alone() -> None:
    x = standard_noise(0, 3, (8,))
    for make in MAKERS.values():
        given = x.clone()
        denoiser = denoiser_of(make())
        first = denoiser(given, 500.0)
        kept = first.clone()
        denoiser(given * 2, 300.0)
        assert torch.equal(given, x) and torch.equal(first, kept)


def test_an_output_that_is_its_input_is_no_state() -> None:
    """Writing into a step's state must not reach an output that the next rows use."""
    denoiser = dode.Denoiser(lambda x, t: x, SCHEDULE, "sample")
    tableau, noise = dode.solver("deis").tableau(SCHEDULE, 4), standard_noise(0, 3, (8,))
    expected = dode.sample(dode.Denoiser(lambda x, t: x * 1.0, SCHEDULE, "sample"), tableau, noise)
    for step in dode.iterate(denoiser, tableau, noise):
        step.D.fill_(7)  # a copy, for looking at
    assert torch.equal(step.x, expected)
