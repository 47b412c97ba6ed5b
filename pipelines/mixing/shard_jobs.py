"""The shards of a mixing run as jobs, made on Ray or in this process."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from pipelines.mixing.plan_table import PlanTable, plan_path
from rwsa.errors import InputError
from rwsa.files import StoragePath, location
from rwsa.mixing import MixPlan, render_example
from rwsa.mixing.plans import plan_hash
from rwsa.shards import Example, is_up_to_date, write_shard
from rwsa.shards.index import Failure, entry_or_none, entry_path


@dataclass(frozen=True, kw_only=True)
class ShardOutcome:
    """The result of one shard job.

    Attributes:
        examples, seconds: number and duration of the examples in the shard.
        planned_seconds: duration with the failed examples included.
        reused: the shard was up to date already.
        failures: the examples that could not be rendered.
        error: an error that ends the whole run.
    """

    split: str
    number: int
    examples: int = 0
    seconds: float = 0.0
    planned_seconds: float = 0.0
    reused: bool = False
    failures: Sequence[Failure] = ()
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class ShardJobs:
    """The shards of a run, numbered from 0 over all splits; small to pickle, whatever their number.

    Attributes:
        folder: path or URL of plans and shards.
        run: id of the run; keeps a long-lived worker from using a plan that it cached for another run.
        splits: split and number of its shards.
        strict: end the run at the first example that cannot be rendered.
        roots: folders of the card, below which all recordings must be; None allows any.
    """

    folder: str
    run: str
    splits: tuple[tuple[str, int], ...]
    strict: bool
    roots: tuple[str, ...] | None = None

    def __len__(self) -> int:
        return sum(shards for _, shards in self.splits)

    def shard(self, job: int) -> tuple[str, int]:
        """Split and shard number of a job."""
        for split, shards in self.splits:
            if job < shards:
                return split, job
            job -= shards
        raise IndexError(job)

    def make(self, job: int) -> ShardOutcome:
        """Make a shard, unless it is up to date."""
        split, number = self.shard(job)
        try:
            return _make(self, split, number)
        except InputError as error:
            # Returned, not raised: Ray would wrap it, print its traceback and retry.
            return ShardOutcome(split=split, number=number, error=str(error))


def make_shards(jobs: ShardJobs, numbers: Sequence[int], workers: int | None) -> Iterator[ShardOutcome]:
    """Make shards in any order and yield each outcome when its shard is complete.

    Closing the iterator starts no further job and waits for the running ones.

    Args:
        jobs: all jobs of the run.
        numbers: the jobs to do now.
        workers: shards made at the same time; None: one per CPU of Ray; 0: in this process, without Ray.

    Raises:
        InputError: the error of the first shard that could not be made.
    """
    with closing(_outcomes(jobs, numbers, workers)) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise InputError(outcome.error)
            yield outcome


def _outcomes(jobs: ShardJobs, numbers: Sequence[int], workers: int | None) -> Generator[ShardOutcome]:
    """One plain Ray task per shard.

    Plain tasks make a third more shards per second than Ray Data, whose tasks waited for each other. A
    worker reads its rows from the plan table, holds one example in memory at a time and writes its shard
    itself, so only the outcome is sent and memory is bounded by the number of workers.
    """
    if workers == 0:
        yield from map(jobs.make, numbers)
        return
    # Imported late: it takes seconds, and rendering in this process does not need it.
    from pipelines.core.pool import map_unordered

    for _, outcome in map_unordered(_make_job, [(jobs, number) for number in numbers], workers=workers):
        yield outcome


def _make_job(job: tuple[ShardJobs, int]) -> ShardOutcome:
    jobs, number = job
    return jobs.make(number)


@functools.lru_cache(maxsize=4)
def _table(folder: str, split: str, run: str) -> PlanTable:
    """The plan table, cached: a worker makes many shards of one plan."""
    return PlanTable(plan_path(location(folder), split))


def _make(jobs: ShardJobs, split: str, number: int) -> ShardOutcome:
    table = _table(jobs.folder, split, jobs.run)
    plans, folder = table.shard(number, roots=jobs.roots), location(jobs.folder)
    path, rows_hash = entry_path(folder, split, number), plan_hash(plans)
    entry = entry_or_none(path)
    if entry is not None:
        check_same_plan(entry, path, corpus=table.info.corpus, recipe_hash=table.info.recipe_hash)
    reused = entry is not None and is_up_to_date(folder, entry, rows_hash)
    if entry is None or not reused:
        entry = write_shard(
            folder,
            split,
            number,
            render_examples(plans, strict=jobs.strict),
            sample_rate_hz=table.info.sample_rate_hz,
            corpus=table.info.corpus,
            recipe_hash=table.info.recipe_hash,
            plan_hash=rows_hash,
        )
    return ShardOutcome(
        split=split,
        number=number,
        examples=len(entry.examples),
        seconds=entry.seconds,
        planned_seconds=sum(plan.samples for plan in plans) / table.info.sample_rate_hz,
        reused=reused,
        failures=entry.failures,
    )


def check_same_plan(made: Any, path: StoragePath, *, corpus: str, recipe_hash: str) -> None:
    """Check that `made` (a shard entry or a plan's info, read from `path`) has this corpus and recipe.

    Raises:
        InputError: it was made from another corpus or recipe.
    """
    if (made.corpus, made.recipe_hash) != (corpus, recipe_hash):
        raise InputError(
            f"{path}: belongs to another plan (corpus {made.corpus}, recipe {made.recipe_hash}, now"
            f" {corpus}, {recipe_hash}); choose another folder, or delete this one first"
        )


def render_examples(plans: Sequence[MixPlan], *, strict: bool) -> Iterator[Example | Failure]:
    """Render each plan's example; with `strict`, raise InputError at the first that fails."""
    for plan in plans:
        try:
            item: Example | Failure = render_example(plan)
        except InputError as error:
            if strict:
                raise
            item = Failure(example_id=plan.example_id, reason=str(error))
        yield item
