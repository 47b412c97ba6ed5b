"""What the verbs share on the command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from pipelines.core.cli import (
    ADDRESS,
    add_cluster_arguments,
    add_shards_arguments,
    add_storage_arguments,
    at_address,
    place,
    shards_of,
    storage_of,
    verb,
)
from rwsa.errors import InputError


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_cluster_arguments(parser)
    add_storage_arguments(parser)
    parser.add_argument("--out", type=place)
    return parser.parse_args(words)


def test_the_storage_is_where_the_last_word_says() -> None:
    uri = "storage.tracking_uri=http://server:5000"
    assert storage_of(parsed()).root == "outputs"
    assert storage_of(parsed("--storage", "s3://bucket/a")).root == "s3://bucket/a"
    assert storage_of(parsed("--storage", "2026", "--set", uri)).root == "2026"
    assert storage_of(parsed("--storage", "a", "--set", "storage.root=b", uri)).root == "b"
    assert storage_of(parsed("--set", "storage.root=b", uri, "--storage", "c: d")).root == "c: d"
    assert storage_of(parsed("--storage", "a", "--set", uri)).tracking_uri == "http://server:5000"


def test_shards_go_into_the_storage_unless_told_otherwise() -> None:
    parser = argparse.ArgumentParser()
    add_shards_arguments(parser)
    assert shards_of(parser.parse_args([])) == Path("outputs/shards")
    assert str(shards_of(parser.parse_args(["--storage", "memory://a/b/"]))) == "memory://a/b/shards"
    assert shards_of(parser.parse_args(["--storage", "a", "--out", "b"])) == Path("b")


def test_a_place_with_a_password_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--out", "s3://somebody:hunter2@bucket/a")
    said = capsys.readouterr().err
    assert "leave it out of the URL and set it in the environment" in said
    assert "hunter2" not in said


def test_the_address_holds_for_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "before:1")
    with at_address(None):
        assert os.environ[ADDRESS] == "before:1"
    with at_address("auto"):
        assert os.environ[ADDRESS] == "auto"
    assert os.environ[ADDRESS] == "before:1"
    monkeypatch.delenv(ADDRESS)
    with at_address("auto"):
        assert os.environ[ADDRESS] == "auto"
    assert ADDRESS not in os.environ


def test_a_verb_ends_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    raised: BaseException | None = None

    @verb
    def main(argv: Sequence[str] | None = None) -> int:
        if raised is not None:
            raise raised
        return len(argv or ())

    assert main(["a", "b"]) == 2
    raised = InputError("the file is none")
    assert main() == 2
    assert capsys.readouterr().err == "error: the file is none\n"
    raised = KeyboardInterrupt()
    assert main() == 130
    assert "the same command goes on" in capsys.readouterr().err
