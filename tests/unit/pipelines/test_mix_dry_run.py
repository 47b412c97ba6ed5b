"""`mix_shards --dry-run` says how much there will be, and leaves nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pipelines.mix_shards import main
from tests.toy_corpus import write_corpus


def options(folder: Path, *more: str) -> list[str]:
    corpus = folder / "corpus"
    words = ["--card", str(corpus / "card.yaml"), "--recipe", str(corpus / "recipe.yaml")]
    return [*words, "--out", str(folder / "out"), "--cache", str(folder / "cache"), *more]


def test_examples_shards_hours_and_time_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "corpus")
    assert main(options(tmp_path, "--dry-run", "--shard-examples", "4")) == 0
    train, valid, total = capsys.readouterr().out.splitlines()
    assert train.split(maxsplit=1) == ["train", "21 examples in 6 shards"]
    assert valid.split(maxsplit=1) == ["valid", "5 examples in 2 shards"]
    assert re.fullmatch(r"in all  about 0\.0 h and 0\.00 GB; about 00:0\d on one core, less on more", total)
    assert not (tmp_path / "out").exists()


def test_train_shards_replace_the_recipes_number_of_examples(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_corpus(tmp_path / "corpus")
    assert main(options(tmp_path, "--dry-run", "--shard-examples", "3", "--train-shards", "5")) == 0
    assert "15 examples in 5 shards" in capsys.readouterr().out
    assert main(options(tmp_path, "--train-shards", "0")) == 2
    assert "--train-shards 0: must be at least 1" in capsys.readouterr().err
