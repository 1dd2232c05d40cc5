"""What the numbers along an axis of a sensitivity study say: one clause for the outcomes of one method, none of them skipped."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from dode.report.outcomes import Outcome, lambda_rows, mean_and_deviation, ratio

# The series of fits made where they are measured, and names of what is fitted on along the axis of classes.
THERE = "fitted there"
OTHERS, SAMPLED, BOTH = "other classes", "the classes sampled", "all classes"

# Within this share of an error is as good.
_TOLERANCE = 0.05
_SEVERITY = ("transfers", "transfers in part", "does not transfer")


def settled(outcomes: Sequence[Outcome], what: str) -> str:
    """From which value on the error stays within the tolerance of that at the last value; `what` has a place for a value."""
    *earlier, last = sorted(outcomes, key=lambda each: float(each.case.value))
    end = what.format(last.case.value)
    if not earlier:
        return f"only {end} measured"
    excess = [each.error / last.error - 1 for each in earlier]
    first = next((i + 1 for i in reversed(range(len(earlier))) if excess[i] > _TOLERANCE), 0)
    before = f"{_percent(excess[first - 1])} above at {earlier[first - 1].case.value}" if first else ""
    if first == len(earlier):
        return f"not settled before {end} ({before})"
    text = f"from {what.format(earlier[first].case.value)} on within {_percent(_TOLERANCE)} of {end}"
    if before:
        text += f" ({before})"
    spread = earlier[first].spread
    return text if math.isnan(spread) else f"{text}, where single fits vary by {_percent(spread / earlier[first].error)}"


def steady(outcomes: Sequence[Outcome]) -> str:
    """How far error and lambda vary between seeds."""
    errors = [each.error for each in outcomes]
    if len(errors) < 2:
        return "only one seed was measured"
    mean, deviation = mean_and_deviation(errors)
    text = f"between {len(errors)} seeds the error has a standard deviation of {_percent(deviation / mean)}"
    rows = lambda_rows(outcomes)
    if rows:
        k, (value, varies) = max(enumerate(rows), key=lambda row: row[1][1])
        text += f", lambda one of {varies:.3f} at most (step {k + 1}, mean {value:+.3f})"
    return text


def across_guidance(outcomes: Sequence[Outcome]) -> str:
    """What it costs to sample at another guidance scale than fitted at."""
    there = {each.case.value: each for each in outcomes if each.case.series == THERE}
    pairs = {
        f"at guidance {each.case.value:g}": (each, there[each.case.value])
        for each in outcomes
        if each.case.series != THERE and each.case.value in there and each.case.fits != there[each.case.value].case.fits
    }
    return _transfer(pairs, "a fit there")


def across_classes(outcomes: Sequence[Outcome]) -> str:
    """What it costs to sample other classes than fitted on."""
    by_value = {each.case.value: each for each in outcomes}
    if not {OTHERS, SAMPLED} <= set(by_value):
        return "no pair to compare was measured"
    return _transfer({"on classes that it did not see": (by_value[OTHERS], by_value[SAMPLED])}, "a fit on these")


def by_budget(outcomes: Sequence[Outcome]) -> str:
    """Where it gains most and least, and where it loses."""
    gains = {each.case.value: each.gain[0] for each in outcomes}
    most, least = min(gains, key=gains.__getitem__), max(gains, key=gains.__getitem__)
    text = f"{gains[most]:.3f} of the base's error at NFE {most}"
    if least != most:
        text += f" (most gained) to {gains[least]:.3f} at {least} (least)"
    worse = [str(each.case.value) for each in outcomes if each.worse_than_base]
    return text + (f", worse than the base at NFE {', '.join(worse)}" if worse else ", nowhere clearly worse than the base")


def _transfer(pairs: Mapping[str, tuple[Outcome, Outcome]], instead: str) -> str:
    """What it costs at worst to sample elsewhere than fitted: pairs of the fit elsewhere and the fit for this place."""
    if not pairs:
        return "no pair to compare was measured"
    verdicts = {where: _verdict(*pair) for where, pair in pairs.items()}
    where = max(verdicts, key=lambda name: verdicts[name])
    severity, penalty, doubt = verdicts[where]
    gain, gain_doubt = pairs[where][0].gain
    worst = "at worst, " if len(pairs) > 1 else ""
    return (
        f"{_SEVERITY[severity]}: {worst}{where}, {penalty:.2f} ± {doubt:.2f} times the error of {instead} "
        f"and {gain:.3f} ± {gain_doubt:.3f} of the base's"
    )


def _verdict(elsewhere: Outcome, there: Outcome) -> tuple[int, float, float]:
    """How badly a fit does elsewhere, 0 to 2: as well as the fit there; less well; no longer clearly better than the base. Then its
    error over that of the fit there, and the standard error."""
    penalty, doubt = ratio(elsewhere.errors.mean(0), there.errors.mean(0))
    gain, gain_doubt = elsewhere.gain
    as_good = penalty <= 1 + _TOLERANCE or penalty - 1 <= 2 * doubt
    gains = gain + 2 * gain_doubt < 1
    return (0 if as_good else 1 if gains else 2), penalty, doubt


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %" if share < 0.995 else f"{100 * share:.0f} %"
