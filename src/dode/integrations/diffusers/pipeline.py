"""Distilling inside a pipeline: its evaluations are those of a network (see `driver`), and the tables know what they were fitted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from dode.denoisers import Denoiser
from dode.distillation import Distilled, DistilledSet
from dode.integrations.diffusers.driver import PipelineNetwork, drive
from dode.integrations.diffusers.setting import FITTED_FOR
from dode.notes import add_note

Made = Distilled | DistilledSet


@contextmanager
def distilling(pipe: Any, **asked: Any) -> Iterator[tuple[Denoiser, dict[str, Any], Callable[[Made], Made]]]:
    """What a distillation asks in a pipeline's place, its condition and other options, and what completes its result; arguments and errors
    as `drive`."""
    with drive(pipe, **asked) as (denoiser, cond):
        network: PipelineNetwork = denoiser.net  # type: ignore[assignment]
        try:
            yield denoiser, {"firsts": network.firsts, **cond}, lambda made: _fitted(made, network)
        except FloatingPointError as error:
            if network.failure:
                add_note(error, network.failure)
            raise


def _fitted(made: Made, network: PipelineNetwork) -> Made:
    """The result with what it was fitted for in its tableaux."""
    if isinstance(made, DistilledSet):
        return DistilledSet(tuple(_with_setting(result, network) for result in made))
    return _with_setting(made, network)


def _with_setting(made: Distilled, network: PipelineNetwork) -> Distilled:
    setting = network.setting | {"samples": made.settings["samples"]}
    boundary = network.boundary
    if boundary is not None:
        above = int((made.tableau.times[:-1] >= boundary).sum())
        setting |= {"boundary": boundary, "calls": [above, made.tableau.nfe - above]}
    return replace(made, tableau=made.tableau.with_meta(**{FITTED_FOR: setting}))
