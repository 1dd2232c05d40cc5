"""A sensitivity study in the folder of a report: what it is made again from, its tables, and its section of the page."""

from __future__ import annotations

import warnings
from pathlib import Path

from dode.files import write_atomically
from dode.report.folder import CACHE, mark_report
from dode.report.results import Comparison, to_json
from dode.report.study_results import Study, study_from_json
from dode.report.study_tables import write_csv, write_json
from dode.seals import sealed, unsealed

# What each fit and measurement gave, a line each; and what the last finished study found.
RECORDS, KEPT = f"{CACHE}/study.jsonl", f"{CACHE}/study.json"
CSV, JSON = "study.csv", "study.json"


def load_study(folder: Path) -> Study | None:
    """The finished study of a folder; None where there is none. A damaged one is none, which is said."""
    path = folder / KEPT
    try:
        return study_from_json(unsealed(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        warnings.warn(
            f"{path} is damaged: ask for its axes again, for which what its records hold is not made again", stacklevel=2
        )
        return None


def save_study(study: Study, folder: Path, *, comparison: Comparison | None = None) -> list[Path]:
    """Write a study into a folder that exists, in place of the one that is there; the page last, each file atomically.

    Args:
        study: what was found.
        folder: of the report.
        comparison: what the page shows beside it.

    Returns:
        The files for a reader.

    Raises:
        ImportError: the extra `report` is not installed.
        OSError: a file cannot be written.
    """
    from dode.report.page import write

    tables = write_tables(study, folder)
    page, *plots = write(folder, comparison=comparison, study=study)
    return [page, *tables, *plots]


def write_tables(study: Study, folder: Path) -> list[Path]:
    """All but the page and its plots; as `save_study`."""
    mark_report(folder)
    text = sealed(to_json(study))
    write_atomically(folder / KEPT, lambda path: path.write_text(text, encoding="utf-8"), overwrite=True)
    tables = {CSV: write_csv, JSON: write_json}
    for name, writer in tables.items():
        write_atomically(folder / name, lambda path, writer=writer: writer(study, path), overwrite=True)  # type: ignore[misc]
    return [folder / name for name in tables]
