"""What the words of the command line mean: solvers, grids, numbers, labels, guidance."""

from __future__ import annotations

from typing import Any

_PRECISIONS = ("float32", "float16", "bfloat16")


def method_of(effort: str, paper: bool) -> dict[str, Any]:
    from dode.distillation.effort import PAPER, effort_of

    effort_of(effort)
    return PAPER if paper else {"effort": effort}


def solver_of(name: str, options: list[str] | None) -> Any:
    from dode.solvers import solver

    values = {}
    for text in options or []:
        key, separator, value = text.partition("=")
        if not separator:
            raise ValueError(f"an option of the solver is written NAME=VALUE, got {text!r}")
        values[key.strip()] = _value(value.strip())
    return solver(name, **values)


def grid_of(text: str | None) -> Any:
    """A grid by name, or times; None where nothing is said."""
    from dode.grids import family

    if text is None:
        return None
    if "," not in text:
        return family(text)
    try:
        return [float(t) for t in text.split(",")]
    except ValueError:
        raise ValueError(f"--grid takes a name or times separated by commas, got {text!r}") from None


def guidance_of(
    scale: str | None, interval: str | None, rescale: float | None, *, by_evaluation: bool = False
) -> dict[str, Any]:
    """The options of `Denoiser` that guide it; None where they are not given."""
    from dode.guidance import Interval

    scales = [] if scale is None else _numbers(scale, "--guidance-scale")
    if len(scales) > 1 and not by_evaluation:
        raise ValueError(f"--guidance-scale takes one number here, as runs of several lengths are made, got {scale!r}")
    found: Any = (scales[0] if len(scales) == 1 else scales) if scales else None
    if interval is not None:
        bounds = _numbers(interval, "--guidance-interval")
        if len(bounds) != 2 or len(scales) != 1:
            raise ValueError(f"--guidance-interval takes LO,HI beside a --guidance-scale of one number, got {interval!r}")
        found = Interval(scales[0], *bounds)
    return {"guidance_scale": found, "guidance_rescale": rescale}


def names_of(text: str | None, what: str) -> list[str]:
    """Names separated by commas; none where nothing is said."""
    names = [] if text is None else [name.strip() for name in text.split(",")]
    if not all(names):
        raise ValueError(f"{what} takes names separated by commas, got {text!r}")
    return names


def budgets_of(text: str) -> list[int]:
    """Different numbers of evaluations, fewest first."""
    try:
        found = integers(text, "--nfe")
    except ValueError as error:
        raise ValueError(f"Invalid value for '--nfe': {error}") from None
    if min(found) < 1:
        raise ValueError(f"nfe must be at least 1, got {min(found)}")
    if len(set(found)) < len(found):
        raise ValueError(f"--nfe has a number twice: {text}")
    return sorted(found)


def integers(text: str, what: str) -> list[int]:
    """Whole numbers and ranges separated by commas, e.g. 0,5-9."""
    numbers: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.strip().partition("-")
            numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise ValueError(f"{what} takes whole numbers separated by commas, got {text!r}") from None
    if not numbers:
        raise ValueError(f"{what} is empty: {text!r}")
    return numbers


def precision_of(name: str | None) -> str | None:
    from dode.names import unknown_name

    if name is not None and name not in _PRECISIONS:
        raise unknown_name("--dtype", name, _PRECISIONS)
    return name


def labels_of(classes: str | None) -> list[int] | None:
    return None if classes is None else integers(classes, "--classes")


def axis_values(texts: list[str] | None) -> dict[str, Any]:
    """Values of axes of a study, written AXIS=V,V,...; all but the guidance scales are whole numbers."""
    found: dict[str, Any] = {}
    for text in texts or []:
        axis, separator, listed = (part.strip() for part in text.partition("="))
        if not separator:
            raise ValueError(f"--values takes AXIS=V,V,..., got {text!r}")
        if axis == "classes":
            found[axis] = [name.strip() for name in listed.split(",")]
        elif axis == "guidance":
            try:
                found[axis] = [float(value) for value in listed.split(",")]
            except ValueError:
                raise ValueError(f"--values guidance takes numbers separated by commas, got {listed!r}") from None
        else:
            found[axis] = integers(listed, f"--values {axis}")
    return found


def _numbers(text: str, what: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise ValueError(f"{what} takes numbers separated by commas, got {text!r}") from None


def _value(text: str) -> Any:
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
