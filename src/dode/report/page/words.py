"""What the data supports, in sentences: nothing is said to be better unless an interval says so, and no budget is named beyond those
that were measured."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from dode.report.page.curves import label
from dode.report.page.evidence import ERROR, Equal, Evidence, Verdict, apart, verdict
from dode.report.page.tables import Column, Entry, Row, Table, number
from dode.report.results import METRICS, PAPERS, Comparison, Result
from dode.statistics import Figure

# Of an error that the reference's own is above, that is said.
_NEAR = 0.03
# Lines of a list before the rest is counted.
_MOST = 12


class Summary(NamedTuple):
    """The first thing on the page.

    Attributes:
        headline: one sentence.
        sentences: what else there is to know.
        equals: method by budget, with how many calls of the best undistilled each is as good as; None where nothing was distilled.
    """

    headline: str
    sentences: Sequence[str]
    equals: Table | None


class Finding(NamedTuple):
    """Something that is not better: a sentence, and the cells that it is of."""

    sentence: str
    cells: Sequence[str]
    more: int = 0


def summary(evidence: Evidence) -> Summary:
    """What was found."""
    comparison = evidence.comparison
    if not evidence.distilled:
        return Summary(_best_undistilled(evidence), [*_about_reference(comparison)], None)
    sentences = [*_against_bases(evidence), *_by_metric(evidence), *_about_best(evidence), *_about_reference(comparison)]
    equals = _equals_table(evidence) if evidence.best_bases else None
    return Summary(_headline(evidence), sentences, equals)


def not_better(evidence: Evidence) -> list[Finding]:
    """Where distilled is worse than its base or than the best undistilled, or not surely better; metrics that get worse; what diverged."""
    comparison, found = evidence.comparison, []
    against_base = [(result, evidence.of_base(result)) for result in evidence.distilled]
    against_best = [(result, evidence.of_best(result)) for result in evidence.distilled]
    for words, pairs in (("its own base", against_base), ("the best undistilled at the same budget", against_best)):
        known = [(result, ratio) for result, ratio in pairs if ratio is not None]
        for wanted, says in (("worse", "surely worse than"), ("open", "not surely better than")):
            these = [(result, ratio) for result, ratio in known if verdict(ratio) == wanted]
            if these:
                sentence = f"{_share(len(these), len(known))} {says} {words}, by the mean error"
                found.append(_finding(sentence, [f"{_name(r)}: {_times(ratio)}" for r, ratio in these]))
    for name in comparison.metrics:
        if name == ERROR:
            continue
        worse = [(r, v) for r, v in _metric_verdicts(evidence, name) if v == "worse" or _above(evidence, r, name)]
        if worse:
            sure = sum(v == "worse" for _, v in worse)
            known_count = len(list(_metric_verdicts(evidence, name)))
            beyond = f", beyond both intervals in {sure}" if sure else ", within the intervals"
            sentence = f"{METRICS[name].label}: {_share(len(worse), known_count)} worse than its own base{beyond}"
            found.append(_finding(sentence, [_figures(evidence, r, name) for r, _ in worse]))
    diverged = [r for r in comparison.measured if r.diverged]
    if diverged:
        cells = [f"{_name(r)}: {r.diverged} of {len(r.errors)} samples" for r in diverged]
        found.append(_finding(f"{_cells(len(diverged))} with samples that diverged", cells))
    skipped = [r for r in comparison.results if r.skipped]
    if skipped:
        found.append(_finding(f"{_cells(len(skipped))} could not be made", [f"{_name(r)}: {r.skipped}" for r in skipped]))
    return found


def curve_captions(evidence: Evidence) -> dict[str, str]:
    """A sentence a metric for those who do not see the chart: what it shows, and the ends of what it shows."""
    comparison, found = evidence.comparison, {}
    for name in comparison.metrics:
        about = METRICS[name]
        values = [(r.figures[name].value, r) for r in comparison.measured if name in r.figures]
        values = [(value, r) for value, r in values if math.isfinite(value)]
        text = f"{about.label} ({about.meaning}) against the number of network evaluations; base dashed, distilled solid."
        if values:
            pick = min if about.lower else max
            value, best = pick(values, key=lambda pair: pair[0])
            text += f" {'Lowest' if about.lower else 'Highest'}: {number(value)}, {_name(best)}."
        found[name] = text
    return found


def equal_words(equal: Equal, comparison: Comparison) -> str:
    """ "12.4 (10.9 to 14.1)"."""
    low, high = _calls(equal.low, comparison), _calls(equal.high, comparison)
    value = _calls(equal.value, comparison)
    return value if low == high == value else f"{value} ({low} to {high})"


def _headline(evidence: Evidence) -> str:
    """Of the method that gains most, at the middle of the budgets at which it surely does."""
    claims = [
        (name, nfe, equal)
        for name, mine in evidence.best_distilled.items()
        for nfe, result in mine.items()
        if (equal := evidence.equal(result)) is not None and equal.low > nfe
    ]
    if not claims:
        return "No distilled solver is surely better than the best undistilled one with as many calls."
    mean = {
        name: sum(math.log(min(e.value, 1e3) / nfe) for other, nfe, e in claims if other == name)
        for name in dict.fromkeys(name for name, _, _ in claims)
    }
    best = max(mean, key=lambda name: mean[name])
    mine = [(nfe, equal) for name, nfe, equal in claims if name == best]
    mine = [(nfe, equal) for nfe, equal in mine if equal.value != math.inf] or mine
    nfe, equal = mine[(len(mine) - 1) // 2]
    most = max(evidence.best_bases)
    with_method = f"With {_method(best)}, {nfe} calls do"
    if equal.value == math.inf:
        sure = "surely so" if equal.low == math.inf else f"as much as {_calls(equal.low, evidence.comparison)} for sure"
        return f"{with_method} more than {most} calls of the best undistilled solver, the most that were measured ({sure})."
    low, high = _calls(equal.low, evidence.comparison), _calls(equal.high, evidence.comparison)
    return (
        f"{with_method} what {_calls(equal.value, evidence.comparison)} calls of the best undistilled solver do "
        f"(90 % interval: {low} to {high})."
    )


def _best_undistilled(evidence: Evidence) -> str:
    if not evidence.best_bases:
        return "Nothing was measured."
    each = ", ".join(f"{_name(r)} ({number(r.figures[ERROR].value)})" for r in evidence.best_bases.values())
    return f"Nothing distilled is among the cells. The least error of each budget: {each}."


def _against_bases(evidence: Evidence) -> Iterator[str]:
    for words, of in (
        ("their own base", evidence.of_base),
        ("the best undistilled solver with as many calls", evidence.of_best),
    ):
        known = [verdict(ratio) for result in evidence.distilled if (ratio := of(result)) is not None]
        if known:
            yield f"{_counts(Counter(known), len(known), words)}."


def _counts(count: Counter[Verdict], known: int, words: str) -> str:
    """ "5 of 6 distilled cells are surely better than their own base, none surely worse; chance leaves 1 open"."""
    text = f"{count['better'] or 'None'} of {known} distilled cells {'is' if count['better'] == 1 else 'are'} surely better than {words}"
    text += f", {count['worse'] or 'none'} surely worse"
    return text + (f"; chance leaves {count['open']} open" if count["open"] else "")


def _by_metric(evidence: Evidence) -> Iterator[str]:
    """Of images, which the error alone does not settle: how many cells are better than their own base, beyond both intervals."""
    better, worse = [], []
    for name in evidence.comparison.metrics:
        if name in (ERROR, "median", "relative", "psnr"):
            continue
        count = Counter(v for _, v in _metric_verdicts(evidence, name))
        if count:
            better.append(f"{METRICS[name].label} {count['better']} of {sum(count.values())}")
        if count["worse"]:
            worse.append(f"{METRICS[name].label} {count['worse']}")
    if better:
        text = f"Cells that are better than their own base beyond both intervals, by other metrics: {', '.join(better)}"
        yield f"{text}; worse: {', '.join(worse) or 'none'}."


def _about_best(evidence: Evidence) -> Iterator[str]:
    bases = {(r.cell.solver, r.cell.grid) for r in evidence.comparison.measured if r.cell.base}
    if len(bases) > 1:
        yield (
            f"The best undistilled solver is the best of {len(bases)} at each budget, picked on these very noises; between the "
            "budgets measured its error is interpolated."
        )


def _about_reference(comparison: Comparison) -> Iterator[str]:
    reference = comparison.reference
    errors = [r.figures[ERROR].value for r in comparison.measured if ERROR in r.figures]
    least = min((value for value in errors if value > 0), default=math.inf)
    if not math.isfinite(reference.error):
        yield "How far the reference itself is off is not known."
    elif reference.error > _NEAR * least:
        yield (
            f"The reference may be off by {number(reference.error)} itself: errors that are not far above it say no more than that they "
            "are small."
        )


def _equals_table(evidence: Evidence) -> Table:
    comparison = evidence.comparison
    budgets = comparison.budgets
    rows = []
    for name, mine in evidence.best_distilled.items():
        entries = [Entry(name)]
        for nfe in budgets:
            equal = evidence.equal(mine[nfe]) if nfe in mine else None
            if equal is None:
                entries.append(Entry("", -1.0))
                continue
            between = f"{_calls(equal.low, comparison)} to {_calls(equal.high, comparison)}"
            entries.append(Entry(_calls(equal.value, comparison), equal.value, "" if equal.low == equal.high else between))
        rows.append(Row(entries))
    columns = [Column("method", number=False), *(Column(f"{nfe} calls") for nfe in budgets)]
    caption = (
        "With how many calls the best undistilled solver has the mean error of each method's best solver; beside it the 90 % interval. "
        "Bold: surely more calls than its own."
    )
    return Table(
        "equals",
        caption,
        columns,
        [_emphasised(row, budgets, evidence, name) for row, name in zip(rows, evidence.best_distilled)],
    )


def _emphasised(row: Row, budgets: Sequence[int], evidence: Evidence, name: str) -> Row:
    entries = list(row.entries)
    for i, nfe in enumerate(budgets):
        result = evidence.best_distilled[name].get(nfe)
        equal = None if result is None else evidence.equal(result)
        if equal is not None and equal.low > nfe:
            entries[i + 1] = entries[i + 1]._replace(strong=True)
    return Row(entries)


def _calls(value: float, comparison: Comparison) -> str:
    """A number of calls within those that bases were measured with."""
    measured = sorted({r.cell.nfe for r in comparison.measured if r.cell.base})
    if math.isinf(value):
        return f"more than {measured[-1]}" if value > 0 else f"fewer than {measured[0]}"
    return f"{value:.1f}".removesuffix(".0")


def _metric_verdicts(evidence: Evidence, name: str) -> Iterator[tuple[Result, str]]:
    """Of the distilled cells whose base has the metric too."""
    for result in evidence.distilled:
        base = evidence.comparison.base_of(result)
        if base is not None and name in result.figures and name in base.figures:
            yield result, apart(name, result.figures[name], base.figures[name])


def _above(evidence: Evidence, result: Result, name: str) -> bool:
    """Whether a metric is worse than the base's, chance aside."""
    base = evidence.comparison.base_of(result)
    assert base is not None
    mine, its = result.figures[name].value, base.figures[name].value
    return mine > its if METRICS[name].lower else mine < its


def _figures(evidence: Evidence, result: Result, name: str) -> str:
    base = evidence.comparison.base_of(result)
    assert base is not None
    return f"{_name(result)}: {_words(result.figures[name])}, its base {_words(base.figures[name])}"


def _finding(sentence: str, cells: Sequence[str]) -> Finding:
    return Finding(sentence, cells[:_MOST], max(0, len(cells) - _MOST))


def _times(ratio: Figure | None) -> str:
    if ratio is None or not math.isfinite(ratio.value):
        return "it diverges"
    return f"{_words(ratio)} times its error"


def _words(figure: Figure) -> str:
    interval = f" ({number(figure.low)} to {number(figure.high)})" if math.isfinite(figure.low) else ""
    return f"{number(figure.value)}{interval}"


def _share(count: int, of: int) -> str:
    return f"{count} of {of} distilled cells {'is' if count == 1 else 'are'}"


def _cells(count: int) -> str:
    return f"{count} cell" if count == 1 else f"{count} cells"


def _name(result: Result) -> str:
    return f"{result.cell.solver}, {label(result.cell)}, NFE {result.cell.nfe}"


def _method(name: str) -> str:
    return "the paper's method" if name == PAPERS else name
