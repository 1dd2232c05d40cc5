"""Distilling and comparing inside a pipeline: its evaluations are those of a network (see `driver`), and the tables know what they were
fitted for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor

from dode.denoisers import Denoiser
from dode.distillation import Distilled, DistilledSet
from dode.fitted_for import FITTED_FOR
from dode.integrations.diffusers.decoding import decoder_of
from dode.integrations.diffusers.driver import PipelineNetwork, drive
from dode.notes import add_note
from dode.report.making import Subject
from dode.schedules import Flow

Made = Distilled | DistilledSet


@contextmanager
def distilling(pipe: Any, **asked: Any) -> Iterator[tuple[Denoiser, dict[str, Any], Callable[[Made], Made]]]:
    """What a distillation asks in a pipeline's place, its condition and other options, and what completes its result; arguments and errors
    as `drive`."""
    with drive(pipe, **asked) as (denoiser, cond):
        network: PipelineNetwork = denoiser.net  # type: ignore[assignment]
        try:
            # A flow's pipeline hands the noise over as it is, wherever the times begin.
            options = {"firsts": network.firsts, "move_start": not isinstance(denoiser.schedule, Flow)}
            yield denoiser, {**options, **cond}, lambda made: _fitted(made, network)
        except FloatingPointError as error:
            if network.failure:
                add_note(error, network.failure)
            raise


@contextmanager
def comparing(
    pipe: Any,
    *,
    prompts: Sequence[str] | None,
    calls: Sequence[Mapping[str, Any]] | None,
    decode: Callable[[Tensor], Tensor] | None,
    **asked: Any,
) -> Iterator[tuple[Denoiser, dict[str, Any], Subject]]:
    """What a comparison asks in a pipeline's place, its condition, and what is known of its samples; arguments and errors as `drive`."""
    with distilling(pipe, prompts=prompts, calls=calls, **asked) as (denoiser, options, _):
        network: PipelineNetwork = denoiser.net  # type: ignore[assignment]
        planned = {name: options.pop(name) for name in ("firsts", "move_start")}
        call = {name: value for name, value in asked.items() if name != "batch_size"}
        decode = decode or decoder_of(pipe, network.shape, call)
        latent = decode is None and getattr(pipe, "vae", None) is not None
        texts = None if prompts is None else list(prompts)
        identity = {"setting": network.setting, "prompts": texts, "calls": [dict(each) for each in calls or ()], "call": call}
        kinds = "1 call" if network.count == 1 else f"{network.count} calls, in turn"
        yield (
            denoiser,
            options,
            Subject(
                decode=decode,
                identity=identity,
                guidance="" if network.guidance_scale is None else f"{network.guidance_scale:g}",
                condition=kinds if prompts is None else kinds.replace("call", "prompt"),
                options=planned,
                finish=lambda made: _with_setting(made, network),
                notes=("its latents are of a kind that is not decoded here: there are no images",) if latent else (),
            ),
        )


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
