"""Detection of a hang: a step that takes many times as long as its predecessors, or a rank without a sign.

A thread of each rank writes every few seconds where the rank is into the process group's store, and reads
where the others are. It needs no launcher: a group by Ray Train or torchrun has such a store.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

from torch import distributed as dist

HUNG = 75  # exit status of a process that ends itself: EX_TEMPFAIL, "try again"
STARTING, LOADING, COMPUTING, VALIDATING, SAVING, FINISHED = range(6)
_PHASES = ("starting", "waiting for data", "computing", "validating", "saving", "finished")
_STEP_PHASES = (LOADING, COMPUTING)
_REPORT_SECONDS, _MANY_MEDIANS, _MEASURED_STEPS = 60.0, 20.0, 3
_SLOW_PHASE_FACTOR = 3  # first steps compile, and validation and saving differ in length
_PERIOD_SECONDS, _LATE_PERIODS = 5.0, 3


class HangWatch:
    """Watches this rank's progress from a thread; use as a context manager around training.

    A hang is reported once by the lowest rank that still runs. After `timeout_s` without progress every
    such rank ends its process (status 75), for its launcher to restart all from the last checkpoint: a
    thread that waits in a collective operation cannot be interrupted.

    Args:
        timeout_s: seconds without progress after which the process ends: at least this, and 40 times the
            median step; three times as long where no step was measured yet, and in validation and saving.
        report: called from the thread with one line, and whether the process ends.
    """

    def __init__(
        self,
        timeout_s: float,
        report: Callable[[str, bool], object],
        *,
        rank: int = 0,
    ) -> None:
        self._timeout_s, self._report, self._rank = timeout_s, report, rank
        self._period = min(_PERIOD_SECONDS, timeout_s / 20)
        self._step, self._phase, self._progress = 0, STARTING, 0
        self._step_began = time.monotonic()
        self._steps = deque[float](maxlen=50)
        self._idle, self._reported = 0.0, False
        self._board = _Board(rank, self._period) if dist.is_initialized() else None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rwsa-hang-watch", daemon=True)

    def __enter__(self) -> Self:
        if self._board is not None:
            self._board.start(self._position())
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(self._period)
        if self._board is not None:
            self._board.finish({**self._position(), "phase": FINISHED})

    def enter(self, phase: int, step: int) -> None:
        """This rank enters a phase of a step."""
        now = time.monotonic()
        if self._phase == COMPUTING:
            self._steps.append(now - self._step_began)
        if phase == LOADING:
            self._step_began = now
        self._phase, self._step = phase, step
        self.progress()

    def progress(self) -> None:
        """This rank has made progress within a phase."""
        self._progress += 1

    def limits(self) -> tuple[float, float]:
        """Seconds without progress after which a hang is reported, and after which the process ends."""
        if self._phase in _STEP_PHASES and len(self._steps) >= _MEASURED_STEPS:
            slow = _MANY_MEDIANS * statistics.median(self._steps)
            return max(self._silence_limit(), slow), max(self._timeout_s, 2 * slow)
        return self._timeout_s, _SLOW_PHASE_FACTOR * self._timeout_s

    def _silence_limit(self) -> float:
        return min(_REPORT_SECONDS, self._timeout_s / 2)

    def _watch(self) -> None:
        seen, before = -1, time.monotonic()
        while not self._stop.wait(self._period):
            # Time in which this process itself was stopped does not count.
            elapsed, before = min(time.monotonic() - before, 2 * self._period), time.monotonic()
            if seen == self._progress:
                self._idle += elapsed
            else:
                seen, self._idle, self._reported = self._progress, 0.0, False
            silent: dict[int, float] = {}
            if self._board is not None:
                silent = self._board.update(self._position(), elapsed)
            self._judge(silent)

    def _position(self) -> dict[str, Any]:
        return {
            "step": self._step,
            "phase": self._phase,
            "where": f"node {platform.node()}, process {os.getpid()}",
        }

    def _judge(self, silent: dict[int, float]) -> None:
        report_after, end_after = self.limits()
        silence = max(silent.values(), default=0.0)
        hangs = self._idle >= report_after or silence >= self._silence_limit()
        ends = self._idle >= end_after or silence >= self._timeout_s
        if not hangs:
            return
        quiet = {rank for rank, seconds in silent.items() if seconds >= self._silence_limit() / 2}
        speaks = all(rank in quiet for rank in range(self._rank))
        if ends:
            if speaks:
                with suppress(Exception):  # the process ends anyway
                    self._report(self._describe(quiet, silent), True)
            else:
                self._stop.wait(2 * self._period)  # for the rank that reports
            os._exit(HUNG)
        if speaks and not self._reported:
            self._reported = True
            left = self._timeout_s - silence if quiet else end_after - self._idle
            with suppress(Exception):  # such as of a closed pipe, which must not end the watch
                self._report(f"{self._describe(quiet, silent)}; waiting {max(left, 0):.0f} s more", False)

    def _describe(self, quiet: set[int], silent: dict[int, float]) -> str:
        positions = {self._rank: self._position()}
        if self._board is not None:
            positions |= self._board.positions
        if quiet:
            guilty = sorted(quiet)
            what = f"no sign for {max(silent[rank] for rank in guilty):.0f} s of"
        else:
            last = min((each["step"], each["phase"]) for each in positions.values())
            guilty = sorted(r for r, each in positions.items() if (each["step"], each["phase"]) == last)
            what = f"no progress for {self._idle:.0f} s of"
        ranks = ", ".join(f"rank {rank} ({_text(positions.get(rank))})" for rank in guilty[:3])
        more = f" and {len(guilty) - 3} more" if len(guilty) > 3 else ""
        median = f" (median step {statistics.median(self._steps):.1f} s)" if self._steps else ""
        return f"training hangs: {what} {ranks}{more}{median}"


def _text(position: dict[str, Any] | None) -> str:
    if position is None:
        return "not started"
    return f"{position['where']}, step {position['step']}, {_PHASES[position['phase']]}"


class _Board:
    """Positions of all ranks in the process group's store, exchanged by a thread of its own.

    The store is served by rank 0: while that does not answer, an exchange blocks.
    """

    def __init__(self, rank: int, period: float) -> None:
        self._rank, self._world, self._period = rank, dist.get_world_size(), period
        self.positions: dict[int, dict[str, Any]] = {}
        self._silent = dict[int, float]()
        self._beats_seen = dict[int, int]()
        self._beats, self._beats_before, self._stuck = 0, -1, 0.0
        self._finished = threading.Event()
        # A connection of its own: a blocked operation blocks all others of its connection.
        store: Any = dist.distributed_c10d._get_default_store()
        self._store = store.clone()
        self._thread = threading.Thread(target=self._exchange_all, name="rwsa-hang-board", daemon=True)

    def start(self, own: Mapping[str, Any]) -> None:
        """Publish this rank's position from now on."""
        self._own = own
        self._thread.start()

    def finish(self, own: Mapping[str, Any]) -> None:
        """Publish this rank's last position."""
        self._own = own
        self._finished.set()
        self._thread.join(self._period)

    def update(self, own: Mapping[str, Any], elapsed: float) -> dict[int, float]:
        """Set this rank's position; returns seconds since the last sign of each rank that is silent."""
        self._own = own
        self._stuck = 0.0 if self._beats_before != self._beats else self._stuck + elapsed
        self._beats_before = self._beats
        if self._stuck > _LATE_PERIODS * self._period:
            return {0: self._stuck}
        for rank, position in list(self.positions.items()):
            if self._beats_seen.get(rank) == position["beat"] and position["phase"] != FINISHED:
                self._silent[rank] = self._silent.get(rank, 0.0) + elapsed
            else:
                self._beats_seen[rank], self._silent[rank] = position["beat"], 0.0
        late = _LATE_PERIODS * self._period
        return {rank: seconds for rank, seconds in self._silent.items() if seconds > late}

    def _exchange_all(self) -> None:
        with suppress(RuntimeError):  # the store is gone, as rank 0 has ended
            while not self._finished.is_set():
                self._exchange()
                self._finished.wait(self._period)
            self._exchange()

    def _exchange(self) -> None:
        own = json.dumps({**self._own, "beat": self._beats})
        self._store.set(f"rwsa-hang/{self._rank}", own)
        for rank in range(self._world):
            key = f"rwsa-hang/{rank}"
            if rank != self._rank and (rank in self.positions or self._store.check([key])):
                self.positions[rank] = json.loads(self._store.get(key))
        self._beats += 1
