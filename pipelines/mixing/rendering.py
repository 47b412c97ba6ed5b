"""Makes the shards of a run: on Ray, or in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing

from pipelines.mixing.shard_jobs import ShardJobs, ShardOutcome
from rwsa.errors import InputError


def rendered(jobs: ShardJobs, which: Sequence[int], workers: int | None) -> Iterator[ShardOutcome]:
    """Make shards, in any order; yields each when it is whole. Closing the iterator begins
    no more, and waits for those under way.

    Args:
        jobs: all of the run.
        which: to make now.
        workers: shards made at the same time; 0 makes them in this process, without Ray; None as
            many as Ray has CPUs.

    Raises:
        InputError: of the first shard that could not be made.
    """
    with closing(_outcomes(jobs, which, workers)) as outcomes:
        for outcome in outcomes:
            if outcome.error is not None:
                raise InputError(outcome.error)
            yield outcome


def _outcomes(jobs: ShardJobs, which: Sequence[int], workers: int | None) -> Generator[ShardOutcome]:
    """One task a shard. Only the outcome travels: a worker reads its rows from the plan table, holds
    one example at a time and writes its shard itself, so memory is bounded by the number of workers.
    """
    if workers == 0:
        yield from map(jobs.make, which)
        return
    # Imported late: rendering in this process needs none of it, and it takes seconds.
    from pipelines.core.pool import unordered

    for _, outcome in unordered(_made, [(jobs, number) for number in which], workers=workers):
        yield outcome


def _made(shard: tuple[ShardJobs, int]) -> ShardOutcome:
    jobs, number = shard
    return jobs.make(number)
