"""What diffusers asks of all its schedulers (SchedulerCommonTest of its tests), asked of `DodeScheduler`; and what other programs look at.

Both kinds are asked: a solver, which serves any number of calls, and tables.

Of diffusers' common checks those that do not apply:

- `default_num_inference_steps` is 50: tables are asked with a number that they hold.
- a step at `time_step=0` where that is no time of the schedule: diffusers' helpers ask only that it does not raise; it is asked with the
  nearest time here.
- `trained_betas` of two betas for tables: these were made for another schedule, and are refused.
- tests that download a pipeline, and those of `push_to_hub`, which need a server: the methods are diffusers' own, unchanged.
"""

from __future__ import annotations

import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dode
from dode.schedules import VP

diffusers = pytest.importorskip("diffusers")
from dode.integrations.diffusers import DodeScheduler  # noqa: E402

CALLS = 10
BETAS = {"beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear"}

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def of_solver(**config: Any) -> DodeScheduler:
    made: DodeScheduler = DodeScheduler.from_config({"_class_name": "DDIMScheduler", **BETAS, **config})
    return made


def of_tables(**config: Any) -> DodeScheduler:
    schedule = VP.linear()
    tables = [dode.solver("deis").tableau(schedule, nfe) for nfe in (4, CALLS)]
    return DodeScheduler.from_tableaux(tables, {"_class_name": "DDIMScheduler", **BETAS, **config})


@pytest.fixture(params=[of_solver, of_tables], ids=["solver", "tables"])
def kind(request: pytest.FixtureRequest) -> Any:
    return request.param


def sample() -> Tensor:
    """Numbers in order, (4, 3, 8, 8), between -1 and 1."""
    return torch.linspace(-1, 1, 4 * 3 * 8 * 8).reshape(4, 3, 8, 8)


def stepped(scheduler: DodeScheduler, steps: int = 3) -> Tensor:
    scheduler.set_timesteps(CALLS)
    x = sample()
    for t in scheduler.timesteps[:steps]:
        x = scheduler.step(0.1 * x, t, x).prev_sample
    return x


CONFIGS: list[dict[str, Any]] = [
    {},
    {"prediction_type": "v_prediction"},
    {"prediction_type": "sample"},
    {"thresholding": True, "sample_max_value": 2.0},
    {"variance_type": "learned_range"},
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
def test_saved_and_loaded_it_steps_the_same(kind: Any, config: dict[str, Any], tmp_path: Path) -> None:
    scheduler = kind(**config)
    scheduler.save_config(tmp_path)
    assert torch.equal(stepped(DodeScheduler.from_pretrained(tmp_path)), stepped(scheduler))


def test_the_configuration_survives_json_exactly(kind: Any, tmp_path: Path) -> None:
    scheduler = kind()
    scheduler.save_pretrained(tmp_path)
    read = DodeScheduler.from_pretrained(tmp_path)
    assert {**read.config, "_use_default_values": None} == {**scheduler.config, "_use_default_values": None}
    # diffusers marks what was left at its default; something always is.
    assert scheduler.config["_use_default_values"]
    content = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert content["_class_name"] == "DodeScheduler"


def test_schedulers_that_are_said_to_be_compatible_are_made_of_it_and_it_of_them(kind: Any) -> None:
    scheduler = kind()
    assert len(scheduler.compatibles) >= 13 and None not in scheduler.compatibles
    for other in scheduler.compatibles:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            between = other.from_config(scheduler.config)
        back = DodeScheduler.from_config(between.config)
        # What was left at its default is taken anew from each class.
        left = scheduler.config["_use_default_values"]
        ours = {key: value for key, value in scheduler.config.items() if not key.startswith("_") and key not in left}
        assert {key: back.config[key] for key in ours} == ours
        added = set(back.config) - set(scheduler.config)
        assert not added & set(inspect.signature(DodeScheduler.__init__).parameters)
        assert torch.equal(stepped(back), stepped(scheduler))


def test_a_step_keeps_the_shape(kind: Any) -> None:
    scheduler = kind()
    scheduler.set_timesteps(CALLS)
    first = scheduler.step(0.1 * sample(), scheduler.timesteps[0], sample()).prev_sample
    second = scheduler.step(0.1 * sample(), scheduler.timesteps[1], first).prev_sample
    assert first.shape == second.shape == sample().shape


def test_a_tuple_and_an_object_say_the_same(kind: Any) -> None:
    """And set_timesteps begins anew."""
    scheduler, found = kind(), []
    for return_dict in (True, False):
        scheduler.set_timesteps(CALLS)
        assert scheduler.step_index is None and scheduler.begin_index is None
        result = scheduler.step(0.1 * sample(), scheduler.timesteps[0], sample(), return_dict=return_dict)
        assert isinstance(result, tuple) != return_dict
        found.append(result.prev_sample if return_dict else result[0])
    assert torch.equal(*found) and bool(torch.isfinite(found[0]).all())


def test_the_public_members_are_there(kind: Any) -> None:
    scheduler = kind()
    assert scheduler.init_noise_sigma == 1 and scheduler.order == 1
    assert torch.equal(scheduler.scale_model_input(sample(), 0.0), sample())
    assert len(scheduler) == len(scheduler.timesteps) == len(scheduler.betas) == len(scheduler.alphas_cumprod) == 1000
    scheduler.set_timesteps(CALLS, device="cpu")
    assert len(scheduler.timesteps) == CALLS == scheduler.num_inference_steps and len(scheduler.sigmas) == CALLS + 1
    assert scheduler.sigmas.device.type == "cpu" and scheduler.sigmas[-1] == 0
    scheduler.set_begin_index(2)
    assert (scheduler.begin_index, scheduler.step_index) == (2, None)


def test_noise_is_added_at_a_time_of_the_loop(kind: Any) -> None:
    scheduler = kind()
    scheduler.set_timesteps(CALLS)
    t = scheduler.timesteps[5].reshape(1)
    noisy = scheduler.add_noise(sample(), torch.ones_like(sample()), t)
    assert noisy.shape == sample().shape and noisy.dtype == torch.float32
    assert torch.equal(scheduler.scale_noise(sample(), t, torch.ones_like(sample())), noisy)


def test_betas_may_be_given(tmp_path: Path) -> None:
    betas = np.array([0.1, 0.3])
    scheduler = of_solver(trained_betas=betas)
    np.testing.assert_allclose(scheduler.betas.numpy(), betas, rtol=1e-6)
    scheduler.save_pretrained(tmp_path)
    np.testing.assert_allclose(DodeScheduler.from_pretrained(tmp_path).betas.numpy(), betas, rtol=1e-6)
    with pytest.raises(ValueError, match="made for the schedule"):
        of_tables(trained_betas=betas)


def test_attributes_of_the_configuration_are_reached_as_diffusers_has_it(kind: Any) -> None:
    scheduler = kind()
    scheduler.own = 5
    scheduler.register_to_config(of_the_configuration=6)
    assert scheduler.own == 5
    with pytest.warns(FutureWarning, match="of_the_configuration"):
        assert scheduler.of_the_configuration == 6
    with pytest.raises(AttributeError, match="'DodeScheduler' object has no attribute 'none_such'"):
        _ = scheduler.none_such


@pytest.mark.parametrize("t", [0, 0.0, 500, torch.tensor(3)], ids=str)
def test_a_time_that_is_not_in_the_schedule_is_the_nearest_one(kind: Any, t: Any) -> None:
    scheduler = kind()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a table that begins in its middle
        scheduler.set_timesteps(CALLS)
        scheduler.step(0.1 * sample(), t, sample())
    nearest = (scheduler.timesteps - t).abs().argmin()
    assert scheduler.step_index == nearest + 1


# What other programs look at.


def test_arguments_are_named() -> None:
    for function in (DodeScheduler.__init__, DodeScheduler.set_timesteps, DodeScheduler.step, DodeScheduler.add_noise):
        kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
        assert kinds == {inspect.Parameter.POSITIONAL_OR_KEYWORD}
    assert list(inspect.signature(DodeScheduler.set_timesteps).parameters)[1:] == [
        "num_inference_steps",
        "device",
        "timesteps",
        "sigmas",
        "mu",
    ]
    step = list(inspect.signature(DodeScheduler.step).parameters)
    assert step[1:4] == ["model_output", "timestep", "sample"] and {"eta", "generator", "return_dict"} <= set(step)
    assert list(inspect.signature(DodeScheduler.scale_noise).parameters)[1:] == ["sample", "timestep", "noise"]
    assert list(inspect.signature(DodeScheduler.add_noise).parameters)[1:] == ["original_samples", "noise", "timesteps"]


def test_it_says_in_its_source_that_it_serves_flows() -> None:
    assert "flow_prediction" in inspect.getsource(DodeScheduler)


def test_a_pipeline_asks_for_its_timesteps(kind: Any) -> None:
    """`retrieve_timesteps`, which every pipeline has a copy of."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import retrieve_timesteps

    scheduler = kind()
    times, calls = retrieve_timesteps(scheduler, CALLS, "cpu")
    assert calls == len(times) == CALLS
    times, calls = retrieve_timesteps(scheduler, device="cpu", sigmas=[10.0, 4.0, 2.0, 0.5])
    assert calls == len(times) == 4
    times, calls = retrieve_timesteps(scheduler, device="cpu", timesteps=times.tolist())
    assert calls == len(times) == 4


OWN = (
    "DDIMScheduler",
    "DDPMScheduler",
    "EulerDiscreteScheduler",
    "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler",
    "EDMEulerScheduler",
)


@pytest.mark.parametrize("name", OWN)
def test_what_a_pipeline_reads_of_its_own_schedulers_configuration_stays(name: str) -> None:
    own = getattr(diffusers, name)()
    scheduler = DodeScheduler.from_solver("deis", own.config)
    for key, value in own.config.items():
        if not key.startswith("_"):
            assert scheduler.config.get(key) == value and getattr(scheduler.config, key) == value
    assert scheduler.config.scheduler_class == name
