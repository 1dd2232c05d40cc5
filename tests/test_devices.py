"""A network elsewhere: float64 stays on the host, tensors of two devices do not meet, and a set is on the device in parts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_device import FakeDevice
from mixture import double_noise, mixture_denoiser
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import dode
from dode import host
from dode.cache import Cache
from dode.distillation import PAPER, linearisation
from dode.distillation.batch import Batch
from dode.distillation.choice import end_errors, measure
from dode.distillation.directions import make_directions
from dode.distillation.greedy import fit
from dode.host import Rows, parts, samples_at_once, to_host
from dode.noise import standard_noise
from dode.schedules import VP
from dode.teacher import Teacher, teacher_states

SCHEDULE = VP.linear()


class Small(nn.Module):
    """A network of samples of any shape with a weight, and a number a class if it is asked with classes."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        out = torch.tanh(x * self.weight) * 0.5 + x * 0.3
        return out if label is None else out * (1 + 0.1 * label.to(x.dtype)).reshape(-1, *[1] * (x.ndim - 1))


def small(shape: tuple[int, ...] = (6,), device: FakeDevice | None = None, **options: Any) -> dode.Denoiser:
    weight = standard_noise(3, 1, shape)[0]
    net = Small(weight if device is None else device.put(weight))
    return dode.Denoiser(net, SCHEDULE, shape=shape, **options)


EFFORTS = {
    "paper": {**PAPER, "held_out": 4},
    "fast": {"effort": "fast"},
    "balanced": {"effort": "balanced"},
    "thorough": {"effort": "thorough"},
}
FEW = {"samples": 12, "validation": 6, "held_out": 4, "budget": 3000, "teacher_nfe": 12}


def distilled(denoiser: dode.Denoiser, effort: str, **options: Any) -> dode.Distilled:
    options = FEW | EFFORTS[effort] | options
    if effort == "paper":
        del options["validation"]
    return dode.distill(denoiser, "deis", 3, **options)


class NoDouble(TorchDispatchMode):
    """Raises where a float64 tensor is made or used, wherever it is."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            assert not isinstance(leaf, Tensor) or leaf.dtype != torch.float64, f"{function} with float64"
        return result


# float64.


@pytest.mark.parametrize("effort", EFFORTS)
def test_of_a_float32_network_no_tensor_is_ever_float64(effort: str) -> None:
    """Numbers leave tensors as float32 and are numpy's from there."""
    denoiser = small()
    with NoDouble():
        result = distilled(denoiser, effort)
        dode.sample(denoiser, result.tableau, standard_noise(0, 3, (6,)))


def test_the_check_finds_what_it_looks_for() -> None:
    with NoDouble(), pytest.raises(AssertionError, match="float64"):
        torch.zeros(2).double()


def test_what_crosses_keeps_its_precision() -> None:
    for dtype, expected in (
        (torch.float64, np.float64),
        (torch.float32, np.float32),
        (torch.bfloat16, np.float32),
        (torch.float16, np.float32),
    ):
        x = double_noise(3).to(dtype)
        found = to_host(x)
        assert found.dtype == expected
        assert torch.equal(torch.from_numpy(found), x.to(torch.from_numpy(found).dtype))


# Another device.


@pytest.mark.parametrize(
    "options", [{}, {"batch_size": 5}, {"clip": 1.0}, {"labels": True}], ids=["plain", "parts", "clip", "labels"]
)
@pytest.mark.parametrize("effort", EFFORTS)
def test_a_network_elsewhere_is_distilled_to_the_same_numbers(effort: str, options: dict[str, Any]) -> None:
    """From a device without float64, with nothing of the other place in any operation."""
    options = dict(options)
    cond = {"label": torch.arange(3)} if options.pop("labels", False) else {}
    expected = distilled(small(**options), effort, **cond)
    with FakeDevice() as device:
        denoiser = small(device=device, **options)
        assert denoiser.device == device.name
        result = distilled(denoiser, effort, **cond)
        sample = dode.sample(
            denoiser, result.tableau, standard_noise(0, 3, (6,)), **({"label": torch.arange(3)} if cond else {})
        )
    assert sample.device == device.name
    np.testing.assert_allclose(result.tableau.a, expected.tableau.a, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(result.tableau.b, expected.tableau.b, rtol=1e-6, atol=1e-8)


def test_the_fake_device_refuses_what_a_device_does() -> None:
    with FakeDevice() as device:
        x = device.put(torch.ones(3))
        for wrong in (x.double, x.numpy, lambda: x + torch.ones(3), lambda: torch.ones(3).add_(x)):
            with pytest.raises((TypeError, RuntimeError)):
                wrong()
        assert (x + 1).device == x[1:].device == torch.zeros(3).to(x).device == device.name
        assert torch.full((2,), 1.0, device=x.device).device == device.name
        assert x.cpu().device == x.to("cpu").device == torch.device("cpu")


# Parts.


@contextlib.contextmanager
def limits(part: int, columns: int) -> Iterator[None]:
    """Bytes of a part, and of the columns of a Jacobian."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(host, "PART_BYTES", part)
        patch.setattr(linearisation, "_CHUNK_BYTES", columns)
        yield


@pytest.mark.parametrize(("effort", "cached"), [("paper", False), ("fast", False), ("balanced", True), ("thorough", False)])
def test_what_is_on_the_device_does_not_grow_with_the_samples(effort: str, cached: bool, tmp_path: Path) -> None:
    shape = (2, 8, 8)
    size = 4 * 2 * 8 * 8
    peaks = []
    for samples in (16, 32):
        with FakeDevice() as device, limits(8 * size, 200 * size):
            denoiser = small(shape, device)
            cache = tmp_path / str(samples) if cached else None
            sets = {"samples": samples, "validation": samples, "held_out": samples, "budget": 200 * samples}
            distilled(denoiser, effort, cache=cache, **sets)
            peaks.append(device.peak)
    assert max(peaks) <= min(peaks) * 1.02
    # The parts were as large as they may be: some ten of them make a run.
    assert 8 * size < peaks[0] < 300 * size


def test_teacher_states_are_on_the_host(tmp_path: Path) -> None:
    with FakeDevice() as device:
        denoiser = small(device=device)
        for cache in (None, Cache(tmp_path), Cache(tmp_path)):
            states = teacher_states(
                denoiser,
                Teacher(dode.solver("ddim").tableau(SCHEDULE, 6), ()),
                standard_noise(0, 40, (6,)),
                {},
                dense=True,
                cache=cache,
            )
            assert all(value[:].device.type == "cpu" for value in (*states.values, *states.slopes[:-1]) if value is not None)


def test_parts_of_any_size_give_the_same() -> None:
    """The closed form, its errors, and what is measured."""
    denoiser = mixture_denoiser(SCHEDULE, "v")
    tableau = dode.solver("deis").tableau(SCHEDULE, 5)
    noise = double_noise(11)
    batch = Batch(
        noise, {}, teacher_states(denoiser, Teacher(dode.solver("deis").tableau(SCHEDULE, 40), ()), noise, {}, dense=True)
    )
    directions = make_directions("multistep", tableau)

    def everything() -> list[Any]:
        found = fit(denoiser, tableau, directions, batch, [1e-4])
        again = teacher_states(denoiser, Teacher(dode.solver("deis").tableau(SCHEDULE, 40), ()), noise, {}, dense=True)
        return [
            found.coefficients,
            found.standard_errors,
            found.errors,
            end_errors(denoiser, tableau, batch),
            measure(denoiser, tableau, batch),
            *(value[:].numpy() for value in again.values),
        ]

    expected = everything()
    for samples in (1, 4, 11):
        with limits(samples * 4 * 8, 1):
            assert len(list(parts(noise))) == -(-11 // samples)
            for found, wanted in zip(everything(), expected, strict=True):
                np.testing.assert_allclose(found, wanted, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize(
    ("sample", "unit", "limit", "expected"),
    [(10, None, 100, 10), (10, 4, 100, 8), (10, 16, 100, 16), (1000, None, 100, 1), (1000, 3, 100, 3), (30, 1, 100, 3)],
)
def test_a_part_is_of_whole_calls_within_its_bytes_and_of_one_call_at_least(
    sample: int, unit: int | None, limit: int, expected: int
) -> None:
    assert samples_at_once(sample, unit, limit) == expected


def test_rows_in_pieces_are_rows() -> None:
    whole = double_noise(9)
    rows = Rows([whole[:2], whole[2:3], whole[3:3], whole[3:9]])
    assert len(rows) == 9
    for first in range(10):
        for end in range(10):
            assert torch.equal(rows[first:end], whole[first:end])
    assert torch.equal(rows[:], whole)
    assert torch.equal(rows[:-2], whole[:-2])
    # A view where that can be.
    assert rows[4:6].data_ptr() == whole[4:6].data_ptr()
