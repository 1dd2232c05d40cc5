"""`dode` commands in processes of their own that start at once: a server that has imported everything forks one for each command.

They are real processes: each has its own standard output and error, ends with its own exit code, and can be killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

_SERVER = """
import json, os, sys, traceback

sys.path.insert(0, os.getcwd())
from dode import cli
import altair, dode.report

def child(arguments, shown, errors):
    for handle, path in ((1, shown), (2, errors)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), handle)
    sys.argv = ["dode", *arguments]
    try:
        cli.main()
        code = 0
    except SystemExit as stopped:
        code = stopped.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

for line in sys.stdin:
    job = json.loads(line)
    if "wait" in job:
        answer = os.waitstatus_to_exitcode(os.waitpid(job["wait"], 0)[1])
    else:
        answer = os.fork()
        if not answer:
            child(**job)
    print(answer, flush=True)
"""


@dataclass(frozen=True)
class Command:
    """A command that runs."""

    server: Server
    pid: int
    folder: Path
    number: int

    def wait(self) -> int:
        """Its exit code; the negative number of the signal that ended it."""
        return self.server.ask(wait=self.pid)

    def kill(self, after: float) -> int:
        """Kill it after some seconds, unless it has ended by then; as `wait`."""
        time.sleep(after)
        os.kill(self.pid, signal.SIGKILL)  # it is not waited for yet, so the number is its own
        return self.wait()

    @property
    def errors(self) -> str:
        """What it wrote to standard error."""
        return (self.folder / f"{self.number}.err").read_text()


class Server:
    """Starts commands in a folder that holds modules of networks.

    Args:
        folder: where they run.
        log: where their output goes.
    """

    def __init__(self, folder: Path, log: Path) -> None:
        self._log, self._started = log, 0
        path = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH", ""))))
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "120", "NO_COLOR": "1"}
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            cwd=folder,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __enter__(self) -> Server:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)

    def start(self, *arguments: str) -> Command:
        """A command that goes on while the test does."""
        self._started += 1
        shown, errors = (str(self._log / f"{self._started}.{kind}") for kind in ("out", "err"))
        pid = self.ask(arguments=arguments, shown=shown, errors=errors)
        return Command(self, pid, self._log, self._started)

    def run(self, *arguments: str) -> tuple[int, str]:
        """Exit code and standard error of a command."""
        command = self.start(*arguments)
        return command.wait(), command.errors

    def ask(self, **job: Any) -> int:
        """One line to the server, one number back."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())


@contextmanager
def serving(factory: pytest.TempPathFactory, name: str, module: str) -> Iterator[tuple[Server, Path]]:
    """A server, and the folder in which its commands run, with a module of networks in it."""
    folder, log = factory.mktemp("runs"), factory.mktemp("log")
    (folder / name).write_text(module)
    with Server(folder, log) as server:
        yield server, folder
