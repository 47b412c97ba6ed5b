"""Sources of training examples: shards, or a mixing plan whose rows are rendered on demand.

All sources number a split's examples by shard and slot, so that the order of the samples is the same.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from typing import Protocol

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.corpora import scan
from rwsa.corpora.cards import Split
from rwsa.errors import InputError
from rwsa.files import is_remote, location
from rwsa.mixing.plans import MixPlan, plan_hash, plan_split
from rwsa.mixing.recipes import recipe_hash
from rwsa.shards.examples import Example
from rwsa.shards.index import Failure, ShardIndex, read_index, shard_name
from rwsa.shards.reader import DamagedShardError, ShardReader
from rwsa.training.config import DataConfig, MixConfig, card_of, recipe_of
from rwsa.training.segments import MissingExample, init_render_process, render

Loader = Callable[[], Example | MissingExample]
# Of the draw of `train_share`. Never change it: existing runs would get another subset.
_SUBSET_SEED = 30

_log = logging.getLogger(__name__)


class Source(Protocol):
    """A split's planned examples.

    Attributes:
        sizes: number of examples in each shard.
        contents: texts that identify the samples; equal only for equal samples.
    """

    sizes: tuple[int, ...]
    contents: tuple[str, ...]

    def loader(self, epoch: int, shard: int, slot: int) -> Loader:
        """A function that loads the example at a slot; to be run by `executor`."""

    def executor(self) -> Executor:
        """A pool that runs loaders concurrently; the caller shuts it down."""

    def close(self) -> None:
        """Close open files; a later loader opens them again."""


def train_source(config: DataConfig, *, seed: int) -> Source:
    """The training examples; with `config.mix.fresh` each epoch draws new mixtures from `seed`.

    Raises:
        InputError: the shards, card or recipe cannot be used.
    """
    if config.overfit is not None:
        return first_examples(_source(config, config.train), config.overfit)
    source = _source(config, config.train, fresh_seed=seed)
    return source if config.train_share == 1 else share_of_examples(source, config.train_share)


def valid_source(config: DataConfig) -> Source:
    """The validation examples: the validation split, or with `config.overfit` the training examples.

    Raises:
        InputError: the shards, card or recipe cannot be used.
    """
    if config.overfit is not None:
        return first_examples(_source(config, config.train), config.overfit)
    return _source(config, config.valid)


def _source(config: DataConfig, split: Split, *, fresh_seed: int | None = None) -> Source:
    if config.mix is not None and split in config.mix.splits:
        return MixSource(config.mix, split, fresh_seed=fresh_seed if config.mix.fresh else None)
    assert config.shards is not None, "checked by DataConfig"
    return ShardSource(config, split)


class ShardSource:
    """Examples in shards, read by threads that share one reader."""

    def __init__(self, config: DataConfig, split: Split) -> None:
        assert config.shards is not None
        self._index = read_index(location(config.shards), split)
        _check_rate(config.shards, self._index.sample_rate_hz)
        # Two groups of the order at a time: the current one and the next.
        self._reader = ShardReader(self._index, max_open=2 * config.open_shards + 1)
        self._skip = config.on_corrupt == "skip"
        self._threads = config.loader_threads or (8 if is_remote(self._index.folder) else 2)
        self.sizes = self._index.planned_sizes
        self.contents = _shard_contents(self._index)

    def loader(self, epoch: int, shard: int, slot: int) -> Loader:
        return partial(self._read, shard, slot)

    def executor(self) -> Executor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="rwsa-decode")

    def close(self) -> None:
        self._reader.close()

    def _read(self, shard: int, slot: int) -> Example | MissingExample:
        entry = self._index.entries[shard]
        sample = entry.at_slot(slot)
        if isinstance(sample, Failure):
            reason = f"example {sample.example_id} could not be mixed: {sample.reason}"
            return MissingExample(shard=entry.shard, reason=reason)
        try:
            example = self._reader.read(shard, sample)
        except DamagedShardError as error:
            if not self._skip:
                raise
            return MissingExample(shard=entry.shard, reason=str(error))
        if self._skip and not example.noisy.any():
            return MissingExample(
                shard=entry.shard, reason=f"example {example.example_id}: its noisy file is silent"
            )
        return example


def _shard_contents(index: ShardIndex) -> tuple[str, ...]:
    """With a recipe as in `MixSource`: one recording more or less changes every row of its plan."""
    if index.recipe_hashes == ("",):
        return index.entries.samples_sha256()
    return (*index.recipe_hashes, index.entries[0].plan_hash, index.entries[-1].plan_hash)


class MixSource:
    """Rows of a mixing plan, rendered in separate processes.

    Threads would not do: audiomentations uses the process's global random generators, which other threads
    may use at the same time.
    """

    def __init__(self, config: MixConfig, split: Split, *, fresh_seed: int | None) -> None:
        self._config, self._split, self._fresh_seed = config, split, fresh_seed
        self._recipe = recipe_of(config)
        _check_rate(f"recipe {self._recipe.name}", self._recipe.sample_rate_hz)
        self._manifest = scan(card_of(config), strict=config.strict)
        self._plans: dict[int, Sequence[MixPlan]] = {}
        count, each = len(self._plan(0)), config.shard_examples
        if count == 0:
            raise InputError(
                f"recipe {self._recipe.name}: has no examples of '{split}'; set examples.{split}"
            )
        self.sizes = tuple(min(each, count - start) for start in range(0, count, each))
        ends = (self._plan(0)[:each], self._plan(0)[-self.sizes[-1] :])
        self.contents = (recipe_hash(self._recipe), *map(plan_hash, ends))
        self.contents += ("fresh",) if fresh_seed is not None else ()
        if problems := self._manifest.problems:
            first = problems[0]
            _log.warning(
                "mixing without %d files; the first, %s: %s", len(problems), first.path, first.reason
            )

    def loader(self, epoch: int, shard: int, slot: int) -> Loader:
        plan = self._plan(epoch)[shard * self._config.shard_examples + slot]
        return partial(render, plan, shard_name(self._split, shard), strict=self._config.strict)

    def executor(self) -> Executor:
        if self._config.workers == 0:
            return ThreadPoolExecutor(1, thread_name_prefix="rwsa-mix")
        # Spawned: a fork would inherit locks held by threads of torch and numba.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._config.workers, context, initializer=init_render_process)

    def close(self) -> None:
        """Nothing to close."""

    def _plan(self, epoch: int) -> Sequence[MixPlan]:
        key = 0 if self._fresh_seed is None else epoch
        if key not in self._plans:
            recipe = self._recipe
            if self._fresh_seed is not None:
                recipe = dataclasses.replace(recipe, seed=_epoch_seed(recipe.seed, self._fresh_seed, epoch))
            # A batch spans at most two consecutive epochs.
            self._plans = {old: plan for old, plan in self._plans.items() if old == key - 1}
            self._plans[key] = plan_split(self._manifest, recipe, self._split)
        return self._plans[key]


def _check_rate(where: str, sample_rate_hz: int) -> None:
    if sample_rate_hz != SAMPLE_RATE_HZ:
        raise InputError(
            f"{where}: is at {sample_rate_hz} Hz, and models are trained at {SAMPLE_RATE_HZ} Hz; mix it with"
            f" sample_rate_hz={SAMPLE_RATE_HZ}"
        )


def _epoch_seed(recipe_seed: int, run_seed: int, epoch: int) -> int:
    words = np.random.SeedSequence([recipe_seed, run_seed, epoch]).generate_state(2)
    return int(words[0]) << 32 | int(words[1])


class _Subset:
    """A subset of a source: the given slots of each shard."""

    def __init__(
        self,
        source: Source,
        slots: Sequence[tuple[int, Sequence[int] | np.ndarray]],
        contents: tuple[str, ...],
    ) -> None:
        """`slots` lists (shard, its slots) in the order of the shards."""
        self._source, self.contents = source, contents
        self._shards = [(shard, chosen) for shard, chosen in slots if len(chosen)]
        self.sizes = tuple(len(chosen) for _, chosen in self._shards)

    def loader(self, epoch: int, shard: int, slot: int) -> Loader:
        source_shard, slots = self._shards[shard]
        return self._source.loader(epoch, source_shard, int(slots[slot]))

    def executor(self) -> Executor:
        return self._source.executor()

    def close(self) -> None:
        self._source.close()


def first_examples(source: Source, examples: int) -> Source:
    """The first `examples` examples of a source."""
    slots = list[tuple[int, range]]()
    for shard, size in enumerate(source.sizes):
        if examples <= 0:
            break
        slots.append((shard, range(min(size, examples))))
        examples -= size
    return _Subset(source, slots, source.contents)


def share_of_examples(source: Source, share: float) -> Source:
    """A random share in (0, 1] of a source's examples, at least one; smaller shares nest in larger ones."""
    ends = np.cumsum(source.sizes)
    examples = int(ends[-1])
    count = max(1, round(share * examples))
    # One permutation for all shares of a source; each share is a prefix of it.
    chosen = np.random.default_rng(_SUBSET_SEED).permutation(examples)[:count]
    chosen.sort()
    starts = ends - source.sizes
    bounds = np.searchsorted(chosen, [0, *ends.tolist()])
    slots = [
        (shard, (chosen[bounds[shard] : bounds[shard + 1]] - start).astype(np.int32))
        for shard, start in enumerate(starts)
    ]
    return _Subset(source, slots, (*source.contents, f"{count} of {examples}"))
