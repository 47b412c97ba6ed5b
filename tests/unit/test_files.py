"""Atomic writes, JSON and checksums: files appear complete or not at all."""

from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from rwsa.errors import InputError
from rwsa.files import (
    StoragePath,
    atomic_folder,
    atomic_write,
    local_copy,
    location,
    read_json,
    sha256_of,
    write_json,
)


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*")}


def test_the_name_appears_only_when_the_block_has_ended(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.tar"
    with atomic_write(target) as temporary:
        temporary.write_bytes(b"complete")
        assert not target.exists()
        assert temporary.parent == target.parent
        assert temporary.name.startswith(".")
        assert temporary.suffix == ".tar"
    assert target.read_bytes() == b"complete"
    assert names(tmp_path) == {"deep", "a.tar"}


def test_a_failed_block_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def interrupted() -> None:
        with atomic_write(target) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


def test_a_failed_folder_is_removed_with_all_in_it(tmp_path: Path) -> None:
    def interrupted() -> None:
        with atomic_write(tmp_path / "folder") as temporary:
            (temporary / "sub").mkdir(parents=True)
            (temporary / "sub" / "file").touch()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        interrupted()
    assert names(tmp_path) == set()


def test_a_folder_appears_complete(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "folder") as temporary:
        temporary.mkdir()
        (temporary / "file").write_text("x")
    assert names(tmp_path) == {"folder", "file"}


@pytest.fixture(params=["local", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StoragePath:
    return tmp_path if request.param == "local" else location(f"memory://{tmp_path.name}")


def write_folder(path: StoragePath, *names: str) -> None:
    with atomic_folder(path, last="last") as temporary:
        for name in names:
            (temporary / name).write_text(name)


def test_a_folder_replaces_another(root: StoragePath) -> None:
    write_folder(root / "folder", "last", "old")
    write_folder(root / "folder", "last", "new")
    assert {path.name for path in (root / "folder").iterdir()} == {"last", "new"}
    assert [path.name for path in root.iterdir()] == ["folder"]


def test_a_folder_that_a_killed_process_left_is_replaced(tmp_path: Path) -> None:
    write_folder(tmp_path / "folder", "last")
    write_folder(tmp_path / ".folder.old", "last")
    write_folder(tmp_path / "folder", "last", "new")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {"last", "new"}
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_failed_block_leaves_the_old_folder(root: StoragePath) -> None:
    write_folder(root / "folder", "last", "old")

    def interrupted() -> None:
        with atomic_folder(root / "folder", last="last") as temporary:
            (temporary / "new").touch()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {path.name for path in (root / "folder").iterdir()} == {"last", "old"}
    assert [path.name for path in root.iterdir()] == ["folder"]


@pytest.mark.parametrize("target", ["/proc/rwsa/a.json", "/proc/a.json"])
def test_a_folder_that_cannot_be_written_is_named(target: str) -> None:
    with pytest.raises(InputError, match=rf"^{target}: cannot be written \(.+\); choose a folder"):
        write_json(Path(target), {})


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path: Path) -> None:
    def fill() -> None:
        with atomic_write(tmp_path / "a.bin") as temporary:
            temporary.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(InputError, match=r"a\.bin: cannot be written \(No space left on device\)"):
        fill()
    assert names(tmp_path) == set()


def test_a_full_temporary_folder_is_not_an_error_of_the_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = location(f"memory://{tmp_path.name}/weights")
    path.write_bytes(b"content")
    with local_copy(path) as copy:
        assert copy.read_bytes() == b"content"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="No space left"), local_copy(path):
        pass


def test_an_error_of_another_file_passes_unchanged(tmp_path: Path) -> None:
    def copy() -> None:
        with atomic_write(tmp_path / "out" / "a.txt") as temporary:
            temporary.write_text((tmp_path / "missing.txt").read_text())

    with pytest.raises(FileNotFoundError, match=r"missing\.txt"):
        copy()


def test_json_round_trip_is_sorted_and_ends_in_a_line(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"b": [1, None], "a": "é"})
    assert (tmp_path / "a.json").read_text().splitlines()[1].strip().startswith('"a"')
    assert (tmp_path / "a.json").read_text().endswith("}\n")
    assert read_json(tmp_path / "a.json") == {"a": "é", "b": [1, None]}


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00"])
def test_what_is_not_json_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not a readable JSON file"):
        read_json(tmp_path / "a.json")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")


def test_checksum(tmp_path: Path) -> None:
    content = bytes(range(256)) * 5000
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
