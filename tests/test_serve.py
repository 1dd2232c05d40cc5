"""`dode serve`: what it computes, for whatever is typed; and the page itself, in a real browser, served as a user would."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import dode
from dode import cli
from dode.distances import mean_square_distance
from dode.noise import REPORT, standard_noise
from dode.report.reference import reference_tableau
from dode.serve.bench import Bench, Run, Settings, Superseded, View
from dode.serve.distilling import Distiller
from dode.serve.page import message_html, verdict, view_html
from dode.serve.shelf import Kept, Shelf, read_tableaux
from dode.serve.subjects import IN_TURN, Network, Piped

pytestmark = pytest.mark.xdist_group("serve")  # the servers are started once, in one worker

ROOT = Path(__file__).parents[1]
SAVED = ROOT / "docs" / "benchmarks" / "tableaux" / "fashion"
SHAPE = (1, 8, 8)
REFERENCE_NFE = 12


class Curved:
    """A network of three classes that notes how often, and by how many threads at once, it is asked."""

    def __init__(self, pause: float = 0.0) -> None:
        self.rows = 0
        self.inside = 0
        self.most_inside = 0
        self.pause = pause

    def __call__(self, x: Tensor, t: Tensor, class_labels: Tensor | None = None) -> Tensor:
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        time.sleep(self.pause)
        self.rows += len(x)
        self.inside -= 1
        mean = 0.0 if class_labels is None else class_labels.reshape(-1, 1, 1, 1) * 0.2
        return (0.7 * x).tanh() + 0.1 - mean


def subject_of(net: Any, **options: Any) -> Network:
    return Network(dode.Denoiser(net, dode.schedules.VP.linear(), shape=SHAPE, name="curved", **options))


def bench_of(net: Any, *tableaux: dode.Tableau) -> Bench:
    subject = subject_of(net)
    return Bench(subject, Shelf(subject.schedule, [Kept(f"table {i}", each) for i, each in enumerate(tableaux)]), REFERENCE_NFE)


def table(nfe: int, schedule: Any = None) -> dode.Tableau:
    """Some other solver's, in the place of a distilled one."""
    return dode.solver("unipc").tableau(schedule or dode.schedules.VP.linear(), nfe)


def asked(bench: Bench, **changes: Any) -> Settings:
    given = {"solver": "ddim", "nfe": 4, "seed": 0, "choice": bench.subject.choices[0], "samples": 3, "guidance": 1.0}
    return bench.settings(**{**given, **changes})


def seen(bench: Bench, **changes: Any) -> View:
    """The last view of these settings."""
    *_, last = bench.show(asked(bench, **changes))
    return last


def states_of(run: Run) -> Tensor:
    assert run.states is not None, run.failure
    return run.states


def test_all_three_are_what_sample_makes_of_the_same_noise() -> None:
    bench = bench_of(Curved(), table(4))
    view = seen(bench, seed=3)
    subject = bench.subject
    assert isinstance(subject, Network)
    noise = standard_noise(3, 3, SHAPE, stream=REPORT)
    reference = dode.sample(subject.denoiser, reference_tableau(subject.schedule, REFERENCE_NFE), noise)
    base = dode.sample(subject.denoiser, dode.solver("ddim").tableau(subject.schedule, 4), noise)
    distilled = dode.sample(subject.denoiser, table(4), noise)
    for run, expected in ((view.base, base), (view.distilled, distilled), (view.reference, reference)):
        assert torch.equal(states_of(run), expected)
    figures = view.figures(view.base)
    assert figures is not None
    assert np.array_equal(figures.errors, mean_square_distance(base, reference))
    assert np.isfinite(figures.psnr)


def test_what_was_made_is_not_made_again() -> None:
    net = Curved()
    bench = bench_of(net, table(4))
    first = seen(bench)
    assert net.rows == 3 * (4 + 4 + REFERENCE_NFE)
    again = seen(bench)
    assert net.rows == 3 * (4 + 4 + REFERENCE_NFE)
    assert torch.equal(states_of(first.reference), states_of(again.reference))
    before = net.rows
    seen(bench, nfe=7)  # another base; no tableau of 7 calls; the same reference
    assert net.rows - before == 3 * 7
    before = net.rows
    seen(bench, samples=5)
    assert net.rows - before == 2 * (4 + 4 + REFERENCE_NFE)
    before = net.rows
    seen(bench, seed=1)
    assert net.rows - before == 3 * (4 + 4 + REFERENCE_NFE)


def test_the_reference_comes_after_the_others() -> None:
    bench = bench_of(Curved(), table(4))
    first, second = bench.show(asked(bench))
    assert first.base.states is not None and first.reference.states is None and not first.reference.failure
    assert first.figures(first.base) is None and second.figures(second.base) is not None
    assert len(list(bench.show(asked(bench)))) == 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("nfe", "five", "NFE must be a number from 1 to 50, got 'five'"),
        ("nfe", 0, "NFE"),
        ("nfe", 10**9, "NFE"),
        ("nfe", None, "got nothing"),
        ("nfe", [5], "NFE"),
        ("nfe", 5.5, "whole number"),
        ("seed", -1, "seed"),
        ("seed", float("nan"), "seed"),
        ("seed", True, "seed"),
        ("samples", 17, "number of samples"),
        ("samples", "", "got nothing"),
        ("guidance", float("inf"), "guidance scale"),
        ("solver", "dies", "did you mean 'deis'"),
        ("solver", "__import__('os')", "no solver"),
        ("choice", "hat", "unknown class"),
    ],
)
def test_bad_input_is_one_line(field: str, value: Any, message: str) -> None:
    net = dode.Denoiser(
        Curved(),
        dode.schedules.VP.linear(),
        shape=SHAPE,
        null_condition={"class_labels": torch.tensor([0])},
    )
    subject = Network(net, {"shoe": 1, "shirt": 2})
    bench = Bench(subject, Shelf(subject.schedule), REFERENCE_NFE)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        asked(bench, **{field: value})
    assert "\n" not in str(error.value)
    assert asked(bench).nfe == 4


def test_classes_and_guidance_reach_the_network() -> None:
    denoiser = dode.Denoiser(
        Curved(), dode.schedules.VP.linear(), shape=SHAPE, null_condition={"class_labels": torch.tensor([0])}
    )
    subject = Network(denoiser, {"shoe": 1, "shirt": 2})
    bench = Bench(subject, Shelf(subject.schedule), REFERENCE_NFE)
    assert subject.guidance == 1 and subject.choices == (IN_TURN, "shoe", "shirt")
    turns = seen(bench, choice=IN_TURN, guidance=2)
    assert turns.names == ("shoe", "shirt", "shoe")
    noise = standard_noise(0, 3, SHAPE, stream=REPORT)
    tableau = dode.solver("ddim").tableau(subject.schedule, 4)
    expected = dode.sample(denoiser.replace(guidance_scale=2.0), tableau, noise, class_labels=torch.tensor([1, 2, 1]))
    assert torch.allclose(states_of(turns.base), expected, atol=1e-6)
    shirts = seen(bench, choice="shirt", guidance=2)
    assert torch.allclose(states_of(shirts.base)[1], expected[1], atol=1e-6)  # the same noise and condition


def test_a_network_without_classes_or_guidance_offers_neither() -> None:
    subject = subject_of(Curved())
    assert subject.kind == "" and subject.choices == ("",) and subject.guidance is None


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ValueError, match=r"samples of shape \(5,\)"):
        Network(dode.Denoiser(lambda x, t: x, dode.schedules.VP.linear(), shape=(5,)))
    with pytest.raises(ValueError, match="number for each evaluation"):
        subject_of(Curved(), guidance_scale=[1.0, 2.0], null_condition={})


def test_a_network_that_gives_nan_is_a_message_with_its_step() -> None:
    broken = True

    def net(x: Tensor, t: Tensor) -> Tensor:
        return x * float("nan") if broken and t[0] < 600 else 0.5 * x

    bench = bench_of(net, table(4))
    view = seen(bench)
    for run in (view.base, view.distilled, view.reference):
        assert "NaN values at step" in run.failure and run.states is None
    assert "no reference" in verdict(view)
    broken = False
    assert seen(bench).base.states is not None


def test_what_a_network_raises_is_a_message() -> None:
    def net(x: Tensor, t: Tensor) -> Tensor:
        raise RuntimeError("out of luck")

    view = seen(bench_of(net))
    assert view.base.failure.startswith("RuntimeError: out of luck (when curved was asked")


def test_a_budget_that_a_solver_does_not_have_is_a_message() -> None:
    view = seen(bench_of(Curved()), solver="pndm", nfe=2)
    assert "nfe 1 or at least 3, got 2" in view.base.failure and view.reference.states is not None


def test_a_run_that_nobody_waits_for_ends_after_a_call() -> None:
    net = Curved()
    bench = bench_of(net, table(4))
    with pytest.raises(Superseded):
        list(bench.show(asked(bench), wanted=lambda: net.rows < 3 * 2))
    assert net.rows == 3 * 2
    assert seen(bench).base.states is not None


def test_two_tabs_at_once_see_what_one_alone_sees() -> None:
    net = Curved(pause=0.001)
    bench, alone = bench_of(net, table(4)), bench_of(Curved(), table(4))
    found: dict[int, View] = {}

    def look(seed: int) -> None:
        found[seed] = seen(bench, seed=seed)

    threads = [threading.Thread(target=look, args=(seed,)) for seed in (0, 1, 0, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert net.most_inside == 1
    for seed, view in found.items():
        assert torch.equal(states_of(view.distilled), states_of(seen(alone, seed=seed).distilled))


def test_tableaux_of_files_and_folders(tmp_path: Path) -> None:
    """A file of several, a folder to share, and one of loose files; what is named twice counts once."""
    several = dode.TableauSet.of([table(4), table(6)])
    (tmp_path / "shared").mkdir()
    several.save(tmp_path / "shared" / "tableaux.json")
    several.save(tmp_path / "several.json")
    table(5).save(tmp_path / "one.json")
    kept = read_tableaux([tmp_path / "several.json", tmp_path / "shared", tmp_path, tmp_path / "one.json"])
    assert [(each.name, each.tableau.nfe) for each in kept] == [
        ("several.json, NFE 4", 4),
        ("several.json, NFE 6", 6),
        ("shared, NFE 4", 4),
        ("shared, NFE 6", 6),
        (f"{tmp_path.name}/one.json", 5),
    ]
    shelf = Shelf(dode.schedules.VP.linear(), kept)
    assert shelf.budgets == [4, 5, 6] and shelf.of(7) == []
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no tableau"):
        read_tableaux([tmp_path / "empty"])


def test_tableaux_are_chosen_by_calls_and_then_by_name() -> None:
    bench = bench_of(Curved(), table(4), table(5), table(5))
    assert seen(bench, nfe=5).distilled.title == "table 1"
    assert seen(bench, nfe=5, table="table 2").distilled.title == "table 2"
    assert seen(bench, nfe=4, table="table 2").distilled.title == "table 0"  # one of other calls is not what was asked for
    assert seen(bench, nfe=6).distilled.failure == "no tableau of 6 calls: there are tableaux of 4 and 5 calls"


def test_a_tableau_of_another_schedule_or_from_the_middle_is_refused_by_name() -> None:
    schedule = dode.schedules.VP.linear()
    with pytest.raises(ValueError, match=r"other\.json.*made for the schedule"):
        Shelf(schedule, [Kept("other.json", table(4, dode.schedules.VP.scaled_linear()))])
    middle = dode.solver("ddim").tableau(schedule, grid=[500.0, 250.0, -1.0])
    with pytest.raises(ValueError, match=r"middle\.json.*begins at t = 500"):
        Shelf(schedule, [Kept("middle.json", middle)])


def test_the_words_say_no_more_than_the_numbers() -> None:
    bench = bench_of(Curved(), dode.solver("ddim").tableau(dode.schedules.VP.linear(), 4))
    worse = seen(bench, solver="unipc")  # where the "distilled" one is plain DDIM
    assert "no nearer to the reference" in verdict(worse)
    better = seen(bench_of(Curved(), table(4)))
    assert "times nearer" in verdict(better) and "of 3 noises" in verdict(better)


def test_html_has_alt_texts_and_escapes_what_others_wrote() -> None:
    schedule = dode.schedules.VP.linear()
    subject = subject_of(Curved())
    bench = Bench(subject, Shelf(schedule, [Kept("<script>alert(1)</script>", table(4))]), REFERENCE_NFE)
    html = view_html(seen(bench), differences=True)
    assert "<script" not in html
    images = re.findall(r"<img [^>]*>", html)
    assert len(images) == 3 * 5
    assert all(re.search(r'alt="[^"]+"', image) for image in images)
    assert "<script" not in message_html("<script>")


def test_distilling_beside_the_page() -> None:
    net = Curved(pause=0.001)
    bench = bench_of(net)
    distiller = Distiller(bench, {"effort": "fast", "samples": 8, "validation": 4, "held_out": 0, "budget": 1500})
    distiller.start(asked(bench))
    with pytest.raises(ValueError, match="another distillation"):
        distiller.start(asked(bench))
    assert seen(bench).base.states is not None  # while it is at work
    progress = finished(distiller)
    assert net.most_inside == 1
    assert progress.kept is not None and progress.kept.name == "ddim, fast, NFE 4"
    view = seen(bench)
    base, distilled = view.figures(view.base), view.figures(view.distilled)
    assert base is not None and distilled is not None
    assert distilled.errors.mean() < base.errors.mean()


def test_a_distillation_is_stopped() -> None:
    bench = bench_of(Curved(pause=0.01))
    distiller = Distiller(bench)
    distiller.start(asked(bench))
    distiller.stop()
    assert finished(distiller).words == "stopped ddim, fast, NFE 4"
    assert bench.shelf.budgets == []
    assert seen(bench).base.states is not None


def finished(distiller: Distiller) -> Any:
    for _ in range(3000):
        if not distiller.progress.running:
            return distiller.progress
        time.sleep(0.02)
    raise AssertionError("it does not end")


# Pipelines.


def test_a_pipeline_is_driven_and_its_pictures_are_its_own() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from tiny_pipelines import PIXELS, stable_diffusion

    from dode.integrations.diffusers import DodeScheduler

    pipe = stable_diffusion()
    subject = Piped(pipe, prompts=["a cat", "the sun"], guidance=2.0)
    try:
        assert subject.kind == "Prompt" and subject.free and subject.guidance == 2
        bench = Bench(subject, Shelf(subject.schedule, [Kept("table", table(3, subject.schedule))]), 5)
        view = seen(bench, nfe=3, samples=2, guidance=2.0)
        assert view.names == ("a cat", "the sun")
        pictures = view.distilled.pictures
        assert pictures is not None and pictures.shape == (2, 3, PIXELS, PIXELS)
        # The pipeline itself, from the same latents.
        pipe.scheduler = DodeScheduler.from_tableaux(table(3, subject.schedule), pipe.scheduler.config)
        latents = standard_noise(0, 2, subject.shape, stream=REPORT)
        own = pipe(["a cat", "the sun"], guidance_scale=2.0, num_inference_steps=3, latents=latents, output_type="np").images
        expected = torch.from_numpy(own).movedim(-1, 1) * 2 - 1
        assert torch.allclose(pictures.clamp(-1, 1), expected, atol=1e-3)
        with pytest.raises(ValueError, match="prompt is empty"):
            asked(bench, choice=" ")
        other = seen(bench, nfe=3, samples=1, choice="an old bridge", guidance=3.0)
        assert other.base.states is not None, other.base.failure
    finally:
        subject.close()


def test_a_pipeline_that_makes_no_pictures_is_refused() -> None:
    pytest.importorskip("diffusers")
    pytest.importorskip("transformers")
    from tiny_pipelines import PIPELINES

    tiny = PIPELINES["ltx"]
    call = {name: value for name, value in tiny.call(1).items() if name != tiny.calls_by}
    with pytest.raises(ValueError, match="makes what has shape"):
        Piped(tiny.make(), calls=[call])


# The command.

MADE = """
import torch
import dode

def curved():
    return dode.Denoiser(lambda x, t: (0.7 * x).tanh() + 0.1, dode.schedules.VP.linear(), shape=(1, 8, 8), name="curved")

def vector():
    return dode.Denoiser(lambda x, t: x * 0.5, dode.schedules.VP.linear(), shape=(5,), name="vector")

def broken():
    net = lambda x, t: x * float("nan") if t[0] < 600 else 0.5 * x
    return dode.Denoiser(net, dode.schedules.VP.linear(), shape=(1, 8, 8), name="broken")
"""


# Notes every address that a process of Python connects to, and every name that it looks up.
LISTENER = """
import sys
from pathlib import Path

def note(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        with (Path(__file__).parent / "connected.txt").open("a") as file:
            print(event, arguments[1] if event == "socket.connect" else arguments[0], file=file)

sys.addaudithook(note)
note("socket.getaddrinfo", ["127.0.0.1, listened to"])
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with functions that make networks, and a tableau of another schedule."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "serving_networks.py").write_text(MADE)
    table(4, dode.schedules.VP.scaled_linear()).save(folder / "other.json")
    (folder / "broken.json").write_text("{")
    (folder / "sitecustomize.py").write_text(LISTENER)
    (folder / "connected.txt").touch()
    return folder


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("serving_networks:curved", "--tableau", "other.json"), "other.json: this tableau was made for the schedule"),
        (("serving_networks:curved", "--tableau", "none.json"), "none.json does not exist"),
        (("serving_networks:curved", "--tableau", "broken.json"), "broken.json"),
        (("serving_networks:vector",), "vector makes samples of shape (5,)"),
        (("serving_networks:curved", "--port", "99999"), "--port must lie in 0 .. 65535"),
        (("serving_networks:curved", "--reference-nfe", "0"), "--reference-nfe must be at least 1"),
        (("serving_networks:curved", "--classes", "1"), "not class-conditional"),
        (("serving_networks:curved", "--prompt", "a cat"), "is for pipelines"),
        (("serving_networks:curved", "--share"), "--share"),
        (("serving_networks:curved", "--host", "999.1.1.1"), "cannot listen at 999.1.1.1"),
    ],
)
def test_a_start_that_cannot_be_is_one_line(
    made: Path,
    arguments: tuple[str, ...],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("gradio")
    monkeypatch.chdir(made)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["dode", "serve", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    said = capsys.readouterr().err.strip().splitlines()
    assert end.value.code == 2
    assert len(said) == 1 and said[0].startswith("error: ") and message in said[0]


# In a browser.


class Server:
    """`dode serve` as a user starts it, in a folder; in `listener` is what Python imports when it starts."""

    def __init__(self, listener: Path, folder: Path, *arguments: object) -> None:
        command = [sys.executable, "-m", "dode", "serve", *map(str, arguments)]
        others = os.environ.get("PYTHONPATH", "")
        environment = os.environ | {"NO_COLOR": "1", "COLUMNS": "200", "PYTHONPATH": f"{listener}{os.pathsep}{others}"}
        self.process = subprocess.Popen(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    def address(self) -> str:
        assert self.process.stdout is not None
        self.said = self.process.stdout.readline()
        found = re.match(r"http://[\d.]+:\d+", self.said)
        assert found, self.said + self.process.stdout.read()
        return found[0]

    def end(self, number: int) -> tuple[int, str]:
        """The exit code, and what was said since."""
        assert self.process.stdout is not None
        self.process.send_signal(number)
        return self.process.wait(30), self.process.stdout.read()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def servers(made: Path) -> Iterator[tuple[Server, Server, str, str]]:
    """One of the bundled network with a tableau, and one of a broken network at a port that is taken, with their addresses."""
    pytest.importorskip("gradio")
    tableau = SAVED / "deis-thorough-5.json"
    with socket.create_server(("127.0.0.1", 0)) as other:
        good = Server(made, ROOT, "fashion", "--tableau", tableau, "--port", 0, "--reference-nfe", 10)
        broken = Server(made, made, "serving_networks:broken", "--port", other.getsockname()[1])
        try:
            yield good, broken, good.address(), broken.address()
        finally:
            good.kill()
            broken.kill()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium as it is installed."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("there is no chromium")
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    with playwright.sync_playwright() as running:
        chromium = running.chromium.launch(executable_path=path, args=["--no-sandbox"] if root else [])
        yield chromium
        chromium.close()


Open = Callable[[str], Any]


@pytest.fixture
def opened(browser: Any) -> Iterator[Open]:
    """Opens a page at an address; at the end nothing was asked of others, and nothing was wrong in the console."""
    pages, wrong, asked = [], [], []

    def open_page(address: str) -> Any:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.set_default_timeout(60_000)
        page.on("console", lambda line: wrong.append(line.text) if line.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(address)
        pages.append(page)
        return page

    yield open_page
    for page in pages:
        page.close()
    assert wrong == []
    assert asked and all(url.startswith(("http://127.0.0.1:", "data:", "blob:")) for url in asked)


def sources(page: Any) -> list[str]:
    return [image.get_attribute("src") for image in page.locator(".dode .cards img").all()]


def settled(page: Any, words: str) -> None:
    """Wait until the sentence has these words."""
    page.locator(".verdict", has_text=words).wait_for()


def changed(page: Any, source: str) -> None:
    """Wait until the first picture is another one."""
    page.wait_for_function(f"document.querySelector('.dode .cards img').src !== {source!r}")


def test_pictures_appear_and_follow_the_controls(servers: tuple[Server, Server, str, str], opened: Open) -> None:
    page = opened(servers[2])
    settled(page, "With 5 calls")
    first = sources(page)
    assert len(first) == 8 * 3 and len(set(first)) == 8 * 3
    assert "deis-thorough-5.json" in page.locator("section.distilled").inner_text()
    # By keyboard.
    page.locator("#nfe input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    settled(page, "6 calls")
    assert "no tableau of 6 calls" in page.locator("section.distilled").inner_text()
    second = sources(page)
    assert len(second) == 8 * 2
    assert second[0] != first[0] and second[1] == first[2]  # another base, the same reference
    page.keyboard.press("ArrowLeft")
    settled(page, "With 5 calls")
    assert sources(page) == first
    page.get_by_label("Show the difference").check()
    page.wait_for_function("document.querySelectorAll('.dode .cards img').length === 40")
    page.locator("#samples input[type=range]").focus()
    page.keyboard.press("ArrowLeft")
    page.wait_for_function("document.querySelectorAll('.dode .cards li').length === 7")


def test_bad_input_is_a_message_and_the_page_lives_on(servers: tuple[Server, Server, str, str], opened: Open) -> None:
    page = opened(servers[2])
    settled(page, "With 5 calls")
    first = sources(page)
    seed = page.locator("#seed input")
    for typed, message in (("-5", "seed must be a number from 0"), ("1.5", "whole number"), ("", "got nothing")):
        seed.fill(typed)
        page.locator("[role=alert]", has_text=message).wait_for()
        assert sources(page) == first
    seed.fill("2")
    page.wait_for_function("!document.querySelector('[role=alert]')")
    changed(page, first[0])
    settled(page, "With 5 calls")
    # A slider ends where it ends, and what is seen is of the number that is shown.
    number = page.locator("#nfe input[type=number]")
    number.fill("99")
    page.locator("[role=alert]", has_text="NFE must be a number from 1 to 50, got 99").wait_for()
    number.press("Tab")
    settled(page, "20 calls")
    assert number.input_value() == "20"
    number.fill("5")
    settled(page, "With 5 calls")
    # Anyone may send anything.
    sent = """async () => {
        const config = await (await fetch('/config')).json();
        const fn = config.dependencies.find(each => each.inputs.length === 8);
        const body = {data: ['x', {}, 7, null, [1], '2', -1, 'z'], fn_index: fn.id, session_hash: 'someone'};
        const answer = await fetch('/gradio_api/queue/join', {
            method: 'POST', headers: {'Content-Type': 'application/json'}, body: JSON.stringify(body)});
        return answer.status;
    }"""
    assert page.evaluate(sent) == 200
    seed.fill("0")
    page.wait_for_function(f"document.querySelector('.dode .cards img').src === {first[0]!r}")


def test_two_tabs_at_once(servers: tuple[Server, Server, str, str], opened: Open) -> None:
    one, two = opened(servers[2]), opened(servers[2])
    first = []
    for page in (one, two):
        settled(page, "With 5 calls")
        first.append(sources(page)[0])
    assert first[0] == first[1]
    one.locator("#seed input").fill("11")
    two.locator("#seed input").fill("12")
    for page in (one, two):
        changed(page, first[0])
        settled(page, "With 5 calls")
    assert sources(one)[0] != sources(two)[0]
    one.locator("#seed input").fill("12")
    one.wait_for_function(f"document.querySelector('.dode .cards img').src === {sources(two)[0]!r}")


def test_labels_narrow_screens_and_no_news_from_anywhere(servers: tuple[Server, Server, str, str], opened: Open) -> None:
    page = opened(servers[2])
    settled(page, "With 5 calls")
    unnamed = """() => [...document.querySelectorAll('input, select, textarea, button')]
        .filter(each => each.offsetParent !== null)
        .filter(each => !(each.labels?.length || each.ariaLabel || each.textContent.trim()))
        .map(each => each.outerHTML)"""
    assert page.evaluate(unnamed) == []
    page.set_viewport_size({"width": 400, "height": 800})
    assert page.evaluate("document.documentElement.scrollWidth") <= 400
    boxes = [image.bounding_box() for image in page.locator(".dode .cards img").all()[:3]]
    assert boxes[0]["y"] == boxes[1]["y"] == boxes[2]["y"] and boxes[2]["x"] + boxes[2]["width"] <= 400  # side by side


def test_a_broken_network_is_a_message_on_the_page(servers: tuple[Server, Server, str, str], opened: Open) -> None:
    page = opened(servers[3])
    settled(page, "no reference")
    assert "NaN values at step" in page.locator("section.base").inner_text()
    assert not page.locator("#guidance").is_visible() and not page.locator("#choice").is_visible()
    page.locator("#nfe input[type=range]").focus()
    page.keyboard.press("ArrowRight")
    page.locator("section.base", has_text="of 6").wait_for()


def test_it_answers_to_no_other_name(servers: tuple[Server, Server, str, str]) -> None:
    request = urllib.request.Request(servers[2], headers={"Host": "pictures.example"})
    with pytest.raises(urllib.error.HTTPError, match="400"):
        urllib.request.urlopen(request, timeout=30)


def test_a_port_that_is_taken_is_said_and_signals_end_it(servers: tuple[Server, Server, str, str], made: Path) -> None:
    good, broken, address, other = servers
    assert re.search(r"port \d+ is taken", broken.said) and other != address
    code, said = broken.end(signal.SIGTERM)
    assert code == 143 and "Traceback" not in said
    code, said = good.end(signal.SIGINT)
    assert code == 130 and said.strip() == "interrupted: no file is left half-written"
    asked = (made / "connected.txt").read_text().splitlines()
    assert len(asked) >= 2 and [line for line in asked if "127.0.0.1" not in line] == []
