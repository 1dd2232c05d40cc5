"""`DodeScheduler` in diffusers' place: its loop against `dode.sample`, and what pipelines do to it.

Its solvers against diffusers' own are in test_dode_scheduler_parity.py, diffusers' common checks in test_scheduler_common.py.
"""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import dode
from dode.schedules import VP, Flow
from dode.solvers import REGISTRY

diffusers = pytest.importorskip("diffusers")
from test_diffusers_parity import BETAS, assert_same, make  # noqa: E402
from test_diffusers_parity import network as of_vectors  # noqa: E402
from test_diffusers_parity import run as looped  # noqa: E402

from dode.integrations.diffusers import DodeScheduler  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

VP_CONFIG = {"_class_name": "DDPMScheduler", **BETAS}
FLOW_CONFIG = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
# Every solver, and the options that change the shape of its table.
SOLVERS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in REGISTRY),
    ("dpm-solver", {"order": 3, "method": "singlestep"}),
    ("dpm-solver++", {"order": 2, "method": "singlestep"}),
    ("dpm-solver++", {"order": 3}),
    ("edm", {"method": "euler"}),
    ("unipc", {"prediction": "epsilon", "order": 2}),
    ("pndm", {"warm_up": "runge-kutta"}),
]
every_solver = pytest.mark.parametrize(("name", "options"), SOLVERS, ids=lambda v: v if isinstance(v, str) else str(v or ""))


def image(seed: int = 0, dtype: torch.dtype = torch.float32, batch: int = 3) -> Tensor:
    return torch.randn(batch, 4, 5, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def network(x: Tensor, t: Any) -> Tensor:
    """Nonlinear, at one time for all."""
    return of_vectors(x, torch.as_tensor(t).flatten()[:1])


def calls_of(options: dict[str, Any]) -> int:
    return 14 if "warm_up" in options else 7


def quiet(make: Callable[[], Any]) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


def warnings_of(make: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        make()
    return [str(warning.message) for warning in said]


def run(scheduler: Any, x: Tensor, net: Callable[[Tensor, Any], Tensor] = network) -> Tensor:
    """diffusers' loop."""
    return looped(scheduler, x, net)


def same_times(theirs: Any, name: str, steps: int, **options: Any) -> DodeScheduler:
    """Our solver with the times of their scheduler."""
    theirs.set_timesteps(steps)
    ours = DodeScheduler.from_solver(name, theirs.config, **options)
    ours.set_timesteps(timesteps=theirs.timesteps)
    assert len(ours.timesteps) == len(theirs.timesteps) == ours.num_inference_steps
    return ours


# dode's own loop.


@every_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize(
    ("config", "schedule", "prediction"),
    [
        (VP_CONFIG, VP.scaled_linear(), "epsilon"),
        ({**VP_CONFIG, "prediction_type": "v_prediction"}, VP.scaled_linear(), "v"),
        ({**VP_CONFIG, "prediction_type": "sample"}, VP.scaled_linear(), "sample"),
        (FLOW_CONFIG, Flow(shift=3.0), "flow"),
    ],
    ids=["epsilon", "v", "sample", "flow"],
)
def test_equals_sample(
    config: dict[str, Any], schedule: Any, prediction: str, dtype: torch.dtype, name: str, options: dict[str, Any]
) -> None:
    if prediction == "flow" and "warm_up" in options:
        pytest.skip("the Runge-Kutta start cannot begin at alpha = 0")
    nfe = calls_of(options)
    ours = DodeScheduler.from_solver(name, config, **options)
    ours.set_timesteps(nfe)
    tableau = dode.solver(name, **options).tableau(schedule, nfe)
    expected = dode.sample(dode.Denoiser(network, schedule, prediction), tableau, image(dtype=dtype))
    # The times that are shown are float32.
    assert_same(run_with_times(ours, image(dtype=dtype), tableau.times), expected, 1e-5 if dtype == torch.float32 else 1e-11)


def run_with_times(scheduler: Any, x: Tensor, times: Any) -> Tensor:
    for t, exact in zip(scheduler.timesteps, times, strict=False):
        x = scheduler.step(network(scheduler.scale_model_input(x, t), exact), t, x).prev_sample
    return x


@pytest.mark.parametrize("nfe", [1, 2, 3, 4, 6, 9, 16])
@pytest.mark.parametrize("name", REGISTRY)
def test_serves_any_number_of_calls(name: str, nfe: int) -> None:
    ours = DodeScheduler.from_solver(name, VP_CONFIG)
    if (name, nfe) == ("pndm", 2):
        with pytest.raises(ValueError, match="pndm takes its first step twice"):
            ours.set_timesteps(nfe)
        return
    ours.set_timesteps(nfe)
    assert len(ours.timesteps) == nfe == len(ours.sigmas) - 1
    assert ours.sigmas[-1] == 0 and bool(torch.isfinite(run(ours, image())).all())


@pytest.mark.parametrize("calls", [5, 8])
def test_sigmas_of_a_pipeline_count_calls_also_where_a_solver_calls_twice(calls: int) -> None:
    ours = DodeScheduler.from_solver("edm", FLOW_CONFIG)
    ours.set_timesteps(sigmas=np.linspace(1, 1 / calls, calls))
    plain = DodeScheduler.from_solver("edm", FLOW_CONFIG)
    plain.set_timesteps(calls)
    assert len(ours.timesteps) == calls
    torch.testing.assert_close(ours.timesteps, plain.timesteps)


@pytest.mark.parametrize(
    ("name", "options"),
    [*((name, {}) for name in REGISTRY if name != "dpm-solver"), ("edm", {"method": "euler"})],
    ids=lambda v: v if isinstance(v, str) else str(v or ""),
)
def test_the_times_of_all_calls_give_the_same_again(name: str, options: dict[str, Any]) -> None:
    """As `timesteps` shows them, twice where a solver calls twice. Of stages at times between it cannot be told (dpm-solver)."""
    ours = DodeScheduler.from_solver(name, VP_CONFIG, **options)
    ours.set_timesteps(7)
    times, expected = ours.timesteps, run(ours, image())
    ours.set_timesteps(timesteps=times)
    assert torch.equal(ours.timesteps, times)
    assert_same(run(ours, image()), expected, 1e-4)  # the times that are shown are float32


# What a network gives.


def test_half_of_the_channels_of_a_learned_variance_is_left_out() -> None:
    for kind in ("learned", "learned_range"):
        ours = DodeScheduler.from_solver("deis", {**VP_CONFIG, "variance_type": kind})
        ours.set_timesteps(5)
        expected = run(ours, image())
        ours.set_timesteps(5)
        assert torch.equal(run(ours, image(), lambda x, t: torch.cat([network(x, t), x], dim=1)), expected)
        ours.set_timesteps(5)  # a pipeline that left it out itself
        assert torch.equal(run(ours, image()), expected)


def test_a_prediction_that_is_not_known_is_refused() -> None:
    with pytest.raises(ValueError, match="prediction_type"):
        DodeScheduler(prediction_type="noise")


# What a loop costs.

SYNCS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::equal", "aten::is_nonzero", "aten::masked_select", "aten::unique"}


class Watch(TorchDispatchMode):
    """Counts what waits for a device, or copies to another one."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.operations += 1
        if name in SYNCS or (name == "aten::_to_copy" and (kwargs or {}).get("device") is not None):
            self.waits.append(name)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def python_waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Calls of the methods that bring a tensor's numbers to the host, on the host's own tensors too."""
    seen: list[str] = []
    for name in ("item", "tolist", "numpy", "cpu", "__bool__", "__float__", "__int__", "__index__", "nonzero"):
        original = getattr(Tensor, name)

        def watched(self: Tensor, *args: Any, _original: Any = original, _name: str = name, **kwargs: Any) -> Any:
            seen.append(_name)
            return _original(self, *args, **kwargs)

        monkeypatch.setattr(Tensor, name, watched)
    return seen


@every_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("begin", [None, 0, 2])
def test_no_step_waits_for_the_device(
    begin: int | None, dtype: torch.dtype, name: str, options: dict[str, Any], python_waits: list[str]
) -> None:
    ours = DodeScheduler.from_solver(name, VP_CONFIG, **options)
    quiet(lambda: ours.set_timesteps(calls_of(options)))
    if begin is not None:
        quiet(lambda: ours.set_begin_index(begin))
    x, output = image(dtype=dtype), image(1, dtype)
    for t in ours.timesteps[begin or 0 :]:
        python_waits.clear()
        with Watch() as watch:
            x = ours.step(output, t, ours.scale_model_input(x, t), return_dict=False)[0]
        assert watch.waits == [] and python_waits == []


@every_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_nothing_is_kept_that_no_later_row_names(dtype: torch.dtype, name: str, options: dict[str, Any]) -> None:
    ours = DodeScheduler.from_solver(name, VP_CONFIG, **options)
    ours.set_timesteps(calls_of(options))
    x = image(dtype=dtype)
    for k, t in enumerate(ours.timesteps):
        x = ours.step(network(x, t), t, x).prev_sample
        named = {slot for row in ours._table.form.rows[k + 1 :] for slot, _ in row.terms if slot // 2 <= k}
        unrounded = dtype != torch.float32 and k + 1 < len(ours.timesteps)
        assert len(ours._stepper.held) == len(named) + unrounded
    assert ours._stepper.held == []


@pytest.mark.parametrize(("name", "most"), [("ddim", 0), ("dpm-solver++", 1), ("deis", 3), ("unipc", 3), ("ipndm", 3)])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_a_solver_keeps_one_tensor_for_each_output_that_it_remembers(prediction: str, name: str, most: int) -> None:
    """Whatever the network predicts: what is kept is D or epsilon, in which the solver is a sum of old ones."""
    ours = DodeScheduler.from_solver(name, {**VP_CONFIG, "prediction_type": prediction})
    ours.set_timesteps(8)
    x = image()
    for t in ours.timesteps:
        x = ours.step(network(x, t), t, x).prev_sample
        assert len(ours._stepper.held) <= most


# Half precision.


def test_a_loop_in_bfloat16_is_nearer_to_float32_than_diffusers_own() -> None:
    """The states between the steps are not rounded, and neither are the sums."""
    theirs = make("DPMSolverMultistepScheduler", **BETAS, final_sigmas_type="zero")
    errors = []
    for seed in range(4):
        ours = same_times(theirs, "dpm-solver++", 20, lower_order_final=False)
        exact = run(ours, image(seed, batch=16))
        theirs.set_timesteps(20)
        ours.set_timesteps(timesteps=theirs.timesteps)
        rounded = [run(scheduler, image(seed, torch.bfloat16, batch=16), in_float32) for scheduler in (ours, theirs)]
        assert all(x.dtype == torch.bfloat16 for x in rounded)
        errors.append([float((x.float() - exact).square().mean().sqrt()) for x in rounded])
    ours_error, theirs_error = np.mean(errors, axis=0)
    assert ours_error < 0.8 * theirs_error


def in_float32(x: Tensor, t: Any) -> Tensor:
    return network(x.float(), t).to(x.dtype)


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_unrounded_state_is_gone_on_with_only_if_nothing_was_written_into_the_state(
    dtype: torch.dtype, inference: bool
) -> None:
    mode = torch.inference_mode if inference else torch.no_grad
    output = image(1, dtype)

    def second(change: Callable[[Tensor], Tensor]) -> Tensor:
        ours = DodeScheduler.from_solver("ddim", VP_CONFIG)
        ours.set_timesteps(5)
        with mode():
            x = ours.step(output, ours.timesteps[0], image(dtype=dtype)).prev_sample
            return ours.step(output.float(), ours.timesteps[1], change(x)).prev_sample

    def fresh(x: Tensor) -> Tensor:
        ours = DodeScheduler.from_solver("ddim", VP_CONFIG)
        ours.set_timesteps(5)
        ours.set_begin_index(1)
        return ours.step(output.float(), ours.timesteps[1], x).prev_sample

    handed = second(lambda x: x)
    given: list[Tensor] = []

    def doubled(x: Tensor) -> Tensor:
        x.mul_(2)
        given.append(x.clone())
        return x

    changed = second(doubled)
    assert torch.equal(changed, fresh(given[0]))
    ours = DodeScheduler.from_solver("ddim", VP_CONFIG)
    ours.set_timesteps(5)
    rounded = ours.step(output, ours.timesteps[0], image(dtype=dtype)).prev_sample
    assert torch.equal(handed, fresh(rounded)) == (dtype == torch.float32)


@every_solver
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("in_place", [False, True])
def test_the_state_received_is_the_state_used(in_place: bool, dtype: torch.dtype, name: str, options: dict[str, Any]) -> None:
    """A callback, or inpainting, after each step: against the tableau run by hand on the states that the network saw."""
    nfe = calls_of(options)
    ours = DodeScheduler.from_solver(name, VP_CONFIG, **options)
    ours.set_timesteps(nfe)
    tableau = dode.solver(name, **options).tableau(VP.scaled_linear(), nfe)
    rows = tableau.for_prediction("epsilon")
    states, outputs, x = [], [], image(dtype=dtype)
    for k, t in enumerate(ours.timesteps):
        states.append(x.double())
        output = in_float32(x, t)
        outputs.append(output.double())
        received = x
        x = ours.step(output, t, x).prev_sample
        # What the pipeline does with its own tensors is not the scheduler's affair.
        output.fill_(math.nan)
        if k:
            received.fill_(math.nan)
        expected = sum(rows.a[k, j] * states[j] + rows.b[k, j] * outputs[j] for j in range(k + 1))
        tolerance = 2e-5 if dtype == torch.float32 else 2**-8
        assert float((x.double() - expected).abs().max()) <= tolerance * float(expected.abs().max())
        x = x.mul_(0.9).add_(0.1) if in_place else 0.9 * x + 0.1


def test_states_and_outputs_that_are_kept_are_copies() -> None:
    """A compiled network writes its next output into the same memory."""
    ours = DodeScheduler.from_solver("deis", VP_CONFIG)
    buffer, results = torch.empty_like(image()), []
    for reuse in (False, True):
        ours.set_timesteps(6)
        x = image()
        for t in ours.timesteps:
            output = network(x, t)
            x = ours.step(buffer.copy_(output) if reuse else output, t, x).prev_sample
        results.append(x)
    assert torch.equal(*results)


# Starting in the middle.


def rest_by_hand(name: str, options: dict[str, Any], times: list[float], x: Tensor) -> Tensor:
    """The classical solver over the distinct times that are left, by `dode.sample`."""
    schedule = VP.scaled_linear()
    stops = [*dict.fromkeys(times), schedule.t_clean]
    if name == "pndm":  # its first step takes a call more than there is
        name, options = "ipndm", {}
    if name == "edm" and options.get("method") != "euler":
        options = {"method": "heun"}
    tableau = dode.solver(name, **options).tableau(schedule, grid=stops)
    result: Tensor = dode.sample(dode.Denoiser(network, schedule), tableau, x)
    return result


@every_solver
@pytest.mark.parametrize("first", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("said", [True, False], ids=["set_begin_index", "by its time"])
def test_a_loop_that_begins_in_the_middle_warms_up_from_there(
    said: bool, first: int, name: str, options: dict[str, Any]
) -> None:
    ours = DodeScheduler.from_solver(name, VP_CONFIG, **options)
    ours.set_timesteps(calls_of(options))
    whole = ours.timesteps.clone()
    left, x = ours.timesteps[first:], image()
    if said:
        quiet(lambda: ours.set_begin_index(first))
    for t in left:
        x = quiet(lambda t=t, x=x: ours.step(network(x, t), t, x, return_dict=False)[0])
    assert torch.equal(ours.timesteps, whole) and len(ours.sigmas) == len(whole) + 1
    exact = ours._table.tableau.times[:-1].tolist()
    # The times that are shown are float32.
    assert_same(x, rest_by_hand(name, options, exact, image()), 1e-4)


def test_a_begin_index_may_be_said_again() -> None:
    ours = DodeScheduler.from_solver("deis", VP_CONFIG)
    ours.set_timesteps(6)
    expected = run(ours, image())
    ours.set_timesteps(6)
    for index in (3, 1, 0):
        ours.set_begin_index(index)
    assert torch.equal(run(ours, image()), expected)
    with pytest.raises(ValueError, match="begin_index counts the calls from 0, got -1"):
        ours.set_begin_index(-1)


def whole_table(**fitted: Any) -> dode.Tableau:
    tableau = dode.solver("deis").tableau(VP.scaled_linear(), 6)
    return tableau.with_meta(fitted_for={"pipeline": "StableDiffusionPipeline", **fitted}) if fitted else tableau


def test_a_table_without_history_gives_way_to_its_solver_and_says_so_once() -> None:
    ours = DodeScheduler.from_tableaux(whole_table(), VP_CONFIG)
    ours.set_timesteps(6)
    with pytest.warns(
        UserWarning, match=r"begins at call 3 of 6, where a table has no history: deis runs the 4 calls .*; distil one"
    ) as said:
        ours.set_begin_index(2)
    assert len(said) == 1 and "\n" not in str(said[0].message)
    found = image()
    for t in ours.timesteps[2:]:
        found = ours.step(network(found, t), t, found, return_dict=False)[0]
    assert_same(found, rest_by_hand("deis", {}, whole_table().times[2:-1].tolist(), image()), 1e-5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.set_timesteps(6)
        ours.set_begin_index(2)


@pytest.mark.parametrize("said", [True, False])
def test_a_table_that_was_made_for_the_start_is_taken(said: bool) -> None:
    whole = whole_table()
    times = [float(whole.times[2]), 500.0, 300.5, 120.0, -1.0]
    start = dode.solver("ddim").tableau(VP.scaled_linear(), grid=times)
    ours = DodeScheduler.from_tableaux([whole, start], VP_CONFIG)
    assert ours.held == [6]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours.set_timesteps(6)
        left = ours.timesteps[2:]
        if said:
            ours.set_begin_index(2)
            assert left.tolist() == pytest.approx(times[:-1])  # the pipeline sees the table's times
        x = image()
        for k in range(4):
            x = ours.step(network(x, left[k]) if said or k else network(x, times[0]), left[k], x).prev_sample
    assert_same(x, dode.sample(dode.Denoiser(network, VP.scaled_linear()), start, image()), 1e-5)
    ours.set_timesteps(6)
    ours.set_begin_index(2)
    ours.set_begin_index(0)
    assert ours.timesteps.tolist() == pytest.approx(whole.times[:-1].tolist())


def test_tables_of_grids_that_begin_at_other_times_are_whole() -> None:
    tables = [dode.solver("ddim").tableau(VP.scaled_linear(), nfe, grid) for nfe, grid in ((8, "trailing"), (5, "leading"))]
    ours = DodeScheduler.from_tableaux(tables, VP_CONFIG)
    assert ours.held == [5, 8]
    with pytest.raises(ValueError, match="two tableaux of 5 calls"):
        DodeScheduler.from_tableaux([tables[1], dode.solver("deis").tableau(VP.scaled_linear(), 5, "trailing")], VP_CONFIG)


def test_a_loop_may_stop_before_its_end_and_another_go_on() -> None:
    """A base model and a refiner, with diffusers' `denoising_end` and `denoising_start`."""
    base, refiner = (DodeScheduler.from_solver("ddim", VP_CONFIG) for _ in range(2))
    expected = image()
    base.set_timesteps(10)
    expected = run(base, expected)
    base.set_timesteps(10)
    x = image()
    for t in base.timesteps[:7]:
        x = base.step(network(x, t), t, x).prev_sample
    refiner.set_timesteps(10)
    refiner.set_begin_index(7)
    for t in refiner.timesteps[7:]:
        x = refiner.step(network(x, t), t, x).prev_sample
    assert torch.equal(x, expected)


# Noise.


@pytest.mark.parametrize("begin", [0, 3])
def test_within_a_loop_noise_is_added_for_the_place_of_the_loop(begin: int) -> None:
    """As inpainting does after each step, whatever the time that it names."""
    theirs = make("DPMSolverMultistepScheduler", **BETAS, final_sigmas_type="zero")
    ours = same_times(theirs, "dpm-solver++", 10)
    x, noise = image(), image(1)
    for scheduler in (ours, theirs):
        scheduler.set_begin_index(begin)
    states = [image(2), image(2)]
    for t in theirs.timesteps[begin:]:
        found = [s.add_noise(x, noise, t[None].expand(3)) for s in (ours, theirs)]
        assert_same(*found)
        states = [s.step(network(y, t), t, y).prev_sample for s, y in zip((ours, theirs), states, strict=True)]
    assert_same(*states)


# A first output that is shared.


def shared(first: str, mean: Any = None) -> dode.Tableau:
    return replace(dode.solver("deis").tableau(VP.scaled_linear(), 6), first=first, mean=mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("guided", [False, True], ids=["", "the batch twice"])
@pytest.mark.parametrize("first", ["zero", "mean"])
def test_a_first_output_that_is_shared_serves_pipelines_that_scale_the_input(
    first: str, guided: bool, dtype: torch.dtype
) -> None:
    mean = None if first == "zero" else image(3)[0].double().numpy()
    tableau = shared(first, mean)
    ours = DodeScheduler.from_tableaux(tableau, VP_CONFIG)
    ours.set_timesteps(5)
    assert len(ours.timesteps) == 5
    x = image(dtype=dtype)
    for t in ours.timesteps:
        given = ours.scale_model_input(torch.cat([x, x]) if guided else x, t)
        assert given.dtype == dtype
        output = in_float32(given, t)
        x = ours.step(output.chunk(2)[0] if guided else output, t, x).prev_sample
    expected = dode.sample(dode.Denoiser(network, VP.scaled_linear()), tableau, image())
    assert_same(x.float(), expected, 1e-5 if dtype == torch.float32 else 0.03)


def test_a_first_output_that_is_shared_begins_with_the_noise_of_image_to_image() -> None:
    ours = DodeScheduler.from_tableaux(shared("zero"), VP_CONFIG)
    ours.set_timesteps(5)
    ours.set_begin_index(0)
    start = VP.scaled_linear().t_max
    expected = DodeScheduler.from_solver("ddim", VP_CONFIG).add_noise(image(), image(1), torch.tensor([start] * 3))
    assert_same(ours.add_noise(image(), image(1), ours.timesteps[:1]), expected)


def test_a_first_output_that_a_pipeline_has_no_place_for_is_refused_in_one_line() -> None:
    ours = DodeScheduler.from_tableaux(shared("zero"), VP_CONFIG)
    ours.set_timesteps(5)
    with pytest.raises(ValueError, match="without scale_model_input.*: distil with firsts=") as caught:
        ours.step(image(), ours.timesteps[0], image())
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="a mean output for each condition"):
        DodeScheduler.from_tableaux(shared("mean"), VP_CONFIG)


# What is held, and what it was fitted for.


@pytest.fixture
def ours() -> DodeScheduler:
    tables = [dode.solver("deis").tableau(VP.scaled_linear(), nfe) for nfe in (8, 4, 6)]
    return DodeScheduler.from_tableaux(tables, make("DDIMScheduler", **BETAS).config)


def test_a_number_that_is_not_held_is_one_line_that_says_what_is(ours: DodeScheduler) -> None:
    assert ours.held == [4, 6, 8]
    with pytest.raises(ValueError, match=r"no tableau of 5 calls is held, num_inference_steps may be 4, 6, 8") as caught:
        ours.set_timesteps(5)
    assert "\n" not in str(caught.value)
    for wrong in (0, 2.5, None):
        with pytest.raises(ValueError, match="num_inference_steps"):
            ours.set_timesteps(wrong)


def test_what_a_pipeline_computes_is_not_applied_to_a_table(ours: DodeScheduler) -> None:
    ours.set_timesteps(6)
    times = ours.timesteps
    ours.set_timesteps(sigmas=[0.9, 0.5, 0.4, 0.3, 0.2, 0.1], mu=0.7)
    assert torch.equal(ours.timesteps, times)
    ours.set_timesteps(timesteps=times)
    with pytest.raises(ValueError, match="the times of a table are final"):
        ours.set_timesteps(timesteps=[900, 700, 500, 300, 200, 100])
    with pytest.raises(ValueError, match="timesteps or sigmas, not both"):
        ours.set_timesteps(timesteps=times, sigmas=times)


def test_it_is_shown_in_a_line(ours: DodeScheduler) -> None:
    """diffusers puts schedulers into its messages: a table has thousands of numbers."""
    assert repr(ours).startswith("DodeScheduler(deis, NFE 8, grid uniform; deis, NFE 4") and "\n" not in repr(ours)
    assert repr(DodeScheduler.from_solver("deis", FLOW_CONFIG, order=2)) == (
        "DodeScheduler(deis(order=2), for FlowMatchEulerDiscreteScheduler)"
    )


@pytest.mark.parametrize("form", [1, 2], ids=["one", "several"])
def test_survives_files_and_other_schedulers(form: int, tmp_path: Any) -> None:
    tables = [dode.solver("deis").tableau(VP.scaled_linear(), nfe) for nfe in (8, 4)[:form]]
    ours = DodeScheduler.from_tableaux(
        tables if form > 1 else tables[0], make("DDIMScheduler", **BETAS, clip_sample=True).config
    )
    ours.save_pretrained(tmp_path)
    read = DodeScheduler.from_pretrained(tmp_path)
    through = DodeScheduler.from_config(diffusers.DDIMScheduler.from_config(ours.config).config)
    for other in (read, through, DodeScheduler.from_config(ours.config), copy.deepcopy(ours)):
        assert [table.tableau for table in other._tables.all] == tables
        other.set_timesteps(8)
        ours.set_timesteps(8)
        assert torch.equal(run(other, image()), run(ours, image()))
    solver = DodeScheduler.from_solver("unipc", ours.config, order=2)
    assert solver.held is None and solver.config.tableaux is None
    assert diffusers.DDIMScheduler.from_config(solver.config).config.clip_sample is True
    assert DodeScheduler.push_to_hub is diffusers.SchedulerMixin.push_to_hub


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: DodeScheduler.from_tableaux([], VP_CONFIG), "there are no tableaux"),
        (
            lambda: DodeScheduler.from_tableaux([whole_table(), whole_table()], VP_CONFIG),
            "two tableaux of 6 calls from t = 999",
        ),
        (lambda: DodeScheduler.from_tableaux("deis.json", VP_CONFIG), "takes tableaux or what dode.distill gives, got str"),
        (
            lambda: DodeScheduler.from_tableaux(whole_table(), {"_class_name": "LCMScheduler"}),
            "LCMScheduler is for networks distilled",
        ),
        (
            lambda: DodeScheduler.from_tableaux(whole_table(), FLOW_CONFIG),
            "made for the schedule vp.*: distil one for this pipeline, or give",
        ),
        (lambda: DodeScheduler.from_tableaux(whole_table(), {"_class_name": "DDPMScheduler"}), "distil one for this pipeline"),
        (
            lambda: DodeScheduler.from_tableaux(whole_table(prediction="v"), VP_CONFIG),
            "a network that predicts v, this one predicts epsilon: distil one",
        ),
        (
            lambda: DodeScheduler.from_tableaux(dode.solver("ddim").tableau(VP.scaled_linear(), 6, reverse=True), VP_CONFIG),
            "runs upwards, to invert: a pipeline samples",
        ),
        (lambda: DodeScheduler.from_solver("unipic", VP_CONFIG), "unipc"),
        (lambda: DodeScheduler.from_solver("unipc", VP_CONFIG, ordre=2), "order"),
        (lambda: DodeScheduler.from_solver("unipc", VP_CONFIG, grid="carras"), "karras"),
        (lambda: DodeScheduler.from_solver("unipc", 3), "got int"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(make_it: Callable[[], Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message) as caught:
        make_it()
    assert "\n" not in str(caught.value) and "strict" not in str(caught.value)


def test_another_resolution_is_said_once_and_another_network_refused() -> None:
    ours = DodeScheduler.from_tableaux(whole_table(shape=[4, 8, 8], prediction="epsilon"), VP_CONFIG)
    said = warnings_of(lambda: [(ours.set_timesteps(6), run(ours, image())) for _ in range(2)])
    assert len(said) == 1 and "fitted on states of shape (4, 8, 8) and is run on (4, 5, 4)" in said[0]
    ours.set_timesteps(6)
    with pytest.raises(ValueError, match="another network's"):
        run(ours, torch.randn(2, 16, 8, 8), lambda x, t: x)


def test_another_mu_is_said_once() -> None:
    tableau = dode.solver("ddim").tableau(Flow(), 6).with_meta(fitted_for={"pipeline": "FluxPipeline", "mu": 0.8})
    config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True}
    ours = DodeScheduler.from_tableaux(tableau, config)

    def several() -> None:
        for mu in (0.8, 1.15, 1.15, None):
            ours.set_timesteps(6, mu=mu)
            assert ours.timesteps.tolist() == pytest.approx(tableau.times[:-1].tolist())

    said = warnings_of(several)
    assert len(said) == 1 and "fitted at mu = 0.8, the pipeline asks for mu = 1.15" in said[0]


def test_what_adds_noise_is_left_out_aloud() -> None:
    ours = DodeScheduler.from_solver("ddim", VP_CONFIG)
    ours.set_timesteps(3)
    with pytest.warns(UserWarning, match="an ODE, which adds no noise"):
        ours.step(image(), ours.timesteps[0], image(), eta=1.0, generator=torch.Generator())


def test_a_loop_needs_set_timesteps_before_and_between() -> None:
    ours = DodeScheduler.from_solver("ddim", VP_CONFIG)
    with pytest.raises(ValueError, match="call set_timesteps before the loop"):
        ours.step(image(), 999, image())
    ours.set_timesteps(2)
    run(ours, image())
    with pytest.raises(ValueError, match="has made its 2 calls: call set_timesteps"):
        ours.step(image(), ours.timesteps[0], image())


# Copies and compiled loops.


def test_deep_copies_are_independent() -> None:
    """A pipeline of two streams steps a scheduler and its copy in turn."""
    for copied in (0, 2):
        ours = DodeScheduler.from_solver("deis", VP_CONFIG)
        ours.set_timesteps(6)
        expected = run(ours, image())
        ours.set_timesteps(6)
        other, x, y = None, image(), image(1)
        for k, t in enumerate(ours.timesteps):
            if k == copied:
                other, y = copy.deepcopy(ours), x if k else y
            x = ours.step(network(x, t), t, x).prev_sample
            if other is not None:
                y = other.step(network(y, t), t, y).prev_sample
                assert other.step_index == ours.step_index
        assert torch.equal(x, expected)
        if copied:
            assert torch.equal(y, x)
        else:
            ours.set_timesteps(6)
            assert torch.equal(y, run(ours, image(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", ["dpm-solver++", "unipc", "deis", "edm", "table"])
@pytest.mark.parametrize("begin", [0, 2])
def test_runs_in_a_compiled_loop_without_graph_breaks(begin: int, kind: str, dtype: torch.dtype) -> None:
    torch._dynamo.reset()
    if kind == "table":
        ours = DodeScheduler.from_tableaux(whole_table(shape=[4, 5, 4]), VP_CONFIG)
    else:
        ours = DodeScheduler.from_solver(kind, VP_CONFIG)

    def loop(x: Tensor) -> Tensor:
        for t in ours.timesteps[begin:]:
            x = ours.step(in_float32(x, t), t, x, return_dict=False)[0]
            x.mul_(0.99)  # a callback
        return x

    results = []
    for compiled in (False, True):
        ours.set_timesteps(6)
        quiet(lambda: ours.set_begin_index(begin))
        chosen = torch.compile(loop, fullgraph=True, backend="eager") if compiled else loop
        results.append(quiet(lambda chosen=chosen: chosen(image(dtype=dtype))))
    # In a compiled loop the elements whose values a callback leaves as they were stay unrounded.
    assert_same(results[1].float(), results[0].float(), 1e-6 if dtype == torch.float32 else 0.01)


def test_a_compiled_loop_is_warned_of_another_resolution() -> None:
    torch._dynamo.reset()
    ours = DodeScheduler.from_tableaux(whole_table(shape=[4, 8, 8]), VP_CONFIG)
    ours.set_timesteps(6)
    ours.set_begin_index(0)

    def loop(x: Tensor) -> Tensor:
        for t in ours.timesteps:
            x = ours.step(0.5 * x, t, x, return_dict=False)[0]
        return x

    said = warnings_of(lambda: torch.compile(loop, fullgraph=True, backend="eager")(image()))
    assert sum("fitted on states of shape (4, 8, 8)" in text for text in said) == 1


def test_a_compiled_loop_that_does_not_say_where_it_begins_is_refused() -> None:
    ours = DodeScheduler.from_solver("ddim", VP_CONFIG)
    ours.set_timesteps(4)

    def loop(x: Tensor) -> Tensor:
        for t in ours.timesteps:
            x = ours.step(x, t, x, return_dict=False)[0]
        return x

    with pytest.raises(Exception, match="call set_begin_index before"):
        torch.compile(loop, fullgraph=True, backend="eager")(image())


def test_a_table_that_was_changed_after_it_was_made_is_said_so_once(tmp_path):
    scheduler = DodeScheduler.from_tableaux(dode.solver("deis").tableau(VP.linear(), 4), {"_class_name": "DDPMScheduler"})
    scheduler.save_pretrained(tmp_path)
    path = tmp_path / "scheduler_config.json"
    assert not warnings_of(lambda: DodeScheduler.from_pretrained(tmp_path).set_timesteps(4))
    path.write_text(path.read_text().replace('"solver": "deis"', '"solver": "deis(order=2)"'))
    changed = DodeScheduler.from_pretrained(tmp_path)
    said = warnings_of(lambda: [changed.set_timesteps(4) for _ in range(2)])
    assert len(said) == 1 and "changed after it was made" in said[0]
