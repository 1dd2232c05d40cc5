"""The report: one self-contained page, `index.html`, with its charts as SVG and PNG beside it.

    write(folder, comparison=..., study=...)

Altair describes the charts, vega draws them: in the page, where it is inlined, and for the files, through vl-convert. Jinja2 fills the
templates of `templates/`; whatever is not known to be safe is escaped. The page asks no host for anything, and its content security policy
forbids it.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

from dode.files import write_atomically
from dode.report.results import Comparison

_LIBRARIES = {"altair": "altair", "jinja2": "jinja2", "vl_convert": "vl-convert-python"}
PAGE, PLOTS = "index.html", "plots"


def check_installed() -> None:
    """See, before long work, that a page can be written.

    Raises:
        ImportError: the extra `report` is not installed.
    """
    missing = [name for module, name in _LIBRARIES.items() if find_spec(module) is None]
    if missing:
        raise ImportError(f"the page needs {', '.join(missing)}: pip install 'dode[report]'")


def write(folder: Path, *, comparison: Comparison | None = None, study: Any = None) -> list[Path]:
    """Write the page and its plots into a folder that exists, each file atomically, in place of those that are there.

    Args:
        folder: for index.html and plots/NAME.svg and .png.
        comparison, study: what the page shows; at least one of them.

    Returns:
        The files, the page first.

    Raises:
        ValueError: neither a comparison nor a study.
        ImportError: the extra `report` is not installed.
        OSError: a file cannot be written.
    """
    if comparison is None and study is None:
        raise ValueError("a report needs a comparison, a study, or both: got neither")
    from dode.report.page.document import render
    from dode.report.page.drawing import pictures

    text, charts = render(comparison, study)
    (folder / PLOTS).mkdir(exist_ok=True)
    written = [folder / PAGE]
    for chart in (each for each in charts if each.files):
        for name, content in pictures(chart).items():
            path = folder / PLOTS / name
            write_atomically(path, lambda temporary, content=content: temporary.write_bytes(content), overwrite=True)  # type: ignore[misc]
            written.append(path)
    write_atomically(written[0], lambda temporary: temporary.write_text(text, encoding="utf-8"), overwrite=True)
    return written


__all__ = ["PAGE", "PLOTS", "check_installed", "write"]
