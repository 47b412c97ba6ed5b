"""Shards to training segments: normalised, cropped or padded, decoded ahead of the step.

Legend: B segments of this rank.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rwsa.audio import rms
from rwsa.errors import InputError
from rwsa.sampling import Batch, Cursor, Order, SampleRef, batches, sample_rng
from rwsa.shard_index import read_index
from rwsa.shards import Example, ShardReader
from rwsa.training.config import DataConfig


@dataclass(frozen=True, kw_only=True)
class Segments:
    """One rank's share of a global batch: `noisy` and `clean` are float32 `[B, samples]`."""

    noisy: Tensor
    clean: Tensor
    ids: tuple[str, ...]
    cursor_after: Cursor


class TrainData:
    """The training split: an endless, resumable, prefetched sequence of `Segments`."""

    def __init__(self, config: DataConfig, *, seed: int, segment_samples: int) -> None:
        self.index = read_index(Path(config.shards), config.train)
        self.order = Order(shard_sizes=self.index.shard_sizes, seed=seed, open_shards=config.open_shards)
        self._seed, self._samples, self._ahead = seed, segment_samples, config.prefetch_batches

    def segments(
        self, cursor: Cursor, *, global_batch_size: int, rank: int, world_size: int
    ) -> Iterator[Segments]:
        """One rank's share of every global batch from `cursor` on, without end."""
        plan = batches(
            self.order, cursor, global_batch_size=global_batch_size, rank=rank, world_size=world_size
        )
        return _ahead((self._load(batch) for batch in plan), self._ahead)

    def _load(self, batch: Batch) -> Segments:
        with ShardReader(self.index) as reader:
            pairs = [self._segment(reader, ref) for ref in batch.samples]
        ids, noisy, clean = zip(*pairs, strict=True)
        return Segments(
            noisy=torch.from_numpy(np.stack(noisy)),
            clean=torch.from_numpy(np.stack(clean)),
            ids=ids,
            cursor_after=batch.cursor_after,
        )

    def _segment(self, reader: ShardReader, ref: SampleRef) -> tuple[str, np.ndarray, np.ndarray]:
        example = reader.read(ref.shard, ref.index)
        rng = sample_rng(self._seed, ref.epoch, example.example_id)
        noisy, clean = crop_or_pad(*normalised(example), self._samples, rng)
        return example.example_id, noisy, clean


class ValidData:
    """The validation split: one pass over whole examples, each rank its part."""

    def __init__(self, config: DataConfig) -> None:
        self.index = read_index(Path(config.shards), config.valid)
        self._limit = config.valid_examples

    def examples(self, *, rank: int, world_size: int) -> Iterator[Example]:
        """Every example (the first `valid_examples`) once over all ranks."""
        places = [(s, i) for s, size in enumerate(self.index.shard_sizes) for i in range(size)]
        with ShardReader(self.index) as reader:
            for shard, index in places[: self._limit][rank::world_size]:
                yield reader.read(shard, index)


def normalised(example: Example) -> tuple[np.ndarray, np.ndarray]:
    """Noisy and clean divided by the RMS of the whole noisy file, before any crop.

    Raises:
        InputError: the noisy file is silent.
    """
    level = rms(example.noisy)
    if level == 0:
        raise InputError(f"example {example.example_id}: its noisy file is silent; remove it and mix again")
    return example.noisy / np.float32(level), example.clean / np.float32(level)


def crop_or_pad(
    noisy: np.ndarray, clean: np.ndarray, samples: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """The same random `samples` samples of both; shorter clips are zero-padded at the end."""
    spare = len(noisy) - samples
    if spare <= 0:
        return np.pad(noisy, (0, -spare)), np.pad(clean, (0, -spare))
    start = int(rng.integers(spare + 1))
    return noisy[start : start + samples], clean[start : start + samples]


def _ahead(source: Iterator[Segments], depth: int) -> Iterator[Segments]:
    """Run `source` in a thread, at most `depth` items ahead; its errors are raised here."""
    ready: queue.Queue[Segments | BaseException] = queue.Queue(depth)
    stopped = threading.Event()

    def put(item: Segments | BaseException) -> None:
        while not stopped.is_set():
            with suppress(queue.Full):
                ready.put(item, timeout=0.1)
                break

    def produce() -> None:
        try:
            for item in source:
                put(item)
                if stopped.is_set():
                    return
        except BaseException as error:  # handed to the consumer, whatever it is
            put(error)

    threading.Thread(target=produce, name="rwsa-decode", daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
