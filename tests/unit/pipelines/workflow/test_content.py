"""Hashes of what steps read and leave: they follow the content, and signatures do without reading it."""

from __future__ import annotations

import os
from pathlib import Path

from pipelines.workflow.content import content_hash, recordings_signature, signature
from pipelines.workflow.records import is_there, output_of
from tests.toy_corpus import write_corpus


def test_files_and_folders_are_hashed_by_content(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.txt").write_text("x")
    copy = tmp_path / "b"
    copy.mkdir()
    (copy / "x.txt").write_text("x")
    os.utime(copy / "x.txt", (0, 0))
    assert content_hash(tmp_path / "a") == content_hash(copy)
    assert signature(tmp_path / "a") != signature(copy)
    (copy / "x.txt").write_text("y")
    assert content_hash(tmp_path / "a") != content_hash(copy)
    assert content_hash(tmp_path / "nowhere") is signature(tmp_path / "nowhere") is None


def test_hidden_files_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("x")
    before = content_hash(tmp_path), signature(tmp_path)
    (tmp_path / ".lease").write_text("held")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / "y").write_text("y")
    assert (content_hash(tmp_path), signature(tmp_path)) == before


def test_a_lost_shard_changes_the_hash_of_shards(tmp_path: Path) -> None:
    for name in ("index.json", "train-000000.tar", "train-000001.tar"):
        (tmp_path / name).write_text(name)
    before = content_hash(tmp_path)
    (tmp_path / "train-000001.tar").unlink()
    assert content_hash(tmp_path) != before


def test_a_new_recording_changes_the_signature_of_a_card(tmp_path: Path) -> None:
    write_corpus(tmp_path)
    before = recordings_signature(tmp_path / "card.yaml")
    assert recordings_signature(tmp_path / "card.yaml") == before
    (tmp_path / "speech" / "train" / "new.wav").write_bytes(b"new")
    assert recordings_signature(tmp_path / "card.yaml") != before


def test_an_output_that_was_copied_back_is_there_and_a_changed_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "scores.json"
    path.write_text("1")
    output = output_of(str(path), is_place=True)
    os.utime(path, (0, 0))
    assert is_there(output)
    path.write_text("2")
    assert not is_there(output)
    path.unlink()
    assert not is_there(output)
    assert is_there(output_of("a name", is_place=False))
