"""One step of a tableau as an ONNX graph, for programs that ask the network themselves.

The graph knows all steps; which one it is comes as an input. With H old values that the tableau looks back to:

    inputs    step: () int64, 0 .. NFE      state, output: (batch, *shape)      history: (H, batch, *shape)
    outputs   next_state: (batch, *shape)   next_time: ()                       next_history: (H, batch, *shape)

    state, output, history = noise, zeros, zeros
    for step in 0 .. NFE:
        if step > 0: output = network(state, time)
        state, time, history = graph(step, state, output, history)

Step 0 makes the first state from the noise. A network of the prediction "edm" is asked with `next_input`, next_state / alpha, a further
output. The next state is sum_i C[step, i] V_i over the values V = (state, output, *history): one table C, one row of it a step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from dode.integrations.export.steps import steps_of
from dode.schedules import Array
from dode.tableau import Tableau

if TYPE_CHECKING:
    from onnx import ModelProto

# The lowest opset that has all that is used here, and that current runtimes take.
_OPSET = 17
_IR = 8


def step_model(tableau: Tableau, prediction: str, shape: Sequence[int] | None = None, dtype: str = "float32") -> ModelProto:
    """The graph.

    Args:
        tableau, prediction: see `steps_of`.
        shape: of one sample; flat, of any size, if None.
        dtype: of states: "float32" or "float64".

    Raises:
        ValueError: another dtype, a shape that is not that of the stored mean, or as `steps_of`.
    """
    from onnx import TensorProto, helper, numpy_helper

    if dtype not in ("float32", "float64"):
        raise ValueError(f'dtype must be "float32" or "float64", got {dtype!r}: half precision loses what a step adds')
    if tableau.mean is not None:
        if shape is not None and tuple(shape) != tableau.mean.shape:
            raise ValueError(f"the tableau keeps a mean of shape {tableau.mean.shape}, got the shape {tuple(shape)}")
        shape = tableau.mean.shape
    dims: list[int | str] = ["batch", *(["size"] if shape is None else map(int, shape))]
    table = _table(tableau, prediction)
    state = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    history = [table.kept, *dims]
    as_row = (-1, *[1] * len(dims))
    constants = {
        "coefficients": table.coefficients.reshape(len(table.coefficients), *as_row),
        "times": table.times,
        "zero": np.array([0]),
        "kept": np.array([table.kept]),
    }
    outputs = {"next_state": dims, "next_time": [], "next_history": history}
    nodes = [
        helper.make_node("Unsqueeze", ["state", "zero"], ["states"]),
        helper.make_node("Unsqueeze", ["output", "zero"], ["outputs"]),
        helper.make_node("Concat", ["states", "outputs", "history"], ["values"], axis=0),
        helper.make_node("Gather", ["coefficients", "step"], ["row"], axis=0),
        helper.make_node("Mul", ["values", "row"], ["terms"]),
        helper.make_node("ReduceSum", ["terms", "zero"], ["sum"], keepdims=0),
        helper.make_node("Gather", ["times", "step"], ["next_time"], axis=0),
        helper.make_node("Concat", [*(["states"] if table.looks_at_states else []), "outputs", "history"], ["longer"], axis=0),
        helper.make_node("Slice", ["longer", "zero", "kept", "zero"], ["next_history"]),
    ]
    if tableau.mean is None:
        nodes.append(helper.make_node("Identity", ["sum"], ["next_state"]))
    else:
        constants |= {"mean": tableau.mean, "mean_coefficients": table.of_mean.reshape(as_row)}
        nodes += [
            helper.make_node("Gather", ["mean_coefficients", "step"], ["mean_row"], axis=0),
            helper.make_node("Mul", ["mean", "mean_row"], ["mean_term"]),
            helper.make_node("Add", ["sum", "mean_term"], ["next_state"]),
        ]
    if prediction == "edm":
        constants["alphas"] = table.alphas
        nodes += [
            helper.make_node("Gather", ["alphas", "step"], ["alpha"], axis=0),
            helper.make_node("Div", ["next_state", "alpha"], ["next_input"]),
        ]
        outputs["next_input"] = dims
    inputs = [helper.make_tensor_value_info("step", TensorProto.INT64, [])]
    inputs += [
        helper.make_tensor_value_info(name, state, size)
        for name, size in (("state", dims), ("output", dims), ("history", history))
    ]
    graph = helper.make_graph(
        nodes,
        "dode_step",
        inputs,
        [helper.make_tensor_value_info(name, state, size) for name, size in outputs.items()],
        [
            numpy_helper.from_array(array.astype(dtype) if array.dtype == np.float64 else array, name)
            for name, array in constants.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=_IR)


class _Table(NamedTuple):
    """A tableau by what lies how far back.

    Attributes:
        coefficients: (NFE + 1, 2 + H) of the state, the output and the history; row 0 makes the first state that the network is asked for.
        of_mean: (NFE + 1,) the coefficients of a stored mean.
        times, alphas: (NFE + 1,) what the network is asked with after each step; the last ones are those of the result.
        looks_at_states: the history holds pairs of a state and an output, and not outputs alone; the newest first.
    """

    coefficients: Array
    of_mean: Array
    times: Array
    alphas: Array
    looks_at_states: bool

    @property
    def kept(self) -> int:
        """H."""
        return int(self.coefficients.shape[1]) - 2


def _table(tableau: Tableau, prediction: str) -> _Table:
    # A step is a row, but for step 0 where row 0 asks the network.
    ahead = int(tableau.first == "network")
    placed: list[tuple[int, int, int, float]] = [(0, 0, 0, tableau.noise_scale)] if ahead else []
    of_mean = np.zeros(tableau.nfe + 1)
    for k, step in enumerate(steps_of(tableau, prediction)):
        for slot, c in step.terms:
            if slot == 1 and not ahead:
                of_mean[k] = c
            else:
                # Where step 0 is row 0, what it is given as the first state is the noise.
                placed.append((k + ahead, k - slot // 2, slot % 2, c * tableau.noise_scale if slot == 0 and not ahead else c))
    looks_at_states = any(back and not is_output for _, back, is_output, _ in placed)
    width = 1 + looks_at_states
    # At least one old value, so that there is always a history.
    kept = width * max(1, *(back for _, back, _, _ in placed))
    coefficients = np.zeros((tableau.nfe + 1, 2 + kept))
    for step_number, back, is_output, c in placed:
        column = is_output if back == 0 else 2 + width * (back - 1) + is_output * looks_at_states
        coefficients[step_number, column] = c
    points = tableau.points[1 - ahead :]
    times = [point.rho if prediction == "edm" else point.t for point in points]
    return _Table(coefficients, of_mean, np.array(times), np.array([point.alpha for point in points]), looks_at_states)
