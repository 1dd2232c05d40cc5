"""What few calls give: the words of the many-call run from the same noise, and text that an n-gram model takes for real."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

import dode
from dode.fine import PAIR, REFERENCE, FineRun, whole_span
from dode.noise import REPORT, VALIDATION, standard_noise
from dode.schedules import Array

from .corpus import Vocabulary
from .network import WordDenoiser
from .ngrams import NGrams

# Undistilled solvers and grids that are tried; DDIM on the even grid is what everyone begins with.
PLAIN = ("ddim", "uniform")
SOLVERS = ("ddim", "deis", "dpm-solver++", "unipc")
GRIDS: tuple[dode.grids.GridLike, ...] = ("uniform", dode.grids.Shifted(shift=2.0), dode.grids.Shifted(shift=3.0), "mixed")


@dataclass(frozen=True)
class Row:
    """A sampler, measured.

    Attributes:
        name: "plain", "best undistilled", "distilled", "many calls", or what real text it is.
        sampler: solver and grid.
        nfe: network calls; 0 for real text.
        agreement: of each line the share of words that equal the many-call run's, (lines,); None for real text.
        bits: of each line, bits a character, (lines,).
        lines: the text.
    """

    name: str
    sampler: str
    nfe: int
    agreement: Array | None
    bits: Array
    lines: list[str]


@dataclass(frozen=True, eq=False)
class Bench:
    """A network with what its text is measured by.

    Attributes:
        net: the network.
        vocabulary: its words.
        judge: the n-gram model.
        many: calls of the reference.
    """

    net: WordDenoiser
    denoiser: dode.Denoiser
    vocabulary: Vocabulary
    judge: NGrams
    many: int

    def words(self, tableau: dode.Tableau, noise: Tensor) -> Tensor:
        """The numbers of the sampled words, (lines, length)."""
        return self.net.nearest(dode.sample(self.denoiser, tableau, noise))

    def reference(self) -> dode.Tableau:
        """The many-call run."""
        return self._fine(FineRun(*REFERENCE, self.many))

    def second_reference(self) -> dode.Tableau:
        """Another solver on another grid, as fine: how far it is from the first is how far both are from the truth."""
        return self._fine(FineRun(*PAIR[0], self.many))

    def row(self, name: str, sampler: str, nfe: int, words: Tensor, reference: Tensor | None) -> Row:
        """Words, (lines, length), measured against the reference's."""
        lines = self.vocabulary.text(words)
        shares = None if reference is None else (words == reference).double().mean(1).numpy()
        return Row(name, sampler, nfe, shares, self.judge.bits(lines), lines)

    def best_undistilled(self, nfe: int, noise: Tensor, reference: Tensor) -> dode.Tableau:
        """Of `SOLVERS` on `GRIDS` the one with the most of the reference's words, (lines, length), from a noise."""
        tableaux = [dode.solver(name).tableau(self.denoiser.schedule, nfe, grid) for name in SOLVERS for grid in GRIDS]
        return max(tableaux, key=lambda tableau: float((self.words(tableau, noise) == reference).double().mean()))

    def _fine(self, run: FineRun) -> dode.Tableau:
        schedule = self.denoiser.schedule
        return run.tableau(schedule, whole_span(schedule))


def measured(
    bench: Bench,
    distilled: Iterable[dode.Tableau],
    real: Tensor,
    *,
    lines: int,
    tried: int,
    seed: int,
    told: Callable[[str], None],
) -> list[Row]:
    """All rows, from one noise that nothing was fitted to or chosen by.

    Args:
        bench: the network.
        distilled: a tableau for each number of calls.
        real: real held-out text, (n, length).
        lines: how many are sampled.
        tried: noises on which the undistilled samplers are compared.
        seed: of the noise.
        told: is given what is being done.
    """
    noise = standard_noise(seed, lines, bench.denoiser.shape, stream=REPORT)
    told(f"{lines} lines with {bench.many} calls, by two solvers")
    reference = bench.words(bench.reference(), noise)
    other = bench.words(bench.second_reference(), noise)
    rows = [
        bench.row("real text", "", 0, real, None),
        bench.row("real words, shuffled", "", 0, shuffled(real, seed), None),
        bench.row("many calls", str(REFERENCE[0]), bench.many, reference, reference),
        bench.row("many calls, again", str(PAIR[0][0]), bench.many, other, reference),
    ]
    trial = standard_noise(seed, tried, bench.denoiser.shape, stream=VALIDATION)
    wanted = bench.words(bench.reference(), trial)
    for tableau in distilled:
        told(f"{tableau.nfe} calls: the best of {len(SOLVERS) * len(GRIDS)} undistilled samplers on {tried} other noises")
        plain = dode.solver(PLAIN[0]).tableau(bench.denoiser.schedule, tableau.nfe, PLAIN[1])
        best = bench.best_undistilled(tableau.nfe, trial, wanted)
        for name, each in (("plain", plain), ("best undistilled", best), ("distilled", tableau)):
            words = bench.words(each, noise)
            rows.append(bench.row(name, described(each), each.nfe, words, reference))
    return rows


def shuffled(lines: Tensor, seed: int) -> Tensor:
    """The words of each line in a random order, (lines, length)."""
    order = torch.rand(lines.shape, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return lines.gather(1, order)


def described(tableau: dode.Tableau) -> str:
    """Solver and grid."""
    return f"{tableau.solver}, {tableau.grid}"


def mean_and_error(values: Array) -> tuple[float, float]:
    """Mean over the lines, and its standard error; nan for a single line."""
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return float(values.mean()), error


def gains(rows: Iterable[Row]) -> list[tuple[int, float, float, float, float]]:
    """For each number of calls: distilled less best undistilled, line by line: words in agreement and bits a character, each with its
    standard error."""
    found = {(row.name, row.nfe): row for row in rows}
    differences = []
    for (name, nfe), row in found.items():
        if name == "distilled":
            best = found["best undistilled", nfe]
            assert row.agreement is not None and best.agreement is not None
            differences.append((nfe, *mean_and_error(row.agreement - best.agreement), *mean_and_error(row.bits - best.bits)))
    return differences
