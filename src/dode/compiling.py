"""Runs that are part of a graph of `torch.compile`: what is no part of the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])


def at_compilation(function: Function) -> Function:
    """A function that is called once, when a run is compiled, with the very objects that it is given; what it returns or raises is the
    graph's for as long as they are the same. Outside of compiled runs nothing changes.

    It is `torch.compiler.assume_constant_result`, which sets the same mark, without the seconds that importing the compiler takes.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
