"""What is kept between runs: whole and unchanged, or made again; and a run that cannot keep anything goes on."""

from __future__ import annotations

import itertools
import os
import pickle
import resource
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from mixture import mixture_denoiser

import dode
from dode.cache import Cache
from dode.report.records import Records
from dode.seals import sealed, unsealed

SCHEDULE = dode.schedules.VP.linear()
# A teacher of two files and one end-to-end fit, within a second.
SMALL = {"grid": "uniform", "samples": 12, "validation": 8, "held_out": 0, "teacher": "deis", "teacher_nfe": 12, "refine": 3}


def distilled(cache: Path | None) -> dode.Distilled:
    return dode.distill(mixture_denoiser(SCHEDULE), "ddim", 3, cache=cache, **SMALL)


def numbers(result: dode.Distilled) -> tuple[list[object], ...]:
    tableau = result.tableau
    return tuple(array.tolist() for array in (tableau.times, tableau.a, tableau.b, result.fitting.distilled))


def flipped(position: float) -> Callable[[bytes], bytes]:
    def flip(content: bytes) -> bytes:
        at = int(position * (len(content) - 1))
        return content[:at] + bytes([content[at] ^ 4]) + content[at + 1 :]

    return flip


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "all but the last byte": lambda content: content[:-1],
    "garbage": lambda content: bytes(range(256)) * (len(content) // 256 + 1),
    "a bit of the beginning": flipped(0.0),
    "a bit of the middle": flipped(0.6),
    "a bit of the end": flipped(0.99),
    "JSON of something else": lambda content: b'{"a": 1}',
    "JSON nested deep": lambda content: b"[" * 100_000,
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], dode.Distilled]:
    """The files of a run's cache by name, and its result."""
    folder = tmp_path_factory.mktemp("cache")
    result = distilled(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir()}, result


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_entry_is_said_dropped_and_made_again(
    damage: str, kept: tuple[dict[str, bytes], dode.Distilled], tmp_path: Path
) -> None:
    files, whole = kept
    assert sorted(name.split("-")[0] for name in files) == ["refine", "teacher", "teacher"]
    for name in files:
        folder = tmp_path / name
        folder.mkdir()
        for each, content in files.items():
            (folder / each).write_bytes(DAMAGES[damage](content) if each == name else content)
        with pytest.warns(UserWarning, match="it is dropped and made again") as said:
            found = distilled(folder)
        assert [str(warning.message).split(" is damaged ")[0] for warning in said] == [str(folder / name)]
        assert "\n" not in str(said[0].message)
        assert numbers(found) == numbers(whole)
        assert {path.name for path in folder.iterdir()} == set(files)
        assert name.startswith("refine") or (folder / name).read_bytes() == files[name]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again = distilled(folder)
        assert numbers(again) == numbers(whole)
        assert again.evaluations["end-to-end"] < found.evaluations["end-to-end"] or not name.startswith("refine")


def test_no_bit_of_an_entry_changes_unseen(tmp_path: Path) -> None:
    """Every byte in turn: what is read is what was written, or nothing."""
    cache = Cache(tmp_path)
    tensors = {"0": torch.tensor([[1.5, -2.0]]), "1": torch.tensor([3.0, 4.0], dtype=torch.float64)}
    state = {"error": 0.1, "students": {"p": [1.0, 2.5e-300], "name": "x"}, "best": float("inf")}
    cache.keep_tensors("t.safetensors", tensors)
    cache.entry("s.json").write(state)
    for name in ("t.safetensors", "s.json"):
        path, unseen = tmp_path / name, 0
        content = path.read_bytes()
        for at, bit in itertools.product(range(len(content)), (1, 32)):
            path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                found = cache.tensors(name) if name.startswith("t") else cache.entry(name).read()
            assert (found is None) == bool(said) == (not path.exists())
            if found is not None:  # a blank of the header, or the e of an exponent
                unseen += 1
                assert repr(found) == repr(tensors if name.startswith("t") else state)
        assert unseen < 10


def test_an_entry_under_anothers_name_is_none_of_that(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.keep_tensors("a.safetensors", {"0": torch.ones(3)})
    (tmp_path / "a.safetensors").rename(tmp_path / "b.safetensors")
    with pytest.warns(UserWarning, match="b.safetensors is damaged"):
        assert cache.tensors("b.safetensors") is None


def test_nothing_is_ever_unpickled(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return Path.touch, (tmp_path / "sprung",)

    cache = Cache(tmp_path)
    for name in ("a.safetensors", "a.json"):
        (tmp_path / name).write_bytes(pickle.dumps(Trap()))
        with pytest.warns(UserWarning, match="is damaged"):
            assert (cache.tensors(name) if name == "a.safetensors" else cache.entry(name).read()) is None
    assert not (tmp_path / "sprung").exists()


def test_what_is_sealed_comes_back_to_the_last_bit() -> None:
    content = {"a": [0.1, 1e-320, -0.0, float("inf")], "b": {"c": None, "d": "ä\n"}, "e": True}
    assert repr(unsealed(sealed(content))) == repr(content)
    assert "\n" not in sealed(content)


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """As on a full disk: writing more is an error of the system's."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [100, 6000], ids=["for nothing", "for some"])
def test_a_full_disk_is_one_warning_and_the_run_goes_on(
    room: int, kept: tuple[dict[str, bytes], dode.Distilled], tmp_path: Path
) -> None:
    files, whole = kept
    sizes = sorted(map(len, files.values()))
    assert sizes[0] > 100 and sizes[-1] > 6000
    with no_file_larger_than(room), pytest.warns(UserWarning, match="cannot be written") as said:
        found = distilled(tmp_path)
    (message,) = [str(warning.message) for warning in said]
    assert message.startswith(f"the cache {tmp_path} cannot be written (") and message.endswith("the run goes on without it")
    assert numbers(found) == numbers(whole)
    assert not [path for path in tmp_path.iterdir() if path.name not in files], "no half-written file stays"


def test_a_cache_that_cannot_be_is_refused_before_the_network_is_asked(tmp_path: Path) -> None:
    denoiser = mixture_denoiser(SCHEDULE)
    (tmp_path / "file").touch()
    for folder, message in (
        (tmp_path / "file", "is a file: name another one"),
        (tmp_path / "file" / "below", "is a file: name another one"),
        (Path("/proc/below"), "no file can be made in the folder /proc"),  # nor by the superuser
    ):
        with pytest.raises(OSError, match=message):
            dode.distill(denoiser, "ddim", 3, cache=folder, **SMALL)
    assert denoiser.evaluations == 0


def test_temporary_files_of_killed_runs_go_when_they_are_old(tmp_path: Path) -> None:
    old, young, others = (tmp_path / name for name in (".a.dode-x1.json", ".b.dode-x2.json", ".c.json"))
    for path in (old, young, others):
        path.touch()
    os.utime(old, (0, 0))
    os.utime(others, (0, 0))
    Cache(tmp_path).entry("d.json").write({})
    assert sorted(path.name for path in tmp_path.iterdir()) == [".b.dode-x2.json", ".c.json", "d.json"]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_record_is_said_dropped_and_made_again(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "study.jsonl"

    def ask() -> tuple[list[str], list[dict[str, object]]]:
        """Three records: which were made, and what they hold."""
        made: list[str] = []

        def compute(name: str) -> dict[str, object]:
            made.append(name)
            return {"value": name * 3}

        records = Records(path, "context", lambda: 0)
        found = [records.known({"what": name}, lambda name=name: compute(name)) for name in "abc"]  # type: ignore[misc]
        return made, [{"what": record["what"], "value": record["value"]} for record in found]

    first, whole = ask()
    assert first == ["a", "b", "c"]
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    path.write_bytes(lines[0] + DAMAGES[damage](lines[1][:-1]).replace(b"\n", b"") + b"\n" + lines[2])
    if damage == "empty":
        assert ask()[0] == ["b"]
    else:
        with pytest.warns(UserWarning, match="study.jsonl is damaged .1 of 3 records.: these are dropped and made again"):
            made, found = ask()
        assert (made, found) == (["b"], whole)
    assert ask() == ([], whole)
    # Cut anywhere, as a kill does: what is whole is not made again.
    for size in range(0, len(content), 7):
        path.write_bytes(content[:size])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made, found = ask()
        assert found == whole and made == ["a", "b", "c"][content[: size + 1].count(b"\n") :]
        assert ask()[0] == []
