"""One step as a process, within a Ray task."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.core.runtime_env import CHECKOUT
from rwsa.files import atomic_write, location

# SLURM and Kubernetes give about as long; training saves in seconds.
_SECONDS_TO_SAVE = 100.0
_LINES_SHOWN = 5
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, kw_only=True)
class StepOutcome:
    """How a step's process ended."""

    status: int
    seconds: float
    last_lines: tuple[str, ...]


def run_step(command: Sequence[str], environment: Mapping[str, str], log: str) -> StepOutcome:
    """Run a command in the checkout, with its output in `log`; ends it, after it has saved, if interrupted.

    Args:
        command: to run.
        environment: variables to add to those of this process.
        log: location of its output.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="rwsa-step-") as folder:
        output = Path(folder) / "log.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, *command[1:]],
                cwd=CHECKOUT,
                env={**os.environ, **environment},
                stdout=file,
                stderr=subprocess.STDOUT,
                preexec_fn=_end_with_parent,
            )
            try:
                status = process.wait()
            except BaseException:
                process.terminate()
                try:
                    process.wait(_SECONDS_TO_SAVE)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
                raise
            finally:
                file.flush()
                with atomic_write(location(log)) as temporary:
                    temporary.write_bytes(output.read_bytes())
        lines = output.read_text(encoding="utf-8", errors="backslashreplace").splitlines()
    return StepOutcome(
        status=status, seconds=time.monotonic() - started, last_lines=tuple(lines[-_LINES_SHOWN:])
    )


def _end_with_parent() -> None:
    """Ask the kernel to stop this process when its parent dies: a killed Ray worker leaves no orphan."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
