"""Networks that misbehave, and numbers of the caller's that do: refused or named in one line, and never taken for a result."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import dode
from dode.noise import HELD_OUT, standard_noise
from dode.notes import add_note
from dode.schedules import VP
from dode.tableau import PREDICTIONS

SCHEDULE = VP.linear()
TABLEAU = dode.solver("deis").tableau(SCHEDULE, 4)
NOISE = standard_noise(0, 6, (8,))


def smooth(x: Tensor, t: Tensor) -> Tensor:
    return torch.tanh(0.7 * x) + 0.2 * x


def sampled(net: Callable[..., Any], **options: Any) -> Tensor:
    found: Tensor = dode.sample(dode.Denoiser(net, SCHEDULE, name="mine"), TABLEAU, NOISE, **options)
    return found


def one_line(error: BaseException) -> str:
    text = str(error)
    assert "\n" not in text
    return text


# What it returns


OUTPUTS: dict[str, tuple[Callable[[Tensor], Any], type[Exception], str]] = {
    "integers": (lambda y: y.long(), TypeError, r"floating-point numbers, got torch.int64: .*\.float\(\)"),
    "booleans": (lambda y: y > 0, TypeError, r"floating-point numbers, got torch.bool"),
    "complex": (lambda y: y.to(torch.complex64), TypeError, r"floating-point numbers, got torch.complex64"),
    "meta": (lambda y: y.to("meta"), ValueError, r"asked on cpu and returned a tensor on meta: .*\.to\(x\.device\)"),
    "empty tuple": (lambda y: (), TypeError, r"got an empty tuple: return the tensor"),
    "tuple of none": (lambda y: (None, y), TypeError, r"got a tuple that begins with None"),
    "none": (lambda y: None, TypeError, r"got None: return the tensor"),
    "dictionary": (lambda y: {"sample": y}, TypeError, r"got a dict: return the tensor"),
    "list": (lambda y: [y], TypeError, r"got a list: return the tensor"),
    "array": (lambda y: y.numpy(), TypeError, r"got a ndarray: return the tensor"),
    "fewer rows": (lambda y: y[:1], ValueError, r"the shape of its input \(6, 8\), got \(1, 8\)"),
    "more columns": (lambda y: torch.cat([y, y], 1), ValueError, r"the shape of its input \(6, 8\), got \(6, 16\)"),
}


@pytest.mark.parametrize(("change", "kind", "message"), OUTPUTS.values(), ids=OUTPUTS.keys())
def test_an_output_that_no_network_can_mean_is_refused_in_a_line(
    change: Callable[[Tensor], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        sampled(lambda x, t: change(smooth(x, t)))
    assert type(caught.value) is kind
    assert "(mine)" in one_line(caught.value)


def test_outputs_in_another_precision_are_taken() -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        found = sampled(lambda x, t, dtype=dtype: smooth(x, t).to(dtype))
        torch.testing.assert_close(found, sampled(smooth), rtol=0.1, atol=0.1)
        assert found.dtype == torch.float32


# What it raises


class Own(Exception):
    """A network's own kind of error, with arguments of its own."""

    def __init__(self, code: int) -> None:
        super().__init__(f"code {code}")
        self.code = code


class Frozen(Exception):
    """An error that lets nothing be added to it."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "__notes__":
            raise AttributeError(name)
        super().__setattr__(name, value)


def raising(error: BaseException, below: float = 500) -> Callable[[Tensor, Tensor], Tensor]:
    def net(x: Tensor, t: Tensor) -> Tensor:
        if t[0] < below and len(x) == 2:
            raise error
        return smooth(x, t)

    return net


@pytest.mark.parametrize(
    "error", [Own(7), KeyError("weight"), RuntimeError("shapes"), ZeroDivisionError()], ids=lambda e: type(e).__name__
)
def test_an_error_of_the_network_keeps_its_type_and_says_where(error: Exception) -> None:
    denoiser = dode.Denoiser(raising(error), SCHEDULE, name="mine", batch_size=4)
    with pytest.raises(type(error)) as caught:
        dode.sample(denoiser, TABLEAU, NOISE)
    assert caught.value is error
    step = int(np.argmax(TABLEAU.times < 500)) + 1
    notes = " ".join(error.__notes__)
    assert f"at step {step} of 4" in notes
    assert f"mine was asked at t = {TABLEAU.times[step - 1]:g}, evaluation {step} of the run, for samples 4 to 5 of 6" in notes
    if sys.version_info < (3, 11) and error.args:
        assert f"at step {step} of 4" in str(error)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), torch.cuda.OutOfMemoryError("memory"), MemoryError("memory"), Frozen()], ids=repr
)
def test_interrupts_and_errors_of_memory_pass_as_they_are(error: BaseException) -> None:
    arguments = error.args
    with pytest.raises(type(error)) as caught:
        dode.sample(dode.Denoiser(raising(error), SCHEDULE, batch_size=4), TABLEAU, NOISE)
    assert caught.value is error and error.args == arguments
    assert not hasattr(error, "__notes__")


def test_where_python_knows_no_notes_the_message_says_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dode.notes.sys", SimpleNamespace(version_info=(3, 10)))
    error = Own(7)
    add_note(error, "at step 2 of 4")
    assert str(error) == "code 7 (at step 2 of 4)" and error.code == 7 and error.__notes__ == ["at step 2 of 4"]
    silent = ZeroDivisionError()
    add_note(silent, "at step 2 of 4")
    assert silent.args == () and silent.__notes__ == ["at step 2 of 4"]


def test_an_error_in_a_distillation_says_where_too() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        if t[0] < 100:
            raise Own(3)
        return smooth(x, t)

    with pytest.raises(Own) as caught:
        dode.distill(dode.Denoiser(net, SCHEDULE, shape=(8,)), "deis", 4, effort="fast", samples=16, validation=8)
    assert any("at step" in note for note in caught.value.__notes__)


# NaN that the caller gives


def holed(like: Tensor, row: int = 2, value: float = float("nan")) -> Tensor:
    found = like.clone()
    found[row, 1] = value
    return found


@pytest.mark.parametrize("name", ["noise", "image", "known", "condition", "nested condition", "infinite noise"])
@pytest.mark.parametrize("way", ["sample", "iterate"])
def test_nan_of_the_caller_is_named_before_the_network_is_asked(name: str, way: str) -> None:
    calls = []
    denoiser = dode.Denoiser(lambda x, t, **cond: calls.append(t) or smooth(x, t), SCHEDULE)
    options: dict[str, Any] = {
        "noise": {"noise": holed(NOISE)},
        "infinite noise": {"noise": holed(NOISE, value=float("inf"))},
        "image": {"image": holed(NOISE)},
        "known": {"known": holed(NOISE), "mask": torch.zeros(8)},
        "condition": {"scale": holed(NOISE)},
        "nested condition": {"more": {"scale": [holed(NOISE)]}},
    }[name]
    given = {"noise": NOISE} | options
    word = {"condition": "the condition scale", "nested condition": "the condition more", "infinite noise": "noise"}.get(
        name, name
    )
    kind = "infinite" if name == "infinite noise" else "NaN"
    with pytest.raises(
        ValueError, match=f"^{word} has {kind} values in 1 of 6 rows, first in row 2: give finite numbers"
    ) as caught:
        noise = given.pop("noise")
        if way == "sample":
            dode.sample(denoiser, TABLEAU, noise, **given)
        else:
            next(iter(dode.iterate(denoiser, TABLEAU, noise, **given)))
    one_line(caught.value)
    assert not calls


def test_tensors_without_values_are_refused_wherever_they_are() -> None:
    meta = NOISE.to("meta")
    given = {
        "noise": {"noise": meta},
        "image": {"image": meta},
        "known": {"known": meta, "mask": torch.ones(8)},
        "condition": {"c": meta},
    }
    for name, options in given.items():
        with pytest.raises(ValueError, match=f"{name}.* is a tensor on meta, which has no numbers: give one with values"):
            dode.sample(dode.Denoiser(lambda x, t, c=None: x, SCHEDULE), TABLEAU, **({"noise": NOISE} | options))

    class Net(torch.nn.Linear):
        def forward(self, x: Tensor, t: Tensor) -> Tensor:
            return super().forward(x)

    with pytest.raises(ValueError, match=r"a parameter of the network \(Net\) is a tensor on meta"):
        dode.sample(dode.Denoiser(Net(8, 8, device="meta"), SCHEDULE), TABLEAU, NOISE)


def test_infinity_in_a_condition_may_be_meant_and_nan_under_a_mask_is_no_matter() -> None:
    """As in a mask of attention; and pixels that are repainted have no content."""
    bias = torch.zeros(6, 8).masked_fill_(torch.eye(8)[:6].bool(), -float("inf"))
    found = sampled(lambda x, t, bias: smooth(x, t) + torch.softmax(bias, 1) * 0.01, bias=bias)
    assert torch.isfinite(found).all()
    mask = torch.isnan(holed(NOISE)).float()
    assert torch.isfinite(sampled(smooth, known=holed(NOISE), mask=mask)).all()


def test_nan_in_what_a_distillation_is_given_is_named() -> None:
    denoiser = dode.Denoiser(lambda x, t, **cond: smooth(x, t), SCHEDULE, shape=(8,))
    noise = standard_noise(0, 32, (8,))
    options: dict[str, Any] = {"effort": "fast", "samples": 32, "validation": 8, "held_out": 0}
    with pytest.raises(ValueError, match="noise has NaN values"):
        dode.distill(denoiser, "deis", 4, noise=holed(noise), **options)
    with pytest.raises(ValueError, match="the condition scale has NaN values"):
        dode.distill(denoiser, "deis", 4, scale=holed(noise), **options)
    with pytest.raises(ValueError, match="the target of row 2 has NaN values in 1 of 32 rows"):
        dode.distill(denoiser, "ddim", 2, noise=noise, targets=[noise, holed(noise)], effort="fast")
    with pytest.raises(ValueError, match="the condition scale has NaN values"):
        dode.Denoiser(smooth, SCHEDULE, null_condition={"scale": float("nan") * torch.ones(1)})


# Autograd after it


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("options", [{}, {"batch_size": 4}, {"clip": 1.0}, {"guided": True}, {"half": True}], ids=str)
def test_what_comes_back_can_go_through_autograd(prediction: str, options: dict[str, Any]) -> None:
    options = dict(options)
    guided, half = options.pop("guided", False), options.pop("half", False)
    if guided:
        options |= {"guidance_scale": 2.0, "null_condition": {"label": 0.0}}

    def net(x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        y = smooth(x, t)
        return y.half() if half else y

    cond = {"label": torch.ones(6)} if guided else {}
    denoiser = dode.Denoiser(net, SCHEDULE, prediction, **options)
    trajectory = dode.sample(denoiser, TABLEAU, NOISE, return_trajectory=True, **cond)
    steps = list(dode.iterate(denoiser, TABLEAU, NOISE, **cond))
    found = [
        denoiser(NOISE, 400.0, **cond),
        dode.sample(denoiser, TABLEAU, NOISE, **cond),
        *trajectory.states,
        *trajectory.denoised,
        *(step.x for step in steps),
        *(step.D for step in steps),
    ]
    weight = torch.ones(8, requires_grad=True)
    for tensor in found:
        assert not tensor.is_inference()
        (tensor * weight).square().sum().backward()
    assert weight.grad is not None


# Noise in its output


def test_dropout_that_evaluation_mode_leaves_on_is_said() -> None:
    torch.manual_seed(0)
    denoiser = dode.Denoiser(lambda x, t: smooth(F.dropout(x, 0.1, training=True), t), SCHEDULE, shape=(8,))
    result = dode.distill(denoiser, "deis", 4, effort="fast", samples=24, validation=16, held_out=8)
    (said,) = (text for text in result.warnings if "another output for the same input" in text)
    assert "% apart" in said and "dropout" in said
    assert said.split(",")[0] in " ".join(str(result).split())


@pytest.mark.parametrize("rounding", [0.0, 1e-6, 1e-4])
def test_a_network_that_repeats_itself_but_for_rounding_is_not_warned_of(rounding: float) -> None:
    """As sums over threads that end in another order."""
    torch.manual_seed(0)
    denoiser = dode.Denoiser(lambda x, t: smooth(x, t) * (1 + rounding * torch.randn_like(x)), SCHEDULE, shape=(8,))
    before = denoiser.evaluations
    result = dode.distill(denoiser, "deis", 4, effort="fast", samples=24, validation=16, held_out=8)
    assert not [text for text in result.warnings if "another output" in text]
    assert sum(result.evaluations.values()) == denoiser.evaluations - before


# A result that diverges


TIMES = [999.0, 700.25, 300.75, 20.5]  # which no other run asks for
SETTINGS: dict[str, Any] = {"times": [*TIMES, -1.0], "effort": "fast", "samples": 24, "validation": 16, "held_out": 12}
WIDE = 64


def pull(x: Tensor, t: Tensor) -> Tensor:
    """Predicts a sample."""
    return 0.8 * torch.tanh(1.5 * x)


def nearest(x: Tensor, others: Tensor) -> Tensor:
    """How far each sample is from the nearest of some others."""
    far = (x[:, None] - others).norm(dim=2)
    return torch.cat([far, torch.full((len(x), 1), torch.inf)], 1).amin(1)


class Trap:
    """Well-behaved, but for some held-out samples at one of the student's times: infinite there, unless the state is the base's own.

    Distinct samples of so many numbers are further from each other than the two states of one.
    """

    def __init__(self, rows: slice, *, spare_base: bool = True, everywhere: bool = False) -> None:
        tableau = dode.solver("ddim").tableau(SCHEDULE, grid=SETTINGS["times"])
        noise = standard_noise(0, SETTINGS["held_out"], (WIDE,), stream=HELD_OUT)
        states = dode.sample(dode.Denoiser(pull, SCHEDULE, "sample"), tableau, noise, return_trajectory=True).states
        self.base = states[2][rows]
        self.starts = noise[rows]
        self.spare_base, self.everywhere = spare_base, everywhere

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        y = pull(x, t)
        if self.everywhere and t[0] > 998:
            lost = nearest(x, self.starts) < 1.0
        elif abs(float(t[0]) - TIMES[2]) < 1e-3:
            far = nearest(x, self.base)
            lost = (far < 3.0) & ((far > 1e-4) | (not self.spare_base))
        else:
            return y
        return torch.where(lost[:, None], torch.inf, y)


def distilled(trap: Trap, **changes: Any) -> dode.Distilled:
    denoiser = dode.Denoiser(trap, SCHEDULE, "sample", shape=(WIDE,))
    return dode.distill(denoiser, "ddim", **(SETTINGS | changes))


def test_a_well_behaved_network_has_a_distilled_tableau_here() -> None:
    result = distilled(Trap(slice(0, 0)))
    assert not result.diverged and result.tableau != result.base


@pytest.mark.parametrize("method", [{}, dode.distillation.PAPER], ids=["fast", "paper"])
def test_a_result_that_diverges_on_held_out_noise_is_not_given_out(method: dict[str, Any]) -> None:
    settings = {name: value for name, value in SETTINGS.items() if name != "validation"} if method else {}
    result = distilled(Trap(slice(0, 3)), **(settings | method))
    assert result.diverged and result.held_out is not None
    assert np.array_equal(result.tableau.b, result.base.b)
    (said,) = (text for text in result.warnings if "is not given out" in text)
    assert "diverges on 3 of 12 held-out samples" in said and "the base diverges" not in said
    assert np.isfinite(result.held_out.distilled).all()
    shown = " ".join(str(result).split())
    assert "given out: the base" in shown and "diverges on 3 of 12 held-out samples" in shown


def test_a_base_that_diverges_too_is_said() -> None:
    result = distilled(Trap(slice(0, 3), spare_base=False))
    assert result.diverged
    assert np.array_equal(result.tableau.b, result.base.b)
    assert any("the base diverges on 3 of 12 held-out samples too" in text for text in result.warnings)


def test_a_base_that_was_chosen_and_diverges_is_said() -> None:
    """DDIM is exact where D is constant, so that nothing is better."""
    tableau = dode.solver("ddim").tableau(SCHEDULE, grid=SETTINGS["times"])
    noise = standard_noise(0, 1, (WIDE,), stream=HELD_OUT)
    constant = dode.Denoiser(lambda x, t: torch.full_like(x, 0.3), SCHEDULE, "sample")
    base = dode.sample(constant, tableau, noise, return_trajectory=True).states[2]

    def net(x: Tensor, t: Tensor) -> Tensor:
        lost = (nearest(x, base) < 1e-2) & (abs(float(t[0]) - TIMES[2]) < 1e-3)
        return torch.where(lost[:, None], torch.inf, torch.full_like(x, 0.3))

    result = dode.distill(dode.Denoiser(net, SCHEDULE, "sample", shape=(WIDE,)), "ddim", **SETTINGS)
    assert result.diverged and result.chosen == "the base"
    assert any("the base, which is given out, diverges on 1 of 12 held-out samples" in text for text in result.warnings)


def test_a_reference_that_diverges_leaves_nothing_measured_and_the_base_is_given_out() -> None:
    result = distilled(Trap(slice(0, 1), everywhere=True))
    assert result.diverged and result.held_out is None
    assert np.array_equal(result.tableau.b, result.base.b)
    assert any("nothing could be measured against the reference, which diverges" in text for text in result.warnings)


def test_a_base_that_alone_diverges_is_a_warning() -> None:
    """On noise that the distilled tableau gets over."""

    def net(x: Tensor, t: Tensor) -> Tensor:
        y = pull(x, t)
        if abs(float(t[0]) - TIMES[1]) > 1e-3:
            return y
        return torch.where((x - base).abs().amax(1, keepdim=True) < 1e-4, torch.nan, y)

    tableau = dode.solver("ddim").tableau(SCHEDULE, grid=SETTINGS["times"])
    noise = standard_noise(0, 1, (WIDE,), stream=HELD_OUT)
    base = dode.sample(dode.Denoiser(pull, SCHEDULE, "sample"), tableau, noise, return_trajectory=True).states[1][0]
    result = dode.distill(dode.Denoiser(net, SCHEDULE, "sample", shape=(WIDE,)), "ddim", **SETTINGS)
    assert not result.diverged and result.held_out is not None
    assert any("the base diverges on 1 of" in text and "held-out" in text for text in result.warnings)


def test_the_command_line_ends_with_code_3_and_writes_the_base(tmp_path: Path) -> None:
    (tmp_path / "trapped.py").write_text(
        f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from test_misbehaving import SCHEDULE, WIDE, Trap\nimport dode\n\n"
        'def make():\n    return dode.Denoiser(Trap(slice(0, 3)), SCHEDULE, "sample", shape=(WIDE,))\n'
    )
    times = ",".join(map(str, SETTINGS["times"]))
    command = ["distill", "trapped:make", "--solver", "ddim", "--nfe", "4", "--grid", times, "--effort", "fast"]
    sizes = ["--samples", "24", "--validation", "16", "--held-out", "12", "--out", "made.json"]
    done = subprocess.run([sys.executable, "-m", "dode", *command, *sizes], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 3, done.stderr
    assert "diverges on 3 of 12 held-out samples" in " ".join(done.stdout.split())
    assert dode.Tableau.load(tmp_path / "made.json").meta["distillation"]["chosen"] == "the base"
