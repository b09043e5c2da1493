"""A file is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import StorageError
from common.files import free_bytes, read_json, write_atomic, write_json


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """Let the operating system refuse larger files, as a full disk does half-way through a write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_text_and_bytes_come_back_and_folders_are_made(tmp_path):
    write_atomic(tmp_path / "a" / "b" / "text", "5.5 mEq/L ≥ 5,0\n")
    write_atomic(str(tmp_path / "a" / "bytes"), b"\x00\r\n\xff")
    assert (tmp_path / "a" / "b" / "text").read_bytes() == "5.5 mEq/L ≥ 5,0\n".encode()
    assert (tmp_path / "a" / "bytes").read_bytes() == b"\x00\r\n\xff"


def test_a_new_file_has_the_permissions_of_any_other_new_file(tmp_path):
    write_atomic(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(tmp_path):
    write_atomic(tmp_path / "file", b"old")
    with room_for(1000), pytest.raises(StorageError, match=r"disk full while writing .*file: .*run the same"):
        write_atomic(tmp_path / "file", b"n" * 100_000)
    assert contents(tmp_path) == {"file": b"old"}


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "disk full"), (errno.EROFS, "read-only.*another folder"), (errno.EIO, "cannot be writ")],
)
def test_a_failure_at_the_last_moment_leaves_the_old_file_and_nothing_else(
    tmp_path, monkeypatch, number, says
):
    def fail(_: int) -> None:
        raise OSError(number, os.strerror(number))

    write_atomic(tmp_path / "file", b"old")
    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=says):
        write_atomic(tmp_path / "file", b"new")
    assert contents(tmp_path) == {"file": b"old"}


def test_ctrl_c_leaves_the_old_file_and_nothing_else(tmp_path):
    def interrupt() -> None:
        raise KeyboardInterrupt

    write_atomic(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt):
        write_atomic(tmp_path / "file", b"new", before_replace=interrupt)
    assert contents(tmp_path) == {"file": b"old"}


def test_a_folder_that_is_a_file_is_said_so(tmp_path):
    (tmp_path / "place").write_text("x")
    with pytest.raises(StorageError, match="cannot be written"):
        write_atomic(tmp_path / "place" / "file", b"x")


def test_equal_values_give_equal_json_bytes(tmp_path):
    write_json(tmp_path / "a.json", {"b": [1, 2.5, None], "a": "µV"})
    write_json(tmp_path / "b.json", {"a": "µV", "b": [1, 2.5, None]})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    assert read_json(tmp_path / "a.json") == {"a": "µV", "b": [1, 2.5, None]}


def test_json_without_a_word_for_it_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"auc": float("nan")})
    assert not list(tmp_path.iterdir())


def test_json_that_cannot_be_read_is_said_in_a_sentence(tmp_path):
    with pytest.raises(StorageError, match="does not exist"):
        read_json(tmp_path / "absent.json")
    (tmp_path / "half.json").write_text('{"a": ')
    with pytest.raises(StorageError, match=r"not valid JSON: .*delete it"):
        read_json(tmp_path / "half.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe")
    with pytest.raises(StorageError, match="not valid JSON"):
        read_json(tmp_path / "binary.json")
    with pytest.raises(StorageError, match="cannot be read"):
        read_json(tmp_path)


def test_free_space_is_that_of_the_nearest_folder_there_is(tmp_path):
    assert free_bytes(tmp_path / "not" / "yet") > 0
