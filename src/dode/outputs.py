"""What networks return: a tensor, an object with it as `.sample`, or a tuple that begins with either."""

from __future__ import annotations

from typing import Any

from torch import Tensor


def tensor_of(returned: Any, name: str = "") -> Tensor:
    """The tensor in what a network returned; `name` is the network's, for the message.

    Raises:
        TypeError: there is none.
    """
    output = returned[0] if isinstance(returned, tuple) and returned else returned
    output = getattr(output, "sample", output)
    if not isinstance(output, Tensor):
        named = f" ({name})" if name else ""
        raise TypeError(
            f"the network{named} must return a tensor of the shape of its input, got {_kind(returned)}: return the tensor, an object with "
            "it as .sample, or a tuple that begins with it"
        )
    return output


def _kind(value: Any) -> str:
    if isinstance(value, tuple):
        return f"a tuple that begins with {_kind(value[0])}" if value else "an empty tuple"
    return "None" if value is None else f"a {type(value).__name__}"
