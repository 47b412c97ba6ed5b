"""Command-line wrapper: parser, exit status, one-line errors."""

from __future__ import annotations

import argparse
import functools
import os
import select
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn, Protocol, TextIO, cast

from rwsa.errors import DivergedError, InputError, LostWorkersError, PreemptedError
from rwsa.machine import remedy
from rwsa.messages import bounded, printable
from rwsa.names import not_empty

OK, SOME_FAILED, BAD_INPUT = 0, 1, 2
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h; also of a process that hangs (rwsa.training.hang)
INTERRUPTED = 128 + signal.SIGINT
READER_GONE = 128 + 13  # SIGPIPE, which Windows does not name

AddArguments = Callable[[argparse.ArgumentParser], object]
Command = Callable[[argparse.Namespace], int]


class Main(Protocol):
    """A command line: `argv` is that of the process by default; returns the exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...

    def parser(self) -> argparse.ArgumentParser:
        """Its parser, for what builds command lines."""


def path_argument(text: str) -> Path:
    """A path of this machine as an argument's type; see `rwsa.names.not_empty`."""
    if "://" in text:
        raise argparse.ArgumentTypeError(f"{text}: is an address; give a file or folder of this machine")
    return Path(text_argument(text))


def text_argument(text: str) -> str:
    """A path, URL or name as an argument's type, which must not be empty."""
    try:
        return not_empty(text)
    except InputError as error:  # argparse would replace its message
        raise argparse.ArgumentTypeError(str(error)) from None


def verb(
    prog: str,
    about: str | None,
    *arguments: AddArguments,
    failure: str | None = None,
    interrupted: str = "run the same command again to resume",
) -> Callable[[Command], Main]:
    """Make a command line of a function that takes parsed options and returns an exit status.

    Args:
        prog: how the command is called.
        about: text whose first paragraph describes it in `--help`.
        arguments: each adds options to the parser.
        failure: what status 1 means, for `--help`; None where the command never returns it.
        interrupted: what to print after Ctrl-C.

    Returns:
        A `main` that turns errors into one line on stderr and an exit status: 2 for `InputError` and
        `DivergedError`, 75 for `LostWorkersError`, 130 for Ctrl-C, 128 + signal for `PreemptedError`. It
        ends without a message, with status 141, if the reader of its output is gone (`| head`).
    """

    def decorate(command: Command) -> Main:
        @functools.wraps(command)
        def main(argv: Sequence[str] | None = None) -> int:
            _print_any_text()
            try:
                try:
                    status = command(_parser(prog, about, arguments, failure).parse_args(argv))
                except SystemExit:  # --help
                    _flush_stdout()
                    raise
                _flush_stdout()
                return status
            except (InputError, DivergedError) as error:
                report(f"error: {error}")
                return BAD_INPUT
            except LostWorkersError as error:
                report(f"error: {error}")
                return TRY_AGAIN
            except PreemptedError as preempted:
                report(str(preempted))
                return 128 + preempted.signal_number
            except KeyboardInterrupt:
                report(f"interrupted; {interrupted}")
                return INTERRUPTED
            except BrokenPipeError:
                if not _reader_gone():
                    raise
                _discard_stdout()
                return READER_GONE
            except (OSError, MemoryError) as error:
                if (reason := remedy(error)) is None:
                    raise
                report(f"error: {reason}")
                return BAD_INPUT

        main.parser = functools.partial(_parser, prog, about, arguments, failure)  # type: ignore[attr-defined]
        return cast(Main, main)

    return decorate


def report(text: str) -> None:
    """Print one line of at most `MAX_CHARACTERS` characters on stderr."""
    with suppress(BrokenPipeError):
        print(printable(bounded(text)), file=sys.stderr)


def _print_any_text() -> None:
    """Let stdout and stderr print what their encoding lacks as escapes, instead of raising."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _flush_stdout() -> None:
    """Write what is buffered now, since an error at exit would be a traceback."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _discard_stdout()
        raise InputError(f"stdout: cannot be written ({error.strerror}); redirect it elsewhere") from error


def _reader_gone() -> bool:
    """Whether stdout or stderr is a pipe or socket that no process reads."""
    return any(map(_is_broken, (sys.stdout, sys.stderr)))


def _is_broken(stream: TextIO | None) -> bool:
    if stream is None or not hasattr(select, "poll"):
        return False
    poll = select.poll()
    try:
        poll.register(stream.fileno(), select.POLLOUT)
    except (OSError, ValueError):
        return False
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _discard_stdout() -> None:
    """Send what is still buffered nowhere, so that it does not raise at exit."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def parsed(parser: argparse.ArgumentParser, words: Sequence[str], *, where: str) -> argparse.Namespace:
    """Parse a command line that this program built, without exiting.

    Raises:
        InputError: the words are invalid; it begins with `where`.
    """

    def error(message: str) -> NoReturn:
        raise InputError(f"{where}: {message}")

    parser.error = error  # type: ignore[method-assign]
    return parser.parse_args(words)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(printable(bounded(message)))


def _parser(
    prog: str, about: str | None, arguments: Sequence[AddArguments], failure: str | None
) -> argparse.ArgumentParser:
    status = f"{SOME_FAILED} {failure}, " if failure else ""
    parser = _Parser(
        prog=prog,
        description=(about or "").partition("\n\n")[0],
        epilog=f"exit status: {OK} success, {status}{BAD_INPUT} invalid input, {INTERRUPTED} Ctrl-C",
    )
    for add in arguments:
        add(parser)
    return parser
