"""Makes the shards of a run: on Ray Data, or in this process."""

from __future__ import annotations

import functools
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from typing import Any, cast

from pipelines.shard_jobs import ShardJobs, ShardOutcome
from rwsa.errors import InputError


def rendered(jobs: ShardJobs, which: Sequence[int], workers: int | None) -> Iterator[ShardOutcome]:
    """Make shards, in any order; yields each when it is whole. Closing the iterator stops all work.

    Args:
        jobs: all of the run.
        which: to make now.
        workers: shards made at the same time; 0 makes them in this process, without Ray; None as
            many as Ray has CPUs.

    Raises:
        InputError: of the first shard that could not be made.
    """
    outcomes = map(jobs.make, which) if workers == 0 else _on_ray(jobs, which, workers)
    for outcome in outcomes:
        if outcome.error is not None:
            raise InputError(outcome.error)
        yield outcome


def _on_ray(jobs: ShardJobs, which: Sequence[int], workers: int | None) -> Iterator[ShardOutcome]:
    """One task a shard. Only the outcome travels: a worker reads its rows from the plan table, holds
    one example at a time and writes its shard itself, so memory is bounded by the number of workers.
    """
    # Imported late: rendering in this process needs none of it, and it takes seconds.
    import ray.data
    import ray.util.client

    from pipelines.cluster import start_ray
    from pipelines.ray_map import unordered

    start_ray()
    if ray.util.client.ray.is_connected():  # ray://…, over which Ray Data 2.60 gives no rows
        shards = [(jobs, number) for number in which]
        yield from (outcome for _, outcome in unordered(_made, shards, workers=workers))
        return
    # As a limit of the whole dataset: a limit of the mapping alone would keep Ray from fusing it with
    # the counting, which doubles the tasks and what each costs the driver.
    rows = ray.data.range(len(which), override_num_blocks=len(which)).map(
        functools.partial(_make_shard, jobs, which), num_cpus=1
    )
    if workers is not None:
        rows.context.execution_options.resource_limits = ray.data.ExecutionResources(cpu=workers)
    with closing(cast(Generator[dict[str, Any], None, None], iter(rows.iter_rows()))) as done:
        for row in done:
            yield ShardOutcome.from_json(row["outcome"])


def _made(shard: tuple[ShardJobs, int]) -> ShardOutcome:
    jobs, number = shard
    return jobs.make(number)


def _make_shard(jobs: ShardJobs, which: Sequence[int], row: dict[str, int]) -> dict[str, str]:
    return {"outcome": jobs.make(which[row["id"]]).to_json()}
