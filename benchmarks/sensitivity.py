"""Draws the charts of docs/sensitivity.md again from what was measured, docs/sensitivity/study.csv: nothing is run.

python benchmarks/sensitivity.py
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

from dode.report.axes import AXES
from dode.report.outcomes import NAMES, mean_and_deviation
from dode.report.page.drawing import Chart, pictures
from dode.report.page.study import BASE, error_chart, lambda_chart

FOLDER = Path(__file__).parent.parent / "docs" / "sensitivity"
TITLE = "fashion, deis, 64 held-out samples"


def main() -> None:
    with (FOLDER / "study.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for name in dict.fromkeys(row["axis"] for row in rows):
        mine = [row for row in rows if row["axis"] == name]
        save(error_chart(AXES[name], points(mine, words=name == "classes"), TITLE, ""))
    fits = [map(float, row["lambdas"].split()) for row in rows if row["axis"] == "seeds" and row["method"] == "lambda"]
    save(lambda_chart([mean_and_deviation(step) for step in zip(*fits, strict=True)], TITLE))


def points(rows: list[dict[str, str]], *, words: bool) -> list[dict[str, Any]]:
    """As `dode.report.page.study.points`, from a row a case, which has a single fit."""
    found = []
    for row in rows:
        where = {"value": row["value"] if words else float(row["value"]), "series": row["series"]}
        error, doubt = float(row["error"]), float(row["standard_error"])
        found.append({"kind": "mean", **where, "method": NAMES[row["method"]], "error": error, "standard_error": doubt})
    bases = {row["value"]: float(row["base"]) for row in rows}
    where = {"series": "", "method": BASE, "kind": BASE}
    return found + [{**where, "value": at if words else float(at), "error": error} for at, error in bases.items()]


def save(chart: Chart) -> None:
    for name, content in pictures(chart).items():
        if name.endswith(".svg"):
            (FOLDER / name).write_bytes(content)
            print(f"wrote {FOLDER / name}")


if __name__ == "__main__":
    main()
