"""The page: controls beside a view, made by gradio and served from this machine alone."""

from __future__ import annotations

import errno
import itertools
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from dode.serve.bench import MOST_SAMPLES, Bench, Superseded, Wanted
from dode.serve.distilling import Distiller, Progress
from dode.serve.page import distilling_html, message_html, view_html

# Gradio asks its makers' server for its own news unless it is told not to before it is imported.
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

_STYLE = Path(__file__).with_name("style.css")
# What the page begins with, and the highest guidance scale of its slider.
_NFE, _SAMPLES, _GUIDANCE = 5, 8, 10.0
# Seconds between two looks at a distillation.
_LOOK = 0.5
# Seconds that open connections are given at the end.
_GRACE = 1


class Turns:
    """Which request of a tab is its latest: those before it need not be answered."""

    def __init__(self) -> None:
        self._count = itertools.count()
        self._latest: dict[str, int] = {}

    def take(self, tab: str) -> Wanted:
        """Begin a request; tells from then on whether it is still the tab's latest."""
        mine = self._latest[tab] = next(self._count)
        return lambda: self._latest.get(tab) == mine

    def leave(self, tab: str) -> None:
        """The tab is closed."""
        self._latest.pop(tab, None)


def make_page(bench: Bench, distiller: Distiller | None = None) -> Any:
    """The page of a bench: gradio's `Blocks`.

    Raises:
        ImportError: gradio is not installed.
    """
    gr = _gradio()
    distiller = distiller or Distiller(bench)
    subject, shelf, turns = bench.subject, bench.shelf, Turns()
    budgets = shelf.budgets
    nfe = _NFE if _NFE in budgets or not budgets else budgets[0]
    highest = max(_GUIDANCE, 2 * (subject.guidance or 0))

    with gr.Blocks(analytics_enabled=False, title=f"dode: {subject.name}", fill_width=True) as page:
        gr.HTML(
            f'<header class="dode-head"><h1>dode · {_text(subject.name)}</h1>'
            "<p>A solver as it is, distilled, and with many calls: from the same noise.</p></header>"
        )
        with gr.Row(equal_height=False):
            with gr.Column(scale=1, min_width=260):
                calls = gr.Slider(1, max([20, *budgets]), nfe, step=1, label="NFE (network calls)", elem_id="nfe", buttons=[])
                solver = gr.Dropdown(bench.solvers, value=_solver(bench), label="Solver of the base", elem_id="solver")
                table = gr.Dropdown(
                    [kept.name for kept in shelf.of(nfe)], label="Tableau", elem_id="table", visible=len(shelf.of(nfe)) > 1
                )
                guidance = gr.Slider(
                    0,
                    highest,
                    subject.guidance or 0,
                    step=0.1,
                    label="Guidance scale",
                    elem_id="guidance",
                    buttons=[],
                    visible=subject.guidance is not None,
                )
                choice = gr.Dropdown(
                    list(subject.choices),
                    value=subject.choices[0],
                    allow_custom_value=subject.free,
                    label=subject.kind or "Condition",
                    elem_id="choice",
                    visible=bool(subject.kind),
                )
                samples = gr.Slider(1, MOST_SAMPLES, _SAMPLES, step=1, label="Number of samples", elem_id="samples", buttons=[])
                differences = gr.Checkbox(False, label="Show the difference to the reference", elem_id="differences")
                seed = gr.Number(0, label="Seed of the noise", elem_id="seed")
                another = gr.Button("Another seed", elem_id="another", size="sm")
                begin = gr.Button("Distil the base at this NFE (fast)", elem_id="distil", size="sm", visible=distiller.offered)
                stop = gr.Button("Stop", elem_id="stop", size="sm", visible=False)
                state = gr.HTML("", elem_id="distilling")
            with gr.Column(scale=3, min_width=320):
                message = gr.HTML("", elem_id="message")
                shown = gr.HTML("", elem_id="view")

        fields = [calls, solver, table, guidance, choice, seed, samples]
        names = ("nfe", "solver", "table", "guidance", "choice", "seed", "samples")
        for each in fields:  # the bench checks what is typed, and says it better
            each.preprocess = _as_it_is

        def update(*values: Any) -> Iterator[tuple[Any, Any, Any]]:
            *given, with_differences, request = values
            wanted = turns.take(str(request.session_hash))
            try:
                settings = bench.settings(**dict(zip(names, given, strict=True)))
                there = [kept.name for kept in shelf.of(settings.nfe)]
                chosen = settings.table if settings.table in there else (there[0] if there else None)
                tables = gr.update(choices=there, value=chosen, visible=len(there) > 1)
                for view in bench.show(settings, wanted):
                    yield "", view_html(view, differences=bool(with_differences)), tables
            except Superseded:
                yield gr.skip(), gr.skip(), gr.skip()
            except ValueError as error:
                yield message_html(str(error)), gr.skip(), gr.skip()

        # Gradio hands a request over where a parameter says that it takes one.
        def on_change(
            nfe: Any,
            solver: Any,
            table: Any,
            guidance: Any,
            choice: Any,
            seed: Any,
            samples: Any,
            with_differences: Any,
            request: Any,
        ) -> Iterator[tuple[Any, Any, Any]]:
            yield from update(nfe, solver, table, guidance, choice, seed, samples, with_differences, request)

        on_change.__annotations__["request"] = gr.Request
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        inputs, outputs = [*fields, differences], [message, shown, table]
        # A number beyond a slider's end becomes its end, which is no input.
        moved = [each.change if each in (calls, guidance, samples) else each.input for each in (*fields, differences)]
        gr.on([page.load, *moved, seed.submit], on_change, inputs, outputs, trigger_mode="multiple", **quiet)
        another.click(lambda: random.randrange(10**6), None, seed, **quiet).then(on_change, inputs, outputs, **quiet)

        def distil(*values: Any) -> Iterator[tuple[Any, Any, Any, Any]]:
            *given, _ = values
            try:
                distiller.start(bench.settings(**dict(zip(names, given, strict=True))))
            except ValueError as error:
                yield message_html(str(error)), gr.skip(), gr.skip(), gr.skip()
                return
            while (progress := distiller.progress).running:
                yield "", _progress(progress), gr.update(visible=False), gr.update(visible=True)
                time.sleep(_LOOK)
            yield "", _progress(progress), gr.update(visible=True), gr.update(visible=False)

        made = begin.click(distil, inputs, [message, state, begin, stop], **quiet)
        made.then(on_change, inputs, outputs, **quiet)
        stop.click(distiller.stop, None, None, **quiet)
        page.unload(_leaving(gr, turns))
    page.queue(default_concurrency_limit=None, api_open=False)
    return page


def serve(bench: Bench, host: str = "127.0.0.1", port: int = 7860, *, say: Callable[[str], None] = print) -> None:
    """Serve the page until the process is told to stop.

    Args:
        bench: what is shown.
        host: the address to listen at.
        port: the port; where it is taken, a free one.
        say: told the address.

    Raises:
        ImportError: gradio is not installed.
        OSError: the address cannot be listened at.
        KeyboardInterrupt: a signal has ended it.
    """
    gr = _gradio()
    import fastapi
    import uvicorn
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    page = make_page(bench)
    listening, taken = _listen(host, port)
    with listening:
        port = listening.getsockname()[1]
        app = fastapi.FastAPI(openapi_url=None)
        if _is_local(host):  # a page of another origin cannot come here by a name of its own for this machine
            app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"])
        theme = gr.themes.Base(
            primary_hue="blue",
            neutral_hue="gray",
            radius_size="sm",
            font=["system-ui", "sans-serif"],
            font_mono=["ui-monospace", "monospace"],
        )
        app = gr.mount_gradio_app(
            app,
            page,
            path="/",
            server_name=host,
            server_port=port,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
            theme=theme,
            css_paths=_STYLE,
        )
        said = f" (port {taken} is taken)" if taken else ""
        shown = f"[{host}]" if ":" in host else host
        say(f"http://{shown}:{port}{said}: Ctrl-C ends it")
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE, lifespan="on")
        # It listens to the signals of this process, and raises them again when it has ended.
        uvicorn.Server(config).run(sockets=[listening])


def _listen(host: str, port: int) -> tuple[socket.socket, int | None]:
    """A socket at an address, and the port that was wanted and is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.socket(family, socket.SOCK_STREAM)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        try:
            found.bind((host, port))
            taken = None
        except OSError as error:
            if error.errno != errno.EADDRINUSE or port == 0:
                raise
            found.bind((host, 0))
            taken = port
        found.listen()  # who comes before the page is ready waits for it
    except (OSError, OverflowError) as error:
        found.close()
        raise OSError(f"cannot listen at {host}, port {port}: {error}") from error
    return found, taken


def _is_local(host: str) -> bool:
    return host in ("127.0.0.1", "localhost", "::1")


def _solver(bench: Bench) -> str:
    """The solver that the first tableau was made from, where it is one of those that are offered."""
    first = next((kept.tableau.solver for nfe in bench.shelf.budgets for kept in bench.shelf.of(nfe)), "")
    name = first.split("(")[0]
    return name if name in bench.solvers else "deis"


def _progress(progress: Progress) -> str:
    return distilling_html([progress.words], progress.share if progress.running else None)


def _leaving(gr: Any, turns: Turns) -> Callable[..., None]:
    def leave(request: Any) -> None:
        turns.leave(str(request.session_hash))

    leave.__annotations__["request"] = gr.Request
    return leave


def _as_it_is(payload: Any) -> Any:
    return payload


def _text(words: str) -> str:
    from html import escape

    return escape(words)


def _gradio() -> Any:
    try:
        import gradio
    except ModuleNotFoundError as error:
        raise ImportError("dode serve needs gradio: pip install 'dode[serve]'") from error
    return gradio
