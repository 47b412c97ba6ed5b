"""What the training loop may know of the world it runs in. It knows no cluster."""

from __future__ import annotations

import shutil
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Protocol, Self

import torch

from rwsa.files import read_json, write_json

LogTo = Callable[[int, Mapping[str, float]], None]


class WorkerContext(Protocol):
    """One worker's place among all workers, and whom it reports to."""

    rank: int
    world_size: int
    device: torch.device

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Record figures of a step. Called on rank 0 only; must return at once."""

    def report(self, step: int, values: Mapping[str, float], checkpoint: Path, *, best: bool) -> None:
        """Hand over a checkpoint folder and the figures that belong to it.

        Called on all ranks at the same step; only rank 0's folder holds anything. The folder may be
        moved away.
        """

    def latest_checkpoint(self) -> Path | None:
        """The checkpoint to resume from, as a local folder; the same on all ranks."""

    def stopping(self) -> bool:
        """Whether this process has been asked to end: training then saves and stops, on all ranks."""


class StopSignal:
    """Notes SIGTERM, which schedulers send before they take a machine away, instead of dying of it.

    Use as a context manager, in the main thread; elsewhere Python allows no handlers, and it notes nothing.
    `then` is called when the signal comes, once.
    """

    def __init__(self, then: Callable[[], object] | None = None) -> None:
        self.seen, self._then = False, then
        self._before: Any = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, number: int, frame: FrameType | None) -> None:
        if not self.seen and self._then is not None:
            self._then()
        self.seen = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)


class LocalContext:
    """A single process: checkpoints go to a folder, figures to `log_to`.

    `FOLDER/checkpoints/step-000250` are whole (renamed when written); `FOLDER/latest.json` names the
    newest and the best.
    """

    def __init__(
        self,
        folder: Path,
        log_to: LogTo | None = None,
        *,
        device: torch.device | None = None,
        keep: int = 2,
        stop: StopSignal | None = None,
    ) -> None:
        self.rank, self.world_size = 0, 1
        self.device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._folder, self._log_to, self._keep, self._stop = folder, log_to, keep, stop

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._log_to is not None:
            self._log_to(step, values)

    def report(self, step: int, values: Mapping[str, float], checkpoint: Path, *, best: bool) -> None:
        name = f"step-{step:06d}"
        target = self._folder / "checkpoints" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Aside first: from another file system a move is a copy, which may be cut short.
        aside = target.with_name(f".{name}")
        shutil.rmtree(aside, ignore_errors=True)
        shutil.move(checkpoint, aside)
        shutil.rmtree(target, ignore_errors=True)
        aside.rename(target)
        pointers = self._pointers()
        pointers["latest"] = name
        if best or "best" not in pointers:
            pointers["best"] = name
        write_json(self._folder / "latest.json", pointers)
        self._prune(set(pointers.values()))

    def latest_checkpoint(self) -> Path | None:
        name = self._pointers().get("latest")
        return None if name is None else self._folder / "checkpoints" / name

    def stopping(self) -> bool:
        return self._stop is not None and self._stop.seen

    def best_checkpoint(self) -> Path | None:
        """The checkpoint with the highest validation metric so far."""
        name = self._pointers().get("best")
        return None if name is None else self._folder / "checkpoints" / name

    def _pointers(self) -> dict[str, str]:
        path = self._folder / "latest.json"
        return read_json(path) if path.exists() else {}

    def _prune(self, pinned: set[str]) -> None:
        every = (self._folder / "checkpoints").glob("step-*")
        for old in sorted(every, key=lambda path: int(path.name.removeprefix("step-")))[: -self._keep]:
            if old.name not in pinned:
                shutil.rmtree(old)
