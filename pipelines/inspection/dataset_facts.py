"""Facts about a folder of shards, from its index and the JSON of every example, without reading audio."""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipelines.core.progress import Progress
from rwsa.corpora.cards import SPLITS
from rwsa.errors import InputError
from rwsa.shards import ShardReader
from rwsa.shards.index import INDEX_NAME, Failure, ShardEntry, index_sha256, index_splits, read_index

_FAILURES_SHOWN = 10
_UNNAMED: Final = "not named"


@dataclass(kw_only=True)
class SplitFacts:
    """Facts about one split, collected in one pass; memory grows by a few bytes per example.

    Attributes:
        split: name of the split.
        sample_rate_hz: of its audio.
        shards, bytes: number of shards and their size.
        seconds, snr_db, peak_gain_db: one value per example, NaN if its JSON has none.
        speaker_seconds: by speaker; `None` for examples without a speaker.
        environment_seconds: by class of noise; an example with several counts for each.
        source_examples: examples by role (speech, noise or room) and licence.
        recordings: checksums of recordings' names by role and licence; the names would need too much memory.
        degraded: examples by degradation.
        failed: number of examples that could not be mixed.
        failures: the first of them.
    """

    split: str
    sample_rate_hz: int
    shards: int = 0
    bytes: int = 0
    seconds: array[float] = field(default_factory=lambda: array("f"))
    snr_db: array[float] = field(default_factory=lambda: array("f"))
    peak_gain_db: array[float] = field(default_factory=lambda: array("f"))
    speaker_seconds: dict[str | None, float] = field(default_factory=lambda: defaultdict(float))
    environment_seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    source_examples: Counter[tuple[str, str]] = field(default_factory=Counter)
    recordings: dict[tuple[str, str], set[int]] = field(default_factory=dict)
    degraded: Counter[str] = field(default_factory=Counter)
    failed: int = 0
    failures: list[Failure] = field(default_factory=list)

    @property
    def examples(self) -> int:
        return len(self.seconds)

    @property
    def hours(self) -> float:
        return sum(self.seconds) / 3600

    @property
    def speakers(self) -> int:
        return len(self.speaker_seconds.keys() - {None})

    def recordings_of(self, role: str) -> int:
        """Number of different recordings used as speech, noise or room."""
        return len(set().union(*(known for (one, _), known in self.recordings.items() if one == role)))


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """Facts about a folder of shards.

    Attributes:
        folder: its name.
        index_sha256: checksum of `index.json`, which identifies the data of a training run.
        splits: in the order train, valid, test, others.
        corpora, recipe_hashes: of all shards.
        made_with: package → versions that mixed the shards; several if mixing was resumed with others.
    """

    folder: str
    index_sha256: str
    splits: tuple[SplitFacts, ...]
    corpora: tuple[str, ...]
    recipe_hashes: tuple[str, ...]
    made_with: Mapping[str, tuple[str, ...]]

    @property
    def examples(self) -> int:
        return sum(split.examples for split in self.splits)

    @property
    def hours(self) -> float:
        return sum(split.hours for split in self.splits)


def read_dataset_facts(folder: Path, report: Callable[[str], None] = lambda line: None) -> DatasetFacts:
    """Read the index and every example's JSON.

    Args:
        folder: of shards, with `index.json`.
        report: called with progress lines.

    Raises:
        InputError: there is no index, or a shard is missing or damaged.
    """
    indexes = [read_index(folder, split) for split in _splits(folder)]
    shards = sum(len(one.entries) for one in indexes)
    splits, made_with = list[SplitFacts](), dict[str, set[str]]()
    with Progress(shards, "dataset page", "shards", report) as progress:
        for one in indexes:
            facts = SplitFacts(split=one.split, sample_rate_hz=one.sample_rate_hz)
            with ShardReader(one, max_open=1) as reader:
                for number, entry in enumerate(one.entries):
                    _add_shard(facts, reader, number, entry)
                    for package, version in entry.made_with.items():
                        made_with.setdefault(package, set()).add(version)
                    progress.update()
            splits.append(facts)
    return DatasetFacts(
        folder=folder.name,
        index_sha256=index_sha256(folder),
        splits=tuple(splits),
        corpora=_all(one.corpora for one in indexes),
        recipe_hashes=_all(one.recipe_hashes for one in indexes),
        made_with={package: tuple(sorted(versions)) for package, versions in sorted(made_with.items())},
    )


def _all(values: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted(set().union(*values) - {""}))


def _splits(folder: Path) -> list[str]:
    names = index_splits(folder)
    if not names:
        raise InputError(f"{folder / INDEX_NAME}: lists no shards; mix some first")
    known = [split for split in SPLITS if split in names]
    return [*known, *sorted(set(names).difference(known))]


def _add_shard(facts: SplitFacts, reader: ShardReader, number: int, entry: ShardEntry) -> None:
    facts.shards += 1
    facts.bytes += entry.bytes
    facts.failed += len(entry.failures)
    facts.failures += entry.failures[: _FAILURES_SHOWN - len(facts.failures)]
    for example, meta in reader.metadata(number):
        try:
            _add_example(facts, example.samples / entry.sample_rate_hz, meta)
        except (AttributeError, TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InputError(
                f"{entry.split} shard {number}: example {example.example_id} has no valid description"
                f" ({str(error)[:200]}); mix this shard again"
            ) from error


def _add_example(facts: SplitFacts, seconds: float, meta: Mapping[str, Any]) -> None:
    facts.seconds.append(seconds)
    facts.snr_db.append(_number(meta.get("snr_db")))
    facts.peak_gain_db.append(_number(meta.get("peak_gain_db")))
    facts.speaker_seconds[meta.get("speaker")] += seconds
    for environment in environments(meta):
        facts.environment_seconds[environment] += seconds
    sources = set(_sources(meta))
    for role, licence in {(role, licence) for role, _, licence in sources}:
        facts.source_examples[role, licence] += 1
    for role, clip, licence in sources:
        facts.recordings.setdefault((role, licence), set()).add(_checksum(clip))
    for name in {str(one.get("name")) for one in meta.get("degradations") or ()}:
        facts.degraded[name] += 1


def environments(meta: Mapping[str, Any]) -> list[str]:
    """Classes of noise in an example; for synthetic noise, its kind."""
    noises = meta.get("noises") or [{"environment": meta.get("environment")}]
    names = (noise.get("environment") or noise.get("kind") or _UNNAMED for noise in noises)
    return list(dict.fromkeys(str(name) for name in names))


def _sources(meta: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(role, clip, licence) of every recording used in an example."""
    for role in ("speech", "noise"):
        if meta.get(role):
            yield role, str(meta[role]), str(meta.get(f"{role}_licence") or _UNNAMED)
    for key, role in (("more_speech", "speech"), ("noises", "noise"), ("room", "room")):
        yield from _nested_sources(meta.get(key), role)


def _nested_sources(value: Any, role: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, Mapping):
        if "clip" in value:
            yield role, str(value["clip"]), str(value.get("licence") or _UNNAMED)
        for key, inner in value.items():
            yield from _nested_sources(inner, "room" if key == "room" else role)
    elif isinstance(value, list):
        for inner in value:
            yield from _nested_sources(inner, role)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _checksum(name: str) -> int:
    """64-bit hash of a name; a collision among a million names has a probability of 3e-8."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
