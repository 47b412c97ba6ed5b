"""PESQ in a child process: the package may crash, and holds the interpreter's lock while it computes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.errors import InputError
from rwsa.metrics.values import UndefinedError

_PROGRAM = Path(__file__).with_name("pesq_child.py")
# Of the package's own making, where it writes past its tables.
_CRASHES = {signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL}
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}


class PesqProcess:
    """A process that scores one pair at a time; where the package crashed it is started anew.

    Starts with the first pair. Use as a context manager, or call `close`.
    """

    def __init__(self) -> None:
        self._child: subprocess.Popen[bytes] | None = None
        self._last_words = ""

    def score(self, clean: np.ndarray, enhanced: np.ndarray) -> float:
        """Wide-band PESQ of float64 `[samples]` at 16 kHz.

        Raises:
            UndefinedError: the package refused the pair, or crashed on it.
            InputError: the process ends for another reason, twice: the package is missing, memory is short.
        """
        answer = self._asked(clean, enhanced) or self._asked(clean, enhanced)
        if answer is None:
            raise InputError(
                f"the process that computes PESQ keeps ending ({self._last_words}); check the package pesq"
                " (pip install 'rwsa[metrics]') and the memory"
            )
        if "reason" in answer:
            raise UndefinedError(f"PESQ: {answer['reason']}")
        return float(answer["pesq"])

    def _asked(self, clean: np.ndarray, enhanced: np.ndarray) -> dict[str, Any] | None:
        """The child's answer; none where it was ended from without."""
        if self._child is None:
            self._child = _start()
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
        last_words = errors.decode(errors="replace").strip().rpartition("\n")[2]
        self._last_words = f"status {status}{': ' * bool(last_words)}{last_words}"
        if -status not in _CRASHES:
            return None
        raise UndefinedError(
            f"the pesq package crashed ({self._last_words}) on {len(clean) / SAMPLE_RATE_HZ:.0f} s of audio;"
            " it holds at most 50 utterances: cut the clip"
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


def _start() -> subprocess.Popen[bytes]:
    # -P keeps this folder off the child's path, where its modules could shadow a package.
    return subprocess.Popen(
        [sys.executable, "-P", str(_PROGRAM)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, **_ONE_THREAD},
    )
