"""A checkpoint comes back as it was, or is refused with a sentence."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
from errno import ENOSPC
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from common.checkpoint import load_checkpoint, save_checkpoint
from common.errors import ModelError, StorageError

ARRAYS = {
    "stem.conv.weight": np.arange(6, dtype=np.float32).reshape(2, 1, 3),
    "moment": np.array([np.pi, -1e-300]),
}
METADATA = {"round": 3, "loss": 0.25, "sites": ["aachen", "boston"], "schedule": {"rate": 1e-3, "best": None}}


def saved(folder: Path) -> Path:
    path = folder / "best.safetensors"
    save_checkpoint(path, ARRAYS, METADATA)
    return path


def test_arrays_and_metadata_come_back_as_they_were(tmp_path):
    arrays, metadata = load_checkpoint(saved(tmp_path))
    assert metadata == METADATA
    assert sorted(arrays) == sorted(ARRAYS)
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        assert np.array_equal(array, ARRAYS[name])


@pytest.mark.parametrize(
    "array",
    [np.float32(2.5), np.zeros((0, 3), np.float32), np.arange(12.0).reshape(3, 4).T, np.arange(9.0)[::3]],
    ids=["number", "empty", "transposed", "every third"],
)
def test_any_shape_and_memory_order_comes_back(tmp_path, array):
    save_checkpoint(tmp_path / "a.safetensors", {"a": array}, {})
    (back,) = load_checkpoint(tmp_path / "a.safetensors")[0].values()
    assert back.shape == np.shape(array)
    assert np.array_equal(back, array)


def test_what_is_not_finite_is_kept_as_it_is(tmp_path):
    save_checkpoint(tmp_path / "a.safetensors", {"a": np.array([np.nan, np.inf], np.float32)}, {})
    assert np.isnan(load_checkpoint(tmp_path / "a.safetensors")[0]["a"][0])


def test_equal_content_gives_equal_bytes_and_the_hash_is_that_of_the_file(tmp_path):
    first = save_checkpoint(tmp_path / "a.safetensors", ARRAYS, METADATA)
    second = save_checkpoint(
        tmp_path / "b.safetensors", dict(reversed(ARRAYS.items())), dict(reversed(METADATA.items()))
    )
    assert first == second == hashlib.sha256((tmp_path / "a.safetensors").read_bytes()).hexdigest()
    other = save_checkpoint(tmp_path / "c.safetensors", ARRAYS, METADATA | {"round": 4})
    assert other != first


def test_the_sidecar_tells_a_person_what_is_inside(tmp_path):
    path = saved(tmp_path)
    sidecar = json.loads(path.with_suffix(".json").read_text())
    assert sidecar["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert sidecar["bytes"] == path.stat().st_size
    assert sidecar["metadata"] == METADATA
    weight = sidecar["arrays"]["stem.conv.weight"]
    assert (weight["shape"], weight["dtype"]) == ([2, 1, 3], "float32")
    assert weight["sha256"] == hashlib.sha256(ARRAYS["stem.conv.weight"].tobytes()).hexdigest()


def test_any_changed_byte_is_noticed_even_without_the_sidecar(tmp_path):
    path = saved(tmp_path)
    path.with_suffix(".json").unlink()
    whole = path.read_bytes()
    load_checkpoint(path)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(ModelError):
            load_checkpoint(path)


def test_a_file_cut_short_anywhere_is_noticed(tmp_path):
    path = saved(tmp_path)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match="damaged"):
            load_checkpoint(path)


def test_a_missing_checkpoint_is_said_so(tmp_path):
    with pytest.raises(ModelError, match=r"best\.safetensors does not exist; train"):
        load_checkpoint(tmp_path / "best.safetensors")


def test_a_file_of_another_program_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(ModelError, match="not a checkpoint of this project"):
        load_checkpoint(path)
    path.write_text("Dear colleagues, please find attached the weights.")
    with pytest.raises(ModelError, match="not a checkpoint of this project"):
        load_checkpoint(path)


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (os.mkdir, ("exploded",))


def test_a_pickle_is_refused_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bomb.safetensors").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError):
        load_checkpoint(tmp_path / "bomb.safetensors")
    assert not (tmp_path / "exploded").exists()


def test_a_checkpoint_of_another_version_names_both(tmp_path, monkeypatch):
    monkeypatch.setattr("common.checkpoint.VERSION", 2)
    path = saved(tmp_path)
    monkeypatch.undo()
    with pytest.raises(ModelError, match="format version 2, this software reads 1"):
        load_checkpoint(path)


def test_a_checkpoint_swapped_for_another_is_noticed_by_its_sidecar(tmp_path):
    path = saved(tmp_path)
    save_checkpoint(tmp_path / "other.safetensors", ARRAYS, {})
    (tmp_path / "other.safetensors").replace(path)
    with pytest.raises(ModelError, match=r"not the file that best\.json"):
        load_checkpoint(path)


def test_a_full_disk_leaves_the_older_checkpoint_readable(tmp_path, monkeypatch):
    path = saved(tmp_path)
    before = sorted(tmp_path.iterdir())

    def full(_: int) -> None:
        raise OSError(ENOSPC, os.strerror(ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="disk full"):
        save_checkpoint(path, {"a": np.zeros(5, np.float32)}, {})
    monkeypatch.undo()
    assert sorted(tmp_path.iterdir()) == before
    assert load_checkpoint(path)[1] == METADATA


def test_a_crash_between_checkpoint_and_sidecar_leaves_a_checkpoint_that_loads(tmp_path, monkeypatch):
    path = saved(tmp_path)

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("common.checkpoint.write_json", crash)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, ARRAYS, {"round": 4})
    assert load_checkpoint(path)[1] == {"round": 4}


@pytest.mark.parametrize("array", [np.arange(3), np.zeros(3, np.float16), np.array(["a"])])
def test_only_floats_of_32_and_64_bits_are_kept(tmp_path, array):
    with pytest.raises(ModelError, match="a checkpoint holds float32 and float64"):
        save_checkpoint(tmp_path / "a.safetensors", {"a": array}, {})
    assert not list(tmp_path.iterdir())


def test_another_ending_is_refused_because_the_sidecar_is_found_by_it(tmp_path):
    with pytest.raises(ModelError, match=r"ends in \.safetensors"):
        save_checkpoint(tmp_path / "best.json", ARRAYS, {})


@pytest.mark.parametrize("mask", [0o022, 0o000])
def test_both_files_of_a_private_checkpoint_are_for_their_owner_only(tmp_path, mask):
    path, before = tmp_path / "patient-1.safetensors", os.umask(mask)
    try:
        save_checkpoint(path, ARRAYS, METADATA, mode=0o600)
        save_checkpoint(tmp_path / "generic.safetensors", ARRAYS, METADATA)
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in tmp_path.iterdir()}
    assert modes["patient-1.safetensors"] == modes["patient-1.json"] == 0o600
    assert modes["generic.safetensors"] == modes["generic.json"] == 0o666 & ~mask
