"""PESQ in a child process, since the package may crash and holds the GIL while it computes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.metrics.values import UndefinedError

Mode = Literal["wb", "nb"]

_PROGRAM = Path(__file__).with_name("pesq_child.py")
# Signals that end the process where the package writes past its tables.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class PesqProcess:
    """A process that scores one pair at a time, restarted after a crash of the package.

    It starts with the first pair. Use as a context manager, or call `close`.
    """

    def __init__(self, mode: Mode = "wb") -> None:
        """Wide-band (`wb`) or narrow-band (`nb`) scores."""
        self._mode = mode
        self._child: subprocess.Popen[bytes] | None = None
        self._exit_message = ""

    def score(self, clean: np.ndarray, enhanced: np.ndarray) -> float:
        """PESQ of float64 `[samples]` at 16 kHz.

        Raises:
            UndefinedError: the package refused the pair, or crashed on it.
            InputError: the process ended twice for another reason, such as a missing package or too little
            memory.
        """
        response = self._request(clean, enhanced) or self._request(clean, enhanced)
        if response is None:
            raise InputError(
                f"the process that computes PESQ exited twice ({self._exit_message}); check the package pesq"
                " (pip install 'rwsa[metrics]') and the memory"
            )
        if "reason" in response:
            raise UndefinedError(f"PESQ: {response['reason']}")
        return float(response["pesq"])

    def _request(self, clean: np.ndarray, enhanced: np.ndarray) -> dict[str, Any] | None:
        """The child's response, None if it ended for another reason than a crash of the package."""
        if self._child is None:
            self._child = _start(self._mode)
        stdin, stdout = self._child.stdin, self._child.stdout
        assert stdin is not None
        assert stdout is not None
        try:
            stdin.write(len(clean).to_bytes(8, "little") + clean.tobytes() + enhanced.tobytes())
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = b""
        if line:
            return json.loads(line)
        _, errors = self._child.communicate()
        status, self._child = self._child.returncode, None
        exit_message = errors.decode(errors="replace").strip().rpartition("\n")[2]
        self._exit_message = f"status {status}{': ' * bool(exit_message)}{exit_message}"
        if -status not in _CRASHES:
            return None
        raise UndefinedError(
            f"the pesq package crashed ({self._exit_message}) on {len(clean) / SAMPLE_RATE_HZ:.0f} s of"
            " audio; it holds at most 50 utterances: cut the clip"
        )

    def close(self) -> None:
        """End the process, if there is one."""
        if self._child is not None:
            self._child.communicate()
            self._child = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _start(mode: Mode) -> subprocess.Popen[bytes]:
    # -P keeps this folder, whose modules could shadow packages, off the child's import path.
    return subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **_ONE_THREAD},
    )
