"""The samples of each global batch, as a pure function of (shard sizes, seed, epoch).

The concatenated epochs form one endless sequence of samples. Each global batch is a fixed slice of it,
divided among the ranks, so training sees the same data at any world size and resumes from a `Cursor`. If
the end of an epoch is smaller than a batch, it is completed with the start of the next epoch: no sample is
dropped or repeated within an epoch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rwsa.errors import InputError


@dataclass(frozen=True, order=True)
class Cursor:
    """The next sample to read: its position in the order of `epoch`, over all ranks."""

    epoch: int = 0
    sample: int = 0


@dataclass(frozen=True, slots=True)
class SampleRef:
    """One sample of the order: its position in `epoch` over all ranks, and its index in its shard."""

    epoch: int
    position: int
    shard: int
    index: int


@dataclass(frozen=True)
class Batch:
    """One rank's share of a global batch, and the cursor at which to resume after it."""

    samples: tuple[SampleRef, ...]
    cursor_after: Cursor


@dataclass(frozen=True, kw_only=True)
class Order:
    """The order of all samples in every epoch.

    Shards are shuffled and divided into groups of `open_shards`; the samples of each group are shuffled
    together. A reader thus needs at most two groups open, and adjacent samples of a shard are separated.

    Attributes:
        shard_sizes: number of samples in each shard, in the order of the index.
        seed: seed of the order; not negative.
        open_shards: number of shards that are shuffled together.

    Raises:
        InputError: there are no samples, or a value is out of range.
    """

    shard_sizes: tuple[int, ...]
    seed: int
    open_shards: int = 8

    def __post_init__(self) -> None:
        if self.seed < 0 or self.open_shards < 1 or any(size < 0 for size in self.shard_sizes):
            raise InputError(
                f"sample order: seed ({self.seed}) must be at least 0, open_shards ({self.open_shards})"
                " at least 1 and no shard size negative"
            )
        if self.samples == 0:
            raise InputError("sample order: the shards hold no samples; mix some first")

    @cached_property
    def samples(self) -> int:
        """Number of samples in an epoch."""
        return sum(self.shard_sizes)

    def epoch(self, epoch: int) -> np.ndarray:
        """The order of one epoch: int32 `[samples, 2]`, rows (shard, index within the shard)."""
        rows, start = np.empty((self.samples, 2), np.int32), 0
        for group in self.groups(epoch):
            rows[start : start + len(group)] = group
            start += len(group)
        return rows

    def groups(self, epoch: int) -> Iterator[np.ndarray]:
        """The order of one epoch, one group of shards at a time."""
        rng = np.random.default_rng(np.random.SeedSequence([self.seed, epoch]))
        shards = np.arange(len(self.shard_sizes), dtype=np.int32)  # kept for an epoch
        rng.shuffle(shards)
        for at in range(0, len(shards), self.open_shards):
            yield rng.permutation(self._rows_of(shards[at : at + self.open_shards]))

    def _rows_of(self, shards: np.ndarray) -> np.ndarray:
        sizes = [self.shard_sizes[shard] for shard in shards]
        indices = np.concatenate([np.arange(size, dtype=np.int64) for size in sizes])
        return np.stack([np.repeat(shards, sizes), indices], axis=1)

    def identity(self) -> str:
        """Twelve hexadecimal digits; a cursor is valid only for the order that it was saved with."""
        text = repr((self.shard_sizes, self.seed, self.open_shards))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def batches(
    order: Order, cursor: Cursor | None = None, *, global_batch_size: int, rank: int = 0, world_size: int = 1
) -> Iterator[Batch]:
    """Yield one rank's share of every global batch from `cursor` on, endlessly.

    A global batch is the next `global_batch_size` samples of the order at any world size; rank r gets the
    r-th of `world_size` equal, contiguous parts. A batch at the end of an epoch is completed from the next
    epoch, so the epochs of its samples may differ.

    Args:
        order: the order of the samples.
        cursor: where to start; default: the beginning.
        global_batch_size: samples per batch over all ranks, a multiple of `world_size`.
        rank: this worker's rank, from 0.
        world_size: number of workers.

    Raises:
        InputError: when called, if the sizes do not fit together or the cursor is outside its epoch.
    """
    share = share_of(global_batch_size, rank=rank, world_size=world_size)
    start = cursor or Cursor()
    if start.epoch < 0 or not 0 <= start.sample < order.samples:
        raise InputError(
            f"cursor {start} is outside an epoch of {order.samples} samples;"
            " it was saved with other shards, start a new run"
        )
    return _batches(order, start, global_batch_size, share)


def _batches(order: Order, cursor: Cursor, global_batch_size: int, share: slice) -> Iterator[Batch]:
    runs = _runs(order, cursor)
    run = next(runs)
    while True:
        batch, missing = list[_Run](), global_batch_size
        while missing:
            while run.rows.shape[0] == 0:
                run = next(runs)
            batch.append(run.slice(0, missing))
            missing -= len(batch[-1].rows)
            run = run.slice(len(batch[-1].rows), len(run.rows))
        yield Batch(tuple(_refs(batch, share)), _cursor_at(run, order))


@dataclass(frozen=True, slots=True)
class _Run:
    """Consecutive samples of an epoch: rows (shard, index) from `position` on."""

    epoch: int
    position: int
    rows: np.ndarray

    def slice(self, start: int, stop: int) -> _Run:
        return _Run(self.epoch, self.position + start, self.rows[start:stop])


def _runs(order: Order, cursor: Cursor) -> Iterator[_Run]:
    """The samples from `cursor` on, with one group of shards in memory at a time."""
    epoch, start = cursor.epoch, cursor.sample
    while True:
        position = 0
        for rows in order.groups(epoch):
            if position + len(rows) > start:
                run = _Run(epoch, position, rows)
                yield run.slice(max(0, start - position), len(rows))
            position += len(rows)
        epoch, start = epoch + 1, 0


def _refs(batch: list[_Run], share: slice) -> Iterator[SampleRef]:
    """The samples of a rank's share; those of other ranks are only counted."""
    before = 0
    for run in batch:
        mine = run.slice(max(0, share.start - before), max(0, share.stop - before))
        for position, (shard, index) in enumerate(mine.rows.tolist(), start=mine.position):
            yield SampleRef(run.epoch, position, shard, index)
        before += len(run.rows)


def _cursor_at(run: _Run, order: Order) -> Cursor:
    if run.position == order.samples:
        return Cursor(run.epoch + 1, 0)
    return Cursor(run.epoch, run.position)


def share_of(global_batch_size: int, *, rank: int, world_size: int) -> slice:
    """The slice of a global batch for `rank`.

    Unequal shares are refused: DDP averages gradients over ranks, so the samples of a smaller share would
    have a larger weight.

    Raises:
        InputError: the batch does not divide evenly, or `rank` is not below `world_size`.
    """
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} does not exist among {world_size} workers")
    size, rest = divmod(global_batch_size, world_size)
    if rest or size == 0:
        raise InputError(
            f"a global batch of {global_batch_size} cannot be shared equally by {world_size} workers;"
            f" use a multiple of {world_size}"
        )
    return slice(rank * size, (rank + 1) * size)


def in_order(
    shard_sizes: tuple[int, ...], *, limit: int | None = None, rank: int = 0, world_size: int = 1
) -> Iterator[SampleRef]:
    """One rank's part of a pass over all (or the first `limit`) samples in shard order, for validation.

    The parts of all ranks contain every sample once; their lengths differ by at most one, so reduce results
    as sums and counts, never as a mean of means.

    Raises:
        InputError: when called, if `rank` is not below `world_size`.
    """
    if not 0 <= rank < world_size:
        raise InputError(f"rank {rank} does not exist among {world_size} workers")
    return _in_order(shard_sizes, sum(shard_sizes) if limit is None else limit, rank, world_size)


def _in_order(shard_sizes: tuple[int, ...], limit: int, position: int, step: int) -> Iterator[SampleRef]:
    start = 0
    for shard, size in enumerate(shard_sizes):
        while position < min(start + size, limit):
            yield SampleRef(0, position, shard, position - start)
            position += step
        start += size


def sample_rng(seed: int, epoch: int, sample_id: str) -> np.random.Generator:
    """The random generator of one sample in one epoch (crop, augmentation, …).

    Keyed by the sample's id and not by rank, worker or position, so it is the same at any world size.
    """
    digest = hashlib.sha256(sample_id.encode()).digest()
    words = np.frombuffer(digest[:16], dtype="<u4").tolist()
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, *words]))
