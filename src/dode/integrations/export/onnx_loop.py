"""The whole run of a tableau as one ONNX graph: the network's graph once for each call, its weights once.

    inputs    noise: as the network's sample      and the network's other inputs by their own names
    outputs   samples: as noise

The states have the dtype of the network's sample, float32 where that is half precision, and are added up in the order of `dode.sample`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from dode.foreign import printable
from dode.integrations.export.onnx_network import WHOLE, Network, renamed, sizes
from dode.integrations.export.steps import steps_of
from dode.tableau import Tableau

if TYPE_CHECKING:
    from onnx import ModelProto

    from dode.integrations.export.steps import Step


def loop_model(tableau: Tableau, prediction: str, network: Network) -> ModelProto:
    """The graph.

    Args:
        tableau, prediction: see `steps_of`.
        network: see `read_network`.

    Raises:
        ValueError: the network takes whole times and the tableau has others, a stored mean of another shape, or as `steps_of`.
    """
    loop = _Loop(tableau, network)
    for k, step in enumerate(steps_of(tableau, prediction)):
        loop.step(k, step)
    return loop.model()


class _Loop:
    """The graph as it grows; values in it have the names of the program's slots."""

    def __init__(self, tableau: Tableau, network: Network) -> None:
        self._tableau, self._network = tableau, network
        kind = network.sample.type.tensor_type.elem_type
        self._asked_in = kind
        self._kind = kind if kind in (TensorProto.FLOAT, TensorProto.DOUBLE) else TensorProto.FLOAT
        self._dtype = helper.tensor_dtype_to_np_dtype(self._kind)
        taken = network.names
        self._prefix = "dode/"
        while any(name.startswith(self._prefix) for name in taken):
            self._prefix = "_" + self._prefix
        self._noise, self._samples = _free("noise", taken), _free("samples", taken)
        self._nodes = list(network.once)
        self._constants: list[TensorProto] = []
        self._values = {0: self._add("Mul", [self._noise, self._number("noise_scale", tableau.noise_scale)], "x0")}
        self._batch = ""

    def step(self, k: int, step: Step) -> None:
        """Ask the network, and make the next state."""
        if step.t is not None:
            self._values[2 * k + 1] = self._asked(k, step)
        elif self._tableau.mean is not None:
            self._values[1] = self._mean(self._tableau.mean)
        total = ""
        for i, (slot, c) in enumerate(step.terms):
            term = self._add("Mul", [self._values[slot], self._number(f"c{k}_{i}", c)], f"term{k}_{i}")
            total = self._add("Add", [total, term], f"sum{k}_{i}") if total else term
        self._values[2 * k + 2] = total

    def model(self) -> ModelProto:
        """The whole, with all of the network's model that is not its graph."""
        network, made = self._network, self._network.model
        shape = sizes(network.sample)
        self._nodes.append(helper.make_node("Identity", [self._values[2 * self._tableau.rows]], [self._samples]))
        graph = helper.make_graph(
            self._nodes,
            "dode_loop",
            [helper.make_tensor_value_info(self._noise, self._kind, shape), *network.others],
            [helper.make_tensor_value_info(self._samples, self._kind, shape)],
            [*made.graph.initializer, *self._constants],
            sparse_initializer=made.graph.sparse_initializer,
        )
        graph.quantization_annotation.extend(made.graph.quantization_annotation)
        model = helper.make_model(graph, opset_imports=made.opset_import, functions=made.functions, ir_version=made.ir_version)
        model.metadata_props.extend(made.metadata_props)
        return model

    def _asked(self, k: int, step: Step) -> str:
        """The network's output for x_k, in the dtype of the states."""
        assert step.t is not None
        network, prefix = self._network, f"{self._prefix}call{k}/"
        x = self._values[2 * k]
        if step.alpha != 1:
            x = self._add("Div", [x, self._number(f"alpha{k}", step.alpha)], f"scaled{k}")
        if self._asked_in != self._kind:
            x = self._add("Cast", [x], f"given{k}", to=self._asked_in)
        names = {name: prefix + name for name in network.made_anew}
        names |= {network.sample.name: x, network.time.name: self._time(k, step.t)}
        self._nodes += [renamed(node, names, prefix) for node in network.anew]
        output = names[network.output.name]
        if network.output.type.tensor_type.elem_type != self._kind:
            output = self._add("Cast", [output], f"n{k}", to=self._kind)
        return output

    def _time(self, k: int, t: float) -> str:
        """The time in the dtype and shape that the network takes."""
        time = self._network.time
        kind, shape = time.type.tensor_type.elem_type, sizes(time)
        if kind in WHOLE and t != round(t):
            raise ValueError(
                f"the network takes whole times only ({printable(time.name)} has integers), and the tableau asks at t = {t:g}: distil "
                "with integer_times=True in the Denoiser, or export the network with a floating-point time"
            )
        fixed = [size if isinstance(size, int) else 1 for size in shape]
        full = np.full(fixed, t, helper.tensor_dtype_to_np_dtype(kind))
        constant = self._constant(f"t{k}", full, kind)
        if fixed == shape:
            return constant
        if not self._batch:
            sample_shape = self._add("Shape", [self._noise], "noise_shape")
            bounds = [self._constant("first", np.array([0])), self._constant("second", np.array([1]))]
            self._batch = self._add("Slice", [sample_shape, *bounds], "batch")
            if len(shape) > 1:
                rest = self._constant("time_shape", np.array(shape[1:], np.int64))
                self._batch = self._add("Concat", [self._batch, rest], "times_shape", axis=0)
        return self._add("Expand", [constant, self._batch], f"times{k}")

    def _mean(self, mean: np.ndarray) -> str:
        shape = sizes(self._network.sample)[1:]
        if len(shape) != mean.ndim or any(
            isinstance(size, int) and size != n for size, n in zip(shape, mean.shape, strict=True)
        ):
            raise ValueError(
                f"the tableau keeps a mean of shape {mean.shape}, the network takes samples of shape {tuple(shape)}"
            )
        constant = self._constant("mean", mean.astype(self._dtype))
        return self._add("Expand", [constant, self._add("Shape", [self._noise], "shape")], "n0")

    def _add(self, operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> str:
        name = self._prefix + name
        self._nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def _number(self, name: str, value: float) -> str:
        return self._constant(name, np.array(value, self._dtype))

    def _constant(self, name: str, array: np.ndarray, kind: int | None = None) -> str:
        name = self._prefix + name
        tensor = numpy_helper.from_array(array, name)
        self._constants.append(tensor)
        return name


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    return name
