"""ONNX exports, checked by onnx and run by onnxruntime: the samples of `dode.sample` over the same ONNX network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from typer.testing import CliRunner

import dode
from dode.cli import app
from dode.integrations.export import to_onnx

SCHEDULE = dode.schedules.VP.linear()
LABELS = np.array([3, 0, 5])
GENERATOR = np.random.default_rng(0)
# Of samples of size 1: rounding of states that a few steps magnify.
TOLERANCE = {"float": 1e-5, "double": 1e-12}


def tableau_of(nfe: int = 4, solver: str = "dpm-solver++", **changes: Any) -> dode.Tableau:
    return replace(dode.solver(solver).tableau(SCHEDULE, nfe), **changes)


def network_of(
    kind: str = "float", time: str = "float[batch]", opset: int = 17, batch: str = "batch", out: str = ""
) -> onnx.ModelProto:
    """tanh(x w) + t / 1000 + table[label], of samples (batch, 4); w is a constant node, the table an initializer."""
    model = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net ({kind}[{batch}, 4] sample, {time} timestep, int64[{batch}] label) => ({out or f"{kind}[{batch}, 4]"} out) {{
            first = Gather(table, label)
            product = MatMul(sample, w)
            bent = Tanh(product)
            wide = Cast<to = {TensorProto.DataType.Value(kind.upper())}>(timestep)
            rows = Reshape(wide, column)
            scaled = Div(rows, thousand)
            moved = Add(bent, scaled)
            out = Add(moved, first)
        }}"""
    )
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(kind.upper()))
    generator = np.random.default_rng(1)
    numbers = {
        "table": generator.normal(size=(6, 4)).astype(dtype),
        "column": np.array([-1, 1]),
        "thousand": np.array(1000, dtype),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in numbers.items())
    w = helper.make_node(
        "Constant", [], ["w"], value=numpy_helper.from_array((0.5 * generator.normal(size=(4, 4))).astype(dtype))
    )
    model.graph.node.insert(0, w)
    return model


def session(model: onnx.ModelProto | Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(str(model) if isinstance(model, Path) else model.SerializeToString(), options)


def as_function(model: onnx.ModelProto) -> Callable[..., Tensor]:
    """The ONNX network as `Denoiser` calls one."""
    held = session(model)
    kinds = {value.name: helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type) for value in model.graph.input}
    ranks = {value.name: len(value.type.tensor_type.shape.dim) for value in model.graph.input}

    def net(x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        times = t.numpy().astype(kinds["timestep"]) if ranks["timestep"] else t.numpy().astype(kinds["timestep"])[0]
        given = {"sample": x.numpy().astype(kinds["sample"]), "timestep": times, "label": label.numpy()}
        return torch.from_numpy(held.run(None, given)[0])

    return net


def noise_of(dtype: type = np.float32, shape: tuple[int, ...] = (3, 4)) -> Any:
    return np.random.default_rng(2).normal(size=shape).astype(dtype)


def reference(model: onnx.ModelProto, tableau: dode.Tableau, noise: Any, prediction: str = "epsilon", **options: Any) -> Any:
    schedule = dode.schedules.EDM() if prediction == "edm" else SCHEDULE
    denoiser = dode.Denoiser(as_function(model), schedule, prediction, **options)
    return dode.sample(denoiser, tableau, torch.from_numpy(noise), label=torch.from_numpy(LABELS)).numpy()


@pytest.mark.parametrize("kind", ["float", "double"])
@pytest.mark.parametrize("solver", ["ddim", "dpm-solver++", "deis", "edm"])
def test_the_loop_gives_the_same_samples(solver: str, kind: str) -> None:
    model, tableau = network_of(kind), tableau_of(5, solver)
    noise = noise_of(np.float32 if kind == "float" else np.float64)
    (found,) = session(to_onnx(tableau, model, prediction="v")).run(None, {"noise": noise, "label": LABELS})
    np.testing.assert_allclose(found, reference(model, tableau, noise, "v"), atol=TOLERANCE[kind], rtol=0)


@pytest.mark.parametrize("time", ["float", "float[1]", "double[batch]", "float[batch, 1]"])
def test_the_time_in_the_form_that_the_network_takes(time: str) -> None:
    model = network_of(time=time)
    # The network reads a row a sample, or one for all.
    (found,) = session(to_onnx(tableau_of(), model, prediction="v")).run(None, {"noise": noise_of(), "label": LABELS})
    same = reference(network_of(), tableau_of(), noise_of(), "v")
    np.testing.assert_allclose(found, same, atol=TOLERANCE["float"], rtol=0)


def test_whole_times() -> None:
    schedule = SCHEDULE.with_integer_times()
    model, tableau = network_of(time="int64[batch]"), dode.solver("dpm-solver++").tableau(schedule, 4)
    (found,) = session(to_onnx(tableau, model, prediction="v")).run(None, {"noise": noise_of(), "label": LABELS})
    np.testing.assert_allclose(found, reference(model, tableau, noise_of(), "v", integer_times=True), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match=r"takes whole times only \(timestep has integers\), and the tableau asks at t = "):
        to_onnx(tableau_of(7), model, prediction="v")


def test_half_precision_networks_work_on_float32_states() -> None:
    model = network_of("float16", batch="3")
    found = to_onnx(tableau_of(), model, prediction="v")
    assert found.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    (samples,) = session(found).run(None, {"noise": noise_of(), "label": LABELS})
    np.testing.assert_allclose(samples, reference(network_of(), tableau_of(), noise_of(), "v"), atol=0.02, rtol=0)


def test_a_network_that_is_asked_at_sigma() -> None:
    tableau = dode.solver("dpm-solver++").tableau(dode.schedules.EDM(), 4)
    model = network_of()
    (found,) = session(to_onnx(tableau, model, prediction="edm")).run(None, {"noise": noise_of(), "label": LABELS})
    np.testing.assert_allclose(found, reference(model, tableau, noise_of(), "edm"), atol=1e-5, rtol=0)


FIRSTS = {"zero": {"first": "zero"}, "mean": {"first": "mean", "mean": np.linspace(-1, 1, 4)}}


@pytest.mark.parametrize("first", FIRSTS.values(), ids=list(FIRSTS))
def test_first_outputs_that_are_no_call(first: dict[str, Any]) -> None:
    """Here label is no condition but part of the function: a stored mean belongs to a network without one."""
    model, tableau = network_of(), tableau_of(4, "deis", **first)
    net = as_function(model)
    denoiser = dode.Denoiser(lambda x, t: net(x, t, torch.from_numpy(LABELS)), SCHEDULE, "v")
    want = dode.sample(denoiser, tableau, torch.from_numpy(noise_of())).numpy()
    (found,) = session(to_onnx(tableau, model, prediction="v")).run(None, {"noise": noise_of(), "label": LABELS})
    np.testing.assert_allclose(found, want, atol=1e-5, rtol=0)
    np.testing.assert_allclose(stepped(tableau, "v", denoiser, noise_of()), want, atol=1e-5, rtol=0)


def stepped(tableau: dode.Tableau, prediction: str, denoiser: dode.Denoiser, noise: Any, **options: Any) -> Any:
    """A run by the one-step graph, as its description says."""
    step = session(to_onnx(tableau, prediction=prediction, dtype=str(noise.dtype), **options))
    state, given, time, output = noise, noise, 0.0, np.zeros_like(noise)
    history = np.zeros((step.get_inputs()[3].shape[0], *noise.shape), noise.dtype)
    for number in range(tableau.nfe + 1):
        if number:
            x = torch.from_numpy(given)
            output = denoiser.net(x, torch.full((len(x),), float(time), dtype=x.dtype)).numpy()
        state, time, history, *scaled = step.run(
            None, {"step": np.array(number), "state": state, "output": output, "history": history}
        )
        given = scaled[0] if scaled else state
    return state


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v", "edm"])
@pytest.mark.parametrize("solver", ["ddim", "deis", "unipc", "edm", "dpm-solver"])
def test_one_step_at_a_time(solver: str, prediction: str) -> None:
    schedule = dode.schedules.EDM() if prediction == "edm" else SCHEDULE
    denoiser = dode.Denoiser(lambda x, t: torch.sin(x) / (1 + t[:, None] / 100), schedule, prediction)
    tableau = dode.solver(solver).tableau(schedule, 5)
    noise = noise_of(np.float64)
    want = dode.sample(denoiser, tableau, torch.from_numpy(noise)).numpy()
    scale = np.abs(want).max()
    np.testing.assert_allclose(stepped(tableau, prediction, denoiser, noise) / scale, want / scale, atol=1e-12, rtol=0)


def test_one_step_of_samples_in_their_own_shape() -> None:
    denoiser = dode.Denoiser(lambda x, t: torch.sin(x), SCHEDULE)
    noise = noise_of(np.float64, (2, 1, 3, 3))
    found = stepped(tableau_of(), "epsilon", denoiser, noise, shape=(1, 3, 3))
    np.testing.assert_allclose(found, dode.sample(denoiser, tableau_of(), torch.from_numpy(noise)).numpy(), atol=1e-12, rtol=0)


def test_weights_are_in_the_loop_once_and_what_does_not_move_is_done_once() -> None:
    model = to_onnx(tableau_of(6), network_of(), prediction="v")
    assert sum(tensor.name == "table" for tensor in model.graph.initializer) == 1
    kinds = [node.op_type for node in model.graph.node]
    assert [kinds.count(kind) for kind in ("Constant", "Gather", "MatMul", "Tanh")] == [1, 1, 6, 6]


def test_values_that_a_subgraph_takes_from_around_it() -> None:
    """An If whose branches read what moves."""
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[batch, 4] x, float t) => (float[batch, 4] out) {
            half = Constant <value = float {0.5}> ()
            late = Greater(t, limit)
            small = Mul(x, half)
            out = If (late) <
                then_branch = g1 () => (float[batch, 4] a) { a = Add(small, x) },
                else_branch = g2 () => (float[batch, 4] b) { b = Neg(small) }
            >
        }"""
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(500, np.float32), "limit"))
    denoiser = dode.Denoiser(lambda x, t: 1.5 * x if t[0] > 500 else -0.5 * x, SCHEDULE, "v")
    (found,) = session(to_onnx(tableau_of(), model, prediction="v")).run(None, {"noise": noise_of()})
    want = dode.sample(denoiser, tableau_of(), torch.from_numpy(noise_of())).numpy()
    np.testing.assert_allclose(found, want, atol=1e-5, rtol=0)


def test_names_of_the_network_that_are_those_of_the_loop() -> None:
    model = network_of()
    for node in model.graph.node:
        node.input[:] = ["noise" if name == "label" else "dode/x0" if name == "bent" else name for name in node.input]
        node.output[:] = ["dode/x0" if name == "bent" else name for name in node.output]
    model.graph.input[2].name = "noise"
    loop = to_onnx(tableau_of(), model, prediction="v")
    assert [value.name for value in loop.graph.input] == ["noise_", "noise"]
    (found,) = session(loop).run(None, {"noise_": noise_of(), "noise": LABELS})
    np.testing.assert_allclose(found, reference(network_of(), tableau_of(), noise_of(), "v"), atol=1e-5, rtol=0)


def run_export(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)])


def test_weights_in_a_file_beside_the_network(tmp_path: Path) -> None:
    """Beside it they are shared, elsewhere put in."""
    (tmp_path / "other").mkdir()
    held, network = tmp_path / "held.json", tmp_path / "net.onnx"
    dode.TableauSet.of([tableau_of(3), tableau_of(4)]).save(held)
    onnx.save(network_of(), network, save_as_external_data=True, location="net.data", size_threshold=64)
    options = [held, "--to", "onnx", "--network", network, "--prediction", "v", "--nfe", 4, "--out"]
    for out in (tmp_path / "loop.onnx", tmp_path / "other" / "loop.onnx"):
        done = run_export(*options, out)
        assert done.exit_code == 0, done.output
        assert "takes noise, label, gives samples" in " ".join(done.output.split())
        (found,) = session(out).run(None, {"noise": noise_of(), "label": LABELS})
        np.testing.assert_allclose(found, reference(network_of(), tableau_of(), noise_of(), "v"), atol=1e-5, rtol=0)
    beside, alone = (
        onnx.load(out, load_external_data=False) for out in (tmp_path / "loop.onnx", tmp_path / "other" / "loop.onnx")
    )
    places = [
        [tensor.data_location for tensor in model.graph.initializer if tensor.name == "table"] for model in (beside, alone)
    ]
    assert places == [[TensorProto.EXTERNAL], [TensorProto.DEFAULT]]
    (tmp_path / "net.data").unlink()
    with pytest.raises(FileNotFoundError, match="has its weights in files beside it, which cannot be read"):
        to_onnx(tableau_of(), network, prediction="v")


class Net(nn.Module):
    """A convolution with time and classes."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.classes = nn.Conv2d(4, 4, 3, padding=1), nn.Embedding(6, 4)

    def forward(self, x: Tensor, t: Tensor, class_labels: Tensor) -> Tensor:
        return torch.tanh(self.convolution(x) + (self.classes(class_labels) + t[:, None] / 1000)[:, :, None, None])


def test_a_network_that_pytorch_exports(tmp_path: Path) -> None:
    """With its weights in a file of their own, and for batches of any size."""
    net, batch = Net().eval(), {0: torch.export.Dim("batch")}
    given = (torch.randn(2, 4, 8, 8), torch.rand(2), torch.tensor([0, 1]))
    torch.onnx.export(net, given, tmp_path / "net.onnx", dynamo=True, verbose=False, dynamic_shapes=(batch,) * 3)
    denoiser, tableau = dode.Denoiser(net, SCHEDULE, "v"), tableau_of(3)
    noise = noise_of(shape=(3, 4, 8, 8))
    model = to_onnx(tableau, tmp_path / "net.onnx", prediction="v")
    (found,) = session(model).run(None, {"noise": noise, "class_labels": LABELS})
    want = dode.sample(denoiser, tableau, torch.from_numpy(noise), class_labels=torch.from_numpy(LABELS)).numpy()
    np.testing.assert_allclose(found, want, atol=1e-5, rtol=0)


def without_shape() -> onnx.ModelProto:
    model = network_of()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    return model


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no shape": (
        lambda: to_onnx(tableau_of(), without_shape(), prediction="v"),
        "does not state the shape of its input sample",
    ),
    "opset": (lambda: to_onnx(tableau_of(), network_of(opset=11), prediction="v"), "has the opset 11, and 13 to .* are taken"),
    "inputs": (
        lambda: to_onnx(tableau_of(), network_of(), prediction="v", inputs=["x", "timestep"]),
        r"no input 'x': it has sample \(float: batch, 4\)",
    ),
    "one input": (lambda: to_onnx(tableau_of(), network_of(), prediction="v", inputs=["sample"]), "takes two names"),
    "the wrong ones": (
        lambda: to_onnx(tableau_of(), network_of(), prediction="v", inputs=["label", "timestep"]),
        r"label \(int64: batch\) is no sample",
    ),
    "a time of the sample's shape": (
        lambda: to_onnx(tableau_of(), network_of(time="float[batch, n]"), prediction="v"),
        "is no time",
    ),
    "output": (
        lambda: to_onnx(tableau_of(), network_of(out="float[batch, 8]"), prediction="v"),
        r"output out \(float: batch, 8\) has not the shape of its sample",
    ),
    "upwards": (
        lambda: to_onnx(dode.solver("ddim").tableau(SCHEDULE, 3, reverse=True), network_of(), prediction="v"),
        "runs upwards",
    ),
    "mean": (lambda: to_onnx(tableau_of(first="mean"), network_of(), prediction="v"), "mean for each condition"),
    "another mean": (
        lambda: to_onnx(tableau_of(first="mean", mean=np.zeros(3)), network_of(), prediction="v"),
        r"a mean of shape \(3,\), the network takes samples of shape \(4,\)",
    ),
    "dtype": (lambda: to_onnx(tableau_of(), prediction="v", dtype="float16"), 'dtype must be "float32" or "float64"'),
    "prediction": (lambda: to_onnx(tableau_of(), network_of()), "does not say what its network gives"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_is_refused_in_one_line(name: str) -> None:
    made, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        made()
    assert "\n" not in str(caught.value)


def test_the_command_refuses_what_is_no_network(tmp_path: Path) -> None:
    held, network, out = (tmp_path / name for name in ("held.json", "net.onnx", "loop.onnx"))
    tableau_of().save(held)
    network.write_bytes(b"no network at all")
    options = [held, "--to", "onnx", "--prediction", "v"]
    for arguments, message in (
        ([*options, "--network", network, "--out", out], "is no ONNX file"),
        ([*options, "--network", tmp_path / "none.onnx", "--out", out], "none.onnx does not exist"),
        (options, "name it with --out"),
        ([*options, "--inputs", "x,t", "--out", out], "--inputs are those of a network"),
    ):
        done = run_export(*arguments)
        assert message in str(done.exception)
    assert not out.exists()
