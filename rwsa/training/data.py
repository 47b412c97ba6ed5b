"""Training segments in their order, made ready ahead of the step; whole examples to validate by.

Legend: B segments of this rank.
"""

from __future__ import annotations

import hashlib
import logging
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from rwsa.errors import InputError
from rwsa.shards.examples import Example
from rwsa.shards.sampling import Batch, Cursor, Order, SampleRef, batches, in_order
from rwsa.training.config import DataConfig
from rwsa.training.crops import Missing, Segment, crop_or_pad, normalised, segment_of
from rwsa.training.sources import train_source, valid_source

__all__ = ["Segments", "TrainData", "ValidData", "crop_or_pad", "normalised"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Segments:
    """One rank's share of a global batch: `noisy` and `clean` are float32 `[B, samples]`.

    `replaced` counts the samples that could not be had; another stands in for each.
    """

    noisy: Tensor
    clean: Tensor
    ids: tuple[str, ...]
    cursor_after: Cursor
    replaced: int = 0


class TrainData:
    """The training split: an endless, resumable, prefetched sequence of `Segments`."""

    def __init__(self, config: DataConfig, *, seed: int, segment_samples: int) -> None:
        self._source = train_source(config, seed=seed)
        self.order = Order(shard_sizes=self._source.sizes, seed=seed, open_shards=config.open_shards)
        self._seed, self._samples, self._ahead = seed, segment_samples, config.prefetch_batches
        self._rows = lru_cache(maxsize=2)(self.order.epoch)
        self._warn = _Warnings("training without")

    def identity(self) -> str:
        """Twelve hexadecimal digits; a cursor means the same samples only under the same identity.

        It covers what the samples are made of: recipe and recordings, or, without a recipe, the samples.
        """
        text = "\n".join((self.order.identity(), *self._source.contents))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def segments(
        self, cursor: Cursor, *, global_batch_size: int, rank: int, world_size: int
    ) -> Generator[Segments, None, None]:
        """One rank's share of every global batch from `cursor` on, without end.

        Raises:
            InputError: a sample cannot be had (see `DataConfig.on_corrupt`), or none of them.
        """
        plan = batches(
            self.order, cursor, global_batch_size=global_batch_size, rank=rank, world_size=world_size
        )
        pool, pending = self._source.executor(), deque[tuple[Batch, list[Future[Segment | Missing]]]]()
        try:
            while True:
                while len(pending) <= self._ahead:
                    batch = next(plan)
                    pending.append((batch, [self._submit(pool, ref) for ref in batch.samples]))
                yield self._collated(pool, *pending.popleft())
        finally:
            pool.shutdown(cancel_futures=True)
            self._source.close()

    def _submit(self, pool: Executor, ref: SampleRef) -> Future[Segment | Missing]:
        job = self._source.job(ref.epoch, ref.shard, ref.index)
        return pool.submit(partial(segment_of, job, seed=self._seed, epoch=ref.epoch, samples=self._samples))

    def _collated(
        self, pool: Executor, batch: Batch, futures: Sequence[Future[Segment | Missing]]
    ) -> Segments:
        segments, replaced = list[Segment](), 0
        for ref, future in zip(batch.samples, futures, strict=True):
            found = future.result()
            if isinstance(found, Missing):
                self._warn(found)
                found, replaced = self._one_before(pool, ref, found), replaced + 1
            segments.append(found)
        return Segments(
            noisy=torch.from_numpy(np.stack([segment.noisy for segment in segments])),
            clean=torch.from_numpy(np.stack([segment.clean for segment in segments])),
            ids=tuple(segment.example_id for segment in segments),
            cursor_after=batch.cursor_after,
            replaced=replaced,
        )

    def _one_before(self, pool: Executor, ref: SampleRef, missing: Missing) -> Segment:
        """The nearest sample before `ref` in its epoch's order that can be had; cyclic.

        So what stands in follows from the order and from what is missing, not from ranks or batches.
        """
        rows = self._rows(ref.epoch)
        for position in (at % len(rows) for at in range(ref.position - 1, ref.position - len(rows), -1)):
            shard, slot = rows[position].tolist()
            found = self._submit(pool, SampleRef(ref.epoch, position, shard, slot)).result()
            if not isinstance(found, Missing):
                return found
        raise InputError(f"no training example can be had; the last, {missing.shard}: {missing.reason}")


class _Warnings:
    """One line a shard, however many of its examples are missing."""

    def __init__(self, what: str) -> None:
        self._what, self._shards = what, set[str]()

    def __call__(self, missing: Missing) -> None:
        if missing.shard not in self._shards:
            self._shards.add(missing.shard)
            _log.warning("%s: %s some of its examples; %s", missing.shard, self._what, missing.reason)


class ValidData:
    """The validation split: one pass over whole examples, each rank its part."""

    def __init__(self, config: DataConfig) -> None:
        self._source = valid_source(config)
        self._limit = config.valid_examples if config.overfit is None else config.overfit
        self._warn = _Warnings("validating without")
        self.missing = 0

    @property
    def clips(self) -> int:
        """How many examples a pass has."""
        planned = sum(self._source.sizes)
        return planned if self._limit is None else min(planned, self._limit)

    def examples(self, *, rank: int, world_size: int, limit: int | None = None) -> Iterator[Example]:
        """Every example (of the first `limit`, or `valid_examples`) once over all ranks.

        A missing one is left out; `missing` counts those, of this pass.
        """
        self.missing = 0
        limits = [each for each in (limit, self._limit) if each is not None]
        refs = in_order(self._source.sizes, limit=min(limits, default=None), rank=rank, world_size=world_size)
        with closing(self._source):
            for ref in refs:
                found = self._source.job(0, ref.shard, ref.index)()
                if isinstance(found, Missing):
                    self._warn(found)
                    self.missing += 1
                else:
                    yield found
