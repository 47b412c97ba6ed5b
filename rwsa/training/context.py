"""What the training loop may know of the world it runs in. It knows no cluster."""

from __future__ import annotations

import signal
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
class HeardClip:
    """A validation clip as the model of some step makes it: float32 `[samples]` each, full scale ±1."""

    example_id: str
    sample_rate_hz: int
    noisy: np.ndarray
    enhanced: np.ndarray
    clean: np.ndarray


class Listener(Protocol):
    """Whom rank 0 tells how training goes. Neither method may take long: the step waits."""

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Losses and speed of a step, or the figures of its validation."""

    def audio(self, step: int, clips: Sequence[HeardClip]) -> None:
        """What some validation clips sound like."""


class WorkerContext(Protocol):
    """One worker's place among all workers, and whom it reports to.

    All ranks see the same `checkpoints`; of the listeners only rank 0's is told anything.
    """

    rank: int
    world_size: int
    device: torch.device
    checkpoints: Checkpoints
    listener: Listener | None

    def saved(self, step: int, values: Mapping[str, float]) -> None:
        """Take notice that a checkpoint was saved, and of the figures of its validation, if it had one.

        Called on all ranks at the same step.
        """

    def stopping(self) -> bool:
        """Whether this process has been asked to end: training then saves and stops, on all ranks."""


class StopSignal:
    """Notes SIGTERM, which schedulers send before they take a machine away, and Ctrl-C; nobody dies of them.

    Use as a context manager, in the main thread; elsewhere Python allows no handlers, and it notes nothing.
    A second Ctrl-C interrupts at once.

    Attributes:
        number: of the signal that came; None before.
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._then, self._before = list[Callable[[], object]](), dict[signal.Signals, Any]()

    def then(self, call: Callable[[], object]) -> None:
        """Have something called when the first signal comes, or now if it has."""
        self._then.append(call)
        if self.seen:
            call()

    @property
    def seen(self) -> bool:
        """Whether one has come."""
        return self.number is not None

    def arm(self) -> None:
        """Take the signals (back) from whoever handles them now, as a library may that was just started."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before.setdefault(number, signal.signal(number, self._note))

    def __enter__(self) -> Self:
        self.arm()
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.seen:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            return
        self.number = number
        for call in self._then:
            call()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, PreemptedError) and self.number is not None:
            error.signal_number = self.number
        for number, before in self._before.items():
            signal.signal(number, before)


class LocalContext:
    """A single process, whose checkpoints go to `FOLDER/checkpoints`."""

    def __init__(
        self,
        folder: StoragePath,
        listener: Listener | None = None,
        *,
        device: torch.device | None = None,
        keep: int = 2,
        stop: StopSignal | None = None,
        on_saved: Callable[[int, Mapping[str, float]], None] | None = None,
    ) -> None:
        self.rank, self.world_size = 0, 1
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.checkpoints = Checkpoints(folder / "checkpoints", keep=keep)
        self.listener, self._stop, self._on_saved = listener, stop, on_saved

    def saved(self, step: int, values: Mapping[str, float]) -> None:
        """Pass it on to whoever wanted to know."""
        if self._on_saved is not None:
            self._on_saved(step, values)

    def stopping(self) -> bool:
        return self._stop is not None and self._stop.seen
