"""A view as HTML: one sentence, three columns of numbers, and a card for each noise with its pictures side by side."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image
from torch import Tensor

from dode.images import to_grid
from dode.serve.bench import Figures, Run, View
from dode.serve.subjects import IN_TURN

# By how much differences are magnified, and the side to which large pictures are brought; small ones keep their pixels.
GAIN = 2.0
_SIDE = 320
_SMALL = 96


def view_html(view: View, *, differences: bool = False) -> str:
    """All of a view.

    Args:
        view: from `Bench.show`.
        differences: whether a second row of pictures has the differences to the reference.
    """
    runs = {"base": view.base, "distilled": view.distilled, "reference": view.reference}
    figures = {name: view.figures(run) for name, run in runs.items() if name != "reference"}
    columns = "".join(_column(name, run, figures.get(name), view) for name, run in runs.items())
    cards = "".join(_card(view, runs, figures, i, differences) for i in range(len(view.names)))
    said = [f"Differences are {GAIN:g} times as strong as they are; grey is none."] if differences else []
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in (*view.notes, *said))
    return (
        f'<div class="dode"><p class="verdict" role="status">{escape(verdict(view))}</p>{notes}'
        f'<div class="columns">{columns}</div><ol class="cards">{cards}</ol></div>'
    )


def message_html(message: str) -> str:
    """What was wrong with the input; nothing for ""."""
    return f'<p class="dode-message" role="alert">{escape(message)}</p>' if message else ""


def verdict(view: View) -> str:
    """What the numbers say, and no more."""
    base, distilled = view.figures(view.base), view.figures(view.distilled)
    calls = view.settings.nfe
    if view.reference.failure:
        return "There is no reference to measure against: the pictures alone can be compared."
    if view.reference.states is None:
        return f"The reference is being made, in {view.reference.nfe} calls; the others are there."
    if base is None or distilled is None:
        return f"Nothing to compare at {_calls(calls)}: one of the two is missing, and says why."
    share = distilled.errors.mean() / base.errors.mean() if base.errors.mean() > 0 else np.inf
    nearer = int((distilled.errors < base.errors).sum())
    samples = len(base.errors)
    how = (
        f"the distilled solver ends {1 / share:.2g} times nearer to the reference than the base"
        if share < 1
        else f"the distilled solver is no nearer to the reference than the base ({share:.2g} times its error)"
    )
    return f"With {_calls(calls)} {how}, in mean square distance; it is the nearer one for {nearer} of {samples} noises."


def _column(name: str, run: Run, figures: Figures | None, view: View) -> str:
    head = f'<h3>{name.capitalize()}</h3><p class="what">{escape(run.title)}{f" · {_calls(run.nfe)}" if run.nfe else ""}</p>'
    if run.failure:
        body = f'<p class="failure">{escape(run.failure)}</p>'
    elif run.states is None:
        body = '<p class="pending">on its way …</p>'
    elif figures is None:
        waits = "" if name == "reference" else '<p class="pending">error: when the reference is there</p>'
        body = f"{waits}<dl>{_row('time', _seconds(run.seconds))}</dl>"
    else:
        errors = figures.errors
        rows = (
            _row("error", _number(errors.mean()), "strong"),
            _row("median", _number(float(np.median(errors)))),
            _row("best, worst", f"{_number(errors.min())}, {_number(errors.max())}"),
            _row("PSNR", f"{figures.psnr:.1f} dB"),
            _row("time", _seconds(run.seconds)),
        )
        body = f"<dl>{''.join(rows)}</dl>"
    return f'<section class="{name}" aria-label="{name}">{head}{body}</section>'


def _row(name: str, value: str, kind: str = "") -> str:
    return f'<div class="{kind}"><dt>{name}</dt><dd>{value}</dd></div>'


def _card(view: View, runs: dict[str, Run], figures: dict[str, Figures | None], i: int, differences: bool) -> str:
    asked = "" if view.settings.choice != IN_TURN and view.names[i] == view.settings.choice else view.names[i]
    title = f"noise {i + 1}" + (f" · {asked}" if asked else "")
    tiles = []
    for name, run in runs.items():
        found = figures.get(name)
        caption = name if found is None else f'{name} <span class="error">{_number(found.errors[i])}</span>'
        tiles.append(_tile(None if run.pictures is None else run.pictures[i], f"{title}, {name}, {_calls(run.nfe)}", caption))
    if differences:
        for name, run in runs.items():
            if name != "reference":
                difference = _difference(run, view.reference, i)
                tiles.append(_tile(difference, f"{title}, {name} minus reference", "difference"))
        tiles.append("<figure></figure>")
    return f'<li><h4>{escape(title)}</h4><div class="tiles">{"".join(tiles)}</div></li>'


def _difference(run: Run, reference: Run, i: int) -> Tensor | None:
    if run.pictures is None or reference.pictures is None:
        return None
    # Half of it has the range of a picture.
    return (run.pictures[i].clamp(-1, 1) - reference.pictures[i].clamp(-1, 1)) * (GAIN / 2)


def _tile(picture: Tensor | None, alt: str, caption: str) -> str:
    if picture is None:
        shown = '<div class="blank"></div>'
    else:
        small = "small" if picture.shape[-1] <= _SMALL else "large"
        shown = f'<img class="{small}" src="{_source(picture)}" alt="{escape(alt, quote=True)}">'
    return f"<figure>{shown}<figcaption>{caption}</figcaption></figure>"


def _source(picture: Tensor) -> str:
    """A picture, (1 or 3, height, width), as an address that holds it."""
    image = to_grid(picture[None], 1)
    buffer = io.BytesIO()
    if max(image.size) <= _SMALL:
        image.save(buffer, "png")
        kind = "png"
    else:
        image.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        image.save(buffer, "webp", quality=90)
        kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def distilling_html(lines: Sequence[str], done: float | None = None) -> str:
    """Where a distillation is: words, and a bar where a share of it is done."""
    bar = "" if done is None else f'<progress max="1" value="{done:.3f}" aria-label="distilling"></progress>'
    return f'<div class="distilling" role="status">{bar}{"".join(f"<p>{escape(line)}</p>" for line in lines)}</div>'


def _calls(count: int) -> str:
    return "1 call" if count == 1 else f"{count} calls"


def _number(value: float) -> str:
    """Three digits, without an exponent where that reads well."""
    if not np.isfinite(value):
        return "infinite"
    return f"{value:.2e}" if 0 < value < 1e-4 else f"{value:#.3g}".removesuffix(".")


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value < 10 else f"{value:.0f} s"
