"""Every cell of the page docs/pipelines.md, with diffusers' own pipelines around tiny networks."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dode

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from fresh_pipelines import WHOLE, put, sampled  # noqa: E402
from support import PAGE, SUPPORT, written  # noqa: E402
from tiny_pipelines import PIPELINES, SIZE, rows  # noqa: E402

from dode.integrations.diffusers import DodeScheduler, drive  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(
        "ignore:You have passed", "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:.*no history.*:UserWarning"
    ),
    pytest.mark.xdist_group("pipelines"),  # the tables of all pipelines are made once, in one worker
]

# Relative to the largest number: a loop of float32 in another order of additions; a network between them.
SAME_SOLVER, SAME_TABLE = 3e-6, 1e-5
CALLS = 4
# Little of everything: whether it works is asked here, not how well.
LITTLE: dict[str, Any] = {
    "effort": "fast",
    "samples": 6,
    "held_out": 0,
    "shrink": False,
    "refine": 0,
    "grid": "log-snr",
    "teacher": "unipc",
    "teacher_nfe": 8,
    "firsts": ("network",),
    "batch_size": 8,
}

every = pytest.mark.parametrize("name", list(SUPPORT))


def difference(found: Tensor, expected: Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def from_noise(name: str) -> dict[str, Any]:
    """What makes a call begin at the noise and end at the image."""
    return {"strength": 1.0} if SUPPORT[name].middle else {}


def call_of(name: str) -> dict[str, Any]:
    """The arguments of a call of one sample, the whole way."""
    kept = {key: value for key, value in PIPELINES[name].call(1).items() if not key.startswith("denoising_")}
    return {**kept, **from_noise(name)}


@functools.cache
def made(name: str) -> tuple[Any, Any, dode.DistilledSet]:
    """A pipeline, its own scheduler, and tables that are distilled in it."""
    pipe = PIPELINES[name].make()
    own = pipe.scheduler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pipe, own, dode.distill(pipe, "deis", nfe=(3, CALLS), calls=[PIPELINES[name].call(1)], **LITTLE)


def with_table(name: str) -> Any:
    pipe, own, result = made(name)
    return put(pipe, DodeScheduler.from_tableaux(result, own.config))


def recorded(scheduler: Any) -> list[tuple[Tensor, Tensor]]:
    """The states before and after each step that a scheduler will take."""
    states: list[tuple[Tensor, Tensor]] = []
    step = scheduler.step

    @functools.wraps(step)
    def recording(model_output: Tensor, timestep: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        before = sample.clone()
        result = step(model_output, timestep, sample, *args, **kwargs)
        states.append((before, (result[0] if isinstance(result, tuple) else result.prev_sample).clone()))
        return result

    scheduler.step = recording
    return states


def test_every_pipeline_has_a_row() -> None:
    assert list(SUPPORT) == list(PIPELINES)


def test_the_page_says_what_is_tested() -> None:
    """`PYTHONPATH=src python tests/support.py` writes it."""
    page = PAGE.read_text()
    assert written(page) == page


@every
def test_a_solver_equals_diffusers_own(name: str) -> None:
    """The whole call, with the same noise, at the same times."""
    tiny, base = PIPELINES[name], SUPPORT[name].base
    pipe = tiny.make()
    theirs = base.scheduler(pipe.scheduler)
    more = [{"latents": rows(2, *tiny.shape) / noise} for noise in (base.noise, 1.0)] if base.noise != 1 else [{}, {}]
    expected = sampled(tiny, put(pipe, theirs), CALLS, n=2, **more[0])
    times = theirs.timesteps.tolist()
    with drive(tiny.make(), calls=[tiny.call(1)]) as (denoiser, _):
        schedule, slot = denoiser.schedule, denoiser.net.slot
    stops = list(dict.fromkeys(max(slot.time_of(t), schedule.t_min) for t in times))
    grid = [*stops, schedule.t_clean if base.to_zero else 0.0]
    ours = DodeScheduler.from_solver(base.solver, theirs.config, grid=grid, **base.options)
    found = sampled(tiny, put(pipe, ours), len(times), n=2, **more[1])
    torch.testing.assert_close(ours.timesteps.double(), theirs.timesteps.double(), rtol=1e-6, atol=1e-6)
    assert difference(found, expected) <= SAME_SOLVER


@every
def test_a_pipeline_makes_of_a_table_what_sample_makes_of_it(name: str) -> None:
    tiny, pipe = PIPELINES[name], with_table(name)
    states = recorded(pipe.scheduler)
    pipe(**call_of(name), num_inference_steps=CALLS, generator=torch.Generator().manual_seed(0))
    assert len(states) == CALLS
    tableau = made(name)[2][CALLS].tableau
    setting = tableau.meta["fitted_for"]
    assert setting["shape"] == list(tiny.shape)
    assert setting["pipeline"] == type(pipe).__name__
    put(pipe, made(name)[1])
    with drive(pipe, calls=[call_of(name)]) as (denoiser, cond):
        noise = states[0][0][:1] / tableau.noise_scale
        found = dode.sample(denoiser, tableau, noise, **dode.conditions.cycle(cond, 0, 1))
    expected = states[-1][1][:1]
    if name == "sd-inpaint-4":  # the loop puts the known pixels into its states, which nobody asked for
        found, expected = found[..., SIZE // 2 :], expected[..., SIZE // 2 :]
    assert difference(found, expected) <= SAME_TABLE


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Tensor, Tensor]]:
    """What each pipeline gives with its table here, and in another process that loaded it."""
    folder, here = tmp_path_factory.mktemp("saved"), {}
    for name in SUPPORT:
        pipe = with_table(name)
        if name in WHOLE:
            pipe.save_pretrained(folder / name)
            # Weights that are loaded lie elsewhere in memory, which changes the last bit of some networks' outputs.
            pipe = diffusers.DiffusionPipeline.from_pretrained(folder / name)
            assert type(pipe.scheduler) is DodeScheduler
        else:
            pipe.scheduler.save_pretrained(folder / name / "scheduler")
        here[name] = sampled(PIPELINES[name], pipe, CALLS)
    paths = [str(Path(__file__).parent), str(Path(dode.__file__).parents[1]), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(Path(__file__).with_name("fresh_pipelines.py")), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return {name: (here[name], torch.load(folder / f"{name}.fresh.pt")) for name in here}


@every
def test_a_table_that_is_loaded_gives_the_same_to_the_last_bit(name: str, images: dict[str, tuple[Tensor, Tensor]]) -> None:
    here, fresh = images[name]
    assert torch.equal(here, fresh)


def asked(pipe: Any, name: str, given: dict[str, Any], numbers: list[int], t: float) -> Tensor:
    with drive(pipe, **given) as (denoiser, _):
        x = rows(1, *PIPELINES[name].shape).repeat(len(numbers), *[1] * len(PIPELINES[name].shape))
        t = t * denoiser.schedule.t_max
        return denoiser.net(x, torch.full((len(x),), t), prompt=torch.tensor(numbers))


@every
def test_prompts(name: str) -> None:
    """Each sample has its own prompt, whatever else there is in its batch."""
    texts, rest = ["a cat", "old stone bridge"], {**PIPELINES[name].call(1)}
    pipe, own, _ = made(name)
    put(pipe, own)
    if not SUPPORT[name].prompts:
        assert "prompt" not in rest
        return
    rest.pop("prompt")
    both = asked(pipe, name, {**rest, "prompts": texts}, [1, 0], 0.5)
    assert not torch.allclose(both[0], both[1], rtol=1e-3)
    for row, number in enumerate([1, 0]):
        alone = asked(pipe, name, {"calls": [{**PIPELINES[name].call(1), "prompt": texts[number]}]}, [0], 0.5)
        assert difference(both[row : row + 1], alone) <= SAME_TABLE


@every
def test_guidance(name: str) -> None:
    """What is distilled is guided as the call says."""
    row, call = SUPPORT[name], PIPELINES[name].call(1)
    pipe, own, result = made(name)
    put(pipe, own)
    setting = result[CALLS].tableau.meta["fitted_for"]
    if not row.guidance:
        assert setting["guidance_scale"] is None
        return
    if row.guidance == "guider":
        assert setting["guidance_scale"] == pipe.guider.guidance_scale
        outputs = []
        for scale in (2.0, 5.0):
            pipe.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=scale))
            outputs.append(asked(pipe, name, {"calls": [call]}, [0], 0.9))
        pipe.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=2.0))
    else:
        outputs = [asked(pipe, name, {"calls": [{**call, row.guidance: scale}]}, [0], 0.9) for scale in (2.0, 5.0)]
        if row.guidance == "guidance_scale" and row.guidance in call:
            assert setting["guidance_scale"] == call["guidance_scale"]
    assert not torch.allclose(outputs[0], outputs[1], rtol=1e-3)


@pytest.mark.parametrize("name", [name for name, row in SUPPORT.items() if row.middle])
def test_a_start_in_the_middle_is_the_base_solvers(name: str) -> None:
    """A table has no history there, and says so once."""
    tiny, (pipe, own, result) = PIPELINES[name], made(name)
    more = SUPPORT[name].middle or {}
    put(pipe, DodeScheduler.from_tableaux(result, own.config))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = [sampled(tiny, pipe, CALLS, **more) for _ in range(2)]
    told = [str(warning.message) for warning in said if "no history" in str(warning.message)]
    assert len(told) == 1 and "deis runs the" in told[0]
    states = recorded(pipe.scheduler)
    sampled(tiny, pipe, CALLS, **more)
    assert 0 < len(states) < CALLS
    assert torch.equal(found[0], found[1])
    grid = result[CALLS].tableau.times.tolist()
    base = sampled(tiny, put(pipe, DodeScheduler.from_solver("deis", own.config, grid=grid)), CALLS, **more)
    assert difference(found[0], base) <= SAME_SOLVER


def test_a_table_for_a_start_in_the_middle() -> None:
    """From 0.4 of the way on, as the refiner begins: the table that was made for it runs, and says nothing."""
    name = "sdxl-refiner"
    tiny, (pipe, own, result) = PIPELINES[name], made(name)
    put(pipe, own)
    whole = result[CALLS].tableau
    first = next(k for k, t in enumerate(whole.times) if t < 600)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {**LITTLE, "grid": None}
        part = dode.distill(pipe, "deis", CALLS - first, start=float(whole.times[first]), calls=[tiny.call(1)], **options)
    put(pipe, DodeScheduler.from_tableaux([*result, part], own.config))
    states = recorded(pipe.scheduler)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*no history")
        sampled(tiny, pipe, CALLS, denoising_start=0.4)
    assert len(states) == CALLS - first


def test_hand_over_from_base_to_refiner() -> None:
    """One table, its first part in one pipeline and its rest in another, whose history begins there."""
    whole, (base, own, result) = {}, made("sdxl")
    noise = rows(1, 4, SIZE, SIZE)
    call = {**PIPELINES["sdxl"].call(1), "latents": noise, "output_type": "latent", "num_inference_steps": CALLS}
    put(base, DodeScheduler.from_tableaux(result, own.config))
    states = recorded(base.scheduler)
    base(**call)
    whole["whole"] = list(states)
    states.clear()
    handed = base(**call, denoising_end=0.4)[0]
    before = len(states)
    assert 0 < before < CALLS
    for (_, found), (_, expected) in zip(states, whole["whole"], strict=False):
        assert torch.equal(found, expected)
    refiner, _, _ = made("sdxl-refiner")
    put(refiner, DodeScheduler.from_tableaux(result, own.config))
    states = recorded(refiner.scheduler)
    told = {**PIPELINES["sdxl-refiner"].call(1), "image": handed, "denoising_start": 0.4}
    with pytest.warns(UserWarning, match="no history"):
        refiner(**told, num_inference_steps=CALLS, output_type="latent")
    assert len(states) == CALLS - before
    assert torch.equal(states[0][0], handed)


def test_two_networks_share_a_history() -> None:
    """Wan 2.2: so many calls before the boundary as the table says, and rows after it that name outputs of before."""
    pipe = with_table("wan-2.2")
    tableau = made("wan-2.2")[2][CALLS].tableau
    setting = tableau.meta["fitted_for"]
    counts = [0, 0]
    handles = [
        network.register_forward_hook(functools.partial(_count, counts, place))
        for place, network in enumerate([pipe.transformer, pipe.transformer_2])
    ]
    sampled(PIPELINES["wan-2.2"], pipe, CALLS)
    for handle in handles:
        handle.remove()
    assert setting["boundary"] == 875.0
    assert [count // 2 for count in counts] == setting["calls"]  # guided: two calls each
    above, below = setting["calls"]
    assert above and below
    assert (tableau.b[above:, :above] != 0).any()


def _count(counts: list[int], place: int, *args: Any) -> None:
    counts[place] += 1


def test_shifts_are_followed_and_remembered() -> None:
    """Flux at another size than the table's."""
    pipe = with_table("flux")
    assert made("flux")[2][CALLS].tableau.meta["fitted_for"]["mu"] == pytest.approx(0.459375)
    with pytest.warns(UserWarning, match="fitted at mu = 0.4594"):
        sampled(PIPELINES["flux"], pipe, CALLS, height=32, width=32)


def test_a_number_of_calls_that_is_not_held() -> None:
    with pytest.raises(ValueError, match="no tableau of 7 calls is held, num_inference_steps may be 3, 4"):
        sampled(PIPELINES["sd"], with_table("sd"), 7)
