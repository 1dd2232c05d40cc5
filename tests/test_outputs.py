"""What is written where: noticed before the work, never by two at once, and through links."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from forked import Server, serving

from dode.files import check_folder, check_writable, write_atomically
from dode.locks import output_file, output_folder

SUPERUSER = hasattr(os, "geteuid") and os.geteuid() == 0
# Where nobody can make a file.
NOWHERE = Path("/proc")


def write(path: Path, text: str, *, overwrite: bool = False) -> None:
    write_atomically(path, lambda temporary: temporary.write_text(text), overwrite=overwrite)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Links.


def test_a_link_to_a_file_is_written_through_with_overwrite_and_stays(tmp_path: Path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "sub" / "target.json"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to("sub/target.json")
    with pytest.raises(FileExistsError, match="link.json exists"):
        write(link, "new")
    write(link, "new", overwrite=True)
    assert link.is_symlink() and target.read_text() == "new" and not target.is_symlink()
    assert names(target.parent) == ["target.json"]


def test_a_link_that_points_nowhere_is_followed(tmp_path: Path) -> None:
    link, target = tmp_path / "link.json", tmp_path / "sub" / "target.json"
    link.symlink_to(target)
    with pytest.raises(FileNotFoundError, match=f"the folder {target.parent}, where the link {link} leads, does not exist"):
        write(link, "new")
    target.parent.mkdir()
    check_writable(link)
    assert names(target.parent) == []
    write(link, "new")
    assert link.is_symlink() and target.read_text() == "new"


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(OSError, match="is a link that leads back to itself"):
        write(tmp_path / "a", "new", overwrite=True)
    assert (tmp_path / "a").is_symlink()


def test_the_folder_of_a_report_may_be_a_link(tmp_path: Path) -> None:
    link, target = tmp_path / "link", tmp_path / "target"
    link.symlink_to(target)
    with output_folder(link, "study*"):
        write(link / "study.md", "page")
    assert link.is_symlink() and names(target) == ["study.md"]


# Whether something can be written.


def test_what_cannot_be_written_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="no file can be made in the folder /proc"):
        check_writable(NOWHERE / "a.json")
    with pytest.raises(FileNotFoundError, match="the folder .*nowhere does not exist: make it first"):
        check_writable(tmp_path / "nowhere" / "a.json")
    with pytest.raises(FileExistsError, match="is a folder: name a file"):
        check_writable(tmp_path)
    check_writable(tmp_path / "a.json")
    check_folder(tmp_path / "b" / "c")
    assert names(tmp_path) == []


@pytest.mark.skipif(SUPERUSER, reason="the superuser may write everything")
def test_what_is_read_only_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.json").touch(mode=0o444)
    with pytest.raises(PermissionError, match="a.json is read-only"):
        check_writable(tmp_path / "a.json", overwrite=True)
    tmp_path.chmod(0o555)
    try:
        for check in (check_writable, check_folder):
            with pytest.raises(PermissionError, match="no file can be made in the folder"):
                check(tmp_path / "b")
        with pytest.raises(PermissionError), output_file(tmp_path / "b.json"):
            pass
    finally:
        tmp_path.chmod(0o755)


# One run at a time.


def test_an_output_is_held_until_its_end_and_no_lock_stays(tmp_path: Path) -> None:
    for hold in (lambda: output_file(tmp_path / "a.json"), lambda: output_folder(tmp_path / "b", "study*")):
        with hold():
            with pytest.raises(BlockingIOError, match=f"is being written by process {os.getpid()} on .*, since 2"):  # noqa: SIM117
                with hold():
                    pass
            with output_file(tmp_path / "other.json"):
                pass
        with hold():
            pass
        with pytest.raises(KeyboardInterrupt), hold():
            raise KeyboardInterrupt
        assert names(tmp_path) == []


def test_two_names_of_one_file_are_one_output(tmp_path: Path) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "a.json")
    with output_file(tmp_path / "a.json"), pytest.raises(BlockingIOError), output_file(tmp_path / "link.json"):
        pass


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left, others = ".a[1].dode-xyz.json", [".a[1].json", ".a1.dode-xyz.json", ".b.dode-xyz.json", "a[1].dode-xyz.json"]
    for name in (left, *others):
        (tmp_path / name).touch()
    with output_file(tmp_path / "a[1].json"):
        pass
    assert names(tmp_path) == sorted(others)


# The commands.

NETWORK = """
import os
import time
import dode

def waiting():
    def net(x, t):
        open("asked", "a").close()
        while not os.path.exists("go"):
            time.sleep(0.01)
        return x * 0.5

    return dode.Denoiser(net, dode.schedules.VP.linear(), shape=(4,), name="waiting")
"""
MODEL = "held_networks:waiting"
COMMANDS = {
    "distill": f"distill {MODEL} --solver ddim --nfe 3 --paper --samples 4 --held-out 2 --teacher-scale 2 --out out.json",
    "compare": f"compare {MODEL} --solver ddim --nfe 3 --effort paper --samples 2 --reference-nfe 20 --out out",
    "study": f"study {MODEL} --nfe 3 --samples 8 --held-out 2 --reference-nfe 20 --axes seeds --values seeds=0,1 --out out",
}


@pytest.fixture
def place(server: tuple[Server, Path]) -> Iterator[tuple[Server, Path]]:
    """The server in an empty folder."""
    yield server
    for path in sorted(server[1].rglob("*"), reverse=True):
        if path.name != "held_networks.py" and "__pycache__" not in path.parts:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    with serving(tmp_path_factory, "held_networks.py", NETWORK) as started:
        yield started


@pytest.mark.parametrize("command", COMMANDS)
def test_a_second_run_on_an_output_is_refused_at_its_start(command: str, place: tuple[Server, Path]) -> None:
    server, folder = place
    arguments = COMMANDS[command].split()
    lock = folder / ".out.json.lock" if command == "distill" else folder / "out" / ".dode.lock"
    for ended_by in (signal.SIGKILL, None):
        first = server.start(*arguments)
        while not (folder / "asked").exists():
            time.sleep(0.01)
        code, errors = server.run(*arguments)
        assert code == 2
        (line,) = errors.strip().splitlines()
        out = arguments[-1]
        assert line.startswith(f"error: {out} is being written by process {first.pid} on "), line
        assert line.endswith("wait for it, or name another output")
        if ended_by:
            assert first.kill(after=0.0) == -ended_by
            assert lock.exists()  # and holds up nobody
        else:
            (folder / "go").touch()
            assert first.wait() == 0, first.errors
            assert not lock.exists()
        (folder / "asked").unlink()


@pytest.mark.parametrize("command", COMMANDS)
def test_an_output_that_cannot_be_written_is_refused_before_the_network_is_asked(
    command: str, place: tuple[Server, Path]
) -> None:
    server, folder = place
    (folder / "file").touch()
    before = names(folder)
    *arguments, out = COMMANDS[command].split()
    for wrong in (f"/proc/{out}", f"file/{out}", f"nowhere/{out}", *(["file"] if command != "distill" else [])):
        code, errors = server.run(*arguments, wrong)
        assert code == 2
        assert len(errors.strip().splitlines()) == 1 and errors.startswith("error: "), errors
    if command == "distill":
        for cache in ("/proc/cache", "file/cache"):
            code, errors = server.run(*arguments, out, "--cache", cache)
            assert code == 2
            assert len(errors.strip().splitlines()) == 1 and errors.startswith("error: "), errors
    assert names(folder) == before


def test_a_damaged_cache_is_one_line_of_the_command(place: tuple[Server, Path]) -> None:
    server, folder = place
    (folder / "go").touch()
    arguments = [*COMMANDS["distill"].split(), "--cache", "kept"]
    code, errors = server.run(*arguments)
    assert (code, errors.strip()) == (0, "")
    (entry, *_) = (folder / "kept").glob("teacher-*")
    entry.write_bytes(b"")
    code, errors = server.run(*arguments, "--force")
    assert code == 0
    (line,) = errors.strip().splitlines()
    assert line.startswith(f"warning: kept/{entry.name} is damaged (") and line.endswith("it is dropped and made again")
