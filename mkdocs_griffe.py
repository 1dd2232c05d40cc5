"""What the API reference is told of the source: names that share a description, `alphas, sigmas: ...`, are told apart, and a function
that makes its own signature has that one."""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe

# An item of a section: a deeper line belongs to it.
_ITEM = re.compile(r"^(?P<indent> {4})(?P<names>\w+(?:, \w+)+): (?P<text>.*(?:\n {5,}\S.*)*)$", re.MULTILINE)


def told_apart(text: str) -> str:
    """A docstring in which each name has an item of its own, with the same text."""
    return _ITEM.sub(
        lambda item: "\n".join(f"{item['indent']}{name}: {item['text']}" for name in item["names"].split(", ")), text
    )


def signature(function: griffe.Function) -> griffe.Parameters | None:
    """The parameters that a function says it has where that is not what its source says; else None."""
    if not function.module.is_module or function.parent is not function.module:
        return None
    if f"{function.name}.__signature__" not in "\n".join(function.module.lines):
        return None
    made = getattr(importlib.import_module(function.module.path), function.name)
    return griffe.Parameters(*(_parameter(each) for each in inspect.signature(made, eval_str=False).parameters.values()))


def _parameter(each: inspect.Parameter) -> griffe.Parameter:
    kind = griffe.ParameterKind[each.kind.name.lower()]
    annotation, default = (None if given is each.empty else given for given in (each.annotation, each.default))
    default = {"var_positional": "()", "var_keyword": "{}"}.get(
        kind.name, None if each.default is each.empty else repr(default)
    )
    return griffe.Parameter(each.name, annotation=annotation, kind=kind, default=default)


class Reference(griffe.Extension):
    """Applies `told_apart` and `signature` to all that is documented."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = told_apart(obj.docstring.value)

    def on_function(self, *, func: griffe.Function, **kwargs: Any) -> None:
        parameters = signature(func)
        if parameters is not None:
            func.parameters = parameters
