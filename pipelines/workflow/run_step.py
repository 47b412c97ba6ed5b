"""One step as a process, within a Ray task."""

from __future__ import annotations

import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.runtime_env import CHECKOUT, grace_seconds
from rwsa.command_line import TRY_AGAIN
from rwsa.files import StoragePath, atomic_write, is_remote, location
from rwsa.process import THREAD_VARIABLES

# In addition to the step's own grace; writing its log to a store may take a while.
_SECONDS_TO_END = 10.0
_POLL_SECONDS = 0.2
_UPLOAD_SECONDS = 15.0
# Of a step that was killed, or that asks to be tried again.
_ATTEMPTS = 3
_TAIL_BYTES = 4000
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """How a step's process ended.

    Attributes:
        status: its exit status; negative if a signal ended it.
        last_line: of its output.
        stopped: whether it was asked to stop.
    """

    status: int
    seconds: float
    last_line: str
    stopped: bool


def run_step(command: Sequence[str], environment: Mapping[str, str], log: str, folder: str) -> StepOutcome:
    """Run a command, with its output in `log`; if the task is cancelled, ask it to save and end.

    A process that is killed, or that exits with `TRY_AGAIN`, is started again up to two times.

    Args:
        command: to run.
        environment: variables to add to those of this process.
        log: location of its output.
        folder: to run in; empty for the checkout.
    """
    started, status, stopped = time.monotonic(), 0, False
    variables = {key: value for key, value in os.environ.items() if key not in THREAD_VARIABLES}
    with _log_file(log) as path:
        for attempt in range(_ATTEMPTS):
            if attempt:
                time.sleep(attempt)
            with path.open("ab") as file:
                if attempt or file.tell():
                    file.write(b"\n-- started again\n")
                    file.flush()
                process = subprocess.Popen(
                    [sys.executable, *command[1:]],
                    cwd=folder or CHECKOUT,
                    env={**variables, **environment},
                    stdin=subprocess.DEVNULL,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    preexec_fn=_end_with_parent,
                )
                status, stopped = _wait(process, path, log)
            if stopped or not (status < 0 or status == TRY_AGAIN):
                break
        line = last_line_of(path)
    return StepOutcome(status=status, seconds=time.monotonic() - started, last_line=line, stopped=stopped)


def last_line_of(log: StoragePath) -> str:
    """The last line of a log, of which only the end is read."""
    with log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        return last_line(file.read())


def last_line(output: bytes) -> str:
    """The last line of a command's output that is not empty; a progress bar's last state counts as a line."""
    text = _COLOURS.sub("", output.decode(errors="backslashreplace")).replace("\r", "\n")
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def _wait(process: subprocess.Popen[bytes], path: Path, log: str) -> tuple[int, bool]:
    """Exit status of a process, and whether it was asked to stop."""
    uploaded, size = time.monotonic(), 0
    try:
        while True:
            try:
                return process.wait(_POLL_SECONDS), False
            except subprocess.TimeoutExpired:
                if time.monotonic() - uploaded > _UPLOAD_SECONDS and (now := path.stat().st_size) != size:
                    _upload(path, log)
                    uploaded, size = time.monotonic(), now
    except KeyboardInterrupt:  # with which Ray cancels a task
        process.terminate()
        try:
            return process.wait(grace_seconds() + _SECONDS_TO_END), True
        except subprocess.TimeoutExpired:
            return _killed(process), True
    except BaseException:
        _killed(process)
        raise


def _killed(process: subprocess.Popen[bytes]) -> int:
    process.kill()
    return process.wait()


@contextmanager
def _log_file(log: str) -> Iterator[Path]:
    """A file for the log: the log itself, or one that is uploaded to the store."""
    target = location(log)
    if not is_remote(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        yield target
        return
    with tempfile.TemporaryDirectory(prefix="rwsa-step-") as folder:
        path = Path(folder) / target.name
        try:
            yield path
        finally:
            _upload(path, log)


def _upload(path: Path, log: str) -> None:
    target = location(log)
    if is_remote(target):
        with atomic_write(target) as temporary:
            temporary.write_bytes(path.read_bytes())


def _end_with_parent() -> None:
    """Have the kernel kill this process when its parent dies, so that a killed Ray worker leaves no orphan.

    It is killed without a warning because another process may take over its work at once.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
