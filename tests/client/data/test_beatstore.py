"""Beats on disk."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import numpy as np
import pytest

from client.data.beatstore import ROW_BYTES, BeatStore
from common.errors import StorageError


def beats(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 120)).astype(np.float32)


def test_what_is_appended_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    first, second = beats(3), beats(5, 1)
    with BeatStore(tmp_path / "beats") as store:
        assert store.append(first) == 0
        assert store.append(second) == 3
        store.flush()
    reader = BeatStore(tmp_path / "beats")
    assert len(reader) == 8
    assert np.array_equal(reader.read(3, 5), second)
    assert np.array_equal(reader.gather([7, 0, 7]), np.stack([second[4], first[0], second[4]]))
    assert reader.read(0, 0).shape == reader.gather([]).shape == (0, 120)


def test_a_reader_sees_rows_that_came_later(tmp_path: Path) -> None:
    with BeatStore(tmp_path) as writer:
        writer.append(beats(2))
        reader = BeatStore(tmp_path)
        assert reader.read(0, 2).shape == (2, 120)
        writer.append(beats(4, 1))
        assert np.array_equal(reader.read(2, 4), beats(4, 1))


def test_reading_maps_the_file_and_copies_nothing(tmp_path: Path) -> None:
    with BeatStore(tmp_path) as store:
        store.append(beats(10))
        view = store.read(2, 3)
        assert view.base is not None
        assert not view.flags.writeable


def test_rows_the_database_does_not_know_are_cut_off(tmp_path: Path) -> None:
    with BeatStore(tmp_path) as store:
        store.append(beats(6))
        with store.path.open("ab") as file:
            file.write(b"half a row")
        assert len(store) == 6
        assert store.truncate(4) == 2 * ROW_BYTES + len(b"half a row")
        assert store.append(beats(1, 1)) == 4
        assert np.array_equal(store.read(4, 1), beats(1, 1))


def test_a_store_shorter_than_the_database_says_is_refused(tmp_path: Path) -> None:
    with BeatStore(tmp_path) as store:
        store.append(beats(2))
        with pytest.raises(StorageError, match="holds 2 beats, the database knows 3"):
            store.truncate(3)
        with pytest.raises(StorageError, match="holds 2 beats; rows 1 to 2"):
            store.read(1, 2)
        with pytest.raises(StorageError):
            store.gather([-1])


def test_beats_of_another_form_are_refused(tmp_path: Path) -> None:
    with BeatStore(tmp_path) as store:
        store.append(beats(2))
    header = tmp_path / "beats.json"
    header.write_text(json.dumps({**json.loads(header.read_text()), "format": 9}))
    for use in (lambda s: s.read(0, 1), lambda s: s.append(beats(1))):
        with pytest.raises(StorageError, match=r"format 9.*fresh site folder"):
            use(BeatStore(tmp_path))
    header.unlink()
    with pytest.raises(StorageError, match="lost its header"):
        BeatStore(tmp_path).append(beats(1))


def test_only_one_process_writes(tmp_path: Path) -> None:
    with BeatStore(tmp_path) as store:
        store.append(beats(1))
        with pytest.raises(StorageError, match="another process is writing"):
            BeatStore(tmp_path).lock()
    with BeatStore(tmp_path) as second:
        assert second.append(beats(1)) == 1


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_leaves_the_rows_that_were_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write = os.pwrite

    def full(handle: int, content: memoryview, place: int) -> int:
        if len(content) > 500:
            return write(handle, content[:500], place)
        raise OSError(number, os.strerror(number))

    with BeatStore(tmp_path) as store:
        store.append(beats(2))
        monkeypatch.setattr(os, "pwrite", full)
        with pytest.raises(StorageError, match="disk full"):
            store.append(beats(2, 1))
        monkeypatch.undo()
        assert store.path.stat().st_size == 2 * ROW_BYTES
        assert np.array_equal(store.read(0, 2), beats(2))


@pytest.mark.parametrize("mask", [0o022, 0o000])
def test_beats_are_readable_by_their_owner_only(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with BeatStore(tmp_path) as store:
            store.append(beats(1))
            assert store.path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)


def test_erased_rows_are_zero_and_all_others_keep_their_place(tmp_path: Path) -> None:
    rows = beats(5000)
    with BeatStore(tmp_path) as store:
        store.append(rows)
        store.erase(10, 4000)  # more than one write
        store.erase(4990, 100)  # the file ends before that, and grows by nothing
        store.erase(9000, 5)
    after = BeatStore(tmp_path).read(0, 5000)
    assert len(BeatStore(tmp_path)) == 5000
    assert not after[10:4010].any()
    assert not after[4990:].any()
    assert np.array_equal(after[:10], rows[:10])
    assert np.array_equal(after[4010:4990], rows[4010:4990])
    assert rows[20].tobytes() not in (tmp_path / "beats.f32").read_bytes()


def test_rows_are_not_erased_while_another_process_writes(tmp_path: Path) -> None:
    with BeatStore(tmp_path) as store:
        store.append(beats(2))
        with pytest.raises(StorageError, match="another process is writing"):
            BeatStore(tmp_path).erase(0, 1)
        assert np.array_equal(store.read(0, 2), beats(2))


def test_rows_have_120_samples(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="120 samples"):
        BeatStore(tmp_path).append(np.zeros((2, 100), dtype=np.float32))
