"""Command-line wrapper: parser, exit status, one-line errors."""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from rwsa.errors import DivergedError, InputError, LostWorkersError, PreemptedError
from rwsa.machine import remedy
from rwsa.names import not_empty

OK, SOME_FAILED, BAD_INPUT = 0, 1, 2
TRY_AGAIN = 75  # EX_TEMPFAIL of sysexits.h; also of a process that hangs (rwsa.training.hang)
INTERRUPTED = 128 + signal.SIGINT

AddArguments = Callable[[argparse.ArgumentParser], object]
Command = Callable[[argparse.Namespace], int]


class Main(Protocol):
    """A command line: `argv` is that of the process by default; returns the exit status."""

    def __call__(self, argv: Sequence[str] | None = None) -> int: ...


def path_argument(text: str) -> Path:
    """A path as an argument's type; see `rwsa.names.not_empty`."""
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
        `DivergedError`, 75 for `LostWorkersError`, 130 for Ctrl-C, 128 + signal for `PreemptedError`.
    """

    def decorate(command: Command) -> Main:
        @functools.wraps(command)
        def main(argv: Sequence[str] | None = None) -> int:
            try:
                return command(_parser(prog, about, arguments, failure).parse_args(argv))
            except (InputError, DivergedError) as error:
                print(f"error: {error}", file=sys.stderr)
                return BAD_INPUT
            except LostWorkersError as error:
                print(f"error: {error}", file=sys.stderr)
                return TRY_AGAIN
            except PreemptedError as preempted:
                print(preempted, file=sys.stderr)
                return 128 + preempted.signal_number
            except (OSError, MemoryError) as error:
                if (reason := remedy(error)) is None:
                    raise
                print(f"error: {reason}", file=sys.stderr)
                return BAD_INPUT
            except KeyboardInterrupt:
                print(f"interrupted; {interrupted}", file=sys.stderr)
                return INTERRUPTED

        return main

    return decorate


def _parser(
    prog: str, about: str | None, arguments: Sequence[AddArguments], failure: str | None
) -> argparse.ArgumentParser:
    status = f"{SOME_FAILED} {failure}, " if failure else ""
    parser = argparse.ArgumentParser(
        prog=prog,
        description=(about or "").partition("\n\n")[0],
        epilog=f"exit status: {OK} success, {status}{BAD_INPUT} invalid input, {INTERRUPTED} Ctrl-C",
    )
    for add in arguments:
        add(parser)
    return parser
