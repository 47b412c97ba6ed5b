"""One shard of a mixing run, as a job that any process can do."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.mixing.plan_table import PlanTable, plan_path
from rwsa.errors import InputError
from rwsa.files import location
from rwsa.mixing import MixPlan, render_example
from rwsa.mixing.plans import plan_hash
from rwsa.shards import Example, is_up_to_date, write_shard
from rwsa.shards.index import Failure, ShardEntry, entry_or_none, entry_path


@dataclass(frozen=True, kw_only=True)
class ShardOutcome:
    """What became of a shard.

    Attributes:
        examples, seconds: in the shard.
        planned_seconds: that would be in it without failures.
        kept: it was there already.
        error: ends the whole job.
    """

    split: str
    number: int
    examples: int = 0
    seconds: float = 0.0
    planned_seconds: float = 0.0
    kept: bool = False
    failures: Sequence[Failure] = ()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShardJobs:
    """The shards to make, counted from 0 throughout; small however many they are.

    Attributes:
        folder: of plans and shards, a path or a URL.
        run: tells this run's plans from another's that the same process has read.
        splits: each with its number of shards.
        strict: make the first example that cannot be rendered end the job.
    """

    folder: str
    run: str
    splits: tuple[tuple[str, int], ...]
    strict: bool

    def __len__(self) -> int:
        return sum(shards for _, shards in self.splits)

    def shard(self, job: int) -> tuple[str, int]:
        """Split and number of a job's shard."""
        for split, shards in self.splits:
            if job < shards:
                return split, job
            job -= shards
        raise IndexError(job)

    def make(self, job: int) -> ShardOutcome:
        """Make a shard, unless it is there and whole."""
        split, number = self.shard(job)
        try:
            return _make(self, split, number)
        except InputError as error:
            # Returned, not raised: Ray would wrap it, print its traceback and try again.
            return ShardOutcome(split=split, number=number, error=str(error))


@functools.lru_cache(maxsize=4)
def _table(folder: str, split: str, run: str) -> PlanTable:
    """A worker makes many shards of one plan, and need not read its footer for each."""
    return PlanTable(plan_path(location(folder), split))


def _make(jobs: ShardJobs, split: str, number: int) -> ShardOutcome:
    table = _table(jobs.folder, split, jobs.run)
    plans, folder = table.shard(number), location(jobs.folder)
    wanted = plan_hash(plans)
    entry = _whole_entry(folder, split, number, table, wanted)
    kept = entry is not None
    if entry is None:
        entry = write_shard(
            folder,
            split,
            number,
            _examples(plans, strict=jobs.strict),
            sample_rate_hz=table.info.sample_rate_hz,
            corpus=table.info.corpus,
            recipe_hash=table.info.recipe_hash,
            plan_hash=wanted,
        )
    return ShardOutcome(
        split=split,
        number=number,
        examples=len(entry.examples),
        seconds=entry.seconds,
        planned_seconds=sum(plan.samples for plan in plans) / table.info.sample_rate_hz,
        kept=kept,
        failures=entry.failures,
    )


def _whole_entry(folder: Path, split: str, number: int, table: PlanTable, wanted: str) -> ShardEntry | None:
    """The entry of a shard that need not be made again.

    Raises:
        InputError: it is another plan's.
    """
    path = entry_path(folder, split, number)
    entry = entry_or_none(path)
    if entry is None:
        return None
    check_ours(entry, path, corpus=table.info.corpus, recipe_hash=table.info.recipe_hash)
    return entry if is_up_to_date(folder, entry, wanted) else None


def check_ours(made: Any, path: Path, *, corpus: str, recipe_hash: str) -> None:
    """Refuse what another plan made: `made` is a shard's entry or a plan's info, read from `path`.

    Raises:
        InputError: naming it.
    """
    if (made.corpus, made.recipe_hash) != (corpus, recipe_hash):
        raise InputError(
            f"{path}: belongs to another plan (corpus {made.corpus}, recipe {made.recipe_hash}, now"
            f" {corpus}, {recipe_hash}); name another folder, or delete this one first"
        )


def _examples(plans: Sequence[MixPlan], *, strict: bool) -> Iterator[Example | Failure]:
    for plan in plans:
        try:
            item: Example | Failure = render_example(plan)
        except InputError as error:
            if strict:
                raise
            item = Failure(example_id=plan.example_id, reason=str(error))
        yield item
