"""Expressions of cards: the same matches as `re`, and an end in limited time."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rwsa.config import build
from rwsa.corpora import matching
from rwsa.corpora.cards import CorpusCard, check_card
from rwsa.corpora.matching import match_files
from rwsa.corpora.scanning import scan
from rwsa.errors import InputError


def card(root: Path | str = "r", **source: object) -> CorpusCard:
    plain = {"name": "toy", "description": "", "sample_rate_hz": 16000, "licence": "CC0"}
    source = {"root": str(root), "pattern": ".*", "split": "train"} | source
    return build(CorpusCard, plain | {"speech": [source]}, where="toy.yaml")


def test_files_are_excluded_and_labelled() -> None:
    files = ["a/1.wav", "a/2.wav", "b/x.wav", "skip/1.wav", "a/\udcff\n.wav", "é/3.wav"]
    kept, matched = match_files(r"(?P<speaker>\w)/(?P<clip>\d)?.*\.wav", ["^skip/", "x"], files)
    assert kept == ["a/1.wav", "a/2.wav", "a/\udcff\n.wav", "é/3.wav"]
    assert matched == [
        ("a/1.wav", {"speaker": "a", "clip": "1"}),
        ("a/2.wav", {"speaker": "a", "clip": "2"}),
        ("é/3.wav", {"speaker": "é", "clip": "3"}),
    ]
    assert match_files("x", [], []) == ([], [])


@pytest.mark.parametrize("key", ["pattern", "exclude"])
@pytest.mark.parametrize("expression", ["(a+)+$", "(a|a)*$", "(.*a){20}b"])
def test_an_expression_that_takes_for_ever_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, expression: str
) -> None:
    monkeypatch.setattr(matching, "SECONDS", 0.5)
    for index in range(3):
        (tmp_path / ("a" * 60 + f"{index}.wav")).touch()
    start = time.monotonic()
    source = {key: [expression] if key == "exclude" else expression}
    with pytest.raises(InputError, match=r"card toy: speech\[0\]\.pattern '.*takes more than") as caught:
        scan(card(tmp_path, **source))
    assert expression in str(caught.value)
    assert time.monotonic() - start < 10


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("(" * 400 + ")" * 400, None),
        ("a{99999999999999}", "is not a regular expression"),
        ("a" * 1001, "has 1,001 characters"),
        ("(a", "is not a regular expression"),
        ("(?P<speaker>a)" * 2, "is not a regular expression"),
    ],
)
def test_expressions_are_checked_with_the_card(expression: str, message: str | None) -> None:
    if message is None:
        check_card(card(pattern=expression), where="toy.yaml")
        return
    with pytest.raises(InputError, match=message):
        check_card(card(pattern=expression), where="toy.yaml")
