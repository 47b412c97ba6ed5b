"""Which files of a folder are audio."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rwsa.audio_folders import find_audio, list_audio
from rwsa.errors import InputError


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_finding_audio_skips_hidden_and_other_files(tmp_path: Path) -> None:
    touch(*(tmp_path / name for name in ("b.wav", "sub/a.FLAC", ".half.wav", ".git/c.wav", "notes.txt")))
    assert find_audio(tmp_path) == [tmp_path / "b.wav", tmp_path / "sub/a.FLAC"]
    with pytest.raises(InputError, match="no such folder"):
        find_audio(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no audio"):
        find_audio(tmp_path / "empty")


def test_links_to_folders_are_followed_but_not_in_circles(tmp_path: Path) -> None:
    touch(tmp_path / "data/spk/b.wav", tmp_path / "in/a.wav")
    for name in ("one", "two"):
        (tmp_path / "in" / name).symlink_to("../data/spk")
    (tmp_path / "data/spk/circle").symlink_to("../../in")
    for name in ("broken.wav", "itself.wav"):
        (tmp_path / "in" / name).symlink_to("itself.wav" if name == "itself.wav" else "nothing")
    files = ["a.wav", "broken.wav", "itself.wav", "one/b.wav", "two/b.wav"]
    assert list_audio(tmp_path / "in").files == files
    assert list_audio(tmp_path / "in", each_once=True).files == files[:-1]


def test_links_that_multiply_are_refused(tmp_path: Path) -> None:
    for level in range(10):
        (tmp_path / f"in/{level}").mkdir(parents=True)
        for name in "abc":
            (tmp_path / f"in/{level}/{name}").symlink_to(f"../{level + 1}")
    (tmp_path / "in/10").mkdir()
    with pytest.raises(InputError, match="more than 64 times"):
        list_audio(tmp_path / "in")


def test_a_folder_that_cannot_be_listed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(tmp_path / "a.wav", tmp_path / "locked/b.wav")
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if folder.name == "locked":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    unlisted: dict[Path, str] = {}
    assert find_audio(tmp_path, unlisted) == [tmp_path / "a.wav"]
    assert list(unlisted) == [tmp_path / "locked"]
    with pytest.raises(InputError, match=r"locked: cannot be listed \(Permission denied\)"):
        find_audio(tmp_path)
