"""The report page at the size of a large comparison: how large the file is, how long it takes to make, and how long a browser needs.

    PYTHONPATH=src python benchmarks/report_page.py                           # measures 8 solvers x 6 budgets x 4 methods
    PYTHONPATH=src python benchmarks/report_page.py --screenshots docs/images # two pictures of a small real one

The large comparison is made of real runs of the bundled network: bases as they are, and distilled cells that are these runs with errors
divided. With --report a folder is measured, or photographed, as it is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

# Colours of a screenshot: enough for flat colours and grey pictures, at a third of the size.
_COLOURS = 256
_WRITE = """
import json, sys, time
began = time.perf_counter()
from pathlib import Path
from dode.report.page import write
from dode.report.results import comparison_from_json
comparison = comparison_from_json(json.loads(Path(sys.argv[1]).read_text()))
read = time.perf_counter()
write(Path(sys.argv[2]), comparison=comparison)
print(read - began, time.perf_counter() - read)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="a folder with index.html; a large one is made if none is given")
    parser.add_argument("--screenshots", type=Path, help="folder for report-curves.png and report-samples.png")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if options.screenshots:
            screenshots(options.report or small(Path(name)), options.screenshots)
        else:
            measure(options.report or large(Path(name)))


def large(folder: Path) -> Path:
    """A report of 192 cells, made in a process of its own; prints what that took."""
    import json

    import comparisons

    from dode.report.results import to_json

    data = folder / "comparison.json"
    data.write_text(json.dumps(to_json(comparisons.large())))
    done = subprocess.run(
        [sys.executable, "-c", _WRITE, str(data), str(folder)], check=True, capture_output=True, text=True, env=os.environ
    )
    reading, writing = map(float, done.stdout.split())
    print(f"8 solvers x 6 budgets x 4 methods: read in {reading:.1f} s, page and plots written in {writing:.1f} s")
    return folder


def small(folder: Path) -> Path:
    """A report to look at: undistilled solvers, and the tableaux of `thorough` that the repository has."""
    import comparisons

    from dode.report.page import write

    write(folder, comparison=comparisons.real(budgets=(4, 5, 6, 8, 10, 12), papers=(), samples=32, reference_nfe=100))
    return folder


def measure(folder: Path) -> None:
    """Size, and milliseconds from the start of navigation until all handlers are bound and the first chart is drawn; three times."""
    print(f"index.html: {(folder / 'index.html').stat().st_size / 1e6:.2f} MB")
    for _ in range(3):
        with page(folder) as opened:
            opened.locator("figure.chart svg").first.wait_for()
            marks = opened.evaluate("['ready', 'first chart'].map((name) => performance.getEntriesByName(name)[0].startTime)")
            print(f"handlers bound after {marks[0]:.0f} ms, first chart drawn after {marks[1]:.0f} ms")


def screenshots(folder: Path, out: Path) -> None:
    """Two pictures for the README: the summary with the curves, and the samples."""
    out.mkdir(parents=True, exist_ok=True)
    with page(folder, {"width": 1080, "height": 1000}, scale=1.5) as opened:
        opened.locator("figure.chart svg").first.wait_for()
        top, bottom = (opened.locator(name).bounding_box() for name in ("#summary", "#quality"))
        curves = {"x": 0, "y": top["y"], "width": 1080, "height": bottom["y"] + bottom["height"] - top["y"] + 20}
        save(opened.screenshot(full_page=True, clip=curves), out / "report-curves.png")
    with page(folder, {"width": 1080, "height": 1000}, scale=1.5) as opened:
        opened.locator("#samples").scroll_into_view_if_needed()
        opened.locator("#grid img").first.wait_for()
        time.sleep(0.5)
        box = opened.locator("#samples").bounding_box()
        strips = opened.locator("#grid").bounding_box()
        bottom = strips["y"] + strips["height"] + 24
        seen = {"x": 0, "y": box["y"], "width": 1080, "height": bottom - box["y"]}
        save(opened.screenshot(clip=seen), out / "report-samples.png")


def save(content: bytes, path: Path) -> None:
    """With few colours, which is what a page has."""
    from io import BytesIO

    Image.open(BytesIO(content)).convert("RGB").quantize(_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


@contextmanager
def page(folder: Path, size: dict[str, int] | None = None, scale: float = 1.0) -> Iterator[Any]:
    """The report in a browser."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        raise SystemExit("no Chromium is installed: apt-get install chromium")
    with sync_playwright() as driver:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = driver.chromium.launch(executable_path=found, args=arguments)
        context = browser.new_context(viewport=size or {"width": 1280, "height": 900}, device_scale_factor=scale)
        opened = context.new_page()
        opened.goto((folder / "index.html").resolve().as_uri())
        yield opened
        browser.close()


if __name__ == "__main__":
    main()
