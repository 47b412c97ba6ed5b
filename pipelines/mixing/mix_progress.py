"""Progress of a mixing run, reported every few seconds and at the end."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable

from pipelines.core.progress import Ticker, duration
from pipelines.mixing.shard_jobs import ShardOutcome
from rwsa.shards.index import Failure

_FAILURES_LISTED = 10


class MixProgress:
    """Sums up shard outcomes.

    Attributes:
        examples, hours: in the shards so far.
        shards: shards done.
        reused: shards that were up to date already.
        failures: number of examples that could not be rendered.
        first_failures: the first ten failures by id; the shard entries have all of them.
        empty: for each split without any example so far, its first failure by id.
    """

    def __init__(self, shards: int, hours: float, report: Callable[[str], None]) -> None:
        self._all_shards, self._all_hours, self._report = shards, hours, report
        self.examples = self.shards = self.reused = self.failures = 0
        self.hours = self._planned_hours = self._rendered_hours = 0.0
        self.first_failures: tuple[Failure, ...] = ()
        self._made = set[str]()
        self._first: dict[str, Failure] = {}
        self._started, self._ticker = time.monotonic(), Ticker()

    def add(self, outcome: ShardOutcome) -> None:
        """Add the outcome of one shard."""
        self.shards += 1
        self.reused += outcome.reused
        self.examples += outcome.examples
        self.hours += outcome.seconds / 3600
        self._planned_hours += outcome.planned_seconds / 3600
        self._rendered_hours += 0 if outcome.reused else outcome.planned_seconds / 3600
        self.failures += len(outcome.failures)
        self.first_failures = tuple(
            heapq.nsmallest(_FAILURES_LISTED, (*self.first_failures, *outcome.failures), key=_id_of)
        )
        if outcome.examples:
            self._made.add(outcome.split)
        for failure in outcome.failures:
            self._first[outcome.split] = min(failure, self._first.get(outcome.split, failure), key=_id_of)
        if self._ticker.due() or self.shards == self._all_shards:
            self._report(self._line((time.monotonic() - self._started) / 60))

    @property
    def empty(self) -> dict[str, Failure]:
        return {split: first for split, first in self._first.items() if split not in self._made}

    def _line(self, minutes: float) -> str:
        # Reused shards take almost no time, so they would make the estimate too short.
        hours_per_minute = (self._rendered_hours or self._planned_hours) / minutes
        left = 60 * (self._all_hours - self._planned_hours) / hours_per_minute
        return (
            f"{self._planned_hours:.2f} of {self._all_hours:.2f} h · {hours_per_minute:.2f} h/min"
            f" · left {duration(left)} · shards {self.shards}/{self._all_shards} ({self.reused} reused)"
            f" · failures {self.failures}"
        )


def _id_of(failure: Failure) -> str:
    return failure.example_id
