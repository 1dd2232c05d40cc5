"""What a network is known by: the cache of the teacher's states, and the content of weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dode
from dode.cache import Cache
from dode.fingerprint import hash_weights
from dode.guidance import Interval
from dode.noise import standard_noise
from dode.schedules import VP, Flow
from dode.teacher import Teacher, teacher_states

SCHEDULE = VP.linear()
W = standard_noise(0, 6, (6,), stream=9) * 0.3


def scaled(x: Tensor, t: Tensor, g: Any = 0.0, sub: Any = None) -> Tensor:
    """A network whose condition counts in the lower half of the times alone."""
    level = torch.as_tensor(g if sub is None else sub["g"]).float()
    return torch.tanh(x @ W) * 0.5 + x * (level[:, None] if level.ndim else level) * (t < 500)[:, None]


def two_levels(x: Tensor, t: Tensor, a: float, b: float) -> Tensor:
    return torch.tanh(x @ W) * (0.5 + a) + b


def two_ways(x: Tensor, t: Tensor, kind: Tensor) -> Tensor:
    return torch.where(kind[:, None] == 0, torch.tanh(x @ W), torch.tanh(x @ W.T)) * 0.5


def own_interval(low: float, high: float) -> Any:
    """Guidance in an interval of times, made by the user around the network."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        given, null = torch.tanh(x @ W) * 0.5, torch.tanh(x @ W.T) * 0.5
        return null + torch.where((t >= low) & (t < high), 3.0, 1.0)[:, None] * (given - null)

    return net


class Linear(nn.Linear):
    def __init__(self) -> None:
        super().__init__(6, 6)
        with torch.no_grad():
            self.weight.copy_(W)
            self.bias.zero_()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return super().forward(x)


def changed_by_one_bit() -> Linear:
    net = Linear()
    net.weight.data.view(torch.int32)[2, 3] ^= 1
    return net


def denoiser_of(net: Any, **options: Any) -> dode.Denoiser:
    return dode.Denoiser(net, SCHEDULE, shape=(6,), **options)


PLAIN, KINDS = denoiser_of(scaled), {"null_condition": {"kind": 1}}
GUIDED = denoiser_of(two_ways, **KINDS)


def long(value: float) -> np.ndarray:
    return np.r_[np.ones(3), np.full(2000, value), np.ones(3)]


def towards(target: float) -> Callable[[Tensor, Tensor], Tensor]:
    """A flow network: any two of them give the same at t = 1, where the data are forgotten, and nothing alike below."""
    return lambda x, t: x - (1 - t[:, None]) * (target + x.tanh())


FLOW = Flow(time_scale=1.0)


def flow_of(net: Any) -> dode.Denoiser:
    return dode.Denoiser(net, FLOW, "flow", shape=(6,))


class Towards(nn.Module):
    """As a module with a weight that is only used below t = 1."""

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target = nn.Parameter(torch.tensor(target))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return x - (1 - t[:, None]) * (self.target + x.tanh())


# Two denoisers and two conditions each: another network or condition, the same cache folder.
PAIRS: dict[str, tuple[dode.Denoiser, dode.Denoiser, dict[str, Any], dict[str, Any]]] = {
    "an interval within the network": (denoiser_of(own_interval(200, 600)), denoiser_of(own_interval(0, 0)), {}, {}),
    "a number": (PLAIN, PLAIN, {"g": 0.0}, {"g": 0.9}),
    "a 0-dim tensor": (PLAIN, PLAIN, {"g": torch.tensor(0.0)}, {"g": torch.tensor(0.9)}),
    "a long array": (PLAIN, PLAIN, {"g": long(0.0)}, {"g": long(0.9)}),
    "a nested number": (PLAIN, PLAIN, {"sub": {"g": torch.tensor(0.0)}}, {"sub": {"g": torch.tensor(0.9)}}),
    "a guidance scale": (
        GUIDED.replace(guidance_scale=2.0),
        GUIDED.replace(guidance_scale=3.0),
        {"kind": [0]},
        {"kind": [0]},
    ),
    "a guidance interval": (
        GUIDED.replace(guidance_scale=Interval(3.0, 250, 320)),
        GUIDED.replace(guidance_scale=Interval(3.0, 250, 450)),
        {"kind": [0]},
        {"kind": [0]},
    ),
    "a rescale": (
        GUIDED.replace(guidance_scale=3.0),
        GUIDED.replace(guidance_scale=3.0, guidance_rescale=0.7),
        {"kind": [0]},
        {"kind": [0]},
    ),
    "a clip": (PLAIN.replace(clip=1.0), PLAIN.replace(clip=2.0), {}, {}),
    "a threshold": (PLAIN.replace(dynamic_threshold=0.9), PLAIN.replace(dynamic_threshold=0.5), {}, {}),
    "whole times": (PLAIN.replace(integer_times=True), PLAIN, {"g": 0.3}, {"g": 0.3}),
    "a prediction": (PLAIN, PLAIN.replace(prediction="v"), {}, {}),
    "one bit of a weight": (denoiser_of(Linear()), denoiser_of(changed_by_one_bit()), {}, {}),
}


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS.keys())
def test_a_cache_folder_changes_no_number(
    pair: tuple[dode.Denoiser, dode.Denoiser, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    first, second, condition, other = pair
    settings: dict[str, Any] = {"effort": "fast", "samples": 16, "validation": 8, "held_out": 8}
    dode.distill(first, "ddim", 4, cache=tmp_path, **settings, **condition)
    kept = len(list(tmp_path.glob("teacher-*")))
    cached = dode.distill(second, "ddim", 4, cache=tmp_path, **settings, **other)
    fresh = dode.distill(second, "ddim", 4, cache=tmp_path / "fresh", **settings, **other)
    made = len(list((tmp_path / "fresh").glob("teacher-*")))
    # Nothing of the first was taken for the second.
    assert made and len(list(tmp_path.glob("teacher-*"))) == kept + made
    assert np.array_equal(cached.tableau.a, fresh.tableau.a) and np.array_equal(cached.tableau.b, fresh.tableau.b)
    assert cached.held_out is not None and fresh.held_out is not None
    assert np.array_equal(cached.held_out.distilled, fresh.held_out.distilled)


ALIKE: dict[str, tuple[dode.Denoiser, dode.Denoiser, dict[str, Any], dict[str, Any]]] = {
    "functions that agree at the first time": (flow_of(towards(1.0)), flow_of(towards(-1.0)), {}, {}),
    "modules that agree at the first time": (flow_of(Towards(1.0)), flow_of(Towards(-1.0)), {}, {}),
    "values that changed places": (
        denoiser_of(two_levels),
        denoiser_of(two_levels),
        {"a": 0.3, "b": -0.2},
        {"b": 0.3, "a": -0.2},
    ),
}


@pytest.mark.parametrize("pair", ALIKE.values(), ids=ALIKE.keys())
def test_what_looks_alike_shares_no_states(
    pair: tuple[dode.Denoiser, dode.Denoiser, dict[str, Any], dict[str, Any]], tmp_path: Path
) -> None:
    teacher = Teacher(dode.solver("deis").tableau(pair[0].schedule, 10), (3, 9))
    noise = standard_noise(0, 5, (6,))
    ends = [
        teacher_states(net, teacher, noise, cond, cache=Cache(tmp_path)).values[-1][:] for net, cond in zip(pair[:2], pair[2:])
    ]
    for net, cond, end in zip(pair[:2], pair[2:], ends):
        assert torch.equal(end, teacher_states(net, teacher, noise, cond).values[-1][:])
    assert not torch.equal(*ends)


def test_the_same_call_finds_its_states_and_pays_the_probes_alone(tmp_path: Path) -> None:
    def run() -> dict[str, int]:
        settings: dict[str, Any] = {"effort": "fast", "samples": 16, "validation": 8, "held_out": 8}
        net = denoiser_of(two_ways, guidance_scale=Interval(3.0, 200, 600), **KINDS)
        return dode.distill(net, "ddim", 4, cache=tmp_path, kind=[0, 1], **settings).evaluations

    full, again = run(), run()
    # Three samples at five times for each of two sets, of every teacher that it took.
    assert again["teacher"] % (2 * 15) == 0
    assert full["teacher"] > 16 * 24 + again["teacher"]


def test_a_condition_without_known_content_is_refused_where_there_is_a_cache(tmp_path: Path) -> None:
    denoiser = denoiser_of(lambda x, t, how: x * 0.5)
    settings: dict[str, Any] = {"effort": "fast", "samples": 16, "validation": 8, "held_out": 0}
    dode.distill(denoiser, "ddim", 2, how=object(), **settings)
    with pytest.raises(TypeError, match="the condition how is a object, .* leave out the cache"):
        dode.distill(denoiser, "ddim", 2, how=object(), cache=tmp_path, **settings)


def weights(net: nn.Module, *, buffers: bool = True) -> str:
    digest = hashlib.sha256()
    assert hash_weights(digest, net, buffers=buffers)
    return digest.hexdigest()


class Holder(nn.Module):
    def __init__(self, *tensors: Tensor) -> None:
        super().__init__()
        for i, tensor in enumerate(tensors):
            self.register_buffer(f"b{i}", tensor)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64, torch.complex64])
@pytest.mark.parametrize("size", [1, 5, 1024, 1500, 1024 * 1024 + 1500])
def test_a_changed_number_and_two_that_changed_places_show(dtype: torch.dtype, size: int) -> None:
    numbers = (standard_noise(0, 1, (size,))[0] * 100).to(dtype)
    expected = weights(Holder(numbers))
    assert weights(Holder(numbers.clone())) == expected
    for place in {0, size // 2, size - 1}:
        other = numbers.clone()
        other[place] += 1
        assert weights(Holder(other)) != expected
    if size > 1:
        for i, j in ((0, 1), (0, size - 1), (size // 3, size // 2)):
            other = numbers.clone()
            other[[i, j]] = numbers[[j, i]]
            assert weights(Holder(other)) != expected or numbers[i] == numbers[j]


def test_signs_transposes_and_numbers_that_move_to_another_tensor_show() -> None:
    square = standard_noise(0, 40, (40,))
    pair = Holder(square, square[:10] + 1)
    others = [
        Holder(-square, square[:10] + 1),
        Holder(square.T, square[:10] + 1),
        Holder(square.flip(0), square[:10] + 1),
        Holder(square[:10] + 1, square),
        Holder(square),
        Holder(square, square[:10] + 1, torch.empty(0)),
    ]
    assert len({weights(net) for net in [pair, *others]}) == 1 + len(others)
    assert weights(Holder(square.T.contiguous())) == weights(Holder(square.T))


def test_weights_that_are_not_here_are_not_known() -> None:
    with torch.device("meta"):
        net = nn.Linear(3, 3)
    assert not hash_weights(hashlib.sha256(), net, buffers=True)
    assert not hash_weights(hashlib.sha256(), nn.ReLU(), buffers=True)
