"""What a folder of shards holds, told by its index and the JSON of every example, without its audio."""

from __future__ import annotations

import hashlib
import json
import zlib
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from pipelines.core.progress import Progress
from rwsa.corpora.cards import SPLITS
from rwsa.errors import InputError
from rwsa.files import read_json, sha256_of
from rwsa.shards.index import INDEX_NAME, Failure, ShardEntry, read_index

_FAILURES_KEPT = 10
_NAMELESS: Final = "not named"


@dataclass(kw_only=True)
class SplitFacts:
    """One split, filled in one pass; it grows by a few bytes an example and with what the sources name.

    Attributes:
        seconds, snr_db, peak_gain_db: one an example, NaN where its JSON does not say.
        speaker_seconds: by speaker; `None` where the corpus names none.
        environment_seconds: by class of noise; an example with several counts for each.
        source_examples: examples by (speech, noise or room; licence).
        recordings: checksums of the recordings' names, by the same key; a set of long names would be large.
        degraded: examples by the degradation's name.
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
        """How many different recordings of speech, noise or rooms went in."""
        return len(set().union(*(known for (one, _), known in self.recordings.items() if one == role)))


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """A folder of shards.

    Attributes:
        index_sha256: of `index.json`, by which a training run names its data.
        splits: in the order train, valid, test, others.
        corpora, recipe_hashes: of all shards.
        made_with: package to the versions that made them; more than one where they were mixed on.
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


def read_facts(folder: Path, report: Callable[[str], None] = lambda line: None) -> DatasetFacts:
    """Read the index and every example's JSON, once.

    Args:
        folder: of shards, with `index.json`.
        report: called with progress lines.

    Raises:
        InputError: there is no index, or a shard is missing or damaged.
    """
    index = folder / INDEX_NAME
    indexes = [read_index(folder, split) for split in _splits(folder)]
    shards = sum(len(one.entries) for one in indexes)
    splits, made_with = list[SplitFacts](), dict[str, set[str]]()
    with Progress(shards, "dataset page", "shards", report) as progress:
        for one in indexes:
            facts = SplitFacts(split=one.split, sample_rate_hz=one.sample_rate_hz)
            for entry in one.entries:
                _add_shard(facts, folder, entry)
                for package, version in entry.made_with.items():
                    made_with.setdefault(package, set()).add(version)
                progress.update()
            splits.append(facts)
    entries = [entry for one in indexes for entry in one.entries]
    return DatasetFacts(
        folder=folder.name,
        index_sha256=sha256_of(index),
        splits=tuple(splits),
        corpora=tuple(sorted({entry.corpus for entry in entries} - {""})),
        recipe_hashes=tuple(sorted({entry.recipe_hash for entry in entries} - {""})),
        made_with={package: tuple(sorted(versions)) for package, versions in sorted(made_with.items())},
    )


def _splits(folder: Path) -> list[str]:
    index = folder / INDEX_NAME
    if not index.is_file():
        raise InputError(
            f"{index}: no such index; make it with python -m pipelines.mix_shards --out {folder}"
        )
    values = read_json(index)
    try:
        found = {str(shard["split"]) for shard in values["shards"]}
    except (KeyError, TypeError) as error:
        raise InputError(f"{index}: not an index of shards; delete it and mix again") from error
    if not found:
        raise InputError(f"{index}: names no shards; mix some first")
    known = [split for split in SPLITS if split in found]
    return [*known, *sorted(found.difference(known))]


def _add_shard(facts: SplitFacts, folder: Path, entry: ShardEntry) -> None:
    facts.shards += 1
    facts.bytes += entry.bytes
    facts.failed += len(entry.failures)
    facts.failures += entry.failures[: _FAILURES_KEPT - len(facts.failures)]
    for samples, meta in _metas(folder, entry):
        _add_example(facts, samples / entry.sample_rate_hz, meta)


def _metas(folder: Path, entry: ShardEntry) -> Iterator[tuple[int, Mapping[str, Any]]]:
    """Samples and JSON of every example of a shard, reading none of its audio."""
    path = folder / entry.shard
    try:
        with path.open("rb") as file:
            for example in entry.examples:
                file.seek(example.json.offset)
                data = file.read(example.json.length)
                if zlib.crc32(data) != example.json.crc32:
                    raise InputError(
                        f"{path}: member {example.example_id}.json: its checksum does not match the index;"
                        " delete the shard and mix again"
                    )
                yield example.samples, json.loads(data)
    except OSError as error:
        reason = error.strerror or str(error)
        raise InputError(f"{path}: {reason}; mix again, which makes what is missing") from error


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
    for name in {str(one.get("name")) for one in meta.get("degradations", ())}:
        facts.degraded[name] += 1


def environments(meta: Mapping[str, Any]) -> list[str]:
    """The classes of noise in an example; the kind of noise where it was made rather than recorded."""
    noises = meta.get("noises") or [{"environment": meta.get("environment")}]
    names = (noise.get("environment") or noise.get("kind") or _NAMELESS for noise in noises)
    return list(dict.fromkeys(str(name) for name in names))


def _sources(meta: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(role, clip, licence) of every recording that went into an example."""
    for role in ("speech", "noise"):
        if meta.get(role):
            yield role, str(meta[role]), str(meta.get(f"{role}_licence") or _NAMELESS)
    for key, role in (("more_speech", "speech"), ("noises", "noise"), ("room", "room")):
        yield from _nested_sources(meta.get(key), role)


def _nested_sources(value: Any, role: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, Mapping):
        if "clip" in value:
            yield role, str(value["clip"]), str(value.get("licence") or _NAMELESS)
        for key, inner in value.items():
            yield from _nested_sources(inner, "room" if key == "room" else role)
    elif isinstance(value, list):
        for inner in value:
            yield from _nested_sources(inner, role)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else float("nan")


def _checksum(name: str) -> int:
    """Eight bytes of a name: two of a million names agree with a chance of 3e-8."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "big")
