"""JSON that others wrote: what is refused while it is read, in one line with the path."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from dode.foreign import printable
from dode.reading import SMALL, checked, failing_as, read_json
from dode.schemas import DodeJson, NetworkFile, SchedulerFile, WeightsIndex


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it is not JSON"),
        (b"{", "it is not JSON"),
        (b"\xff\xfe{}", "it is not JSON: 'utf-8'"),
        (b"\xef\xbb\xbf{}", "it is not JSON"),
        (b"[1]", "it must hold a JSON object, got list"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "it has the key 'c' twice"),
        (b'{"a": ' + b"[" * 100_000, "lists within lists"),
        (b'{"a": ' + b"[" * 100 + b"]" * 100 + b"}", "lists within lists"),
        (b'{"a": ' + b"9" * 401 + b"}", "an integer of 401 digits"),
        (b'{"a": ' + b"9" * 5000 + b"}", "an integer of 5000 digits"),
        (b'{"a": "' + b"x" * SMALL + b'"}', "it has more than 1 MB"),
        (b'{"a": [' + b"[]," * 300_000 + b"1]}", "lists and keys"),
    ],
)
def test_json_that_no_reader_should_take(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    most = SMALL if len(content) < SMALL or b"x" in content else 2 * SMALL
    with pytest.raises(ValueError, match=message) as caught:
        read_json(path, most)
    assert str(caught.value).startswith(f"{path}: ")
    assert str(caught.value).isprintable()


def test_other_json_is_taken_as_it_is(tmp_path: Path) -> None:
    content = {"a": [1, 2.5, -0.0, None, True, "é\ud800"], "b": {"c": {"c": []}}, "seed": 2**64 - 1}
    path = tmp_path / "file.json"
    path.write_text(json.dumps(content))
    assert read_json(path) == content
    for nowhere in (tmp_path, tmp_path / "none.json"):
        with pytest.raises(FileNotFoundError, match="does not exist, or is no file"):
            read_json(nowhere)


@pytest.mark.parametrize(
    ("model", "content", "message"),
    [
        (DodeJson, {"nul_class": 5}, "unknown key 'nul_class': did you mean 'null_class'"),
        (DodeJson, {"space_to_depth": 0}, "space_to_depth should be greater than or equal to 1, got 0"),
        (DodeJson, {"space_to_depth": 1.5}, "space_to_depth should be a valid integer, got 1.5"),
        (DodeJson, {"space_to_depth": True}, "space_to_depth should be a valid integer, got True"),
        (DodeJson, {"classes": ["a", 1]}, r"classes\[1\] should be a valid string, got 1"),
        (NetworkFile, {}, "'_class_name' is missing"),
        (
            NetworkFile,
            {"_class_name": "A", "sample_size": 10**5},
            "sample_size should be less than or equal to 16384, got 100000",
        ),
        (NetworkFile, {"_class_name": "A", "sample_size": [2**14, 2**14]}, "larger than any network's"),
        (
            NetworkFile,
            {"_class_name": "A", "norm_num_groups": 0},
            "norm_num_groups should be greater than or equal to 1, got 0",
        ),
        (SchedulerFile, {"num_train_timesteps": 10**9}, "num_train_timesteps should be less than or equal to 100000"),
        (SchedulerFile, {"beta_start": float("nan")}, "beta_start should be a finite number, got nan"),
        (SchedulerFile, {"beta_end": "0.02"}, "beta_end should be a valid number, got '0.02'"),
        (WeightsIndex, {"metadata": {}, "weight_map": ["a"]}, r"weight_map should be a valid dictionary, got \['a'\]"),
        (WeightsIndex, {"metadata": {}, "weight_map": {"a": "../b.safetensors"}}, "weight_map.a should match pattern"),
    ],
)
def test_types_and_bounds(model: type, content: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        checked(model, content)
    assert str(caught.value).isprintable()


def test_keys_of_diffusers_stay_open() -> None:
    assert checked(NetworkFile, {"_class_name": "A", "one_of_the_future": [1]}).class_name == "A"
    assert checked(SchedulerFile, {"sigma_max": 80, "another": {}}).sigma_max == 80


def test_text_of_others_is_one_short_line_without_control_characters() -> None:
    assert printable("\x1b[31mred\x1b[0m\r\n\u202ename\u00a0x\ud800") == "[31mred[0m  name x"
    assert printable("x" * 10**6, 10) == "xxxxxxxxxx..."
    with pytest.raises(ValueError, match="^here: first line and the next$"), failing_as("here"):
        raise ValueError("first line\nand\x1b the next")
