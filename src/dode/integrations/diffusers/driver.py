"""A pipeline as a network: (x, t, prompt) -> output, for everything that takes a `Denoiser`.

    with drive(pipe, prompts=["a boat", "a shoe"], guidance_scale=5.0) as (denoiser, cond):
        x = dode.sample(denoiser, tableau, noise, **dode.conditions.cycle(cond, 0, len(noise)))

The pipeline runs whole and as it is, with its own prompts, guidance, controls and precision; see `dode.integrations.diffusers.session`.
A sample is what its scheduler sees: latents stay latents. The condition `prompt` is the number of a sample's prompt, or of its call.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dode.denoisers import Denoiser, threshold
from dode.fingerprint import weights_hash
from dode.integrations.diffusers.calls import (
    arguments,
    check_guider,
    check_names,
    joined,
    listed,
    model_name,
    network_hash,
    network_of,
    of_caller,
    run,
    same_again,
    takes_lists,
)
from dode.integrations.diffusers.configs import of_network, translated
from dode.integrations.diffusers.session import LENGTH, Answer, Session
from dode.models.slots import Slot, slot_of
from dode.notes import add_note

# Samples in one call where the caller does not say: with guidance a network has twice as many before it.
BATCH_SIZE = 4
# Calls that are open at once; each holds its text's embeddings.
_OPEN = 64
# What makes several samples of one call, by pipeline.
_COPIES = ("num_images_per_prompt", "num_videos_per_prompt", "num_waveforms_per_prompt", "num_images_per_label", "batch_size")
# Where a loop begins or ends in time: driven, it runs wherever it is asked.
_RANGE = ("denoising_start", "denoising_end")


@contextmanager
def drive(
    pipe: Any,
    *,
    prompts: Sequence[str] | None = None,
    calls: Sequence[Mapping[str, Any]] | None = None,
    batch_size: int | None = None,
    **call: Any,
) -> Iterator[tuple[Denoiser, dict[str, Tensor]]]:
    """A denoiser of a pipeline, and the condition `prompt`: a row for each prompt or call. The pipeline itself is not changed.

    Args:
        pipe: a pipeline of diffusers, or anything that is called as one and has its `scheduler`.
        prompts: texts; those of a batch go into one call.
        calls: in place of prompts: for each kind of sample the arguments of a call of its own that makes one. Neither: one call with
            `call` alone.
        batch_size: samples in one call at the most; 4 if None.
        call: further arguments of every call: guidance_scale, height, image ...

    Raises:
        TypeError, ValueError: prompts and calls at once or empty, arguments that belong to the driver, or a scheduler without an ODE of
            a known schedule.
        Exception: what the pipeline raises for such a call, with a note of it.
    """
    network = PipelineNetwork(pipe, prompts, calls, call)
    try:
        denoiser = Denoiser(
            network,
            network.slot.schedule,
            network.prediction,
            batch_size=BATCH_SIZE if batch_size is None else batch_size,
            shape=network.shape,
            name=network.name,
        )
        yield denoiser, {"prompt": torch.arange(network.count)}
    finally:
        network.close()


class PipelineNetwork:
    """net(x, t, prompt=numbers) by calls of a pipeline that stay open; made by `drive`.

    Attributes:
        name: of the pipeline's class.
        slot: what its loop makes of times and states.
        prediction: what it gives: the network's own kind, or "sample".
        shape: of one sample, as its scheduler sees it.
        dtype: of the pipeline's states.
        device: where they are.
        mu: the shift that it computes for its scheduler; None if it computes none.
        firsts: first outputs that its loop has a place for.
        count: prompts, or calls.
        guidance_scale: of the calls, as far as they say; None if they do not.
        failure: where it last gave numbers that are not finite for states that are, in words; "" if it did not.
    """

    def __init__(
        self,
        pipe: Any,
        prompts: Sequence[str] | None,
        calls: Sequence[Mapping[str, Any]] | None,
        call: Mapping[str, Any],
    ) -> None:
        self.name = type(pipe).__name__
        self._pipe = pipe
        self._takes, passes_on = arguments(pipe)
        self._calls, call = of_caller(prompts, calls, call)
        self._listed = listed(self._calls)
        self._call = dict(call)
        self.count = len(self._calls)
        self._ours = [name for name in ("num_inference_steps", "output_type") if name in self._takes]
        if passes_on and not self._ours:  # to another pipeline
            self._ours = ["num_inference_steps"]
        elif passes_on:
            check_names(self.name, self._takes, [call, *self._calls])
        check_guider(getattr(pipe, "guider", None))
        config = translated(pipe.scheduler)
        self._thresholding = (
            (config["dynamic_thresholding_ratio"], config["sample_max_value"]) if config.get("thresholding") else None
        )
        self._config = of_network(pipe.scheduler)
        self.slot: Slot = slot_of(self._config)
        self.failure = ""
        self._sessions: OrderedDict[tuple[int, ...], Session] = OrderedDict()
        self._copies = 1
        probe = self._session((0,))
        sample = probe.first.sample
        self._copies = len(sample)  # of one sample, in the loop's states
        self.shape, self.dtype, self.device = tuple(sample.shape[1:]), sample.dtype, sample.device
        self.mu = probe.mu
        # A first output of zero is put to a state on its way to the network, where the loop lets its scheduler do so; a mean would be
        # made for each prompt.
        self.firsts = ("network", "zero") if probe.scales_input else ("network",)
        if self.mu is not None:
            self.slot = slot_of(self._config, mu=self.mu)
        self._works_on_D = self.slot.scales or self._thresholding is not None
        self.prediction = "sample" if self._works_on_D else self.slot.prediction

    @property
    def setting(self) -> dict[str, Any]:
        """What a table that is made with it is fitted for, as JSON."""
        return {
            "pipeline": self.name,
            "model": model_name(self._pipe),
            "network": type(network_of(self._pipe)).__name__,
            "network_hash": network_hash(self._pipe),
            "weights_hash": weights_hash(network_of(self._pipe)),
            "scheduler": self._config.name,
            "prediction": self.slot.prediction,
            "schedule": self.slot.schedule.fingerprint,
            "shape": list(self.shape),
            "dtype": str(self.dtype).removeprefix("torch."),
            "mu": self.mu,
            "guidance_scale": self.guidance_scale,
            "prompts": self.count,
        }

    @property
    def boundary(self) -> float | None:
        """The network's time where a pipeline goes from one network to another (Wan 2.2); None for one network."""
        ratio = getattr(getattr(self._pipe, "config", None), "boundary_ratio", None)
        if ratio is None or getattr(self._pipe, "transformer_2", None) is None:
            return None
        return float(ratio) * float(self._pipe.scheduler.config.num_train_timesteps)

    @property
    def guidance_scale(self) -> float | None:
        """Of the calls, as far as they say."""
        found = {value for call in self._calls for value in [({**self._call, **call}).get("guidance_scale")]}
        if found == {None}:
            default = self._takes.get("guidance_scale")
            # A modular pipeline has it in a part of its own.
            found = {getattr(getattr(self._pipe, "guider", None), "guidance_scale", default)}
        value = found.pop() if len(found) == 1 else None
        return float(value) if isinstance(value, int | float) else None

    def __call__(self, x: Tensor, t: Tensor, prompt: Tensor | None = None) -> Tensor:
        """The output for states x, (batch, *shape), at times t, (batch,), which are all the same."""
        rows = [0] * len(x) if prompt is None else [int(i) for i in prompt]
        with torch.inference_mode(False), torch.no_grad():  # a pipeline works in no inference mode
            return self._outputs(rows, x.clone(), float(t[0]))

    def _outputs(self, rows: list[int], x: Tensor, time: float) -> Tensor:
        if self._listed:
            return self._ask(tuple(rows), x, time)
        output: Tensor | None = None
        for call in dict.fromkeys(rows):
            where = [i for i, row in enumerate(rows) if row == call]
            for part in (where,) if self._many() else [[i] for i in where]:
                found = self._ask((call,) * len(part), x[part], time)
                output = found.new_empty(x.shape) if output is None else output
                output[part] = found
        assert output is not None
        return output

    def close(self) -> None:
        """End the calls that are open, and let the pipeline put its parts back where it keeps them."""
        while self._sessions:
            self._sessions.popitem()[1].close()
        free = getattr(self._pipe, "maybe_free_model_hooks", None)
        if free is not None:
            free()

    def _ask(self, rows: tuple[int, ...], x: Tensor, t: float) -> Tensor:
        """N for states of samples with these prompts: (rows, *shape)."""
        session = self._session(rows)
        given = x.to(device=self.device, dtype=self.dtype)
        handed = torch.cat([given] * self._copies) if self._copies > 1 else given
        try:
            answer = session.ask(handed.clone(), self.slot.time(t))
        except BaseException as error:
            self._sessions.pop(rows, None)
            session.close()
            if isinstance(error, Exception):
                add_note(error, f"in {self._named(rows)}")
            raise
        if not session.left:
            self._sessions.pop(rows).close()
        return self._output(answer, given, t, rows)

    def _output(self, answer: Answer, given: Tensor, t: float, rows: tuple[int, ...]) -> Tensor:
        """N for the states that were asked for, in the dtype of the pipeline's output."""
        output, sample = answer.output[: len(given)], answer.sample[: len(given)]
        if not bool(torch.isfinite(output).all()) and bool(torch.isfinite(given).all()):
            row = int((~torch.isfinite(output).flatten(1).all(1)).nonzero()[0])
            self.failure = f"the pipeline gave such numbers at t = {t:g}, in {self._named(rows[row : row + 1])}"
        if self._config.learned_variance and output.shape[1] == 2 * given.shape[1]:
            output = output.chunk(2, dim=1)[0]
        point = self.slot.point(t)
        # A loop that has put known pixels in (inpainting) asked the network for another state: D belongs to that one.
        moved = not torch.equal(sample, given)
        if not (moved or self._works_on_D):
            return -output if self.slot.towards_data else output
        wide = torch.promote_types(output.dtype, torch.float32)
        u, w = self.slot.conversion(point)
        if self._works_on_D:
            D = torch.add(sample.to(wide) * u, output.to(wide), alpha=w)
            return D if self._thresholding is None else threshold(D, self._thresholding[0], 1.0, self._thresholding[1])
        output = torch.add(output.to(wide), sample.to(wide) - given.to(wide), alpha=u / w)
        return -output if self.slot.towards_data else output

    def _session(self, rows: tuple[int, ...]) -> Session:
        """The open call for these prompts, opened if it is not."""
        found = self._sessions.pop(rows, None)
        if found is None:
            while len(self._sessions) >= _OPEN:
                self._sessions.popitem(last=False)[1].close()
            call = self._call_of(rows)
            try:
                found = Session(
                    lambda scheduler: run(self._pipe, scheduler, call),
                    self._pipe.scheduler,
                    self.slot,
                    self.slot.time(self.slot.schedule.t_max),
                    alike=not isinstance({**self._call, **self._calls[rows[0]]}.get("generator"), list | tuple),
                )
                self._check(found, rows)
            except Exception as error:
                add_note(error, f"in {self._named(rows)}")
                raise
        self._sessions[rows] = found
        return found

    def _check(self, session: Session, rows: tuple[int, ...]) -> None:
        """See that a call makes the samples that were asked for."""
        count = len(session.first.sample)
        if len(rows) > 1 and count != len(rows) * self._copies:
            session.close()
            raise ValueError(
                f"the pipeline made {count // self._copies} samples for a call of {len(rows)}: "
                "give batch_size=1, or calls=[...] of one sample"
            )

    def _call_of(self, rows: tuple[int, ...]) -> dict[str, Any]:
        """The arguments of the call for samples with these prompts."""
        call = joined(self._call, self._calls, self._listed, rows)
        if len(rows) > 1 and not self._listed:
            call |= self._copied(call, len(rows))
        ours = {"num_inference_steps": LENGTH, "output_type": "latent"}
        call |= {key: ours[key] for key in self._ours}
        if "generator" in self._takes:
            call["generator"] = self._generators(call.get("generator"), rows)
        return {key: value for key, value in call.items() if key not in _RANGE}

    def _generators(self, given: Any, rows: tuple[int, ...]) -> Any:
        """What a sample draws is the same in every call, whatever samples are beside it: its own copy of one generator."""
        several = list(given) if isinstance(given, list | tuple) else [given]
        for each in several:
            if not isinstance(each, torch.Generator | None):
                raise TypeError(f"generator is a torch.Generator or a list of them, got {type(each).__name__}")
        if len(several) not in (1, self.count):
            raise ValueError(f"there are {len(several)} generators for {self.count} prompts: give one, or one for each prompt")
        if len(rows) == 1 or not takes_lists(self._pipe):
            return same_again(several[rows[0] % len(several)])
        return [same_again(several[row % len(several)]) for row in rows]

    def _copied(self, call: Mapping[str, Any], count: int) -> dict[str, Any]:
        """What makes a call of one sample one of several."""
        name = next(name for name in _COPIES if name in self._takes)
        return {name: count * int(call.get(name, 1))}

    def _many(self) -> bool:
        """Whether one call can make several samples."""
        return any(name in self._takes for name in _COPIES)

    def _named(self, rows: tuple[int, ...]) -> str:
        given = self._call | self._calls[rows[0]]
        said = {key: [self._calls[row][key] for row in dict.fromkeys(rows)] for key in self._listed}
        words = [f"{key}={said[key]}" if key in said else key for key in given]
        which = f" {rows[0] + 1} of {self.count}" if self.count > 1 and not said else ""
        return f"{self.name}'s call{which} with {', '.join(words) or 'no arguments'}"
