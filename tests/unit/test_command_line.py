"""The frame of every command: exit statuses, and one line for an error."""

from __future__ import annotations

import argparse
import os
import signal

import pytest

from rwsa.command_line import Main, verb
from rwsa.errors import DivergedError, InputError, PreemptedError, UnreachableError
from rwsa.training.context import StopSignal


def raising(error: BaseException) -> Main:
    @verb("try", None)
    def main(options: argparse.Namespace) -> int:
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("a.wav: not audio"), 2, "error: a.wav: not audio\n"),
        (UnreachableError("s3://a: refused"), 2, "error: s3://a: refused\n"),
        (DivergedError("step 3: not finite"), 2, "error: step 3: not finite\n"),
        (PreemptedError("stopped at step 4"), 143, "stopped at step 4\n"),
        (PreemptedError("stopped", signal.SIGINT), 130, "stopped\n"),
        (KeyboardInterrupt(), 130, "interrupted; run the same command again to resume\n"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert raising(error)([]) == status
    assert capsys.readouterr() == ("", line)


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        raising(ZeroDivisionError())([])


def test_preemption_names_the_signal_that_was_received() -> None:
    @verb("try", None)
    def main(options: argparse.Namespace) -> int:
        with StopSignal():
            os.kill(os.getpid(), signal.SIGINT)
            raise PreemptedError("stopped")

    assert main([]) == 130


def test_help_shows_the_first_paragraph_the_options_and_the_statuses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @verb("try", "Try it.\n\nNot this.", lambda parser: parser.add_argument("--much"), failure="no luck")
    def main(options: argparse.Namespace) -> int:
        return len(options.much)

    assert main(["--much", "abc"]) == 3
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert shown.startswith("usage: try [-h] [--much MUCH] Try it.")
    assert shown.endswith("exit status: 0 success, 1 no luck, 2 invalid input, 130 Ctrl-C")
