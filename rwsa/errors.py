"""The errors that end a command in one line; `rwsa.command_line` gives each its exit status."""

from __future__ import annotations

import signal

from rwsa.messages import bounded


class InputError(ValueError):
    """A file, key or value from the user is invalid.

    The message names the file or key, the problem and the remedy. Commands print it as one
    line and exit with status 2; any other exception that escapes is a bug. Long messages lose their middle.
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(bounded(str(message)))


class UnreachableError(InputError):
    """A store is unreachable or denies access: whether the object exists and is intact is unknown."""


class DivergedError(RuntimeError):
    """A loss is no longer finite; raised on all ranks at the same step, with the same message."""


class LostWorkersError(RuntimeError):
    """Workers of a training run hung too often; the same command resumes."""


class PreemptedError(RuntimeError):
    """Training or a sweep was stopped, has saved and can be resumed; training raises it on all ranks.

    Attributes:
        signal_number: the signal that stopped it; SIGTERM where only another process received it.
    """

    def __init__(self, message: str, signal_number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.signal_number = signal_number
