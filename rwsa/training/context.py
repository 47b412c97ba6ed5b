"""Interface between the training loop and its launcher. The loop is independent of the launcher."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import numpy as np
import torch

from rwsa.errors import PreemptedError
from rwsa.files import StoragePath
from rwsa.training.checkpoints import Checkpoints


@dataclass(frozen=True, kw_only=True)
class AudioSample:
    """A validation clip, noisy, enhanced and clean: float32 `[samples]` each, full scale ±1."""

    example_id: str
    sample_rate_hz: int
    noisy: np.ndarray
    enhanced: np.ndarray
    clean: np.ndarray


class TrainLogger(Protocol):
    """Logger of rank 0. Both methods must return fast: the step waits for them."""

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log losses and throughput of a step, or its validation metrics."""

    def log_audio(self, step: int, samples: Sequence[AudioSample]) -> None:
        """Log validation clips."""


class WorkerContext(Protocol):
    """One worker: its rank, device, checkpoints and logger.

    All ranks read the same `checkpoints`; only rank 0's logger is used.
    """

    rank: int
    world_size: int
    device: torch.device
    checkpoints: Checkpoints
    logger: TrainLogger | None

    def report_checkpoint(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report a saved checkpoint and its validation metrics, if any.

        Called on all ranks at the same step.
        """

    def should_stop(self) -> bool:
        """Whether a stop was requested; training then saves and stops on all ranks."""

    def report_hang(self, text: str, ends: bool) -> None:
        """Report that training hangs, and whether the process ends now; called from another thread."""


NOT_IN_TIME = (
    "stopped on request, but the step did not end within {:.0f} s (RWSA_STOP_SECONDS); the last checkpoint is"
    " kept, and the same command resumes from it"
)
_SOFT_SHARE = 0.8  # of the grace, after which the main thread, if it can, closes what is open


class StopSignal:
    """Records SIGTERM (sent by schedulers before they reclaim a machine) and Ctrl-C instead of exiting.

    Use as a context manager in the main thread; in other threads Python allows no handlers, and it has no
    effect. A second Ctrl-C interrupts at once.

    Attributes:
        number: of the received signal; None before.
    """

    def __init__(self, grace_s: float | None = None) -> None:
        """Record signals.

        Args:
            grace_s: seconds from SIGTERM until the process ends in any case, with status 143; default: no
                limit. The time that a scheduler gives before it kills.
        """
        self.number: int | None = None
        self._grace_s, self._overdue, self._left = grace_s, threading.Event(), threading.Event()
        self._wakeup: tuple[socket.socket, socket.socket] | None = None
        self._callbacks, self._previous = list[Callable[[], object]](), dict[signal.Signals, Any]()

    def add_callback(self, callback: Callable[[], object]) -> None:
        """Call `callback` at the first signal, or now if it was received."""
        self._callbacks.append(callback)
        if self.received:
            callback()

    @property
    def received(self) -> bool:
        """Whether a signal was received."""
        return self.number is not None

    @property
    def overdue(self) -> bool:
        """Whether most of the grace has passed since SIGTERM."""
        return self._overdue.is_set()

    def install(self) -> None:
        """Install the handlers, again if a library has replaced them."""
        if threading.current_thread() is threading.main_thread():
            if self._grace_s is not None and self._wakeup is None:
                self._limit(self._grace_s)
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous.setdefault(number, signal.signal(number, self._handle))

    def __enter__(self) -> Self:
        self.install()
        return self

    def _limit(self, grace_s: float) -> None:
        """Have a thread end the process in time; it reads signals even if the main thread cannot."""
        reader, writer = self._wakeup = socket.socketpair()
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)

        def wait_for_sigterm() -> None:
            with reader:
                while (received := reader.recv(1)) and signal.SIGTERM not in received:
                    pass
            if not received or self._left.wait(_SOFT_SHARE * grace_s):
                return
            self._overdue.set()
            if not self._left.wait((1 - _SOFT_SHARE) * grace_s):
                print(NOT_IN_TIME.format(grace_s), file=sys.stderr, flush=True)
                os._exit(128 + signal.SIGTERM)

        threading.Thread(target=wait_for_sigterm, name="rwsa-grace", daemon=True).start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.number = number
        for callback in self._callbacks:
            callback()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PreemptedError) and self.number is not None:
            error.signal_number = self.number
        self._left.set()
        if self._wakeup is not None:
            signal.set_wakeup_fd(-1)
            self._wakeup[1].close()
        for number, previous in self._previous.items():
            signal.signal(number, previous)


class LocalContext:
    """A `WorkerContext` of a single process, with checkpoints in `FOLDER/checkpoints`."""

    def __init__(
        self,
        folder: StoragePath,
        logger: TrainLogger | None = None,
        *,
        device: torch.device | None = None,
        keep: int = 2,
        stop: StopSignal | None = None,
        on_checkpoint: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        self.rank, self.world_size = 0, 1
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=keep)
        self.logger, self._stop, self._on_checkpoint = logger, stop, on_checkpoint

    def report_checkpoint(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._on_checkpoint is not None:
            self._on_checkpoint(step, metrics)

    def should_stop(self) -> bool:
        return self._stop is not None and self._stop.received

    def report_hang(self, text: str, ends: bool) -> None:
        after = "; ended, and the same command resumes from the last checkpoint" if ends else ""
        print(f"{text}{after}", file=sys.stderr, flush=True)
