"""The results page: one picture and answer per sweep, and the weights beside public enhancers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rwsa.config import as_mapping
from rwsa.errors import InputError
from tests.sweep_rows import rows_of, sweep_of
from tune.report import DATA
from tune.results_page import main, results_page


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep's folder with three seeds of two ways of sharing, of which one is clearly better."""
    sweep = sweep_of(axes={"model.sharing": {"values": ["resolution", "none"]}})
    rows = rows_of({"resolution": [5.0, 5.1, 5.2], "none": [4.0, 4.11, 4.19]})
    data = {"sweep": as_mapping(sweep), "results": [as_mapping(row) for row in rows], "about": {}}
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / DATA).write_text(json.dumps(data))
    return tmp_path / "sweep"


def scores(path: Path, **changes: Any) -> Path:
    rows = {"clips": 3, "noisy": {"pesq": 1.17}, "ours": {"pesq": 2.1}, "failed": {"pesq": None}}
    corpora = {"libri-esc50": rows, "pairs-vbdmd": rows, "pairs-dns2020": rows}
    path.write_text(json.dumps({"corpora": corpora, **changes}))
    return path


def test_each_answer_has_a_picture_and_the_rule(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    file = scores(tmp_path / "scores.json")
    assert main(["--sweeps", str(folder), "--scores", str(file), "--out", str(out)]) == 0
    assert sorted(path.name for path in out.iterdir()) == [
        "answer-1.svg", "answer-2.svg", "results.html", "results.md",
    ]  # fmt: skip
    page = (out / "results.html").read_text(encoding="utf-8")
    text = (out / "results.md").read_text(encoding="utf-8")
    for found in (page, text):
        assert "Does sharing help?" in found
        assert "PESQ on VoiceBank+DEMAND and DNS 2020: ours 2.100 and 2.100; noisy 1.170 and 1.170." in found
        assert "The winner is the configuration with the highest SI-SDR averaged over" in found
        assert "failed" not in found.replace("stopped early or failed", "")
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "](answer-2.svg)" in text


def test_other_files_are_one_error(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=r"has no sweep.json; give the folder of a sweep that has run"):
        results_page([tmp_path], None, out)
    with pytest.raises(InputError, match="is no evaluation on pairs-vbdmd and pairs-dns2020"):
        results_page([folder], scores(tmp_path / "s.json", corpora={"a": {"noisy": {"pesq": 1.0}}}), out)
    assert main(["--out", str(out)]) == 2
    assert not out.exists()
