"""A pipeline as a network: what its calls give is what its network gives, and they leave nothing behind."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import dode

diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")

from tiny_pipelines import PIPELINES, SIZE, prompts, rows  # noqa: E402
from toy_pipeline import SHAPE, Toy  # noqa: E402

import dode.integrations.diffusers.driver as driver  # noqa: E402
import dode.integrations.diffusers.session as session  # noqa: E402
from dode.integrations.diffusers import DodeScheduler, drive  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:You have passed", "ignore::DeprecationWarning", "ignore::FutureWarning")

# Float32, a network and a little arithmetic: relative to the largest number.
FLOAT32 = 6e-6
TIMES = (700.0, 20.5, 999.0, 700.0, 0.0)  # in no order, and one of them again
# Little of everything: these tests ask whether it works, not how well.
LITTLE = {"samples": 6, "held_out": 0, "shrink": False, "refine": 0, "grid": "log-snr", "teacher": "unipc", "teacher_nfe": 8}


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "dode pipeline"]


@pytest.fixture(autouse=True)
def leaves_no_thread() -> Iterator[None]:
    assert not threads()
    yield
    assert not threads()


def assert_same(found: Tensor, expected: Tensor, tolerance: float = FLOAT32) -> None:
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def ask(denoiser: dode.Denoiser, x: Tensor, t: float, numbers: list[int] | None = None) -> Tensor:
    """What the network gives, of the kind `denoiser.prediction`."""
    return denoiser.net(x, torch.full((len(x),), t), prompt=torch.tensor(numbers or [0] * len(x)))


def network_of(pipe: Any) -> Any:
    return getattr(pipe, "unet", None) or pipe.transformer


def bare(pipe: Any, call: dict[str, Any]) -> Callable[[Tensor, float], Tensor]:
    """The network with the conditions that a call of the pipeline gives to it: the first argument and the time are ours."""
    said: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    handle = network_of(pipe).register_forward_pre_hook(
        lambda module, args, kwargs: said.append((args, kwargs)), with_kwargs=True
    )
    pipe(**call, num_inference_steps=2, generator=torch.Generator().manual_seed(0))
    handle.remove()
    args, kwargs = said[0]

    def network(x: Any, t: Any) -> Any:
        told = {key: value for key, value in kwargs.items() if key not in ("hidden_states", "timestep", "return_dict")}
        with torch.no_grad():
            return network_of(pipe)(x, t, *args[2:], **told, return_dict=False)[0]

    return network


# What the calls give.


@pytest.fixture(scope="module")
def sd() -> Any:
    return PIPELINES["sd"].make()


def guided(pipe: Any, texts: list[str], scale: float, negative: str = "ugly") -> Callable[[Tensor, float], Tensor]:
    """Stable Diffusion's network by hand."""
    with torch.no_grad():
        positive, null = pipe.encode_prompt(texts, "cpu", 1, True, [negative] * len(texts))

    def network(x: Tensor, t: float) -> Tensor:
        with torch.no_grad():
            null_out, out = pipe.unet(torch.cat([x, x]), t, encoder_hidden_states=torch.cat([null, positive])).sample.chunk(2)
        return null_out + scale * (out - null_out)

    return network


def test_equals_the_guided_network_at_any_times(sd: Any) -> None:
    x, texts = rows(3, *SHAPE), prompts(3)
    by_hand = guided(sd, texts, 5.0)
    with drive(sd, prompts=texts, negative_prompt="ugly", guidance_scale=5.0) as (denoiser, cond):
        assert denoiser.shape == SHAPE
        assert denoiser.prediction == "epsilon"
        assert cond["prompt"].tolist() == [0, 1, 2]
        for t in TIMES:
            assert_same(ask(denoiser, x, t, [0, 1, 2]), by_hand(x, t))


def test_prompts_of_a_batch_are_in_order(sd: Any) -> None:
    """Sample i of a batch is what its own call gives."""
    x, texts = rows(4, *SHAPE), prompts(4)
    with drive(sd, prompts=texts, negative_prompt="ugly", guidance_scale=5.0) as (denoiser, _):
        numbers = [2, 0, 3, 0]
        together = ask(denoiser, x, 500.0, numbers)
        for i, number in enumerate(numbers):
            assert_same(together[i : i + 1], guided(sd, [texts[number]], 5.0)(x[i : i + 1], 500.0))
            assert_same(together[i : i + 1], ask(denoiser, x[i : i + 1], 500.0, [number]))


def test_prompts_with_negative_prompts_of_their_own(sd: Any) -> None:
    x, texts = rows(2, *SHAPE), prompts(2)
    for negative, scale in ((["ugly", "a lake"], 5.0), (["ugly"], 5.0)):
        with drive(sd, prompts=texts, negative_prompt=negative, guidance_scale=scale) as (denoiser, _):
            found = ask(denoiser, x, 300.0, [1, 0])
            for row, number in enumerate([1, 0]):
                by_hand = guided(sd, [texts[number]], scale, negative[number % len(negative)])
                assert_same(found[row : row + 1], by_hand(x[row : row + 1], 300.0))
    three, told = {"negative_prompt": ["a", "b", "c"]}, "negative_prompt has 3 texts for 2 prompts"
    with pytest.raises(ValueError, match=told), drive(sd, prompts=texts, **three):
        pass


def test_calls_with_their_own_arguments(sd: Any) -> None:
    x = rows(3, *SHAPE)
    calls = [{"prompt": "a cat", "guidance_scale": 7.0}, {"prompt": "old stone bridge", "guidance_scale": 2.0}]
    with drive(sd, calls=calls, negative_prompt="ugly") as (denoiser, cond):
        assert len(cond["prompt"]) == 2
        found = ask(denoiser, x, 300.0, [1, 0, 1])
    assert_same(found[1:2], guided(sd, ["a cat"], 7.0)(x[1:2], 300.0))
    assert_same(found[[0, 2]], guided(sd, ["old stone bridge"] * 2, 2.0)(x[[0, 2]], 300.0))


def test_calls_with_their_own_images() -> None:
    pipe, x = PIPELINES["sd-controlnet"].make(), rows(2, *SHAPE)
    images = [torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    calls = [{"prompt": "a cat", "image": image} for image in images]
    with drive(pipe, calls=calls) as (denoiser, _):
        both = ask(denoiser, x[:1].repeat(2, 1, 1, 1), 300.0, [0, 1])
    assert not torch.allclose(both[0], both[1])
    for i, call in enumerate(calls):
        with drive(pipe, calls=[call]) as (denoiser, _):
            assert_same(both[i : i + 1], ask(denoiser, x[:1], 300.0))


def test_doubled_states_and_a_learned_variance() -> None:
    """DiT steps the state twice, and drops the variance."""
    pipe, x = PIPELINES["dit"].make(), rows(2, *SHAPE)
    pipe.scheduler = diffusers.DDIMScheduler(clip_sample=False)
    with drive(pipe, calls=[{"class_labels": [3]}, {"class_labels": [7]}], guidance_scale=3.0) as (denoiser, _):
        assert denoiser.shape == SHAPE
        for t in (900.0, 100.0, 900.0):
            with torch.no_grad():
                out = pipe.transformer(
                    torch.cat([x, x]), torch.full((4,), t), class_labels=torch.tensor([7, 3, 1000, 1000]), return_dict=False
                )[0][:, :4]
            out, null = out.chunk(2)
            assert_same(ask(denoiser, x, t, [1, 0]), null + 3 * (out - null))


def test_a_learned_variance_that_reaches_the_scheduler() -> None:
    toy = Toy(lambda x, t: torch.cat([0.5 * x, 9 + x], 1))
    toy.scheduler = diffusers.DDPMScheduler(variance_type="learned_range", prediction_type="sample", clip_sample=False)
    x = rows(2, *SHAPE)
    with drive(toy) as (denoiser, _):
        assert_same(ask(denoiser, x, 10.0), 0.5 * x)


def test_preconditioned_networks_give_the_denoised_sample() -> None:
    """Karras et al. 2022, table 1."""
    tiny = PIPELINES["playground"]
    pipe, x = tiny.make(), rows(1, *SHAPE)
    network, call = bare(pipe, tiny.call(1)), tiny.call(1)
    with drive(pipe, calls=[call]) as (denoiser, _):
        assert denoiser.prediction == "sample"
        for sigma in (3.0, 80.0, 0.01, 3.0):
            c_skip, c_in = 0.25 / (sigma**2 + 0.25), (sigma**2 + 0.25) ** -0.5
            c_out = 0.5 * sigma * c_in
            state = sigma * x
            t = torch.tensor(sigma, dtype=torch.float64).log() / 4
            null, out = network(torch.cat([c_in * state] * 2), t.float()).chunk(2)
            assert_same(ask(denoiser, state, sigma), c_skip * state + c_out * (null + 2.0 * (out - null)))


def test_a_negated_flow() -> None:
    """Z-Image's network is asked at 1 - sigma and gives minus the velocity."""
    tiny = PIPELINES["z-image"]
    pipe, x = tiny.make(), rows(1, *SHAPE)
    call = {**tiny.call(1), "guidance_scale": 0.0}  # its scale counts from 0
    network = bare(pipe, call)
    with drive(pipe, calls=[call]) as (denoiser, _):
        assert denoiser.prediction == "flow"
        for t in (800.0, 1000.0, 12.5):
            assert_same(ask(denoiser, x, t), -network([x[0][:, None]], torch.tensor([1 - t / 1000]))[0][:, 0][None])


def test_the_time_from_noise_to_data() -> None:
    toy = Toy(lambda x, t: x * (float(t) / 1000))
    toy.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True)
    x = rows(1, *SHAPE)
    with drive(toy) as (denoiser, _):
        assert_same(ask(denoiser, x, 800.0), -0.2 * x)


@pytest.mark.parametrize("prompted", [True, False])
def test_more_evaluations_than_a_call_serves(sd: Any, monkeypatch: pytest.MonkeyPatch, prompted: bool) -> None:
    monkeypatch.setattr(session, "LENGTH", 5)
    monkeypatch.setattr(driver, "LENGTH", 5)
    x, texts = rows(1, *SHAPE), prompts(1)
    by_hand = guided(sd, texts, 5.0)
    which = {"prompts": texts} if prompted else {"calls": [{"prompt": texts[0]}]}
    with drive(sd, **which, negative_prompt="ugly", guidance_scale=5.0) as (denoiser, _):
        for t in torch.linspace(999, 0, 13).tolist():
            assert_same(ask(denoiser, x, t), by_hand(x, t))
            assert len(threads()) <= 1


def test_more_compositions_than_may_be_open(sd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_OPEN", 2)
    x, texts = rows(2, *SHAPE), prompts(4)
    with drive(sd, prompts=texts, negative_prompt="ugly", guidance_scale=5.0) as (denoiser, _):
        for numbers in ([0, 1], [2, 3], [1, 0], [3, 3], [0, 1], [2], [2, 3]):
            found = ask(denoiser, x[: len(numbers)], 400.0, numbers)
            assert_same(found, guided(sd, [texts[i] for i in numbers], 5.0)(x[: len(numbers)], 400.0))
            assert len(threads()) <= 2


def test_image_to_image_serves_fewer_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that begins late in its times ends where they do."""
    monkeypatch.setattr(session, "LENGTH", 10)
    monkeypatch.setattr(driver, "LENGTH", 10)
    tiny = PIPELINES["sd-img2img"]
    pipe, x = tiny.make(), rows(1, *SHAPE)
    call = {**tiny.call(1), "strength": 0.4}
    by_hand = guided(pipe, call["prompt"], call["guidance_scale"])
    with drive(pipe, calls=[call]) as (denoiser, _):
        for t in torch.linspace(999, 0, 11).tolist():
            assert_same(ask(denoiser, x, t), by_hand(x, t))


def test_inpainting_gives_the_output_of_the_state_that_was_asked_for(sd: Any) -> None:
    """A loop that puts known pixels in asks its network for another state; D is that one's."""
    tiny = PIPELINES["sd-inpaint-4"]
    pipe, x, t = tiny.make(), rows(1, *SHAPE), 400.0
    given: list[Tensor] = []
    pipe.unet.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    call = tiny.call(1)
    by_hand = guided(pipe, call["prompt"], call["guidance_scale"])
    with drive(pipe, calls=[call]) as (denoiser, _):
        alpha, sigma = (float(f(t)) for f in (denoiser.schedule.alpha, denoiser.schedule.sigma))
        N = ask(denoiser, x, t)
        moved = given[-1][:1]
    known = (moved - x).abs().amax((0, 1)) > 0
    assert bool(known[:, : SIZE // 2].all()) and not bool(known[:, SIZE // 2 :].any())
    assert_same((x - sigma * N) / alpha, (moved - sigma * by_hand(moved, t)) / alpha)


def test_a_generator_draws_the_same_in_every_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """The masked image is encoded by chance: whichever call is opened when."""
    monkeypatch.setattr(driver, "_OPEN", 1)
    tiny = PIPELINES["sd-inpaint-9"]
    pipe, x = tiny.make(), rows(2, *SHAPE)
    generator = torch.Generator().manual_seed(3)
    state = generator.get_state()
    with drive(pipe, calls=[tiny.call(1)], generator=generator) as (denoiser, _):
        once = ask(denoiser, x[:1], 400.0)
        ask(denoiser, x, 400.0)
        assert torch.equal(ask(denoiser, x[:1], 400.0), once)
    assert torch.equal(generator.get_state(), state)


def test_what_a_sample_draws_is_its_own() -> None:
    """The noise of known pixels, in a batch and alone."""
    tiny = PIPELINES["sd-inpaint-4"]
    pipe, x = tiny.make(), rows(2, *SHAPE)
    rest = {key: value for key, value in tiny.call(1).items() if key not in ("prompt", "negative_prompt")}
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6)]
    for generator in (None, generators[0]):
        with drive(pipe, prompts=prompts(2), generator=generator, **rest) as (denoiser, _):
            both = ask(denoiser, x, 400.0, [1, 0])
            for row, number in enumerate([1, 0]):
                assert_same(both[row : row + 1], ask(denoiser, x[row : row + 1], 400.0, [number]))
    with (
        pytest.raises(ValueError, match="2 generators for 1 prompts"),
        drive(pipe, prompts=["a"], generator=generators, **rest),
    ):
        pass


def test_images_of_a_batch_are_what_a_call_of_one_gives(sd: Any) -> None:
    """Where pipelines cannot make several samples of one call, each has its own."""
    toy = Toy(lambda x, t: x * len(x))
    x = rows(3, *SHAPE)
    with drive(toy) as (denoiser, _):
        assert_same(ask(denoiser, x, 5.0), 3 * x)

    class One(Toy):
        def __call__(self, num_inference_steps: int = 50, generator: Any = None) -> Tensor:  # type: ignore[override]
            return super().__call__(1, num_inference_steps, generator)

    with drive(One(lambda x, t: x * len(x))) as (denoiser, _):
        assert_same(ask(denoiser, x, 5.0), x)


# Precision, and what belongs to a thread.


@pytest.mark.parametrize("name", ["sd", "flux"])
def test_a_half_precision_pipeline_is_asked_as_it_runs(name: str) -> None:
    """States and times are rounded as in production, so that the fit sees what the network sees."""
    tiny = PIPELINES[name]
    pipe = tiny.make().to(torch.bfloat16)
    call, noise = tiny.call(1), rows(1, *tiny.shape).bfloat16()
    config = pipe.scheduler.config
    with drive(pipe, calls=[call]) as (denoiser, _):
        mu = denoiser.net.mu
        assert denoiser.net.dtype == torch.bfloat16
        schedule = denoiser.schedule
        tableau = dode.solver("unipc").tableau(schedule, 4, "log-snr")
        x = dode.sample(denoiser, tableau, noise.float(), prompt=torch.tensor([0]))
    assert (mu is not None) == (name == "flux")
    pipe.scheduler = DodeScheduler.from_tableaux(tableau, config)
    found = pipe(**call, num_inference_steps=4, latents=noise, output_type="latent")[0]
    assert found.dtype == torch.bfloat16
    # The last state is rounded once; nothing else differs.
    assert torch.equal(found, x.bfloat16())


def test_autocast_and_the_default_device_are_the_askers_own() -> None:
    seen: list[tuple[bool, torch.dtype, torch.dtype, str, bool]] = []

    def network(x: Tensor, t: Tensor) -> Tensor:
        autocast = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")
        seen.append((*autocast, torch.get_default_dtype(), torch.empty(0).device.type, torch.is_grad_enabled()))
        return 0.5 * x

    x, toy = rows(1, *SHAPE), Toy(network)
    with torch.autocast("cpu", dtype=torch.bfloat16), drive(toy) as (denoiser, _):
        ask(denoiser, x, 5.0)
    assert {state[:2] for state in seen} == {(True, torch.bfloat16)}
    seen.clear()
    with drive(toy) as (denoiser, _):
        ask(denoiser, x, 5.0)
    assert {state[0] for state in seen} == {False}
    assert {state[3] for state in seen} == {"cpu"}
    toy.times = lambda scheduler: scheduler.timesteps.new_tensor([]) if torch.empty(0).device.type == "meta" else None  # type: ignore[method-assign]
    with torch.device("meta"), pytest.raises(ValueError, match="ended its loop by itself"), drive(toy):
        pass
    toy = Toy(network)
    seen.clear()
    torch.set_default_dtype(torch.float64)
    try:
        with drive(toy) as (denoiser, _):
            assert denoiser.net.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert {state[2] for state in seen} == {torch.float64}


def test_no_graph_is_kept() -> None:
    weight = torch.nn.Parameter(torch.tensor(0.5))
    with drive(Toy(lambda x, t: weight * x)) as (denoiser, _):
        output = ask(denoiser, rows(1, *SHAPE), 5.0)
        assert not output.requires_grad
        assert not denoiser(rows(1, *SHAPE), 5.0, prompt=torch.tensor([0])).requires_grad
    assert torch.is_grad_enabled()


def test_works_under_inference_mode(sd: Any) -> None:
    x = rows(1, *SHAPE)
    with torch.inference_mode(), drive(sd, prompts=["a cat"], negative_prompt="ugly", guidance_scale=5.0) as (denoiser, _):
        found = ask(denoiser, x.clone(), 500.0)
    assert_same(found, guided(sd, ["a cat"], 5.0)(x, 500.0))


def test_neither_states_nor_outputs_are_shared() -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        return x.mul_(2)

    x = rows(1, *SHAPE)
    kept = x.clone()
    with drive(Toy(network)) as (denoiser, cond):
        first = denoiser(x, 5.0, **cond)
        again = denoiser(x, 5.0, **cond)
    assert torch.equal(x, kept)
    assert torch.equal(first, again)


# What is left behind.


def state_of(pipe: Any) -> dict[str, Any]:
    return {key: copy.copy(value) for key, value in vars(pipe).items()}


@pytest.mark.parametrize("name", ["sd", "flux", "wan-2.2", "sdxl-modular"])
def test_the_pipeline_is_as_it_was(name: str) -> None:
    tiny = PIPELINES[name]
    pipe = tiny.make()
    bars = {"desc": "mine", "disable": False}
    if name == "sdxl-modular":
        blocks = [block for _, block in named_blocks(pipe._blocks)]
        for block in blocks:
            block._progress_bar_config = dict(bars)
    else:
        pipe.set_progress_bar_config(**bars)
    scheduler, config = pipe.scheduler, dict(pipe.scheduler.config)
    before = state_of(pipe)
    inner = {key: copy.deepcopy(value) for key, value in vars(scheduler).items() if key != "_internal_dict"}
    with drive(pipe, calls=[tiny.call(1)]) as (denoiser, _):
        ask(denoiser, rows(1, *tiny.shape), 500.0)
    assert pipe.scheduler is scheduler
    assert dict(scheduler.config) == config
    after = state_of(pipe)
    assert list(after) == list(before)
    assert [key for key in before if str(after[key]) != str(before[key])] == []
    assert not hasattr(pipe, "_guidance_scale")
    for key, value in inner.items():
        now = getattr(scheduler, key)
        assert torch.equal(value, now) if torch.is_tensor(value) else str(value) == str(now), key
    if name == "sdxl-modular":
        assert all(block._progress_bar_config == bars for block in blocks)
    else:
        assert pipe._progress_bar_config == bars


def named_blocks(blocks: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, block in blocks.sub_blocks.items():
        yield prefix + name, block
        if getattr(block, "sub_blocks", None):
            yield from named_blocks(block, f"{prefix}{name}.")


def test_an_error_of_the_network_comes_out_as_itself(sd: Any) -> None:
    class Odd(Exception):
        pass

    class Failing:
        count = 0

        def __call__(self, x: Tensor, t: Tensor) -> Tensor:
            self.count += 1
            if self.count == 3:
                raise Odd("no more")
            return 0.5 * x

    x = rows(1, *SHAPE)
    with drive(Toy(Failing()), calls=[{}, {}]) as (denoiser, _):
        ask(denoiser, x, 5.0)
        with pytest.raises(Odd, match="no more") as caught:
            ask(denoiser, x, 4.0)
        assert "Toy's call 1 of 2 with no arguments" in str(getattr(caught.value, "__notes__", ""))
        assert not threads()
        # The next call is a new one.
        assert_same(ask(denoiser, x, 5.0), 0.5 * x)


def test_a_call_that_the_pipeline_refuses_is_its_own_error(sd: Any) -> None:
    with pytest.raises(ValueError, match="Provide either `prompt` or `prompt_embeds`") as caught, drive(sd):
        pass
    assert "StableDiffusionPipeline's call with no arguments" in str(getattr(caught.value, "__notes__", ""))
    strict = PIPELINES["flux"].make()
    with pytest.raises(TypeError, match="argument 'guidance'"), drive(strict, prompts=["a cat"], guidance=3):
        pass
    # This one takes any argument and leaves it out.
    with pytest.raises(ValueError, match="guidence_scale.*guidance_scale"), drive(sd, prompts=["a cat"], guidence_scale=3):
        pass


def test_a_pipeline_around_another() -> None:
    class Around(Toy):
        def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
            return super().__call__(*args, **kwargs)

    x = rows(1, *SHAPE)
    with drive(Around(), batch_size=1) as (denoiser, _):
        for t in torch.linspace(999, 0, 60).tolist():
            assert_same(ask(denoiser, x, t), 0.5 * x)


def test_out_of_memory_stays_as_it_is() -> None:
    def network(x: Tensor, t: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("no memory")

    with pytest.raises(torch.cuda.OutOfMemoryError) as caught, drive(Toy(network)):
        pass
    assert not getattr(caught.value, "__notes__", [])


@pytest.mark.parametrize("begun", [False, True])
def test_an_interrupt_ends_the_calls(begun: bool) -> None:
    """Ctrl-C while the network works: it comes to the thread that waits."""
    count = [0]

    def network(x: Tensor, t: Tensor) -> Tensor:
        count[0] += 1
        if count[0] == 1 + 2 * begun:
            signal.raise_signal(signal.SIGINT)
        return 0.5 * x

    x = rows(1, *SHAPE)
    with pytest.raises(KeyboardInterrupt), drive(Toy(network)) as (denoiser, _):
        for t in range(10, 0, -1):
            ask(denoiser, x, float(t))
    assert count[0] <= 2 + 2 * begun


def test_an_interrupted_distillation_ends(tmp_path: Path) -> None:
    """A real signal, in a process of its own."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, threading\n"
        "import dode\n"
        "from toy_pipeline import Toy\n"
        "def network(x, t):\n"
        "    print('asked', flush=True)\n"
        "    return 0.5 * x\n"
        "try:\n"
        "    while True:\n"
        "        dode.distill(Toy(network), 'ddim', 4, effort='thorough', samples=64)\n"
        "except KeyboardInterrupt:\n"
        "    left = [thread.name for thread in threading.enumerate()]\n"
        "    print('interrupted', left, file=sys.stderr)\n"
        "    sys.exit(130)\n"
    )
    here = str(Path(__file__).parent)
    paths = os.pathsep.join([here, str(Path(dode.__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": paths, "PYTHONWARNINGS": "ignore"}
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout is not None
    for _ in range(30):
        assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.splitlines()[-1].startswith("interrupted ['MainThread'")
    assert "dode pipeline" not in said and "Traceback" not in said


def test_numbers_that_are_not_finite_name_step_and_prompt() -> None:
    pipe = PIPELINES["sd"].make()
    texts = ["a cat", "the sun over a lake"]
    bad = pipe.encode_prompt(texts[1], "cpu", 1, False)[0]
    forward = pipe.unet.forward

    def failing(sample: Tensor, t: Any, encoder_hidden_states: Tensor, **more: Any) -> Any:
        out = forward(sample, t, encoder_hidden_states=encoder_hidden_states, **more)
        spoiled = torch.stack([torch.equal(each, bad[0]) & torch.as_tensor(t < 500) for each in encoder_hidden_states])
        out[0][spoiled] = float("nan")
        return out

    pipe.unet.forward = failing
    with pytest.raises(FloatingPointError) as caught:
        dode.distill(pipe, "ddim", 3, prompts=texts, guidance_scale=2.0, **LITTLE)
    told = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", [])])
    assert "t = " in told
    assert "call with guidance_scale, prompt=['the sun over a lake']" in told


def test_an_error_inside_closes_the_calls(sd: Any) -> None:
    with pytest.raises(RuntimeError, match="mine"), drive(sd, prompts=["a cat"]) as (denoiser, _):
        ask(denoiser, rows(1, *SHAPE), 5.0)
        raise RuntimeError("mine")


def test_two_at_once(sd: Any) -> None:
    x, flux = rows(1, *SHAPE), PIPELINES["flux"]
    other = flux.make()
    one, two = (guided(sd, [text], 5.0) for text in prompts(2))
    packed = rows(1, *flux.shape)
    with drive(other, calls=[flux.call(1)]) as (third, _):
        alone = ask(third, packed, 300.0)
    common = {"negative_prompt": "ugly", "guidance_scale": 5.0}
    with (
        drive(sd, prompts=prompts(2)[:1], **common) as (first, _),
        drive(sd, prompts=prompts(2)[1:], **common) as (second, _),
        drive(other, calls=[flux.call(1)]) as (third, _),
    ):
        for t in (500.0, 20.0):
            assert_same(ask(first, x, t), one(x, t))
            assert_same(ask(second, x, t), two(x, t))
            assert torch.equal(ask(third, packed, 300.0), alone)


def test_from_several_threads() -> None:
    """Each thread its own pipeline: diffusers' tokenizers serve one at a time."""
    x, found = rows(1, *SHAPE), {}

    def work(number: int) -> None:
        with drive(Toy(lambda x, t: x * (number + t / 1000))) as (denoiser, _):
            found[number] = [ask(denoiser, x, t) for t in TIMES * 5]

    workers = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for number in range(3):
        for t, output in zip(TIMES * 5, found[number], strict=True):
            assert_same(output, x * (number + t / 1000))


# What cannot be driven.


class Copies(Toy):
    def times(self, scheduler: Any) -> Any:
        return scheduler.timesteps.clone()


class Reads(Toy):
    def times(self, scheduler: Any) -> Any:
        return scheduler.timesteps.tolist()


class Branches(Toy):
    def of_loop(self) -> Any:
        return copy.deepcopy(self.scheduler)


class Ends(Toy):
    def times(self, scheduler: Any) -> Any:
        return scheduler.timesteps[:3]


class Skips(Toy):
    def __call__(self, num_inference_steps: int = 50) -> Tensor:  # type: ignore[override]
        return torch.zeros(1, *SHAPE)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Copies, "copies its scheduler's times before its loop"),
        (Reads, "was asked at t = 500 and ran at 999: it cannot be driven"),
        (Branches, "copies its scheduler for a second stream"),
        (Ends, "ended its loop by itself"),
        (Skips, "ended its loop by itself"),
    ],
)
def test_pipelines_that_cannot_be_driven_are_refused_in_one_line(kind: type[Toy], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught, drive(kind()) as (denoiser, _):
        for t in (500.0, 400.0, 300.0, 200.0):
            ask(denoiser, rows(1, *SHAPE), t)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"prompts": []}, ValueError, "prompts is empty"),
        ({"calls": []}, ValueError, "calls is empty"),
        ({"prompts": ["a"], "calls": [{}]}, ValueError, "prompts or calls, not both"),
        ({"prompts": "a boat"}, TypeError, "got one text"),
        ({"prompts": [3]}, TypeError, "prompts is a list of texts"),
        ({"prompts": ["a"], "prompt": "b"}, ValueError, "prompts or prompt, not both"),
        ({"calls": ["a boat"]}, TypeError, "list of dicts, the arguments of a call each, got str"),
        ({"calls": {"prompt": "a boat"}}, TypeError, "calls is a list of dicts"),
        ({"prompts": ["a"], "num_inference_steps": 4}, ValueError, "num_inference_steps is set by the distillation"),
        ({"calls": [{"prompt": "a", "latents": torch.zeros(1)}]}, ValueError, "latents is set by the distillation"),
        ({"prompts": ["a"], "control_guidance_end": 0.5}, ValueError, "control_guidance_end switches by the number of a step"),
        ({"prompts": ["a"], "callback_on_step_end": print}, ValueError, "callback_on_step_end"),
        ({"prompts": ["a"], "batch_size": 0}, ValueError, "batch_size"),
        ({"prompts": ["a"], "generator": 3}, TypeError, "generator"),
    ],
    ids=str,
)
def test_what_is_handed_over_is_checked(sd: Any, given: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message) as caught, drive(sd, **given):
        pass
    assert "\n" not in str(caught.value)


def test_prompts_for_a_pipeline_without() -> None:
    with pytest.raises(TypeError, match="unexpected keyword argument 'prompt'"), drive(PIPELINES["ddpm"].make(), prompts=["a"]):
        pass


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        ("LCMScheduler", "LCMScheduler is .*"),
        ("CosineDPMSolverMultistepScheduler", "CosineDPMSolverMultistepScheduler is .*"),
        ("ScoreSdeVeScheduler", "ScoreSdeVeScheduler is .*"),
    ],
)
def test_schedulers_without_an_ode_are_refused_by_name(scheduler: str, message: str) -> None:
    pipe = PIPELINES["sd"].make()
    try:
        pipe.scheduler = getattr(diffusers, scheduler)()
    except ImportError:
        pytest.skip("needs another library")
    with pytest.raises(ValueError, match=message) as caught, drive(pipe, prompts=["a"]):
        pass
    assert "\n" not in str(caught.value)


def test_a_guider_that_switches_by_the_step_is_refused() -> None:
    pipe = PIPELINES["sdxl-modular"].make()
    pipe.update_components(guider=diffusers.ClassifierFreeGuidance(guidance_scale=2.0, stop=0.5))
    with pytest.raises(ValueError, match="stops at 0.5 of the steps"), drive(pipe, prompts=["a"]):
        pass


def test_neither_network_nor_pipeline() -> None:
    with pytest.raises(TypeError, match="distill takes a Denoiser .* or a pipeline of diffusers, got int"):
        dode.distill(3, "ddim", 4)
    denoiser = dode.Denoiser(lambda x, t: x, dode.schedules.VP.linear(), prediction="epsilon", shape=SHAPE)
    with pytest.raises(TypeError, match="prompts belongs to a pipeline"):
        dode.distill(denoiser, "ddim", 4, prompts=["a"])


def test_tables_of_another_pipeline(sd: Any) -> None:
    with drive(sd, prompts=["a"]) as (denoiser, _):
        tableau = dode.solver("ddim").tableau(denoiser.schedule, 3)
    other = PIPELINES["pixart"].make()
    with pytest.raises(ValueError, match="schedule") as caught:
        DodeScheduler.from_tableaux(tableau, other.scheduler.config)
    assert "\n" not in str(caught.value)
    known = {"pipeline": "StableDiffusionPipeline", "prediction": "epsilon"}
    fitted = tableau.with_meta(fitted_for={**known, "prediction": "v", "shape": list(SHAPE)})
    with pytest.raises(ValueError, match="predicts v, this one predicts epsilon"):
        DodeScheduler.from_tableaux(fitted, sd.scheduler.config)
    sized = tableau.with_meta(fitted_for={**known, "shape": [4, 2 * SIZE, 2 * SIZE]})
    pipe = PIPELINES["sd"].make()
    pipe.scheduler = DodeScheduler.from_tableaux(sized, sd.scheduler.config)
    with pytest.warns(UserWarning, match="fitted on states of shape"):
        pipe("a", num_inference_steps=3, output_type="latent")
    channels = tableau.with_meta(fitted_for={**known, "shape": [16, SIZE, SIZE]})
    pipe.scheduler = DodeScheduler.from_tableaux(channels, sd.scheduler.config)
    with pytest.raises(ValueError, match="another network's"):
        pipe("a", num_inference_steps=3, output_type="latent")
