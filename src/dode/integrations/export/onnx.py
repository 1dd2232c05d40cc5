"""ONNX graphs of a tableau: one step, for programs that ask the network themselves; or the whole run, for a network in ONNX."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dode
from dode.foreign import first_line, printable
from dode.integrations.export.steps import prediction_of
from dode.tableaux import TableauSet

try:
    import onnx
    from onnx.external_data_helper import uses_external_data
except ImportError as error:
    raise ImportError("exports to ONNX need onnx: pip install dode[onnx]") from error

from dode.integrations.export.onnx_loop import loop_model
from dode.integrations.export.onnx_network import read_network
from dode.integrations.export.onnx_step import step_model

if TYPE_CHECKING:
    from onnx import ModelProto

# What a protobuf message, and so a file without files beside it, may hold.
_LARGEST = 2**31 - 1


def to_onnx(
    tableau: Any,
    network: str | Path | ModelProto | None = None,
    *,
    nfe: int | None = None,
    prediction: str | None = None,
    inputs: Sequence[str] | None = None,
    shape: Sequence[int] | None = None,
    dtype: str = "float32",
    embed: bool = True,
) -> ModelProto:
    """A tableau as an ONNX model.

    Without a network: one step, with the number of the step as an input; see `dode.integrations.export.onnx_step`. With a network: the
    whole run from `noise` to `samples`, with the network's other inputs by their own names; its weights are in it once, however many calls
    there are, and what depends on neither sample nor time is done once.

        onnx.save(to_onnx(result, "net.onnx"), "loop.onnx")
        session = onnxruntime.InferenceSession("loop.onnx")
        (samples,) = session.run(None, {"noise": noise, "class_labels": labels})

    Args:
        tableau: a `Tableau`, a result of `dode.distill`, or a set of them, of which `nfe` names one.
        network: a file, or what `onnx.load` gives: a network of a sample (batch, *shape) and a time, () or (batch,), with its shape stated,
            which gives the prediction as its first output. Batch and sizes may be symbolic.
        nfe: the number of network evaluations, where there are several.
        prediction: what the network gives; by default what the tableau was distilled for.
        inputs: the names of the sample and of the time among the network's inputs. By default those with usual names (x, sample, ...; t,
            timestep, ...), or else the first and the second.
        shape: of one sample, for one step; a flat one of any size if None.
        dtype: of the states, for one step: "float32" or "float64". With a network they have that of its sample, float32 for half precision.
        embed: put weights into the model that the network keeps in files of its own. Else they stay where they are, and the model must be
            saved into the network's folder, which serves networks of more than 2 GB.

    Raises:
        ImportError: onnx is not installed.
        FileNotFoundError: no such network, or its weights are missing.
        ValueError: a network that cannot be used: without a stated shape, with an opset out of range, with inputs that cannot be told; a
            model of more than 2 GB; whole times; or a tableau that cannot be exported, see `to_python`.
    """
    picked = TableauSet.of(tableau).pick(nfe)
    given = prediction_of(picked, prediction)
    if network is None:
        model = step_model(picked, given, shape, dtype)
    else:
        model = loop_model(picked, given, read_network(network, inputs, embed=embed))
    model.producer_name, model.producer_version = "dode", dode.__version__
    model.doc_string = f"{printable(picked.title)}, schedule {printable(picked.schedule)}, for a network that predicts {given}"
    if model.ByteSize() > _LARGEST:
        raise ValueError(
            "the model would be larger than 2 GB, which an ONNX file cannot be: keep the network's weights in a file of their own "
            "(external data) and save into that folder with embed=False"
        )
    _check(model)
    return model


def _check(model: ModelProto) -> None:
    """Raise ValueError where onnx does not take a model whose weights are all in it."""
    if any(uses_external_data(tensor) for tensor in model.graph.initializer):
        return
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ValueError(
            f"onnx does not take the graph that the network's makes ({first_line(error)}): check the network's file"
        ) from None
