"""Running a tableau: the one loop, for sampling, image-to-image and inversion.

    x_{k+1} = sum_j a[k,j] x_j + n[k,j] N_j

The numbers are rewritten once for the network's own output N; the loop multiplies and adds, converts nothing and never waits
for the device. A state or output is let go after the last row that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dode.amplification import warn_of_rounding
from dode.compiling import at_compilation
from dode.conditions import Condition, checked_condition
from dode.denoisers import Denoiser, Evaluate
from dode.finite import check_finite, check_values, holds
from dode.first_output import first_output
from dode.grids import Point
from dode.guidance import check_calls
from dode.inpainting import Keep, for_all, keeping
from dode.notes import add_note
from dode.schedules import Array, NoiseSchedule
from dode.tableau import Coefficients, Tableau
from dode.tableaux import TableauSet, picked


class Step(NamedTuple):
    """What a row did.

    Attributes:
        row: k, from 0.
        t: the time of the new state.
        x: the new state x_{k+1}: (batch, *shape). It is the very tensor that the run goes on from: what is written into it counts.
        D: the denoised sample D_k that the row's evaluation gave: (batch, *shape). A copy: what is written into it does not count.
    """

    row: int
    t: float
    x: Tensor
    D: Tensor


@dataclass(frozen=True)
class Trajectory:
    """All states and denoised samples of a run.

    Attributes:
        states: K + 1 tensors (batch, *shape), x_0 (the scaled noise) to the result.
        denoised: K tensors (batch, *shape).
    """

    states: tuple[Tensor, ...]
    denoised: tuple[Tensor, ...]

    @property
    def final(self) -> Tensor:
        """The result."""
        return self.states[-1]


def sample(
    denoiser: Denoiser,
    tableau: Tableau | TableauSet,
    noise: Tensor,
    *,
    nfe: int | None = None,
    image: Tensor | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = True,
    return_trajectory: bool = False,
    **cond: Any,
) -> Any:
    """Sample with a tableau, base or distilled.

    Args:
        denoiser: the network.
        tableau: what to run, made for the network's schedule; or a set, of which `nfe` names one.
        noise: (batch, *shape), standard normal; scaled inside. The states have its dtype and the network's device.
        nfe: the number of network evaluations, where a set has several.
        image: (batch, *shape), or (1, *shape) or (*shape) for one image for all; clean: the run starts from alpha x_0 + sigma noise
            at the tableau's first time (image-to-image; make the tableau with a grid that has a lower `start`).
        known: shaped as `image`, clean: what to keep where `mask` is 0 (inpainting). The start is pure noise, unless `image` is given
            too. Each state, the first one included, has alpha known + sigma noise there, with the run's own noise; the result has
            `known` itself.
        mask: which pixels are made: 1 (white) is repainted, 0 (black) is kept, as diffusers' `mask_image`; between them the two are
            mixed. Numbers in [0, 1] or bool, of a shape that broadcasts to that of noise, e.g. (height, width). With `image` and
            no `known`, the image is what is kept.
        dtype: another dtype for the states.
        strict: refuse a tableau made for another schedule, or whose times and scales are not those of the schedule that it names.
        return_trajectory: return a `Trajectory` in place of the result alone.
        cond: the condition, e.g. class_labels; tensors have a row a sample, or one for all.

    Returns:
        (batch, *shape), or a `Trajectory`.

    Raises:
        ValueError: a set without that number of evaluations, another schedule, a wrong shape, NaN in noise, images or condition, a
            mask without known pixels or the other way round, a condition with a wrong number of rows, or a guidance scale by
            evaluation for another number of them.
        FloatingPointError: the result is not finite; the message names the step at which the network first gave such output.

    Warns:
        UserWarning: the tableau's file was changed after it was made; or it magnifies rounding more than ten thousand times (see
            `dode.amplification`). Once for each tableau.
    """
    tableau, cond = picked(tableau, nfe), checked_condition(cond)
    x = start(denoiser, tableau, noise, image=image, dtype=dtype, strict=strict)
    keep = keeping(tableau, noise, x, image=image, known=known, mask=mask)
    warn_of_rounding(tableau, denoiser.output, x.dtype)
    trajectory = _trajectory(denoiser, tableau, x, cond, keep, whole=return_trajectory)
    return trajectory if return_trajectory else trajectory.final


def end_point(denoiser: Denoiser, tableau: Tableau, noise: Tensor, cond: Condition) -> Tensor:
    """The result of `sample`, without a warning of rounding: for those who try many tableaux.

    Args:
        denoiser, tableau, noise: as there.
        cond: the condition, from `as_condition`.

    Raises:
        ValueError, FloatingPointError: as there.
    """
    return _trajectory(denoiser, tableau, start(denoiser, tableau, noise), cond).final


def _trajectory(
    denoiser: Denoiser, tableau: Tableau, x: Tensor, cond: Condition, keep: Keep | None = None, *, whole: bool = False
) -> Trajectory:
    """The run from a first state x; the result alone unless the whole is asked for."""
    x = x if keep is None else keep(x, 0)
    first = first_output(denoiser, tableau, x, cond)
    with denoiser.evaluator(x, cond) as evaluate, torch.no_grad():
        run = Run(denoiser, evaluate, tableau, x, first, keep=keep)
        states, denoised = [x], []
        for k in range(run.rows):
            run.evaluate(k)
            if whole:
                denoised.append(run.denoised(k))
            result = run.advance(k)
            if whole:
                states.append(result)
        if not holds(torch.isfinite(result)):
            raise FloatingPointError(_first_failure(Run(denoiser, evaluate, tableau, x, first, keep=keep)))
    return Trajectory(tuple(states) if whole else (result,), tuple(denoised))


def iterate(
    denoiser: Denoiser,
    tableau: Tableau | TableauSet,
    noise: Tensor,
    *,
    nfe: int | None = None,
    image: Tensor | None = None,
    known: Tensor | None = None,
    mask: Tensor | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = True,
    **cond: Any,
) -> Iterator[Step]:
    """`sample` as a generator of one `Step` a row, for previews, plots, early stop and states that are changed. Arguments as there.

    A state may be changed in place before the next one is asked for, and is what the run goes on from; so is the last one what the
    caller keeps:

        for step in dode.iterate(denoiser, tableau, noise):
            step.x.clamp_(-4, 4)
        samples = step.x
    """
    tableau, cond = picked(tableau, nfe), checked_condition(cond)
    x = start(denoiser, tableau, noise, image=image, dtype=dtype, strict=strict)
    keep = keeping(tableau, noise, x, image=image, known=known, mask=mask)
    x = x if keep is None else keep(x, 0)
    warn_of_rounding(tableau, denoiser.output, x.dtype)
    first = first_output(denoiser, tableau, x, cond)
    with denoiser.evaluator(x, cond) as evaluate:
        run = Run(denoiser, evaluate, tableau, x, first, keep=keep)
        for k in range(tableau.rows):
            with torch.no_grad():
                output = run.evaluate(k)
                D = run.denoised(k)
                step = Step(k, float(tableau.times[k + 1]), run.advance(k), D.clone() if D is output else D)
            yield step


def invert(denoiser: Denoiser, tableau: Tableau, image: Tensor, *, strict: bool = True, **cond: Any) -> Tensor:
    """Deterministic inversion: from an image to the noise that a solver would make it from.

    Args:
        denoiser: the network.
        tableau: one that runs upwards: `solver(...).tableau(schedule, nfe=..., reverse=True)`.
        image: (batch, *shape), clean.
        strict: refuse a tableau made for another schedule.
        cond: the condition.

    Returns:
        (batch, *shape): what `sample` takes as `noise`.

    Raises:
        ValueError: a tableau that runs down, or as `sample`.
    """
    if tableau.times[-1] < tableau.times[0]:
        raise ValueError("inversion needs a tableau that runs upwards: make it with reverse=True")
    noise = torch.zeros_like(image)
    top = float(tableau.times[-1])
    result: Tensor = sample(denoiser, tableau, noise, image=image, strict=strict, **cond)
    return result / denoiser.schedule.noise_scale(top)


def start(
    denoiser: Denoiser,
    tableau: Tableau,
    noise: Tensor,
    *,
    image: Tensor | None = None,
    dtype: torch.dtype | None = None,
    strict: bool = True,
) -> Tensor:
    """The first state, after the checks of `sample`; on the network's device."""
    if not isinstance(noise, Tensor) or not noise.is_floating_point():
        raise TypeError("noise must be a floating-point tensor")
    if noise.ndim < 2 or len(noise) < 1:
        raise ValueError(f"noise must have shape (batch, *shape), got {tuple(noise.shape)}")
    if denoiser.shape is not None and noise.shape[1:] != denoiser.shape:
        raise ValueError(
            f"the network takes samples of shape {denoiser.shape}, got {tuple(noise.shape[1:])}: give noise of that shape, or make "
            f"the Denoiser with shape={tuple(noise.shape[1:])} if the network takes that too"
        )
    check_finite("noise", noise)
    _check_tableau(tableau, denoiser.schedule, strict)
    x = noise.to(device=denoiser.device, dtype=dtype)
    check_values(f"a parameter of the network ({denoiser.name})", x)
    if image is None:
        return x * tableau.noise_scale
    image = for_all("image", image, x)
    check_finite("image", image)
    return image * float(tableau.alphas[0]) + x * float(tableau.sigmas[0])


@at_compilation
def _check_tableau(tableau: Tableau, schedule: NoiseSchedule, strict: bool) -> None:
    if strict:
        tableau.check_schedule(schedule, "strict=False, or --no-strict,")
    tableau.warn_if_changed()


class Run:
    """One run of a tableau: the states and outputs that later rows still need.

    `first` is D_0 where it is no evaluation (see `first_output`). `keep` changes each new state, given with its number.
    For each row k: `evaluate(k)`, then what is to be looked at (`denoised`, `combine`), then `advance(k)`. A fit chooses its
    rows as it goes: it gives `rows` with every coefficient that may be asked for, and `advance` the state that it chose.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        evaluate: Evaluate,
        tableau: Tableau,
        x: Tensor,
        first: Tensor | None = None,
        rows: Coefficients | None = None,
        keep: Keep | None = None,
    ) -> None:
        self._program = tableau_program(tableau, denoiser.output) if rows is None else program(rows)
        self.rows = len(self._program)
        check_calls(denoiser.guidance_scale, self.rows - (first is not None))
        self._denoiser = denoiser
        self._first = first
        self._keep = keep
        self._ask = evaluate
        self.points = tableau.points
        # Slot 2j holds x_j, slot 2j + 1 the output N_j.
        self._values: list[Tensor | None] = [None] * (2 * self.rows + 1)
        self._values[0] = x
        self._newest = 0

    def evaluate(self, k: int) -> Tensor:
        """N_k, the network's output for x_k."""
        shared = self._first if k == 0 else None
        call = k if self._first is None else k - 1
        try:
            output = self._ask(self._value(2 * k), self.points[k], call) if shared is None else shared
        except Exception as error:
            add_note(error, f"at step {k + 1} of {self.rows}")
            raise
        self._newest = 2 * k + 1
        self._values[self._newest] = output
        return output

    def denoised(self, k: int) -> Tensor:
        """D_k, after `evaluate(k)`."""
        if k == 0 and self._first is not None:
            return self._first
        return self._denoiser.denoised(self._value(2 * k), self._value(2 * k + 1), self.points[k])

    def combine(self, a: Array, n: Array) -> Tensor:
        """sum_j a[j] x_j + n[j] N_j, of what has been evaluated."""
        return combined(_terms(a, n), self._values, self._value(self._newest))

    def advance(self, k: int, x: Tensor | None = None) -> Tensor:
        """x_{k+1}: by the tableau's row k, or the given one; lets go what no later row names."""
        row = self._program[k]
        if x is None:
            x = combined(row.terms, self._values, self._value(self._newest))
            if self._keep is not None:
                x = self._keep(x, k + 1)
        for slot in row.released:
            self._values[slot] = None
        self._values[2 * k + 2] = x
        return x

    def move(self, device: torch.device) -> None:
        """Take what is kept, states and outputs, to a device: a run that waits need not fill the network's."""
        self._values = [None if value is None else value.to(device) for value in self._values]
        self._first = None if self._first is None else self._first.to(device)

    def _value(self, slot: int) -> Tensor:
        value = self._values[slot]
        assert value is not None, "used after it was let go"
        return value


class ProgramRow(NamedTuple):
    """A row for the loop: (slot, coefficient) terms, and the slots that no later row names."""

    terms: tuple[tuple[int, float], ...]
    released: tuple[int, ...]


@at_compilation
def tableau_program(tableau: Tableau, prediction: str) -> list[ProgramRow]:
    """The program of a tableau over the network's outputs; made once, however often it is run."""
    if prediction not in tableau.memo:
        tableau.memo[prediction] = program(tableau.for_prediction(prediction))
    made: list[ProgramRow] = tableau.memo[prediction]
    return made


def program(rows: Coefficients) -> list[ProgramRow]:
    """The rows as terms over slots, with the liveness of each slot."""
    used = _interleaved(rows.a, rows.b) != 0
    count, slots = used.shape
    # A slot is let go after the last row that uses it, at the earliest after the row that its evaluation belongs to.
    last_row = count - 1 - np.argmax(used[::-1], axis=0)
    last_row = np.maximum(np.where(used.any(axis=0), last_row, 0), np.arange(slots) // 2)
    released = [tuple(np.flatnonzero(last_row == k).tolist()) for k in range(count)]
    return [ProgramRow(_terms(a, n), gone) for a, n, gone in zip(rows.a, rows.b, released, strict=True)]


def combined(terms: Sequence[tuple[int, float]], values: Sequence[Tensor | None], like: Tensor) -> Tensor:
    """The sum of (slot, coefficient) terms, in memory of its own; zeros shaped as `like` where there are none."""
    if not terms:
        return torch.zeros_like(like)
    (slot, c), *rest = terms
    total: Tensor = values[slot] * c  # type: ignore[operator, assignment]
    for slot, c in rest:
        total.add_(values[slot], alpha=c)  # type: ignore[arg-type]
    return total


def _terms(a: Array, n: Array) -> tuple[tuple[int, float], ...]:
    """Non-zero (slot, coefficient) terms of one row, newest first, a state before its output."""
    row = _interleaved(a, n)
    slots = sorted(np.flatnonzero(row).tolist(), key=lambda slot: (-(slot // 2), slot % 2))
    return tuple((slot, float(row[slot])) for slot in slots)


def _interleaved(a: Array, n: Array) -> Array:
    """(..., K) coefficients of states and outputs as (..., 2K) coefficients of slots."""
    return np.stack((a, n), axis=-1).reshape(*a.shape[:-1], -1)


def _first_failure(run: Run) -> str:
    """Run again, looking at every output: the loop itself never waits for the device to look."""
    for k in range(run.rows):
        output = run.evaluate(k)
        if not bool(torch.isfinite(output).all()):
            return non_finite("the network gave", output, k, run.rows, run.points[k])
        state = run.advance(k)
        if not bool(torch.isfinite(state).all()):
            return non_finite("the state overflowed:", state, k, run.rows, run.points[k])
    return "the result is not finite, and was when run again: the network is not deterministic"


def non_finite(what: str, tensor: Tensor, k: int, nfe: int, point: Point) -> str:
    """The message for a tensor with NaN or infinite values at a step."""
    kind = "NaN" if bool(torch.isnan(tensor).any()) else "infinite"
    return f"{what} {kind} values at step {k + 1} of {nfe} (t = {point.t:g})"
