"""Reading JSON that others wrote: every failure is one line, and what a file may cost is bounded before it is parsed.

data = read_json(path)                     sizes, nesting, keys that are there twice, huge integers
with failing_as(path):
    found = checked(schemas.DodeJson, data)    types and bounds; the models are in `dode.schemas`
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dode.foreign import brief, printable
from dode.names import unknown_name

if TYPE_CHECKING:
    from pydantic import BaseModel, ValidationError

    Model = TypeVar("Model", bound=BaseModel)

# Bytes of a configuration, and of what has a line for each weight or coefficient.
SMALL, LARGE = 2**20, 2**25
# A number takes 32 bytes in memory, a list, an object or a key up to 300, however short they are in the file.
_VALUES, _PARTS = 2**22, 2**18
_DEEPEST = 64
# Digits of an integer: those of 2^64.
_DIGITS = 20
# Of a message about a file: its path and what is wrong.
_LINE = 500


def read_json(path: Path, most: int = SMALL) -> dict[str, Any]:
    """The object in a JSON file.

    Args:
        path: of the file.
        most: bytes that it may have.

    Raises:
        FileNotFoundError, ValueError: in one line, with the path.
    """
    content = _content(path, most)
    with failing_as(path):
        if len(content) > SMALL and not content.isascii():  # one character beyond it makes all of them four bytes wide
            raise ValueError(f"it has characters beyond ASCII, and more than {SMALL / 2**20:.0f} MB")
        found = parse(content)
        if not isinstance(found, dict):
            raise ValueError(f"it must hold a JSON object, got {type(found).__name__}")
        return found


def read_lines(path: Path, most: int = SMALL) -> list[str]:
    """The lines of a text file in UTF-8, without spaces around them; empty ones and those that begin with # are left out.

    Raises:
        FileNotFoundError, ValueError: in one line, with the path.
    """
    content = _content(path, most)
    with failing_as(path):
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise ValueError(f"it is not UTF-8: {error}") from None
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _content(path: Path, most: int) -> bytes:
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist, or is no file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        with failing_as(path):
            raise ValueError(f"it has more than {most / 2**20:.0f} MB, too many for what it is")
    return content


def parse(content: bytes) -> Any:
    """The value of JSON text.

    Raises:
        ValueError: no JSON, or more of it than its reader should hold.
    """
    try:
        text = content.decode("utf-8")
        if text.count(",") > _VALUES or sum(map(text.count, "[{:")) > _PARTS:
            raise ValueError(f"it has more than {_VALUES:,} values, or {_PARTS:,} lists and keys")
        found = json.loads(text, object_pairs_hook=_unique, parse_int=_integer)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"it is not JSON: {error}") from None
    except RecursionError:
        raise ValueError(_too_deep()) from None
    _check_depth(found)
    return found


def checked(model: type[Model], data: Mapping[str, Any]) -> Model:
    """What was read, by a model of `dode.schemas`.

    Raises:
        ValueError: in one line, what is wrong first.
    """
    from pydantic import ValidationError

    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise _first(error, model) from None


@contextmanager
def failing_as(what: object) -> Iterator[None]:
    """Errors about a file's content as one line that begins with its path."""
    try:
        yield
    except (ValueError, TypeError, ArithmeticError, LookupError) as error:
        text = str(error) or type(error).__name__
        begin = "" if text.startswith(str(what)) else f"{what}: "
        raise ValueError(printable(begin + text, _LINE + len(str(what)))) from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        once = set(found)
        for twice, _ in pairs:
            if twice not in once:
                break
            once.remove(twice)
        raise ValueError(f"it has the key {brief(twice)} twice")
    return found


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"it has an integer of {len(digits)} digits")
    return int(digits)


def _check_depth(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > _DEEPEST:
            raise ValueError(_too_deep())
        parents = (part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list))
        level = [child for parent in parents for child in parent if isinstance(child, dict | list)]
        depth += 1


def _too_deep() -> str:
    return f"it has lists within lists, more than {_DEEPEST} deep"


def _first(error: ValidationError, model: type[BaseModel]) -> ValueError:
    """The first thing that is wrong, as a line."""
    found = error.errors(include_url=False)[0]
    *above, last = found["loc"] or ("",)
    match found["type"]:
        case "missing":
            return ValueError(f"{_place(found['loc'])!r} is missing")
        case "extra_forbidden" if not above:
            return unknown_name("key", str(last), model.model_fields)
        case "value_error":
            message = str(found["ctx"]["error"])
            return ValueError(f"{_place(found['loc'])}: {message}" if found["loc"] else message)
    message = found["msg"].removeprefix("Input ").removeprefix("String ").removeprefix("List ").removeprefix("Dictionary ")
    return ValueError(f"{_place(found['loc'])} {message}, got {brief(found['input'])}".strip())


def _place(loc: tuple[int | str, ...]) -> str:
    """As one would write it in Python: b[1][0], fitting.samples. Where several types are allowed, the one that was tried is left out."""
    parts = [part for part in loc if not str(part).startswith(("constrained-", "list["))]
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in parts)
    return printable(text.removeprefix("."))
