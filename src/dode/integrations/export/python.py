"""A Python file that samples with PyTorch alone: the numbers of one or several tableaux, and the loop that runs them.

Its states are `dode.sample`'s to the last bit, for the same network called in the dtype of the noise.
"""

from __future__ import annotations

import pprint
import textwrap
from collections.abc import Iterator
from typing import Any

import dode
from dode.foreign import printable
from dode.integrations.export.steps import MEANINGS, Step, prediction_of, steps_of
from dode.tableau import Tableau
from dode.tableaux import TableauSet

# Numbers of a stored mean that are still written into the file: it is to be read by people.
_LARGEST_MEAN = 4096
_WIDTH = 120
_HARD_SPACE = "\N{NO-BREAK SPACE}"


def to_python(tableaux: Any, prediction: str | None = None) -> str:
    """A Python file with `sample(network, noise, nfe=None, **cond)`, which needs nothing but PyTorch.

        pathlib.Path("sampler.py").write_text(to_python(result), encoding="utf-8")

    Args:
        tableaux: a `Tableau`, a `TableauSet`, results of `dode.distill`, or several of these.
        prediction: what the network that the file will be given gives: "epsilon", "sample", "v", "flow", "score" or "edm". By default what
            the tableaux were distilled for, which is "sample" where the denoiser clipped, thresholded or was guided by a classifier.

    Raises:
        ValueError: the prediction is not known, differs among the tableaux, or cannot be asked at their times; a tableau that runs
            upwards; or a first output that the file cannot hold: a mean made when sampling, or one of more than 4096 numbers.
    """
    held = TableauSet.of(tableaux)
    predictions = {prediction_of(tableau, prediction): tableau for tableau in held}
    if len(predictions) > 1:
        raise ValueError(
            f"the tableaux are for networks that give {' and '.join(predictions)}: say with prediction (--prediction) what the one "
            "network of the file gives, or export one number of evaluations at a time"
        )
    (given,) = predictions
    parts = [_docstring(held, given), "import torch", "\n".join(_numbers(held, given)), "\n".join(_function(held, given))]
    return "{}\n\n{}\n\n{}\n\n\n{}\n".format(*parts)


def _docstring(held: TableauSet, prediction: str) -> str:
    nfe = "" if len(held) == 1 else f", nfe={held.nfe[-1]}"
    t = "sigma / alpha" if prediction == "edm" else "the network's time"
    asked = [step.t for tableau in held for step in steps_of(tableau, prediction) if step.t is not None]
    if all(t == round(t) for t in asked):
        t += "; whole numbers, so that a network\n        that looks its times up can take t.long()"
    return f'''"""A sampler of {_either(held)} network calls, by dode {dode.__version__}. It needs PyTorch alone.

    samples = sample(network, noise{nfe})    # noise: (batch, *shape), standard normal

network(x, t, **cond) must give {MEANINGS[prediction]}:
    a tensor shaped as x, with all that the sampler was made for, such as guidance. It must not write into x.
    x: (batch, *shape), in the dtype and on the device of noise
    t: (batch,), float32 (float64 for float64 noise), {t}
"""'''


def _either(held: TableauSet) -> str:
    return " or ".join(map(str, held.nfe))


def _numbers(held: TableauSet, prediction: str) -> Iterator[str]:
    """The tables. What a file says of itself stands in comments alone, in which no text can end and become code."""
    asked = (
        "what it is asked with: sigma / alpha, and alpha, which x is divided by"
        if prediction == "edm"
        else "the time it is asked at"
    )
    yield "# By number of calls: the factor of the noise, and a row a state. x0 is the scaled noise, n0 what the network gave for it."
    yield f"# A row: {asked}; the next state as coefficients; what no later row needs."
    yield f"NOISE_SCALE = {{{', '.join(f'{tableau.nfe}: {tableau.noise_scale!r}' for tableau in held)}}}"
    yield "ROWS = {"
    for tableau in held:
        yield f"    # {printable(tableau.title)}, schedule {printable(tableau.schedule)}"
        yield f"    {tableau.nfe}: ["
        for k, step in enumerate(steps_of(tableau, prediction)):
            yield from _row(step, has_output=step.t is not None or tableau.mean is not None, edm=prediction == "edm", k=k)
        yield "    ],"
    yield "}"
    means = {tableau.nfe: _mean(tableau) for tableau in held if tableau.mean is not None}
    if means:
        yield "# The first output where it is no call: the network's mean, shared by all samples."
        yield f"MEAN = {pprint.pformat(means, width=_WIDTH, compact=True)}"


def _row(step: Step, k: int, *, has_output: bool, edm: bool) -> Iterator[str]:
    asked = [repr(step.t), repr(step.alpha)] if edm else [repr(step.t)]
    # No line ends between a name and its number.
    terms = ", ".join(f'"{_name(slot)}":{_HARD_SPACE}{c!r}' for slot, c in step.terms)
    done = ", ".join(f'"{_name(slot)}"' for slot in step.released if has_output or slot != 2 * k + 1)
    line = f"({', '.join(asked)}, {{{terms}}}, [{done}]),"
    for part in textwrap.wrap(line, _WIDTH, initial_indent=" " * 8, subsequent_indent=" " * 9, break_long_words=False):
        yield part.replace(_HARD_SPACE, " ")


def _name(slot: int) -> str:
    return f"{'xn'[slot % 2]}{slot // 2}"


def _mean(tableau: Tableau) -> list[Any]:
    assert tableau.mean is not None
    if tableau.mean.size > _LARGEST_MEAN:
        raise ValueError(
            f"its first output is a mean of {tableau.mean.size:,} numbers, too many for a Python file: distil with "
            "firsts=['network', 'zero'] (--firsts network,zero), or export to ONNX"
        )
    found: list[Any] = tableau.mean.tolist()
    return found


def _function(held: TableauSet, prediction: str) -> Iterator[str]:
    """The loop: `dode.sampling.Run` with names in place of slots."""
    edm = prediction == "edm"
    several, without_call = len(held) > 1, any(tableau.first != "network" for tableau in held)
    has_mean = any(tableau.mean is not None for tableau in held)
    yield "@torch.no_grad()"
    yield "def sample(network, noise, nfe=None, **cond):"
    yield f'    """Samples (batch, *shape) from standard normal noise, in {_either(held)} calls; cond goes to the network as it is."""'
    if several:
        yield "    if nfe not in ROWS:"
        yield '        raise ValueError(f"nfe must be one of {list(ROWS)}, got {nfe}")'
    else:
        yield f"    nfe = {held.nfe[0]} if nfe is None else nfe"
        yield "    if nfe not in ROWS:"
        yield f'        raise ValueError(f"this file samples with {held.nfe[0]} calls, got nfe={{nfe}}")'
    if has_mean:
        yield "    if cond and nfe in MEAN:"
        yield '        raise ValueError(f"the mean of this file is that of a network without condition, got {list(cond)}")'
    yield "    time_dtype = torch.promote_types(noise.dtype, torch.float32)"
    yield "    x = noise * NOISE_SCALE[nfe]"
    yield "    kept = {}"
    yield f"    for k, (t, {'alpha, ' if edm else ''}terms, done) in enumerate(ROWS[nfe]):"
    yield '        kept[f"x{k}"] = x'
    indent = " " * 8
    if without_call:
        yield f"{indent}if t is not None:"
        indent += " " * 4
    yield f"{indent}times = torch.full((len(x),), t, dtype=time_dtype, device=x.device)"
    yield f"{indent}# A copy: a network may give out one buffer again and again."
    yield f'{indent}kept[f"n{{k}}"] = network(x{" / alpha" if edm else ""}, times, **cond).to(x, copy=True)'
    if has_mean:
        yield "        elif nfe in MEAN:"
        yield '            kept["n0"] = torch.tensor(MEAN[nfe], dtype=x.dtype, device=x.device).expand(x.shape)'
    yield "        (name, c), *others = terms.items()"
    yield "        x = kept[name] * c"
    yield "        for name, c in others:"
    yield "            x.add_(kept[name], alpha=c)"
    yield "        for name in done:"
    yield "            del kept[name]"
    yield "    return x"
