"""The file cache: invalidated by changes, shared by processes, damage reported."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from rwsa.errors import InputError
from rwsa.file_cache import CACHE_NAME, FileCache, FileStamp, cache_folder, stamp_or_none


def stamp(path: Path) -> FileStamp:
    found = stamp_or_none(str(path))
    assert found is not None
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.wav"
    path.write_bytes(b"1234")
    return path


def test_values_are_read_by_another_object(tmp_path: Path, file: Path) -> None:
    FileCache(tmp_path / "cache").put("k", {stamp(file): {"x": [1, None, "é"]}})
    assert FileCache(tmp_path / "cache").get("k", [stamp(file)]) == {str(file): {"x": [1, None, "é"]}}


def test_kinds_are_separate(tmp_path: Path, file: Path) -> None:
    cache = FileCache(tmp_path)
    cache.put("k", {stamp(file): 1})
    assert cache.get("other", [stamp(file)]) == {}


@pytest.mark.parametrize("change", ["size", "time"])
def test_a_changed_file_has_no_value(tmp_path: Path, file: Path, change: str) -> None:
    cache = FileCache(tmp_path)
    cache.put("k", {stamp(file): 1})
    if change == "size":
        file.write_bytes(b"12345")
    else:
        os.utime(file, ns=(1, 1))
    assert cache.get("k", [stamp(file)]) == {}
    cache.put("k", {stamp(file): 2})
    assert cache.get("k", [stamp(file)]) == {str(file): 2}


def test_a_missing_file_has_no_stamp(tmp_path: Path) -> None:
    assert stamp_or_none(str(tmp_path / "gone")) is None


def test_a_damaged_cache_is_reported(tmp_path: Path) -> None:
    (tmp_path / CACHE_NAME).write_bytes(b"no database" * 100)
    with pytest.raises(InputError, match=f"{CACHE_NAME}: cannot be used as a cache .*delete it"):
        FileCache(tmp_path)


def test_a_file_in_place_of_the_folder_is_reported(tmp_path: Path, file: Path) -> None:
    with pytest.raises(InputError, match=r"a\.wav: cannot be created"):
        FileCache(file)


def put_many(folder: Path, first: int) -> None:
    cache = FileCache(folder)
    for number in range(first, first + 50):
        cache.put("k", {FileStamp(f"/{number}", 1, 1): number})


def test_two_processes_write_concurrently(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=put_many, args=(tmp_path, first)) for first in (0, 50)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert [writer.exitcode for writer in writers] == [0, 0]
    found = FileCache(tmp_path).get("k", [FileStamp(f"/{number}", 1, 1) for number in range(100)])
    assert found == {f"/{number}": number for number in range(100)}


def test_the_folder_is_in_the_results_unless_the_environment_names_a_local_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RWSA_CACHE", raising=False)
    assert cache_folder(tmp_path) == tmp_path / "cache"
    monkeypatch.setenv("RWSA_CACHE", str(tmp_path / "local"))
    assert cache_folder(tmp_path / "shared") == tmp_path / "local"
