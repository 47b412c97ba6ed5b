"""Prefetched training segments in a resumable order, and complete examples for validation.

Legend: B segments of this rank.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from rwsa.errors import InputError
from rwsa.shards.examples import Example
from rwsa.shards.sampling import Batch, Cursor, Order, SampleRef, batches, in_order
from rwsa.training.config import DataConfig
from rwsa.training.segments import MissingExample, Segment, make_segment
from rwsa.training.sources import train_source, valid_source

_log = logging.getLogger(__name__)
Item = TypeVar("Item")


@dataclass(frozen=True, kw_only=True)
class SegmentBatch:
    """One rank's share of a global batch: `noisy` and `clean` are float32 `[B, samples]`.

    `replaced` counts missing samples that were replaced by another one.
    """

    noisy: Tensor
    clean: Tensor
    ids: tuple[str, ...]
    cursor_after: Cursor
    replaced: int = 0


class TrainData:
    """The training split: an endless, resumable, prefetched sequence of `SegmentBatch`."""

    def __init__(self, config: DataConfig, *, seed: int, segment_samples: int) -> None:
        self._source = train_source(config, seed=seed)
        self.order = Order(shard_sizes=self._source.sizes, seed=seed, open_shards=config.open_shards)
        self._seed, self._samples, self._prefetch = seed, segment_samples, config.prefetch_batches
        self._epoch_order = lru_cache(maxsize=2)(self.order.epoch)
        self._warn = _WarnOncePerShard("training without")

    def identity(self) -> str:
        """Twelve hexadecimal digits; a cursor is valid only for the identity it was saved with.

        It hashes the order and what decides the samples: recipe and recordings, or, without a recipe, the
        samples.
        """
        text = "\n".join((self.order.identity(), *self._source.contents))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def segments(
        self, cursor: Cursor, *, global_batch_size: int, rank: int, world_size: int
    ) -> Generator[SegmentBatch, None, None]:
        """One rank's share of every global batch from `cursor` on, endless.

        Raises:
            InputError: a sample is unusable (see `DataConfig.on_corrupt`), or all are.
        """
        planner = ThreadPoolExecutor(1, thread_name_prefix="rwsa-order")
        order = batches(
            self.order, cursor, global_batch_size=global_batch_size, rank=rank, world_size=world_size
        )
        plan = _ahead(order, planner)
        pool = self._source.executor()
        pending = deque[tuple[Batch, list[Future[Segment | MissingExample]]]]()
        try:
            while True:
                while len(pending) <= self._prefetch:
                    batch = next(plan)
                    pending.append((batch, [self._submit(pool, ref) for ref in batch.samples]))
                yield self._collate(pool, *pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
            planner.shutdown(cancel_futures=True)
            self._source.close()

    def _submit(self, pool: Executor, ref: SampleRef) -> Future[Segment | MissingExample]:
        load = self._source.loader(ref.epoch, ref.shard, ref.index)
        return pool.submit(
            partial(make_segment, load, seed=self._seed, epoch=ref.epoch, samples=self._samples)
        )

    def _collate(
        self, pool: Executor, batch: Batch, futures: Sequence[Future[Segment | MissingExample]]
    ) -> SegmentBatch:
        segments, replaced = list[Segment](), 0
        for ref, future in zip(batch.samples, futures, strict=True):
            segment = future.result()
            if isinstance(segment, MissingExample):
                self._warn(segment)
                segment, replaced = self._replacement(pool, ref, segment), replaced + 1
            segments.append(segment)
        return SegmentBatch(
            noisy=torch.from_numpy(np.stack([segment.noisy for segment in segments])),
            clean=torch.from_numpy(np.stack([segment.clean for segment in segments])),
            ids=tuple(segment.example_id for segment in segments),
            cursor_after=batch.cursor_after,
            replaced=replaced,
        )

    def _replacement(self, pool: Executor, ref: SampleRef, missing: MissingExample) -> Segment:
        """The nearest usable sample before `ref` in its epoch's order; cyclic.

        It depends on the order and the missing samples only, not on ranks or batches.
        """
        rows = self._epoch_order(ref.epoch)
        for position in (at % len(rows) for at in range(ref.position - 1, ref.position - len(rows), -1)):
            shard, slot = rows[position].tolist()
            segment = self._submit(pool, SampleRef(ref.epoch, position, shard, slot)).result()
            if not isinstance(segment, MissingExample):
                return segment
        raise InputError(f"no training example is usable; the last, {missing.shard}: {missing.reason}")


def _ahead(items: Iterator[Item], pool: Executor) -> Iterator[Item]:
    """The items of an endless iterator, each drawn by the pool in advance."""
    following = pool.submit(next, items)
    while True:
        item, following = following.result(), pool.submit(next, items)
        yield item


class _WarnOncePerShard:
    """One warning per shard, however many of its examples are missing."""

    def __init__(self, what: str) -> None:
        self._what, self._shards = what, set[str]()

    def __call__(self, missing: MissingExample) -> None:
        if missing.shard not in self._shards:
            self._shards.add(missing.shard)
            _log.warning("%s: %s some of its examples; %s", missing.shard, self._what, missing.reason)


class ValidData:
    """The validation split: one pass over complete examples, sharded over ranks."""

    def __init__(self, config: DataConfig) -> None:
        self._source = valid_source(config)
        self._limit = config.valid_examples if config.overfit is None else config.overfit
        self._warn = _WarnOncePerShard("validating without")
        self.missing = 0

    @property
    def clips(self) -> int:
        """Number of examples in a pass."""
        planned = sum(self._source.sizes)
        return planned if self._limit is None else min(planned, self._limit)

    def examples(self, *, rank: int, world_size: int, limit: int | None = None) -> Iterator[Example]:
        """Every example (of the first `limit`, or `valid_examples`) once over all ranks.

        Missing examples are left out and counted in `missing`, which is reset at each pass.
        """
        self.missing = 0
        limits = [each for each in (limit, self._limit) if each is not None]
        refs = in_order(self._source.sizes, limit=min(limits, default=None), rank=rank, world_size=world_size)
        with closing(self._source):
            for ref in refs:
                example = self._source.loader(0, ref.shard, ref.index)()
                if isinstance(example, MissingExample):
                    self._warn(example)
                    self.missing += 1
                else:
                    yield example
