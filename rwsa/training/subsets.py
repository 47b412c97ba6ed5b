"""What a source of examples is, and parts of one: its first few, or a share drawn from all of it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from typing import Protocol

import numpy as np

from rwsa.shards.examples import Example
from rwsa.training.crops import Missing

Job = Callable[[], Example | Missing]
# Of the draw of a share: any fixed number, and never another, or shares of old runs would be others.
_DRAW_SEED = 30


class Source(Protocol):
    """A split's planned examples.

    Attributes:
        sizes: how many there are in each shard.
        contents: what decides their samples, as text; the same only for the same samples.
    """

    sizes: tuple[int, ...]
    contents: tuple[str, ...]

    def job(self, epoch: int, shard: int, slot: int) -> Job:
        """What gives the example at a slot; `executor` runs it, wherever it likes."""

    def executor(self) -> Executor:
        """Runs jobs at the same time; the caller shuts it down."""

    def close(self) -> None:
        """Let go of open files; a later job opens them again."""


class _Part:
    """Some examples of a source: of each of its shards in `slots` those slots."""

    def __init__(self, source: Source, slots: dict[int, tuple[int, ...]], contents: tuple[str, ...]) -> None:
        self._source, self.contents = source, contents
        self._shards = [(shard, at) for shard, at in slots.items() if at]
        self.sizes = tuple(len(at) for _, at in self._shards)

    def job(self, epoch: int, shard: int, slot: int) -> Job:
        of_source, slots = self._shards[shard]
        return self._source.job(epoch, of_source, slots[slot])

    def executor(self) -> Executor:
        return self._source.executor()

    def close(self) -> None:
        self._source.close()


class FirstExamples(_Part):
    """The first few examples of a source."""

    def __init__(self, source: Source, examples: int) -> None:
        slots: dict[int, tuple[int, ...]] = {}
        for shard, size in enumerate(source.sizes):
            slots[shard] = tuple(range(min(size, examples)))
            examples -= len(slots[shard])
        super().__init__(source, slots, source.contents)


class ShareOfExamples(_Part):
    """A share of a source's examples, at least one; a smaller share is part of a larger one."""

    def __init__(self, source: Source, share: float) -> None:
        """`share` is above 0 and at most 1."""
        places = [(shard, slot) for shard, size in enumerate(source.sizes) for slot in range(size)]
        count = max(1, round(share * len(places)))
        # One order for all shares of a source, of which each takes the beginning.
        drawn = np.random.default_rng(_DRAW_SEED).permutation(len(places))[:count]
        slots: dict[int, list[int]] = {}
        for place in np.sort(drawn):
            shard, slot = places[place]
            slots.setdefault(shard, []).append(slot)
        contents = (*source.contents, f"{count} of {len(places)}")
        super().__init__(source, {shard: tuple(at) for shard, at in slots.items()}, contents)
