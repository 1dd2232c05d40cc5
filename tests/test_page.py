"""The report page: what its words say of made-up comparisons, and what it does in a real browser."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import comparisons
import numpy as np
import pytest
from mixture import mixture_denoiser

import dode
from dode import statistics
from dode.charts import DARK, LIGHT
from dode.report.page import write
from dode.report.page.document import embedded, environment, render
from dode.report.page.drawing import packed
from dode.report.page.evidence import Evidence, apart, verdict
from dode.report.page.words import not_better, summary
from dode.report.results import BASE, Comparison
from dode.statistics import Figure

# A name that ends a script, opens a tag and breaks out of an attribute.
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\u2028"
BUDGETS = (4, 6, 8, 12)


def curve(solver: str, method: str, errors: tuple[float, ...]) -> dict[tuple[str, int, str], float]:
    return {(solver, nfe, method): error for nfe, error in zip(BUDGETS, errors, strict=False)}


def words(comparison: Comparison) -> str:
    found = summary(Evidence(comparison))
    return " ".join([found.headline, *found.sentences])


BASES = curve("ddim", BASE, (0.16, 0.08, 0.04, 0.01)) | curve("deis", BASE, (0.12, 0.06, 0.03, 0.008))


# The ratios of many pairs.


def test_ratios_of_many_pairs_are_those_of_each() -> None:
    generator = np.random.default_rng(0)
    errors = generator.lognormal(size=(6, 50)) * generator.lognormal(size=50)
    errors[3, 2], errors[4] = math.inf, 0.0
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    for found, (i, j) in zip(statistics.ratios(errors, pairs), pairs, strict=True):
        np.testing.assert_allclose(found, statistics.ratio(errors[i], errors[j]), rtol=1e-9)


# What is said.


def test_as_many_calls_as_the_best_undistilled_needs_are_read_off_its_curve() -> None:
    comparison = comparisons.invented(BASES | curve("ddim", "fast", (0.06, 0.03)))
    evidence = Evidence(comparison)
    four, six = (evidence.equal(evidence.best_distilled["fast"][nfe]) for nfe in (4, 6))
    assert four is not None and four.value == pytest.approx(6, rel=0.03)
    assert four.low <= four.value <= four.high
    assert six is not None and six.value == pytest.approx(8, rel=0.03)
    assert re.match(
        r"With fast, 4 calls do what (5\.9|6|6\.1) calls of the best undistilled solver do \(90 % interval: ", words(comparison)
    )


def test_no_budget_beyond_those_measured_is_named() -> None:
    text = words(comparisons.invented(BASES | curve("ddim", "fast", (0.001, 0.0005, 0.0002, 0.0001))))
    assert "more than 12 calls of the best undistilled solver, the most that were measured" in text
    assert not {int(n) for n in re.findall(r"(\d+) calls", text)} - set(BUDGETS)


def test_what_chance_leaves_open_is_not_said_to_be_better() -> None:
    noisy = np.random.default_rng(3).lognormal(0, 2, 200)
    errors = {("ddim", 4, BASE): noisy, ("ddim", 4, "fast"): np.roll(noisy, 7) * 0.95}
    comparison = comparisons.invented(errors)
    assert summary(Evidence(comparison)).headline.startswith("No distilled solver is surely better")
    assert "None of 1 distilled cells are surely better than their own base, none surely worse; chance leaves 1 open" in words(
        comparison
    )
    assert any("not surely better than its own base" in finding.sentence for finding in not_better(Evidence(comparison)))


def test_what_is_worse_is_said() -> None:
    errors = BASES | curve("ddim", "fast", (0.2, 0.02)) | curve("deis", "fast", (0.05, 0.07))
    found = {finding.sentence: finding.cells for finding in not_better(Evidence(comparisons.invented(errors)))}
    (own,) = (cells for sentence, cells in found.items() if "surely worse than its own base" in sentence)
    assert [cell.split(":")[0] for cell in own] == ["ddim, fast, NFE 4", "deis, fast, NFE 6"]
    (best,) = (cells for sentence, cells in found.items() if "surely worse than the best undistilled" in sentence)
    assert len(best) == 2
    assert any(sentence.startswith("median error: 2 of 4") for sentence in found)


def test_a_distilled_solver_better_than_its_base_may_be_worse_than_the_best_undistilled() -> None:
    evidence = Evidence(comparisons.invented(BASES | curve("ddim", "fast", (0.14,))))
    (cell,) = evidence.distilled
    assert verdict(evidence.of_base(cell)) == "better"
    assert verdict(evidence.of_best(cell)) == "worse"
    assert summary(evidence).headline.startswith("No distilled solver is surely better")


def test_nothing_to_complain_of_says_so_and_no_more() -> None:
    comparison = comparisons.invented(BASES | curve("deis", "fast", (0.01, 0.005)))
    assert not not_better(Evidence(comparison))
    text, _ = render(comparison)
    assert "Each of the 2 distilled cells is surely better than its base" in text


def test_what_diverges_is_no_better_than_anything() -> None:
    broken = np.ones(200)
    broken[3] = math.inf
    evidence = Evidence(comparisons.invented(BASES | {("ddim", 4, "fast"): broken}))
    (cell,) = evidence.distilled
    assert verdict(evidence.of_base(cell)) == "worse"
    equal = evidence.equal(cell)
    assert equal is not None and equal.low == -math.inf
    assert any("1 of 200 samples" in each for finding in not_better(evidence) for each in finding.cells)


def test_figures_differ_only_where_their_intervals_do_not_meet() -> None:
    low, middle, high = Figure(1, 0.8, 1.2), Figure(1.3, 1.1, 1.5), Figure(2, 1.8, 2.2)
    assert apart("fid", low, middle) == "open"
    assert apart("fid", low, high) == "better" and apart("fid", high, low) == "worse"
    assert apart("precision", low, high) == "worse" and apart("precision", high, low) == "better"
    assert apart("fid", low, Figure(5, math.nan, math.nan)) == "open"


def test_without_distilled_cells_the_bases_are_named() -> None:
    text, charts = render(comparisons.invented(BASES))
    assert "Nothing distilled is among the cells. The least error of each budget: deis, base, NFE 4" in text
    assert not re.search(r"surely better|do what", text[: text.index("<script")])
    assert charts


# What it is made of.


def test_names_cannot_break_out_of_the_page() -> None:
    comparison = comparisons.invented(
        {(HOSTILE, nfe, method): error for (_, nfe, method), error in curve("", BASE, (0.1, 0.05)).items()}
        | {(HOSTILE, 4, HOSTILE): 0.01},
        model=HOSTILE,
    )
    text, _ = render(comparison)
    assert "<img src=x" not in text
    assert len(re.findall(r"<script\b", text.split("<script", 1)[0])) == 0
    # The data, the library and the page's own script.
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    assert json.loads(data.group(1))["solvers"] == [HOSTILE]


def test_data_in_the_page_is_json_that_ends_no_script() -> None:
    text = embedded({"name": HOSTILE, "rows": packed([{"a": HOSTILE, "b": math.inf}, {"a": "", "b": 1 / 3}])})
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text)["rows"]["columns"] == {"a": {"of": [HOSTILE, ""], "at": [0, 1]}, "b": [None, 0.33333]}


def test_neither_comparison_nor_study_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="needs a comparison, a study, or both"):
        write(tmp_path)
    assert not list(tmp_path.iterdir())


def contrast(a: str, b: str) -> float:
    """Of two colours #rrggbb, by WCAG."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))

    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("look", [LIGHT, DARK], ids=["light", "dark"])
def test_lines_can_be_seen_and_words_read(look: Any) -> None:
    assert contrast(look.ink, look.paper) >= 4.5
    for colour in (*look.solvers, *look.methods):
        assert contrast(colour, look.paper) >= 3, colour


# In a browser.


@pytest.fixture(scope="module")
def comparison() -> Comparison:
    return comparisons.real(("ddim", "deis"), (4, 6), papers=(("ddim", 4),), samples=6, shown=4, reference_nfe=20)


@pytest.fixture(scope="module")
def folder(comparison: Comparison, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    write(folder, comparison=comparison)
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install 'dode[dev]'")
    with playwright.sync_playwright() as driver:
        root = hasattr(os, "geteuid") and os.geteuid() == 0
        browser = driver.chromium.launch(executable_path=found, args=["--no-sandbox"] if root else [])
        yield browser
        browser.close()


class Opened:
    """A page in the browser, with what it asked for and what it complained of."""

    def __init__(self, browser: Any, folder: Path, **options: Any) -> None:
        self.context = browser.new_context(**{"viewport": {"width": 1100, "height": 800}, **options})
        self.page = self.context.new_page()
        self.page.set_default_timeout(60_000)
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto((folder / "index.html").as_uri())

    def chart(self, name: str) -> Any:
        """The drawing of a chart, drawn."""
        place = self.page.locator(f"[data-chart={name}]")
        place.scroll_into_view_if_needed()
        place.locator("svg").wait_for()
        return place

    def whole(self) -> None:
        """Down to the end, so that everything is drawn."""
        for figure in self.page.locator("figure.chart:visible").all():
            figure.scroll_into_view_if_needed()
            figure.locator("svg, .none").first.wait_for()


@pytest.fixture(scope="module")
def opened(browser: Any, folder: Path) -> Iterator[Opened]:
    opened = Opened(browser, folder)
    yield opened
    opened.context.close()


pytestmark = pytest.mark.xdist_group("page")


def test_page_and_plots_are_written(folder: Path, comparison: Comparison) -> None:
    size = (folder / "index.html").stat().st_size
    assert size < 2 * 2**20
    names = {path.stem for path in (folder / "plots").iterdir()}
    assert {f"curves-{name}" for name in comparison.metrics} <= names
    assert {"path-error", "paths", "times", "lambdas", "coefficients"} <= names
    for name in names:
        assert (folder / "plots" / f"{name}.svg").read_bytes().startswith(b"<svg")
        assert (folder / "plots" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_requested_and_nothing_complained_of(opened: Opened) -> None:
    opened.whole()
    assert [url for url in opened.requests if not url.startswith("data:")] == [opened.page.url]
    assert not opened.complaints


def test_pictures_and_charts_have_words(opened: Opened) -> None:
    opened.whole()
    for picture in opened.page.locator("img:not(.over)").all():
        assert picture.get_attribute("alt")
    charts = opened.page.locator("figure.chart:visible svg")
    assert charts.count() >= 5
    for picture in charts.all():
        assert picture.get_attribute("role") == "img"
        assert len(picture.get_attribute("aria-label") or "") > 40
    assert opened.page.locator("h1").count() == 1
    assert opened.page.locator("main").count() == 1


def test_ticks_hide_and_show_by_keyboard(opened: Opened) -> None:
    page = opened.page
    opened.chart("curves-error")
    rows, strips = page.locator("#results tbody tr:visible"), page.locator("#grid .strip")
    before = rows.count(), strips.count()
    box = page.locator("input[name=solver][value=ddim]")
    box.focus()
    page.keyboard.press("Space")
    assert not box.is_checked()
    page.wait_for_timeout(200)
    assert rows.count() == 4 and strips.count() == 3  # deis: base and thorough; and the reference's strip
    assert page.locator("[data-chart=curves-error] svg").get_by_text("ddim", exact=True).count() == 0
    page.keyboard.press("Space")
    page.wait_for_timeout(200)
    assert (rows.count(), strips.count()) == before


def test_metric_and_layout_are_chosen_by_keyboard(opened: Opened) -> None:
    page = opened.page
    page.locator("#metric").focus()
    page.keyboard.press("ArrowDown")
    assert page.locator("[data-metric=median]").is_visible() and not page.locator("[data-metric=error]").is_visible()
    opened.chart("curves-median")
    page.locator("[name=layout]").first.focus()
    page.keyboard.press("ArrowRight")
    opened.chart("overlay-median")
    page.keyboard.press("ArrowLeft")
    page.locator("#metric").focus()
    page.keyboard.press("ArrowUp")
    opened.chart("curves-error")


def test_table_sorts_by_keyboard(opened: Opened) -> None:
    page = opened.page
    heading = page.locator("#results th").nth(3)
    heading.locator("button").focus()

    def column() -> list[float]:
        return [
            float(value)
            for value in page.locator("#results td:nth-child(4)").evaluate_all("all => all.map(e => e.dataset.key)")
        ]

    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "ascending"
    assert column() == sorted(column())
    page.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending"
    assert column() == sorted(column(), reverse=True)


def test_slider_goes_through_the_budgets_by_keyboard(opened: Opened) -> None:
    page = opened.page
    slider = page.locator("#budget")
    slider.focus()
    page.keyboard.press("Home")
    assert page.locator("#budget-shown").inner_text() == "4"
    first = page.locator("#grid img:not(.over)").nth(1).get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert page.locator("#budget-shown").inner_text() == "6"
    assert slider.get_attribute("aria-valuetext") == "6 calls"
    assert page.locator("#grid img:not(.over)").nth(1).get_attribute("src") != first


def test_difference_lays_the_reference_over_each_row(opened: Opened) -> None:
    page = opened.page
    over = page.locator("#grid img.over")
    assert over.count() and not over.first.is_visible()
    page.locator("#difference").focus()
    page.keyboard.press("Space")
    assert over.first.is_visible()
    assert over.first.evaluate("e => getComputedStyle(e).mixBlendMode") == "difference"
    assert over.first.get_attribute("src") == page.locator("#grid img:not(.over)").first.get_attribute("src")
    page.keyboard.press("Space")
    assert not over.first.is_visible()


def test_paths_and_numbers_follow_the_choice(opened: Opened, comparison: Comparison) -> None:
    page = opened.page
    page.locator("#run-solver").select_option("deis")
    page.locator("#run-nfe").select_option("6")
    page.locator("#run-method").select_option(BASE)
    assert page.locator("#denoised .strip").count() == 3
    page.locator("[data-chart=lambdas]").scroll_into_view_if_needed()
    page.locator("[data-chart=lambdas] .none").wait_for()
    page.locator("#numbers").evaluate("details => { details.open = false; }")
    page.locator("#numbers summary").press("Enter")
    page.locator("#numbers[open]").wait_for()
    shown = page.locator("#coefficients-table tbody tr")
    (base,) = (r for r in comparison.measured if (r.cell.solver, r.cell.nfe, r.cell.method) == ("deis", 6, BASE))
    assert base.tableau is not None
    assert shown.count() == base.tableau.rows
    values = [float(text) for text in shown.last.locator("td").all_inner_texts() if text]
    row = np.concatenate([base.tableau.a[-1], base.tableau.b[-1]])
    np.testing.assert_allclose(values, row[row != 0], rtol=1e-3)
    page.locator("#run-solver").select_option("ddim")
    page.locator("#run-nfe").select_option("4")
    opened.chart("lambdas")


def test_narrow_screen_has_no_sideways_scroll(browser: Any, folder: Path) -> None:
    opened = Opened(browser, folder, viewport={"width": 400, "height": 800})
    opened.whole()
    widths = opened.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    opened.context.close()
    assert widths[0] <= widths[1] == 400


READ = """() => {
  const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
  const opaque = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = parse(getComputedStyle(each).backgroundColor);
      if (colour.length === 3 || colour[3] > 0.99) return colour.slice(0, 3);
    }
    return parse(getComputedStyle(document.documentElement).backgroundColor).slice(0, 3);
  };
  const seen = [];
  const words = "h1, h2, h3, p, a, li, td, th, dt, dd, small, label, legend, button, summary, code, .name";
  for (const element of document.querySelectorAll(words)) {
    if (element.checkVisibility() && element.textContent.trim())
      seen.push([element.tagName, parse(getComputedStyle(element).color).slice(0, 3), opaque(element)]);
  }
  return seen;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_words_can_be_read(browser: Any, folder: Path, scheme: str) -> None:
    opened = Opened(browser, folder, color_scheme=scheme, reduced_motion="reduce")
    seen = opened.page.evaluate(READ)
    opened.chart("curves-error")
    inks = set(
        opened.page.locator("[data-chart=curves-error] svg text").evaluate_all("all => all.map(e => e.getAttribute('fill'))")
    )
    opened.context.close()
    assert len(seen) > 50
    for tag, colour, behind in seen:
        assert contrast(hexadecimal(colour), hexadecimal(behind)) >= 4.5, (tag, colour, behind)
    look = LIGHT if scheme == "light" else DARK
    assert inks <= {look.ink, "transparent", None} and look.ink in inks


def hexadecimal(colour: list[float]) -> str:
    return "#" + "".join(f"{round(part):02x}" for part in colour)


# In notebooks.


def test_frame_has_a_row_a_cell(comparison: Comparison) -> None:
    frame = comparison.to_frame()
    assert len(frame) == len(comparison.results)
    assert frame.set_index(["solver", "nfe", "method"]).loc[("deis", 6, BASE), "error"] == next(
        r.figures["error"].value for r in comparison.results if str(r.cell) == "deis base NFE 6"
    )


def test_notebooks_show_comparisons_and_tableaux(comparison: Comparison) -> None:
    assert summary(Evidence(comparison)).headline in comparison._repr_html_()
    assert comparison.plot("median").to_dict()["facet"]["field"] == "solver"
    with pytest.raises(ValueError, match="unknown metric 'errr': did you mean 'error'"):
        comparison.plot("errr")
    tableau = dode.solver("deis").tableau(dode.schedules.VP.linear(), 4)
    text = tableau._repr_html_()
    assert text.count("<tr>") == 1 + tableau.rows
    assert f'title="{float(tableau.b[3, 2])!r}"' in text


def test_notebooks_escape_what_files_say() -> None:
    tableau = dode.solver("ddim").tableau(dode.schedules.VP.linear(), 2)
    hostile = dode.Tableau.from_json({**tableau.to_json(), "solver": "<img src=x>", "grid": "<b>"})
    assert "<img" not in hostile._repr_html_() and "<b>" not in hostile._repr_html_()


@pytest.fixture(scope="module")
def distilled() -> Any:
    denoiser = mixture_denoiser(dode.schedules.VP.linear())
    return dode.distill(denoiser, "ddim", nfe=(2, 3), effort="fast", samples=16, validation=16, held_out=8)


def test_notebooks_show_what_was_distilled(distilled: Any) -> None:
    result = distilled[3]
    frame = distilled.to_frame()
    assert len(frame) == sum(each.base.rows + each.tableau.rows for each in distilled)
    last = result.to_frame().query("last and method == 'distilled'")
    assert last["error"].item() == pytest.approx(result.held_out.end[1])
    assert last["low"].item() <= last["error"].item() <= last["high"].item()
    for shown in (result, distilled):
        drawn = shown.plot().to_dict()
        assert {"base", "distilled"} <= set(json.dumps(drawn).split('"'))
    assert "<pre" in result._repr_html_() and "<table" in result._repr_html_()
    assert distilled._repr_html_().count("<details>") == 2


@pytest.mark.parametrize("missing", ["altair", "pandas", "jinja2"])
def test_without_the_extra_html_is_plain_and_plots_name_it(
    distilled: Any, comparison: Comparison, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment.cache_clear()
    monkeypatch.setitem(sys.modules, missing, None)
    assert "<table" in distilled._repr_html_() and "<table" in distilled[2].tableau._repr_html_()
    assert "NFE 6" in comparison._repr_html_() if missing == "jinja2" else "<table" in comparison._repr_html_()
    asked = {
        "altair": [distilled.plot, distilled[2].plot, comparison.plot],
        "pandas": [distilled.to_frame, comparison.to_frame],
    }
    for ask in asked.get(missing, []):
        with pytest.raises(ImportError, match=r"pip install 'dode\[report\]'"):
            ask()
