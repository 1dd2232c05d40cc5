"""Saved tableaux as a sampler in the form of k-diffusion's `sample_*` functions, from plain numbers.

    y_{k+1} = sum_{j<=k} a[k,j] y_j + b[k,j] D_j,      D_k = model(y_k, sigma_k)

y = x_0 + sigma eps; of a flow (1 - sigma) x_0 + sigma eps (see `dode.integrations.frames`). It imports torch alone, and no other module
of dode: `dode export --to comfyui` puts what follows the imports into the file that it writes.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

# Two sigmas are one if they are this near, as a share of the larger: a list may have been typed with few digits.
_NEAR = 1e-3

Rows = list[tuple[list[float], list[float]]]


class SigmaSampler:
    """Tableaux as a function `(model, x, sigmas, extra_args=None, callback=None, disable=None)`, as k-diffusion's `sample_*` and ComfyUI's
    KSAMPLER take it.

    The sigmas say what is run: a whole list of one of the tableaux, or a part of it that other programs cut out. Rows are found by
    their sigma. Where the list begins in the middle and a row needs outputs from before, DPM-Solver++(2M) walks the rest, with a warning.

    Args:
        tables: for each tableau `nfe`; `sigmas` (K+1,), the noise levels of its states; `a` and `b`, K rows of 1 to K numbers; `flow`,
            whether states are of a flow; `noise_scale`, from standard normal noise to the first state; and where the first output is no
            call, `first`: 0 or an array (*shape).
    """

    def __init__(self, tables: Iterable[Mapping[str, Any]]) -> None:
        self._tables = {int(table["nfe"]): table for table in tables}
        self._said = False

    @property
    def nfe(self) -> tuple[int, ...]:
        """The numbers of calls of the model that there are tableaux for."""
        return tuple(sorted(self._tables))

    def sigmas(
        self, nfe: int | None = None, *, dtype: torch.dtype = torch.float32, device: torch.device | str | None = None
    ) -> Tensor:
        """(K+1,) the whole list of a tableau, decreasing.

        Args:
            nfe: the number of calls of the model; the only one if None.
            dtype, device: of the list.

        Raises:
            ValueError: there is no tableau of that number, or there are several and None is given.
        """
        return torch.tensor(self._table(nfe)["sigmas"], dtype=dtype, device=device)

    def noise_scale(self, nfe: int | None = None) -> float:
        """What standard normal noise is multiplied by to be the first state x, where there is no image; errors as `sigmas`.

        It is sqrt(1 + sigma^2) at the first sigma for models whose data are scaled down with time (variance preserving), else sigma.
        """
        return float(self._table(nfe)["noise_scale"])

    def check_model(self, model: Any, nfe: int | None = None) -> None:
        """Raise ValueError where a model's own range of sigmas, as far as it tells one, is not one that a tableau was made for."""
        _check_range(self._table(nfe), model)

    @torch.no_grad()
    def __call__(
        self,
        model: Callable[..., Tensor],
        x: Tensor,
        sigmas: Tensor,
        extra_args: Mapping[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], object] | None = None,
        disable: bool | None = None,
    ) -> Tensor:
        """The state at the last sigma: (batch, *shape).

        Args:
            model: `model(x, sigma, **extra_args)` gives the denoised sample D for x, (batch, *shape), and sigma, (batch,).
            x: (batch, *shape), the state at the first sigma.
            sigmas: (n+1,) decreasing; see `sigmas`.
            extra_args: of the model.
            callback: called in each of the n steps with x, i, sigma, sigma_hat and denoised.
            disable: show no progress.

        Raises:
            ValueError: sigmas that are no part of a tableau's, a model of another range of sigmas, or that does not give D.
            FloatingPointError: a result with NaN or infinite values; the message names the step.

        Warns:
            UserWarning: once, where the sigmas begin in the middle of a tableau and it cannot go on from there.
        """
        if hasattr(model, "apply_model") or hasattr(model, "prediction"):
            raise ValueError(
                f"{type(model).__name__} gives a prediction of its own, and a denoised sample is needed: wrap it for k-diffusion, "
                "as CompVisDenoiser(model) does"
            )
        if len(sigmas) < 2:
            return x
        table, first = self._part(sigmas.tolist())
        _check_range(table, model)
        rows = self._rows(table, first, len(sigmas) - 1)
        shared = table.get("first") if first == 0 else None
        return _walk(rows, shared, model, x, sigmas, extra_args or {}, callback, disable)

    def _table(self, nfe: int | None) -> Mapping[str, Any]:
        if nfe is None and len(self._tables) == 1:
            return next(iter(self._tables.values()))
        if nfe not in self._tables:
            raise ValueError(f"there are tableaux of {_listed(self.nfe)} evaluations, got nfe={nfe}")
        return self._tables[nfe]

    def _part(self, asked: list[float]) -> tuple[Mapping[str, Any], int]:
        """The tableau whose sigmas these are a part of, and the row that they begin at: one from the start if there is."""
        parts = [
            (first > 0, far, nfe, first)
            for nfe, table in self._tables.items()
            for first in range(len(table["a"]) - len(asked) + 2)
            if (far := _distance(asked, table["sigmas"][first:])) <= _NEAR
        ]
        if not parts:
            raise ValueError(
                f"{self._misfit(asked)}: take this sampler's own list, from its sigmas node or sigmas(nfe), nfe one of {_listed(self.nfe)}"
            )
        _, _, nfe, first = min(parts)
        return self._tables[nfe], first

    def _misfit(self, asked: list[float]) -> str:
        """Why a list is no part of a tableau's."""
        held = [sigma for table in self._tables.values() for sigma in table["sigmas"]]
        for sigma in asked:
            if not min(held) * (1 - _NEAR) <= sigma <= max(held) * (1 + _NEAR):
                return f"sigma = {sigma:.6g} is outside of the tableaux, which go from {max(held):.6g} to {min(held):.6g}"
        if any(later > sooner for sooner, later in pairwise(asked)):
            return "the sigmas go up, and the tableaux go down"
        for sigma in asked:
            if all(_distance([sigma], [own]) > _NEAR for own in held):
                return f"sigma = {sigma:.6g} is none of the tableaux', it lies between their rows"
        return f"these {len(asked)} sigmas are no part of one tableau's: some are left out, come twice or are of several"

    def _rows(self, table: Mapping[str, Any], first: int, count: int) -> Rows:
        """The rows of a part; those of DPM-Solver++(2M) where they need what was before it."""
        rows = [(list(a), list(b)) for a, b in zip(table["a"], table["b"])][first : first + count]
        if not any(any(a[:first]) or any(b[:first]) for a, b in rows):
            return [(a[first:], b[first:]) for a, b in rows]
        if not self._said:
            self._said = True
            warnings.warn(
                f"the sigmas begin at {table['sigmas'][first]:.6g}, step {first + 1} of the tableau of {table['nfe']} evaluations, which "
                "needs outputs from before it: DPM-Solver++(2M) walks the rest",
                stacklevel=4,
            )
        return _second_order(table["sigmas"][first : first + count + 1], table["flow"])


def _walk(
    rows: Rows,
    shared: Any,
    model: Callable[..., Tensor],
    x: Tensor,
    sigmas: Tensor,
    extra_args: Mapping[str, Any],
    callback: Callable[[dict[str, Any]], object] | None,
    disable: bool | None,
) -> Tensor:
    """The loop: in float32 at least, and without waiting for the device until its end."""
    last = {slot: k for k, row in enumerate(rows) for slot, _ in _terms(row)}
    wide = torch.promote_types(x.dtype, torch.float32)
    ones = x.new_ones([x.shape[0]])
    # Slot 2j holds y_j, slot 2j + 1 D_j.
    values = {0: x.to(wide)}
    # Where it went wrong, if it did: a sum is not finite where a value is not, and is made on the device.
    sums = []
    denoised = x
    for i in _steps(len(rows), disable):
        state = values[2 * i].to(x.dtype)
        if i == 0 and shared is not None:
            denoised = _first(shared, x)
        elif 2 * i + 1 in last:
            denoised = _checked(model(state, sigmas[i] * ones, **extra_args), x)
        sums.append(denoised.sum(dtype=wide))
        if callback is not None:
            callback({"x": state, "i": i, "sigma": sigmas[i], "sigma_hat": sigmas[i], "denoised": denoised})
        values[2 * i + 1] = denoised
        values[2 * i + 2] = _combined(_terms(rows[i]), values, wide)
        values = {slot: value for slot, value in values.items() if last.get(slot, -1) > i or slot == 2 * i + 2}
    result = values[2 * len(rows)]
    if not torch.isfinite(result).all():
        failed = [not sound for sound in torch.isfinite(torch.stack(sums)).tolist()]
        what, i = ("the model gave", failed.index(True)) if any(failed) else ("the state has", len(rows) - 1)
        raise FloatingPointError(
            f"{what} values that are NaN or infinite at step {i + 1} of {len(rows)} (sigma = {float(sigmas[i]):.6g})"
        )
    return result.to(x.dtype)


def _terms(row: tuple[list[float], list[float]]) -> list[tuple[int, float]]:
    """The (slot, coefficient) of a row, newest first, a state before its output."""
    a, b = row
    pairs = [pair for j in reversed(range(len(a))) for pair in ((2 * j, a[j]), (2 * j + 1, b[j]))]
    return [(slot, c) for slot, c in pairs if c != 0]


def _combined(terms: list[tuple[int, float]], values: Mapping[int, Tensor], wide: torch.dtype) -> Tensor:
    (slot, c), *others = terms or [(max(values), 0.0)]
    total = values[slot].to(wide) * c
    for slot, c in others:
        total.add_(values[slot], alpha=c)
    return total


def _second_order(sigmas: Sequence[float], flow: bool) -> Rows:
    """DPM-Solver++(2M) (arXiv 2211.01095, algorithm 2) over these sigmas; the model is asked once where a sigma comes twice."""
    alphas = [1 - sigma if flow else 1.0 for sigma in sigmas]
    snr = [math.log(alpha / sigma) if sigma > 0 else math.inf for alpha, sigma in zip(alphas, sigmas)]
    rows = []
    here, before = 0, -1
    for k in range(len(sigmas) - 1):
        if k and sigmas[k] != sigmas[k - 1]:
            here, before = k, here
        a, b = [0.0] * (k + 1), [0.0] * (k + 1)
        a[k] = sigmas[k + 1] / sigmas[k]
        if sigmas[k + 1] != sigmas[k]:
            h = snr[k + 1] - snr[k]
            b[here] = -alphas[k + 1] * math.expm1(-h)
            if before >= 0 and sigmas[k + 1] > 0:
                change = b[here] * h / (2 * (snr[k] - snr[before]))
                b[here] += change
                b[before] -= change
        rows.append((a, b))
    return rows


def _first(shared: Any, x: Tensor) -> Tensor:
    """The first output where it is no call: (batch, *shape)."""
    mean = torch.as_tensor(shared, dtype=x.dtype, device=x.device)
    if mean.ndim and mean.shape != x.shape[1:]:
        raise ValueError(f"the tableau begins with a mean of shape {tuple(mean.shape)}, and x has {tuple(x.shape[1:])}")
    return mean.expand(x.shape)


def _checked(denoised: Any, x: Tensor) -> Tensor:
    if not isinstance(denoised, Tensor) or denoised.shape != x.shape:
        got = f"a tensor of {tuple(denoised.shape)}" if isinstance(denoised, Tensor) else type(denoised).__name__
        raise ValueError(
            f"the model must give the denoised sample, a tensor of {tuple(x.shape)}, and it gave {got}: wrap it so"
        )
    return denoised


def _check_range(table: Mapping[str, Any], model: Any) -> None:
    most = _sigma_max(model)
    if most is None:
        return
    if table["flow"] != (most <= 1 + _NEAR):
        of = ("a flow", "another kind") if table["flow"] else ("another kind", "a flow")
        raise ValueError(
            f"the tableau was made for a model of {of[0]}, and this one's sigmas go up to {most:.6g}, as those of {of[1]}: "
            "take the tableau of this model"
        )
    if table["sigmas"][0] > most * (1 + _NEAR):
        raise ValueError(
            f"the tableau begins at sigma = {table['sigmas'][0]:.6g}, and this model's sigmas go up to {most:.6g}: take the tableau of "
            "this model"
        )


def _sigma_max(model: Any) -> float | None:
    """The largest sigma of a model, where it or what it wraps tells one: k-diffusion's wrappers, and what ComfyUI's hold."""
    for _ in range(4):
        for holder in (model, getattr(model, "model_sampling", None)):
            most = getattr(holder, "sigma_max", None)
            if isinstance(most, float | int | Tensor):
                return float(most)
        model = getattr(model, "inner_model", None)
    return None


def _distance(asked: Sequence[float], own: Sequence[float]) -> float:
    """The largest difference of two lists, as a share."""
    return max(abs(s - t) / max(abs(s), abs(t), 1e-12) for s, t in zip(asked, own))


def _steps(count: int, disable: bool | None) -> Iterable[int]:
    try:
        from tqdm.auto import trange
    except ImportError:
        return range(count)
    steps: Iterable[int] = trange(count, disable=disable)
    return steps


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))
