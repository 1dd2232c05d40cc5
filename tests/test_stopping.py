"""The command's first and last words: it answers without PyTorch where it needs none, and ends in one line whenever it is told to stop."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SAVED = next((Path(__file__).parent.parent / "docs" / "benchmarks" / "tableaux" / "fashion").glob("*.json"))
# As `dode`, where importing PyTorch fails.
WITHOUT_TORCH = "import sys; sys.modules['torch'] = None; from dode.__main__ import main; main()"
NETWORK = """
import dode

def curved():
    return dode.Denoiser(lambda x, t: (0.7 * x).tanh() + 0.1, dode.schedules.VP.linear(), shape=(1, 8, 8))
"""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--help"], 0, "Diffusion and flow models"),
        (["--version"], 0, "0.1"),
        (["distill", "--help"], 0, "Distil a solver"),
        (["show", str(SAVED)], 0, "thorough"),
        (["show", "nothing.json"], 2, "nothing.json does not exist"),
        (["models", "--solvers"], 0, "dpm-solver++"),
        (["distill", "fashion", "--solver", "dies", "--nfe", "4", "--out", "a.json"], 2, "did you mean 'deis'"),
        (["distill", "fashion", "--solver", "deis", "--nfe", "4", "--effort", "most", "--out", "a.json"], 2, "unknown effort"),
        (["sample", "fashion", "--solver", "ddim", "--nfe", "4", "--grid", "krras", "--out", "a.npy"], 2, "'karras'"),
        (["sample", "fashion", "--solver", "ddim", "--nfe", "4", "--classes", "a", "--out", "a.npy"], 2, "--classes takes"),
        (
            ["sample", "fashion", "--solver", "ddim", "--nfe", "4", "--guidance-scale", "a", "--out", "a.npy"],
            2,
            "--guidance-scale",
        ),
        (["sample", "fashion", "--solver", "ddim", "--nfe", "4", "--out", "a.gif"], 2, "must end in .png"),
        (["compare", "fashion", "--solver", "ddim,dies", "--nfe", "4", "--out", "report"], 2, "did you mean 'deis'"),
        (["study", "fashion", "--values", "samples=few", "--out", "study"], 2, "--values samples takes whole numbers"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_help_saved_files_and_refusals_need_no_torch(arguments: list[str], code: int, words: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done.stderr
    assert words in (done.stdout if code == 0 else done.stderr)
    assert code == 0 or len(done.stderr.splitlines()) == 1


def test_pipelines_are_refused_and_scheduler_folders_shown_without_torch(tmp_path: Path) -> None:
    (tmp_path / "pipe" / "scheduler").mkdir(parents=True)
    index = {"_class_name": "StableDiffusionPipeline", "text_encoder": ["transformers", "CLIPTextModel"]}
    (tmp_path / "pipe" / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "pipe" / "scheduler" / "scheduler_config.json").write_text(json.dumps({"_class_name": "LCMScheduler"}))
    (tmp_path / "prompts.txt").write_text("a cat")
    tableau = {key: value for key, value in json.loads(SAVED.read_text()).items() if key != "digest"}
    held = {"_class_name": "DodeScheduler", "scheduler_class": "DDPMScheduler", "tableaux": [tableau]}
    (tmp_path / "held").mkdir()
    (tmp_path / "held" / "scheduler_config.json").write_text(json.dumps(held))
    distill = ["distill", "pipe", "--nfe", "4", "--out", "a"]
    for arguments, code, words in (
        ([*distill, "--prompts", "prompts.txt"], 2, "LCMScheduler is for networks distilled to jump to the end"),
        ([*distill, "--prompts", "none.txt"], 2, "none.txt does not exist"),
        ([*distill[:-1], "a.json"], 2, "whose network needs its text_encoder"),
        (["show", "held"], 0, "calls held: "),
        (["show", "pipe"], 2, "pipe has neither tableaux.json nor scheduler_config.json"),
    ):
        command = [sys.executable, "-c", WITHOUT_TORCH, *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert words in (done.stdout if code == 0 else done.stderr)
        assert code == 0 or len(done.stderr.splitlines()) == 1


def heed() -> None:
    """A shell that runs the tests in the background makes its children ignore Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def wait_until_it_listens(process: subprocess.Popen[str]) -> None:
    """Until then it is the interpreter's own start, which listens to nobody, and is long where the machine has more to do."""
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        # The signals that the process catches, one bit each.
        caught = next((line.split()[1] for line in status.read_text().splitlines() if line.startswith("SigCgt")), "0")
        if int(caught, 16) >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.002)


def test_a_signal_at_any_moment_is_one_line_and_its_exit_code(tmp_path: Path) -> None:
    """While libraries are imported, while the network runs, while the result is written."""
    (tmp_path / "networks.py").write_text(NETWORK)
    command = [sys.executable, "-m", "dode", "distill", "networks:curved", "--solver", "ddim", "--nfe", "3", "--paper"]
    command += ["--samples", "8", "--held-out", "4", "--out", "a.json", "--force"]
    began = time.monotonic()
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    whole = time.monotonic() - began
    moments = random.Random(0)
    stopped = 0
    for _ in range(40):
        if stopped == 6:
            break
        number, word = ((signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"))[stopped % 2]
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=heed
        )
        wait_until_it_listens(process)
        began = time.monotonic()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(whole * moments.uniform(0, 0.9))
        took = time.monotonic() - began
        process.send_signal(number)
        out, said = process.communicate(timeout=60)
        lines = [line for line in said.splitlines() if line.strip()]
        if process.returncode == 0:  # it was faster than those before it
            assert "wrote a.json" in out and not lines
            whole = min(whole, took)
            continue
        stopped += 1
        assert process.returncode == 128 + number, said
        assert len(lines) == 1 and lines[0].startswith(word), said
    assert stopped == 6
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == ["a.json", "networks.py"]


WHILE_IMPORTED = """
import os, signal, sys, time, types
from dode import stopping
stopping.listen()
torch = sys.modules["torch"] = types.ModuleType("torch")
torch.__spec__ = types.SimpleNamespace(_initializing=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
assert stopping.heard()
torch.__spec__._initializing = False
try:
    time.sleep(60)
except KeyboardInterrupt:
    print(stopping.ended())
"""


def test_a_signal_waits_while_native_code_is_imported() -> None:
    """Where C++ calls Python, what is raised aborts the process."""
    done = subprocess.run([sys.executable, "-c", WHILE_IMPORTED], capture_output=True, text=True, timeout=50)
    assert done.stdout == "('terminated', 143)\n", done.stderr


def test_a_reader_that_leaves_gets_no_traceback() -> None:
    """`dode show FILE | head`: rich ends with 1 where the pipe breaks while it writes."""
    shown = subprocess.run(
        f"{sys.executable} -m dode show {SAVED} --numbers | head -n 1; echo ${{PIPESTATUS[0]}}",
        shell=True,
        executable="/bin/bash",
        capture_output=True,
        text=True,
    )
    assert not shown.stderr
    assert shown.stdout.splitlines()[-1] in ("0", "1")
