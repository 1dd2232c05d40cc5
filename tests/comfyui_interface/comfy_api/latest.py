"""The declarations of nodes, V3: what is declared is kept, and nothing else is done with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any


class _Slot:
    def __init__(self, id: str | None = None, *, optional: bool = False, **declared: Any) -> None:
        self.id, self.optional, self.declared = id, optional, declared


def _kind(name: str) -> type:
    return type(
        name, (), {"io_type": name.upper(), "Input": type("Input", (_Slot,), {}), "Output": type("Output", (_Slot,), {})}
    )


@dataclass
class _Schema:
    node_id: str
    display_name: str | None = None
    category: str = "sd"
    description: str = ""
    inputs: list[_Slot] = field(default_factory=list)
    outputs: list[_Slot] = field(default_factory=list)


class _ComfyNode(ABC):
    @classmethod
    @abstractmethod
    def define_schema(cls) -> _Schema: ...

    @classmethod
    @abstractmethod
    def execute(cls, **inputs: Any) -> _NodeOutput: ...


class _NodeOutput:
    def __init__(self, *args: Any) -> None:
        self.args = args


class io:
    Schema, ComfyNode, NodeOutput = _Schema, _ComfyNode, _NodeOutput
    Combo, Model, Sampler, Sigmas = map(_kind, ("Combo", "Model", "Sampler", "Sigmas"))


class ComfyExtension(ABC):
    @abstractmethod
    async def get_node_list(self) -> list[type[_ComfyNode]]: ...
