"""Where training gets its examples: shards, or the plan itself, rendered when a row is due.

Both number a split's examples alike, by shard and slot, so that the order of the samples is the same.
"""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.corpora import scan
from rwsa.corpora.cards import CorpusCard, SourceFolder, Split, read_card
from rwsa.errors import InputError
from rwsa.files import is_remote, location
from rwsa.mixing.plans import MixPlan, plan_hash, plan_split
from rwsa.mixing.recipes import Recipe, read_recipe, recipe_hash
from rwsa.shards.examples import Example
from rwsa.shards.index import Failure, ShardEntry, read_index, shard_name
from rwsa.shards.reader import DamagedShardError, ShardReader
from rwsa.training.config import DataConfig, MixConfig
from rwsa.training.crops import Missing
from rwsa.training.rendering import prepare_process, rendered
from rwsa.training.subsets import FirstExamples, Job, ShareOfExamples, Source

_log = logging.getLogger(__name__)


def train_source(config: DataConfig, *, seed: int) -> Source:
    """What to train on; where `config.mix.fresh` draws each epoch anew, that follows from `seed`.

    Raises:
        InputError: the shards, card or recipe cannot be used.
    """
    if config.overfit is not None:
        return FirstExamples(_source(config, config.train), config.overfit)
    source = _source(config, config.train, fresh_seed=seed)
    return source if config.train_share == 1 else ShareOfExamples(source, config.train_share)


def valid_source(config: DataConfig) -> Source:
    """What to validate by: the validation split, or the very examples that `config.overfit` trains on.

    Raises:
        InputError: the shards, card or recipe cannot be used.
    """
    if config.overfit is not None:
        return FirstExamples(_source(config, config.train), config.overfit)
    return _source(config, config.valid)


def _source(config: DataConfig, split: Split, *, fresh_seed: int | None = None) -> Source:
    if config.mix is not None and split in config.mix.splits:
        return MixSource(config.mix, split, fresh_seed=fresh_seed if config.mix.fresh else None)
    assert config.shards is not None, "DataConfig sees to it"
    return ShardSource(config, split)


class ShardSource:
    """Examples of shards, read by threads that share one reader."""

    def __init__(self, config: DataConfig, split: Split) -> None:
        assert config.shards is not None
        self._index = read_index(location(config.shards), split)
        _check_rate(config.shards, self._index.sample_rate_hz)
        # Two groups of the order at a time: the one being read, and the next.
        self._reader = ShardReader(self._index, max_open=2 * config.open_shards + 1)
        self._skip = config.on_corrupt == "skip"
        self._threads = config.loader_threads or (8 if is_remote(self._index.folder) else 2)
        self.sizes = self._index.planned_sizes
        self.contents = _contents(self._index.entries)

    def job(self, epoch: int, shard: int, slot: int) -> Job:
        return partial(self._read, shard, slot)

    def executor(self) -> Executor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="rwsa-decode")

    def close(self) -> None:
        self._reader.close()

    def _read(self, shard: int, slot: int) -> Example | Missing:
        entry = self._index.entries[shard]
        found = entry.at_slot(slot)
        if isinstance(found, Failure):
            reason = f"example {found.example_id} could not be mixed: {found.reason}"
            return Missing(shard=entry.shard, reason=reason)
        try:
            example = self._reader.read(shard, found)
        except DamagedShardError as error:
            if not self._skip:
                raise
            return Missing(shard=entry.shard, reason=str(error))
        if self._skip and not example.noisy.any():
            return Missing(
                shard=entry.shard, reason=f"example {example.example_id}: its noisy file is silent"
            )
        return example


def _contents(entries: Sequence[ShardEntry]) -> tuple[str, ...]:
    """As of `MixSource`, where a recipe made them: one recording more or less changes every row of a plan."""
    recipes = sorted({entry.recipe_hash for entry in entries})
    if recipes == [""]:
        return tuple(entry.samples_sha256 for entry in entries)
    return (*recipes, entries[0].plan_hash, entries[-1].plan_hash)


class MixSource:
    """Rows of a plan, rendered in processes of their own.

    Not in threads: audiomentations draws from the process's global generators, which any other thread
    may use meanwhile.
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
                f"recipe {self._recipe.name}: wants no examples of '{split}'; set examples.{split}"
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

    def job(self, epoch: int, shard: int, slot: int) -> Job:
        plan = self._plan(epoch)[shard * self._config.shard_examples + slot]
        return partial(rendered, plan, shard_name(self._split, shard), strict=self._config.strict)

    def executor(self) -> Executor:
        if self._config.workers == 0:
            return ThreadPoolExecutor(1, thread_name_prefix="rwsa-mix")
        # Spawned, since a fork would inherit the threads' locks of torch and numba.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._config.workers, context, initializer=prepare_process)

    def close(self) -> None:
        """Nothing is kept open."""

    def _plan(self, epoch: int) -> Sequence[MixPlan]:
        key = 0 if self._fresh_seed is None else epoch
        if key not in self._plans:
            recipe = self._recipe
            if self._fresh_seed is not None:
                recipe = dataclasses.replace(recipe, seed=_fresh_seed(recipe.seed, self._fresh_seed, epoch))
            # A batch reaches from one epoch into the next, never further.
            self._plans = {old: plan for old, plan in self._plans.items() if old == key - 1}
            self._plans[key] = plan_split(self._manifest, recipe, self._split)
        return self._plans[key]


def _check_rate(where: str, sample_rate_hz: int) -> None:
    if sample_rate_hz != SAMPLE_RATE_HZ:
        raise InputError(
            f"{where}: is at {sample_rate_hz} Hz, and models are trained at {SAMPLE_RATE_HZ} Hz; mix it with"
            f" sample_rate_hz={SAMPLE_RATE_HZ}"
        )


def _fresh_seed(recipe_seed: int, run_seed: int, epoch: int) -> int:
    words = np.random.SeedSequence([recipe_seed, run_seed, epoch]).generate_state(2)
    return int(words[0]) << 32 | int(words[1])


def card_of(config: MixConfig) -> CorpusCard:
    """The corpus card of a configuration, read if need be."""
    return read_card(Path(config.card)) if isinstance(config.card, str) else config.card


def recipe_of(config: MixConfig) -> Recipe:
    """The recipe of a configuration, read if need be."""
    return read_recipe(Path(config.recipe)) if isinstance(config.recipe, str) else config.recipe


def self_contained(config: DataConfig) -> DataConfig:
    """The same with card and recipe in it and absolute roots, for a process in another folder.

    Raises:
        InputError: the card or recipe cannot be used.
    """
    if config.mix is None:
        return config
    card = card_of(config.mix)
    roots: dict[str, Any] = {
        field.name: tuple(_at_absolute_root(place) for place in getattr(card, field.name))
        for field in dataclasses.fields(card)
        if _holds_sources(getattr(card, field.name))
    }
    mix = dataclasses.replace(
        config.mix, card=dataclasses.replace(card, **roots), recipe=recipe_of(config.mix)
    )
    return dataclasses.replace(config, mix=mix)


def _holds_sources(value: object) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, SourceFolder) for one in value)


def _at_absolute_root(source: SourceFolder) -> SourceFolder:
    return dataclasses.replace(source, root=str(Path(source.root).expanduser().absolute()))
