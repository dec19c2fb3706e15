"""JSON files that say when they are not what was written."""

import json
import os

import numpy as np
import pytest

from cbjax.host import checked_json
from cbjax.host.checked_json import RecordError

VALUE = {"std": [0.25], "counts": np.arange(3), "loss": float("nan"), "nested": {"name": "ä"}}


def test_what_was_written_is_read(tmp_path):
    path = tmp_path / "data.json"
    for value in (VALUE, {**VALUE, "more": 1}):
        checked_json.write(path, value)
    assert checked_json.read(path) == {
        "std": [0.25],
        "counts": [0, 1, 2],
        "loss": None,
        "nested": {"name": "ä"},
        "more": 1,
    }
    assert sorted(one.name for one in tmp_path.iterdir() if one.name[0] != ".") == ["checksums.json", "data.json"]


def test_any_flipped_bit_is_found(tmp_path):
    path = tmp_path / "data.json"
    checked_json.write(path, VALUE)
    content = path.read_bytes()
    for place in range(len(content)):
        for bit in range(8):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1 << bit]) + content[place + 1 :])
            with pytest.raises(RecordError, match="damaged"):
                checked_json.read(path)
    path.write_bytes(content)
    assert (
        checked_json.is_sound(path) and checked_json.was_written(path, VALUE) and not checked_json.was_written(path, {})
    )


@pytest.mark.parametrize("name", ["facts.json", "checksums.json"])
def test_a_pipe_or_a_device_in_the_place_of_a_file_is_not_read(tmp_path, name):
    checked_json.write(tmp_path / "facts.json", {"a": 1})
    for make in (os.mkfifo, lambda path: path.symlink_to("/dev/zero")):
        (tmp_path / name).unlink()
        make(tmp_path / name)
        with pytest.raises(checked_json.RecordError, match="it is not a regular file"):
            checked_json.read(tmp_path / "facts.json")


def test_an_edited_file_says_what_to_do(tmp_path):
    path = tmp_path / "config.json"
    checked_json.write(path, VALUE)
    path.write_text(path.read_text().replace("0.25", "0.26"))
    with pytest.raises(RecordError, match=r"edited or damaged.* restore the file, or, .*, remove .*checksums"):
        checked_json.read(path)
    (tmp_path / "checksums.json").unlink()
    assert checked_json.read(path)["std"] == [0.26]


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"[]", b"null", b"3", b'{"a": NaN}', b'{"a": Infinity}', b"[" * 100_000, b"\xff\xfe{", b"\x00" * 9),
        b'{"a": ' + b"9" * 10_000 + b"}",
    ],
)
def test_other_files_are_one_error(tmp_path, content):
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match=r"plan.json is missing or damaged: "):
        checked_json.read(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RecordError, match=r"plan.json is missing or damaged: "):
        checked_json.read(path)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"a.json": 1}', b"[" * 100_000])
def test_damaged_checksums_are_said_and_written_again(tmp_path, content):
    path = tmp_path / "a.json"
    checked_json.write(path, VALUE)
    (tmp_path / "checksums.json").write_bytes(content)
    with pytest.raises(RecordError, match=r"checksums.json is damaged .*: restore it, or remove it"):
        checked_json.read(path)
    assert not checked_json.was_written(path, VALUE)
    checked_json.write(path, VALUE)
    assert checked_json.read(path)["std"] == [0.25]


def test_the_contents_on_both_sides_of_a_kill_are_known(tmp_path):
    path = tmp_path / "a.json"
    checked_json.write(path, {"a": 1})
    before = path.read_bytes()
    checked_json.write(path, {"a": 2})
    path.write_bytes(before)
    assert checked_json.read(path) == {"a": 1}
    assert len(json.loads((tmp_path / "checksums.json").read_text())["a.json"]) == 2
