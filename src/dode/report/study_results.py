"""What a sensitivity study found, as plain data: what its section of the page, its files and notebooks are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dode.report.axes import AXES
from dode.report.outcomes import Fit, Outcome, outcome_from_json, ratio, standard_error
from dode.report.results import Setting


@dataclass(frozen=True, eq=False)
class Study:
    """What was found along each axis.

    Attributes:
        results: by the axis's name, in the order of `AXES`.
        skipped: why the model does not have an axis, by its name.
        setting: what all cases have in common; its samples are the held-out noises that errors are measured on, its seed theirs, and that
            of the fits unless they say otherwise.
        solver: its name with options.
        grid: the grid that it stops on; "" for its own.
        home: the fit that the axes depart from.
        validation: samples that choose in the end-to-end fit.
        reference: words for what errors are distances to.
        reference_error: mean square distance of the reference to another solver's run that is as fine, on a few samples.
        evaluations: network evaluations of one sample in all, those of an interrupted run included; guidance does not count twice.
        seconds: wall time in all, likewise.
    """

    results: Mapping[str, tuple[Outcome, ...]]
    skipped: Mapping[str, str]
    setting: Setting
    solver: str
    grid: str
    home: Fit
    validation: int
    reference: str
    reference_error: float
    evaluations: int = 0
    seconds: float = 0.0

    @property
    def title(self) -> str:
        """What was studied, on how many noises."""
        return f"{self.setting.model}, {self.solver}, {self.setting.samples} held-out samples"

    @property
    def answers(self) -> dict[str, str]:
        """One sentence an axis."""
        return {name: AXES[name].summary(outcomes) for name, outcomes in self.results.items()}

    @property
    def caption(self) -> str:
        """What the numbers are."""
        home = self.home
        doubt = f"{self.reference_error:.1e} off another solver's run that is as fine"
        grid = f", grid {self.grid}" if self.grid else ""
        return (
            f"Error: mean square distance to the reference per element, {self.reference} ({doubt}), on {self.setting.samples} noises "
            "that no fit saw; ± one standard error over these. Of base: error over that of the undistilled solver on the same noise. "
            "Evaluations: network evaluations of one sample that a fit took. Lambda alone is the paper's method, one number a step; "
            f'end to end is the effort "balanced" of dode distill, which takes {self.validation} more samples that choose. Unless a '
            f"table says otherwise: NFE {home.nfe}{grid}, {home.samples} fitting samples, teacher scale {home.teacher_scale}, "
            f"guidance {home.guidance:g}, seed {home.seed}."
        )

    @property
    def cost(self) -> str:
        """What it took, in words."""
        took = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        return f"{self.evaluations:,} network evaluations of one sample, {took}, on {self.setting.device}"

    def values(self, axis: str) -> list[Any]:
        """Where an axis was measured; none of one that was not."""
        return list(dict.fromkeys(each.case.value for each in self.results.get(axis, ())))

    def rows(self) -> list[dict[str, Any]]:
        """Tidy: a row a fit in a place, with its numbers; those of a case without numbers are None."""
        return [row for axis, outcomes in self.results.items() for each in outcomes for row in _rows(axis, each)]

    def to_frame(self) -> Any:
        """A pandas DataFrame of the rows.

        Raises:
            ImportError: pandas is not installed.
        """
        from dode.report.study_notebook import to_frame

        return to_frame(self)

    def plot(self, axis: str) -> Any:
        """An altair chart of the error along an axis.

        Raises:
            ValueError: an axis that was not measured.
            ImportError: altair is not installed.
        """
        from dode.report.study_notebook import plot

        return plot(self, axis)

    def _repr_html_(self) -> str:
        """In notebooks: the answers, and a table an axis."""
        from dode.report.study_notebook import html

        return html(self)


def study_from_json(data: Mapping[str, Any]) -> Study:
    """The study that `dode.report.results.to_json` gave.

    Raises:
        KeyError, TypeError, ValueError: it is none.
    """
    results = {name: tuple(outcome_from_json(each) for each in found) for name, found in data["results"].items()}
    if unknown := (set(results) | set(data["skipped"])) - set(AXES):
        raise ValueError(f"no axes of a study: {', '.join(sorted(unknown))}")
    setting = Setting(**{**data["setting"], "notes": tuple(data["setting"]["notes"])})
    own = {
        "results": results,
        "setting": setting,
        "home": Fit(**data["home"]),
        "reference_error": float(data["reference_error"]),
    }
    return Study(**{**data, **own})


def _rows(axis: str, outcome: Outcome) -> list[dict[str, Any]]:
    case = outcome.case
    where = {"axis": axis, "value": case.value, "series": case.series}
    place = {"sampled_guidance": case.place.guidance, "sampled_classes": case.place.classes}
    return [
        {**where, **asdict(fit), **place, **_numbers(outcome, i), "skipped": outcome.skipped} for i, fit in enumerate(case.fits)
    ]


_NUMBERS: Sequence[str] = (
    *("error", "standard_error", "base", "of_base", "of_base_standard_error"),
    *("lambdas", "evaluations_a_fit", "seconds_a_fit"),
)


def _numbers(outcome: Outcome, i: int) -> dict[str, Any]:
    """Those of fit i."""
    if outcome.skipped:
        return dict.fromkeys(_NUMBERS)
    errors = outcome.errors[i]
    lambdas = None if outcome.lambdas is None else outcome.lambdas[i].tolist()
    found = (float(errors.mean()), standard_error(errors), float(outcome.base.mean()), *ratio(errors, outcome.base))
    return dict(zip(_NUMBERS, (*found, lambdas, outcome.cost, outcome.seconds), strict=True))
