"""An ONNX network as a loop uses it: which of its inputs are the sample and the time, and what of its graph a call has to do anew.

What depends on neither the sample nor the time, weights and the embedding of a class among it, is the same in every call of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto

from dode.foreign import brief, first_line, printable

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, ValueInfoProto

SAMPLES = ("x", "sample", "x_t", "latents", "latent", "hidden_states")
TIMES = ("t", "timestep", "timesteps", "time", "sigma", "noise_labels")
# The lowest opset whose operators have the form that the loop's own have.
_OPSET = 13
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
WHOLE = (TensorProto.INT64, TensorProto.INT32)
_NAMING = "name them with inputs (--inputs SAMPLE,TIME)"


@dataclass(frozen=True)
class Network:
    """A network for the loop.

    Attributes:
        model: what was read.
        sample, time: its inputs of that meaning.
        others: its other inputs.
        output: its first output.
        once: nodes that one run needs once, in order.
        anew: nodes of every call, in order.
        made_anew: the names of what depends on the sample or the time.
    """

    model: ModelProto
    sample: ValueInfoProto
    time: ValueInfoProto
    others: tuple[ValueInfoProto, ...]
    output: ValueInfoProto
    once: tuple[NodeProto, ...]
    anew: tuple[NodeProto, ...]
    made_anew: frozenset[str]

    @property
    def names(self) -> set[str]:
        """All names of values in the graph, but those inside of subgraphs."""
        graph = self.model.graph
        made = {name for node in graph.node for name in node.output}
        return made | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}


def read_network(given: str | Path | ModelProto, inputs: Sequence[str] | None = None, *, embed: bool = True) -> Network:
    """A network, after the checks that a loop rests on.

    Args:
        given: a file, or what `onnx.load` gives.
        inputs: the names of the sample and of the time, where they are not found.
        embed: read weights that are in files of their own too.

    Raises:
        FileNotFoundError: no such file, or one of its weights'.
        ValueError: no ONNX, inputs that cannot be told or cannot be those of a network, no stated shape, or an opset out of range.
    """
    model = given if isinstance(given, onnx.ModelProto) else _loaded(Path(given), embed)
    _check_opset(model)
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer} | {tensor.values.name for tensor in graph.sparse_initializer}
    free = [value for value in graph.input if value.name not in constants]
    sample, time = _roles(free, inputs)
    if not graph.output:
        raise ValueError("the ONNX network has no output")
    output = graph.output[0]
    _check_sample(sample, output)
    _check_time(time)
    moving = {sample.name, time.name}
    once, anew = [], []
    for node in graph.node:
        if moving.isdisjoint(_reads(node)):
            once.append(node)
        else:
            anew.append(node)
            moving.update(filter(None, node.output))
    if output.name not in moving:
        raise ValueError(
            f"the network's first output, {printable(output.name)}, depends on neither its sample nor its time: {_NAMING}"
        )
    others = tuple(value for value in free if value not in (sample, time))
    return Network(model, sample, time, others, output, tuple(once), tuple(anew), frozenset(moving))


def renamed(node: NodeProto, names: Mapping[str, str], prefix: str) -> NodeProto:
    """A copy of a node of every call, its values by other names, in its subgraphs too."""
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    # An exporter's notes, such as the lines that made a node, are not needed in each copy.
    copy.ClearField("metadata_props")
    copy.ClearField("doc_string")
    copy.name = prefix + node.name if node.name else ""
    _rename_inputs(copy, names)
    copy.output[:] = [names.get(name, name) for name in node.output]
    return copy


def sizes(value: ValueInfoProto) -> list[int | str]:
    """The stated dimensions: numbers, or names ("" where nothing is said)."""
    return [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in value.type.tensor_type.shape.dim]


def _rename_inputs(node: NodeProto, names: Mapping[str, str]) -> None:
    node.input[:] = [names.get(name, name) for name in node.input]
    for graph in _subgraphs(node):
        for inner in graph.node:
            _rename_inputs(inner, names)
        for output in graph.output:
            output.name = names.get(output.name, output.name)


def _reads(node: NodeProto) -> Iterator[str]:
    """The names that a node takes, those that its subgraphs take from around them among them."""
    yield from node.input
    for graph in _subgraphs(node):
        for inner in graph.node:
            yield from _reads(inner)
        yield from (output.name for output in graph.output)


def _subgraphs(node: NodeProto) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield attribute.g
        yield from attribute.graphs


def _loaded(path: Path, embed: bool) -> ModelProto:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is no file: name the network's .onnx file")
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:  # protobuf's own
        raise ValueError(f"{path} is no ONNX file ({first_line(error)})") from None
    if not model.graph.node:
        raise ValueError(f"{path} is no ONNX file, or has an empty graph")
    if embed:
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise FileNotFoundError(
                f"{path} has its weights in files beside it, which cannot be read ({first_line(error)}): keep them together"
            ) from None
    return model


def _check_opset(model: ModelProto) -> None:
    found = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), None)
    newest = onnx.defs.onnx_opset_version()
    if found is None or not _OPSET <= found <= newest:
        raise ValueError(
            f"the network has the opset {found}, and {_OPSET} to {newest} are taken: export it with another one, or convert it with "
            "onnx.version_converter.convert_version"
        )


def _roles(free: Sequence[ValueInfoProto], given: Sequence[str] | None) -> tuple[ValueInfoProto, ValueInfoProto]:
    """The sample and the time: as named, by their usual names, or else the first and the second input."""
    by_name = {value.name: value for value in free}
    listed = ", ".join(f"{printable(name)} {_described(value)}" for name, value in by_name.items()) or "none"
    if given is not None:
        names = list(given)
        if len(names) != 2 or names[0] == names[1]:
            raise ValueError(f"inputs takes two names, of the sample and of the time, got {brief(names)}")
        for name in names:
            if name not in by_name:
                raise ValueError(f"the network has no input {brief(name)}: it has {listed}")
        return by_name[names[0]], by_name[names[1]]
    if len(free) < 2:
        raise ValueError(f"a network needs an input for the sample and one for the time, this one has {listed}")
    sample = next((by_name[name] for name in SAMPLES if name in by_name), None)
    time = next((by_name[name] for name in TIMES if name in by_name), None)
    rest = [value for value in free if value not in (sample, time)]
    sample = rest.pop(0) if sample is None else sample
    return sample, rest.pop(0) if time is None else time


def _check_sample(sample: ValueInfoProto, output: ValueInfoProto) -> None:
    name = printable(sample.name)
    if sample.type.tensor_type.elem_type not in FLOATS:
        raise ValueError(f"the input {name} {_described(sample)} is no sample, which has floating-point numbers: {_NAMING}")
    if not sample.type.tensor_type.HasField("shape"):
        raise ValueError(
            f"the network does not state the shape of its input {name}: export it with one, the batch alone by name (see "
            "dynamic_shapes of torch.onnx.export), or set it with onnx.tools.update_model_dims"
        )
    if len(sizes(sample)) < 2:
        raise ValueError(f"the input {name} {_described(sample)} is no sample, (batch, *shape): {_NAMING}")
    if output.type.tensor_type.elem_type not in FLOATS:
        raise ValueError(f"the network's output {printable(output.name)} {_described(output)} has no floating-point numbers")
    if not output.type.tensor_type.HasField("shape"):
        return
    given, taken = sizes(output), sizes(sample)
    if len(given) != len(taken) or any(
        one != other for one, other in zip(given, taken, strict=True) if isinstance(one, int) and isinstance(other, int)
    ):
        raise ValueError(
            f"the network's output {printable(output.name)} {_described(output)} has not the shape of its sample {name} "
            f"{_described(sample)}: {_NAMING}, or export the part of the output that is the prediction alone (a learned variance is none)"
        )


def _check_time(time: ValueInfoProto) -> None:
    kind, dims = time.type.tensor_type, sizes(time)
    symbolic_inside = any(isinstance(size, str) for size in dims[1:])
    if kind.elem_type not in (*FLOATS, *WHOLE) or not kind.HasField("shape") or symbolic_inside or len(dims) > 2:
        raise ValueError(f"the input {printable(time.name)} {_described(time)} is no time, () or (batch,) numbers: {_NAMING}")


def _described(value: ValueInfoProto) -> str:
    """Kind and shape, for people."""
    kind = value.type.tensor_type
    known = TensorProto.DataType.Name(kind.elem_type).lower() if kind.elem_type in TensorProto.DataType.values() else "?"
    shape = ", ".join(printable(size or "?", 40) for size in sizes(value)) if kind.HasField("shape") else "shape not stated"
    return f"({known}: {shape})"
