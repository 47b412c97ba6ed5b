"""Sums and progress of a mixing run."""

from __future__ import annotations

import heapq
from collections.abc import Callable

from pipelines.core.progress import Progress
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
        self._all_shards, self._bar = shards, Progress(float(hours), "mix", "h", report)
        self.examples = self.shards = self.reused = self.failures = 0
        self.hours = 0.0
        self.first_failures: tuple[Failure, ...] = ()
        self._made = set[str]()
        self._first: dict[str, Failure] = {}

    def add(self, outcome: ShardOutcome) -> None:
        """Add the outcome of one shard."""
        self.shards += 1
        self.reused += outcome.reused
        self.examples += outcome.examples
        self.hours += outcome.seconds / 3600
        self.failures += len(outcome.failures)
        self.first_failures = tuple(
            heapq.nsmallest(_FAILURES_LISTED, (*self.first_failures, *outcome.failures), key=_id_of)
        )
        if outcome.examples:
            self._made.add(outcome.split)
        for failure in outcome.failures:
            self._first[outcome.split] = min(failure, self._first.get(outcome.split, failure), key=_id_of)
        self._bar.set_postfix_str(
            f"shards {self.shards}/{self._all_shards} ({self.reused} reused), failures {self.failures}",
            refresh=False,
        )
        count = self._bar.reused if outcome.reused else self._bar.update
        count(outcome.planned_seconds / 3600)

    def close(self) -> None:
        """Report the last line."""
        self._bar.close()

    @property
    def empty(self) -> dict[str, Failure]:
        return {split: first for split, first in self._first.items() if split not in self._made}


def _id_of(failure: Failure) -> str:
    return failure.example_id
