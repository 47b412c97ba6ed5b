"""What one rank of many does for its part of the data order and of a checkpoint, beside the network.

    python -m tests.benchmarks.bench_ranks [--ranks 1 64 512] [--examples 10000000]

Ranks are plain objects in one process, each with its own order; no processes and no collectives. Every step
has 8 segments of xs per rank. Budget: 2 ms of CPU a step and 1 MB a rank.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
import tracemalloc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rwsa.models import SIZES
from rwsa.shards.sampling import Batch, Cursor, Order, batches
from rwsa.shards.table import _ROW

SEGMENTS, SHARD_EXAMPLES, STEPS = 8, 64, 20


@dataclass(frozen=True)
class Rank:
    """CPU milliseconds and bytes of one rank.

    Attributes:
        step_ms: to draw a batch, the median over ranks and steps.
        epoch_ms: to draw the batch that begins an epoch, the largest of the measured ranks; in a thread.
        order_bytes: memory that drawing batches takes, at its peak.
        index_bytes: the table of the index.
        pending_bytes: the discriminator's pending pair, which it sends at a checkpoint.
        first_bytes: what rank 0 receives at a checkpoint.
    """

    step_ms: float
    epoch_ms: float
    order_bytes: int
    index_bytes: int
    pending_bytes: int
    first_bytes: int


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 64, 512])
    parser.add_argument("--examples", type=int, default=10_000_000)
    arguments = parser.parse_args(argv)
    print(f"{arguments.examples:,} examples in shards of {SHARD_EXAMPLES}, {SEGMENTS} segments of xs a rank")
    heading = "ranks  step ms  new epoch ms  order MB  index MB  sent a checkpoint MB  received by rank 0 MB"
    print(heading)
    for ranks in arguments.ranks:
        one = measure(ranks, arguments.examples)
        megabytes = (one.order_bytes, one.index_bytes, one.pending_bytes, one.first_bytes)
        cells = [f"{size / 1e6:.2f}" for size in megabytes]
        print(
            f"{ranks:5}  {one.step_ms:7.3f}  {one.epoch_ms:12.3f}  {cells[0]:>8}  {cells[1]:>8}"
            f"  {cells[2]:>20}  {cells[3]:>21}"
        )


def order_of(examples: int) -> Order:
    return Order(shard_sizes=(SHARD_EXAMPLES,) * (examples // SHARD_EXAMPLES), seed=0)


def draw(order: Order, ranks: int, rank: int, cursor: Cursor | None = None) -> Iterator[Batch]:
    """The batches of one rank."""
    return batches(order, cursor, global_batch_size=SEGMENTS * ranks, rank=rank, world_size=ranks)


def measure(ranks: int, examples: int) -> Rank:
    """Measure every eighth of up to 512 ranks."""
    order, steps, epochs = order_of(examples), list[float](), list[float]()
    for rank in range(0, ranks, 8):
        drawn = draw(order, ranks, rank)
        epochs.append(_ms(drawn))
        steps += [_ms(drawn) for _ in range(STEPS)]
    config = SIZES["xs"]
    pending = SEGMENTS * 4 * (2 * config.spectral.bins * config.segment_frames + 1)
    return Rank(
        step_ms=statistics.median(steps),
        epoch_ms=max(epochs),
        order_bytes=drawing_bytes(order, ranks),
        index_bytes=len(order.shard_sizes) * _ROW.itemsize,
        pending_bytes=pending,
        first_bytes=pending * ranks,
    )


def drawing_bytes(order: Order, ranks: int) -> int:
    """Memory that the last rank's batches take, at its peak."""
    tracemalloc.start()
    try:
        for _ in itertools.islice(draw(order, ranks, ranks - 1), STEPS):
            pass
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def _ms(drawn: Iterator[Batch]) -> float:
    start = time.process_time()
    next(drawn)
    return 1e3 * (time.process_time() - start)


if __name__ == "__main__":
    main()
