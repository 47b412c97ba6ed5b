"""A step's process: its log, its exit status, and when it is tried again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipelines.workflow.run_step import StepOutcome, last_line, run_step
from rwsa.command_line import TRY_AGAIN


def run(code: str, log: Path, **environment: str) -> StepOutcome:
    return run_step([sys.executable, "-c", code], environment, str(log), str(log.parent))


def test_output_goes_into_the_log_and_its_last_line_is_reported(tmp_path: Path) -> None:
    outcome = run("import os; print('one'); print(os.environ['TWO']); exit(3)", tmp_path / "log", TWO="two")
    assert (outcome.status, outcome.last_line, outcome.stopped) == (3, "two", False)
    assert (tmp_path / "log").read_text() == "one\ntwo\n"


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), 9)", f"sys.exit({TRY_AGAIN})"])
def test_what_is_killed_or_asks_for_it_is_tried_again(tmp_path: Path, end: str) -> None:
    code = (
        f"import os, sys\nif not os.path.exists('seen'):\n  open('seen', 'w').close()\n  {end}\nprint('ok')"
    )
    outcome = run(code, tmp_path / "log")
    assert (outcome.status, outcome.last_line) == (0, "ok")
    assert "-- started again" in (tmp_path / "log").read_text()


def test_after_three_attempts_a_step_that_is_killed_has_failed(tmp_path: Path) -> None:
    outcome = run("print(1, flush=True); import os; os.kill(os.getpid(), 9)", tmp_path / "log")
    assert outcome.status == -9
    assert (tmp_path / "log").read_text().count("1\n") == 3


def test_the_last_state_of_a_progress_bar_is_a_line_without_colours() -> None:
    assert last_line(b"a\r50%\r\x1b[36m100%\x1b[0m\n\n") == "100%"
    assert last_line(b"") == ""
