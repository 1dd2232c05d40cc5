"""torch's defaults of dtype and device are the caller's: no number depends on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dode
from dode.models import BUNDLED, fashion_classifier
from dode.noise import standard_noise
from dode.schedules import VP

SCHEDULE = VP.linear()


@contextmanager
def defaults(dtype: torch.dtype = torch.float32, device: str | None = None) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)


others = pytest.mark.parametrize(
    "options", [{"dtype": torch.bfloat16}, {"dtype": torch.float64}, {"device": "meta"}], ids=["bfloat16", "float64", "meta"]
)


def everything(tmp: Path) -> list[Any]:
    """Numbers of every public function, with conditions of every form."""

    def net(x: Tensor, t: Tensor, level: Tensor, shift: Any = 0.1) -> Tensor:
        shift = shift[:, None] if isinstance(shift, Tensor) and shift.ndim else shift
        return torch.tanh(0.7 * x) + level[:, None] * 0.1 + shift

    denoiser = dode.Denoiser(net, SCHEDULE, shape=(6,), guidance_scale=2.0, null_condition={"level": 0.3, "shift": 0.7})
    noise, image = standard_noise(0, 4, (6,)), standard_noise(1, 4, (6,))
    cond = {"level": [0.1, 0.2, 0.3, 0.4], "shift": 0.25}
    tableau = dode.solver("deis").tableau(SCHEDULE, 4)
    up = dode.solver("ddim").tableau(SCHEDULE, 4, reverse=True)
    mean = dode.Tableau(**{**fields(tableau), "first": "mean"})
    made = dode.distill(
        denoiser,
        "deis",
        4,
        samples=24,
        validation=8,
        held_out=4,
        budget=2500,
        refine=1,
        cache=tmp,
        level=[0.1, 0.7, 0.4],
        shift=0.25,
    )
    return [
        denoiser(noise, 300.0, **cond),
        dode.sample(denoiser, tableau, noise, **cond),
        dode.sample(denoiser, mean, noise, **cond),
        dode.sample(denoiser, tableau, noise, known=image, mask=[0.3, 0.7, 1.0, 0.0, 1.0, 0.0], **cond),
        [step.x for step in dode.iterate(denoiser, tableau, noise, image=image, **cond)][-1],
        dode.invert(denoiser, up, image, **cond),
        torch.from_numpy(np.stack([made.tableau.a, made.tableau.b])),
        torch.from_numpy(made.fitting.distilled),
        torch.from_numpy(made.held_out.distilled),
    ]


def fields(tableau: dode.Tableau) -> dict[str, Any]:
    names = ("times", "alphas", "sigmas", "a", "b", "noise_scale", "schedule", "solver", "grid")
    return {name: getattr(tableau, name) for name in names}


@others
def test_no_number_of_a_run_or_a_distillation_depends_on_them(options: dict[str, Any], tmp_path: Path) -> None:
    expected = everything(tmp_path / "usual")
    with defaults(**options):
        found = everything(tmp_path / "other")
    for mine, right in zip(found, expected, strict=True):
        assert mine.dtype == right.dtype and mine.device == right.device
        assert torch.equal(mine, right)


@others
@pytest.mark.parametrize("name", BUNDLED)
def test_the_bundled_networks_are_those_of_the_usual_defaults(options: dict[str, Any], name: str) -> None:
    def run() -> list[Tensor]:
        denoiser = dode.load(name)
        cond = {"class_labels": [0, 1]} if BUNDLED[name].classes else {}
        samples = dode.sample(
            denoiser, dode.solver("ddim").tableau(denoiser.schedule, 2), standard_noise(0, 2, denoiser.shape), **cond
        )
        return [*denoiser.net.state_dict().values(), samples, fashion_classifier()(samples)]

    expected = run()
    with defaults(**options):
        found = run()
        assert torch.get_default_dtype() == options.get("dtype", torch.float32)
        assert torch.get_default_device().type == options.get("device", "cpu")
    for mine, right in zip(found, expected, strict=True):
        assert mine.dtype == right.dtype and torch.equal(mine, right)


WRAPPERS: dict[str, Callable[[torch.nn.Module], torch.nn.Module]] = {
    "edm": dode.models.EDMPreconditioned,
    "score": dode.models.SampleOfScore,
}


class Half(torch.nn.Module):
    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return 0.5 * x + 0.01 * t.reshape(-1, 1)


@others
@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapper_takes_its_noise_level_as_a_number(options: dict[str, Any], wrap: Any) -> None:
    x = standard_noise(0, 3, (4,))
    expected = wrap(Half())(x, 0.3)
    with defaults(**options):
        assert torch.equal(wrap(Half())(x, 0.3), expected)


def test_lists_of_numbers_are_float32() -> None:
    with defaults(torch.float64):
        assert dode.conditions.as_condition({"level": [0.1, 0.2]})["level"].dtype == torch.float32
