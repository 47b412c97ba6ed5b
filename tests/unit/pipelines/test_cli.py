"""Options that the verbs share."""

from __future__ import annotations

import argparse
import importlib
import os
from pathlib import Path

import pytest

from pipelines import check, mix_shards
from pipelines.core.cli import (
    ADDRESS,
    at_address,
    cluster_argument,
    out_argument,
    out_of,
    shards_arguments,
    shards_of,
    storage_arguments,
    storage_of,
    verb,
)
from pipelines.core.runtime_env import CHECKOUT

VERBS = [
    ".".join(path.relative_to(CHECKOUT).with_suffix("").parts)
    for folder in ("pipelines", "tune")
    for path in sorted((CHECKOUT / folder).glob("*.py"))
    if "__main__" in path.read_text()
]


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    storage_arguments(parser)
    out_argument(parser, name="page.html")
    return parser.parse_args(words)


def test_the_last_storage_option_wins() -> None:
    uri = "storage.tracking_uri=http://server:5000"
    assert storage_of(parsed()).root == "outputs"
    assert storage_of(parsed("--storage", "s3://bucket/a")).root == "s3://bucket/a"
    assert storage_of(parsed("--storage", "2026", "--set", uri)).root == "2026"
    assert storage_of(parsed("--storage", "a", "--set", "storage.root=b", uri)).root == "b"
    assert storage_of(parsed("--set", "storage.root=b", uri, "--storage", "c: d")).root == "c: d"
    assert storage_of(parsed("--storage", "a", "--set", uri)).tracking_uri == "http://server:5000"


def test_shards_go_below_the_storage_root_by_default() -> None:
    parser = argparse.ArgumentParser()
    shards_arguments(parser)
    assert shards_of(parser.parse_args([])) == Path("outputs/shards")
    assert str(shards_of(parser.parse_args(["--storage", "memory://a/b/"]))) == "memory://a/b/shards"
    assert shards_of(parser.parse_args(["--storage", "a", "--out", "b"])) == Path("b")


def test_output_goes_below_the_storage_root_by_default() -> None:
    assert out_of(parsed("--storage", "a"), name="page.html") == Path("a/page.html")
    assert out_of(parsed("--storage", "a", "--out", "b.html"), name="page.html") == Path("b.html")


def test_a_location_with_a_password_is_refused_and_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--out", "s3://somebody:hunter2@bucket/a")
    output = capsys.readouterr().err
    assert "remove it from the URL and set it in the environment" in output
    assert "hunter2" not in output


def test_the_address_holds_for_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "before:1")
    with at_address(None):
        assert os.environ[ADDRESS] == "before:1"
    with at_address("there:2"):
        assert os.environ[ADDRESS] == "there:2"
    assert os.environ[ADDRESS] == "before:1"
    with at_address("auto"):  # as the driver of a job, whose cluster the variable names
        assert os.environ[ADDRESS] == "before:1"
    monkeypatch.delenv(ADDRESS)
    with at_address("auto"):
        assert os.environ[ADDRESS] == "auto"
    assert ADDRESS not in os.environ


def test_an_address_given_as_an_option_holds_while_the_verb_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ADDRESS, "before:1")
    seen = []

    @verb("pipelines.try", None, cluster_argument)
    def main(options: argparse.Namespace) -> int:
        seen.append(os.environ[ADDRESS])
        return 0

    assert main(["--address", "there:2"]) == main([]) == 0
    assert seen == ["there:2", "before:1"]
    assert os.environ[ADDRESS] == "before:1"


@pytest.mark.parametrize("module", VERBS)
def test_every_verb_explains_itself(module: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(module).main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith(f"usage: python -m {module} ")
    assert "exit status: 0 success" in shown


def test_checking_is_a_verb_of_its_own_and_one_of_mix_shards(capsys: pytest.CaptureFixture[str]) -> None:
    assert check.main([]) == mix_shards.main(["check"]) == 2
    one, other = capsys.readouterr().err.splitlines()
    assert one == other
    assert one.startswith("error: nothing to check")
