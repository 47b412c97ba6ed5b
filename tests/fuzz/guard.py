"""Reading untrusted files under guard: what a reader may not do is recorded or stopped."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from rwsa.command_line import BAD_INPUT, OK, verb

# Of the processor, and by the clock for a reader that waits.
CPU_SECONDS, SECONDS = 5, 60
MORE_BYTES = 2 << 30
# Longer, or with more lines, an error is no longer one that people read.
MAX_CHARACTERS, MAX_LINES = 1500, 8
_COMMANDS = (
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pty.spawn",
    "os.startfile",
)
_CONNECTIONS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request")
_CHANGES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class GreedError(BaseException):
    """The reader took too long or too much memory; no `Exception`, so that no handler takes it for damage."""


class _Watch:
    """An audit hook, installed once, since Python cannot remove one."""

    def __init__(self) -> None:
        self.folder: str | None = None
        self.readable: tuple[str, ...] | None = None
        self.own_processes = False
        self.violations: list[str] = []
        sys.addaudithook(self._audit)

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if self.own_processes and event == "subprocess.Popen" and arguments[0] == sys.executable:
            return
        changes_elsewhere = event in _CHANGES and not self._inside(arguments[0])
        if event in _COMMANDS or event in _CONNECTIONS or changes_elsewhere:
            self.violations.append(f"{event} {arguments!r:.200}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            self._opened(os.fsdecode(arguments[0]), arguments[2])

    def _opened(self, path: str, flags: Any) -> None:
        if self._inside(path):
            return
        if isinstance(flags, int) and flags & _WRITING and path != os.devnull:
            self.violations.append(f"writes {path}")
        elif self.readable is not None and not os.path.realpath(path).startswith(self.readable):
            self.violations.append(f"reads {path}")

    def _inside(self, path: Any) -> bool:
        if isinstance(path, int):
            return True
        assert self.folder is not None
        return (os.path.realpath(os.fsdecode(path)) + os.sep).startswith(self.folder + os.sep)


_watch = _Watch()
# The interpreter's own files, which late imports read.
_OWN = tuple(
    os.path.realpath(path)
    for path in (sys.prefix, sys.base_prefix, Path(__file__).parents[2], "/proc", "/sys")
)


@contextmanager
def _limits(folder: Path, *, reads_elsewhere: bool, own_processes: bool) -> Iterator[None]:
    """Record commands, connections and files outside `folder`; stop what needs too much time or memory."""

    def hang(number: int, frame: FrameType | None) -> None:
        raise GreedError(f"longer than {CPU_SECONDS if number == signal.SIGPROF else SECONDS} s")

    before = resource.getrlimit(resource.RLIMIT_AS)
    handlers = {number: signal.signal(number, hang) for number in (signal.SIGALRM, signal.SIGPROF)}
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MORE_BYTES, before[1]))
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
    _watch.violations.clear()
    _watch.readable = None if reads_elsewhere else _OWN
    _watch.own_processes = own_processes
    _watch.folder = os.path.realpath(folder)
    try:
        yield
    finally:
        _watch.folder = None
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)
        resource.setrlimit(resource.RLIMIT_AS, before)


def check_reader(
    read: Callable[[], Any],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    *,
    reads_elsewhere: bool = False,
    own_processes: bool = False,
) -> bool:
    """Run a reader as a command would, and assert that it reads the file or says in a few lines why not.

    Args:
        read: reads files in `folder`.
        folder: the only one that it may read (unless `reads_elsewhere`) or write.
        capsys: of the test.
        reads_elsewhere: for files whose business is to name folders, such as cards.
        own_processes: for a reader that starts this Python to limit its own time.

    Returns:
        Whether the file was accepted.
    """

    @verb("reader", None)
    def command(options: Any) -> int:
        try:
            read()
        except MemoryError as error:
            raise GreedError(f"more than {MORE_BYTES:,} bytes") from error
        return OK

    capsys.readouterr()
    with _limits(folder, reads_elsewhere=reads_elsewhere, own_processes=own_processes):
        status = command([])
    message = capsys.readouterr().err
    assert not _watch.violations, _watch.violations
    if status == OK:
        return True
    assert status == BAD_INPUT
    assert message.startswith("error: "), message
    assert len(message) <= MAX_CHARACTERS, f"{len(message)} characters: {message[:500]}"
    assert message.count("\n") <= MAX_LINES, message
    assert all(letter.isprintable() or letter == "\n" for letter in message), repr(message)
    return False
