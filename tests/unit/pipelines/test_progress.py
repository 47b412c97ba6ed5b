"""Progress of long work."""

from __future__ import annotations

import io
import re
import sys

import pytest

from pipelines.core import progress
from pipelines.core.progress import Progress, duration, tracked


def test_a_log_gets_a_line_now_and_then_and_a_last_one(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines: list[str] = []
    assert list(tracked([1, 2, 3], "score", "clips", lines.append)) == [1, 2, 3]
    assert len(lines) == 1
    assert re.fullmatch(r"score: 3/3 clips, [\d.]+ clips/s, 00:00 elapsed, 00:00 left", lines[0])
    monkeypatch.setattr(progress, "_SECONDS_BETWEEN_LINES", 0.0)
    with Progress(2, "score", "clips", lines.append) as bar:
        for failures in (0, 1):
            bar.set_postfix_str(f"failures {failures}", refresh=False)
            bar.update()
    assert [line.partition(" ")[2].split(" ")[0] for line in lines[1:]] == ["1/2", "2/2"]
    assert lines[-1].endswith("00:00 left, failures 1")
    assert capsys.readouterr() == ("", "")


def test_no_work_is_no_line() -> None:
    lines: list[str] = []
    assert list(tracked([], "score", "clips", lines.append)) == lines == []


def test_reused_work_does_not_shorten_the_estimate(monkeypatch: pytest.MonkeyPatch) -> None:
    lines: list[str] = []
    seconds = iter((0.0, 0.0, 60.0))
    with Progress(1.0, "mix", "h", lines.append) as bar:
        monkeypatch.setattr(bar, "_time", lambda: next(seconds, 60.0))
        bar.start_t = bar.last_print_t = 0.0
        bar.reused(0.5)
        bar.update(0.25)
    assert lines[-1] == "mix: 0.75/1.00 h, 0.25 h/min, 01:00 elapsed, 01:00 left"


def test_a_rounded_sum_above_the_total_leaves_no_negative_time() -> None:
    lines: list[str] = []
    with Progress(0.3, "mix", "h", lines.append) as bar:
        bar.update(0.1)
        bar.update(0.2)  # 0.1 + 0.2 > 0.3
    assert lines[-1].startswith("mix: 0.30/0.30 h")
    assert lines[-1].endswith(" elapsed, 00:00 left")


def test_a_terminal_gets_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    lines: list[str] = []
    list(tracked([1, 2], "score", "clips", lines.append))
    assert lines == []
    assert "score: 100%|" in terminal.getvalue()


def test_durations_are_minutes_and_seconds_and_hours_if_need_be() -> None:
    assert [duration(seconds) for seconds in (-1, 4, 247.9, 3723)] == ["00:00", "00:04", "04:07", "1:02:03"]


def test_no_work_shows_nothing_whatever_is_reused() -> None:
    lines: list[str] = []
    with Progress(0, "mixing", "shards", lines.append) as bar:
        bar.reused(0)
    assert lines == []
