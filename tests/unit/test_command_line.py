"""The frame of every command: exit statuses, and one line for an error."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

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


def test_a_long_error_with_control_characters_is_one_short_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert raising(DivergedError("\x1b[31mred\n" + "x" * 58_000))([]) == 2
    line = capsys.readouterr().err
    assert line.startswith(r"error: \x1b[31mred\n")
    assert line.count("\n") == 1
    assert len(line) < 1100


def test_a_long_argument_is_not_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    @verb("try", None)
    def main(options: argparse.Namespace) -> int:
        return 0

    with pytest.raises(SystemExit):
        main(["\x1b[31m" + "x" * 100_000])
    shown = capsys.readouterr().err
    assert len(shown) < 2000
    assert "\x1b" not in shown


PROGRAM = """
import argparse, sys
from rwsa.command_line import verb
from rwsa.errors import InputError

@verb("try", "É", lambda parser: parser.add_argument("words", nargs="*"))
def main(options):
    print("×10⁹ → \\udcff é", *options.words)
    if options.words == ["much"]:
        print("x" * 10**7)
    raise InputError("音\\udcff.wav: not audio") if options.words == ["bad"] else SystemExit(0)

raise SystemExit(main())
"""
# What a batch system, a container or a cron job may give.
ENCODINGS = [
    {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONIOENCODING": "utf-8"},
]


# As with -m, the current folder's modules are imported.
RUN = "import runpy, sys; del sys.argv[0]; runpy.run_path(sys.argv[0])"


@pytest.fixture
def program(tmp_path: Path) -> str:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM, encoding="utf-8")
    return str(path)


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, *command], env=os.environ | environment, capture_output=True, check=False
    )


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda names: "-".join(names))
def test_any_text_is_printed_on_any_terminal(program: str, environment: dict[str, str]) -> None:
    done = run("-c", RUN, program, "\udcfe", **environment)
    assert (done.returncode, done.stderr.decode()[-600:]) == (0, "")
    assert done.stdout.endswith(b"\n")
    bad = run("-c", RUN, program, "bad", **environment)
    assert bad.returncode == 2
    assert bad.stderr.startswith(b"error: ")
    assert bad.stderr.count(b"\n") == 1
    assert run("-c", RUN, program, "--help", **environment).returncode == 0


@pytest.mark.parametrize("command", [("rwsa.cli", "score"), ("pipelines.check",)])
def test_every_command_prints_on_an_ascii_terminal(command: tuple[str, ...], tmp_path: Path) -> None:
    missing = os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xe9.yaml")
    arguments = {
        "rwsa.cli": ["--clean", missing, "--enhanced", missing],
        "pipelines.check": ["--workers", "0", "--card", missing],
    }[command[0]]
    done = run("-m", *command, *arguments, PYTHONIOENCODING="ascii", LC_ALL="C")
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert done.stderr.isascii()
    assert done.stderr.count(b"\n") == 1


def piped_to(reader: list[str], program: str, *arguments: str) -> tuple[int, bytes]:
    """Status and stderr of the program, whose stdout goes to `reader`."""
    with subprocess.Popen(reader, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as first:
        command = [sys.executable, "-c", RUN, program, *arguments]
        done = subprocess.run(command, stdout=first.stdin, stderr=subprocess.PIPE, check=False)
        assert first.stdin is not None
        first.stdin.close()
    return done.returncode, done.stderr


def test_a_reader_that_leaves_ends_the_command_quietly(program: str) -> None:
    assert piped_to(["head", "-1"], program, "much") == (141, b"")
    closed = ["sh", "-c", "exec <&-"]
    for arguments in ([], ["--help"]):
        assert piped_to(closed, program, *arguments) in [(141, b""), (0, b"")]


def test_a_broken_pipe_elsewhere_is_not_hidden() -> None:
    with pytest.raises(BrokenPipeError):
        raising(BrokenPipeError())([])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
def test_a_full_disk_under_stdout_is_one_line(program: str) -> None:
    with Path("/dev/full").open("wb") as full:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        command = [sys.executable, "-c", RUN, program]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: stdout: cannot be written (No space left on device)")
    assert done.stderr.count(b"\n") == 1
