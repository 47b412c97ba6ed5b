"""Checking folders of shards: whole, and no example, speaker, clip or recording in two splits."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.core.pool import unordered
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.shards import verify
from rwsa.shards.index import ShardIndex, read_index

_SHARD_NAME = re.compile(r"([a-z0-9_]+)-\d{6}\.tar")
# Keys of an example's JSON that hold sources, here or deeper down, each with a clip id.
_SOURCES = ("more_speech", "noises", "room")


@dataclass(frozen=True, kw_only=True)
class ShardCheck:
    """What a check of one folder found.

    Attributes:
        examples, hours: by split.
        damaged: one line a shard (or split) that is not whole.
        leaks: one line an example id, speaker, clip or recording that is in two splits.
        nameless: examples that name no speaker, so that the clip alone was compared.
    """

    folder: str
    examples: Mapping[str, int]
    hours: Mapping[str, float]
    damaged: tuple[str, ...]
    leaks: tuple[str, ...]
    nameless: int


@dataclass(frozen=True)
class _ShardFacts:
    damaged: list[str]
    names: list[dict[str, list[str]]]


def check_shards(
    folder: Path, manifests: Sequence[Manifest] = (), *, workers: int | None = None
) -> ShardCheck:
    """Recompute all checksums of a folder, and compare what its splits are made of.

    Args:
        folder: that `index.json` is in.
        manifests: of the corpora it was mixed from, where known; they tell which clips are one recording.
        workers: see `pipelines.core.pool.unordered`.

    Raises:
        InputError: the folder holds no shards.
    """
    splits = sorted(
        {match[1] for path in folder.glob("*.tar") if (match := _SHARD_NAME.fullmatch(path.name))}
    )
    if not splits:
        raise InputError(f"{folder}: holds no shards (SPLIT-000000.tar); name a folder that was mixed into")
    damaged: list[str] = []
    indexes: dict[str, ShardIndex] = {}
    for split in splits:
        try:
            indexes[split] = read_index(folder, split)
        except InputError as error:
            damaged.append(str(error))
    single = [
        dataclasses.replace(index, entries=(entry,)) for index in indexes.values() for entry in index.entries
    ]
    damaged += _unindexed(folder, single)
    # Speech is kept apart by speaker; what its files call a recording is no unit of the splits.
    recordings = {
        clip.clip_id: (clip.kind, f"{manifest.card}/{clip.recording}")
        for manifest in manifests
        for clip in manifest.clips
        if clip.recording and clip.kind != "speech"
    }
    seen = _Seen(recordings)
    results = dict(unordered(_shard_facts, single, workers=workers))
    for number, index in enumerate(single):
        damaged += results[number].damaged
        for names in results[number].names:
            seen.add(index.split, names)
    return ShardCheck(
        folder=str(folder),
        examples={split: sum(index.shard_sizes) for split, index in indexes.items()},
        hours={split: index.seconds / 3600 for split, index in indexes.items()},
        damaged=tuple(damaged),
        leaks=tuple(seen.leaks),
        nameless=seen.nameless,
    )


def _unindexed(folder: Path, single: Sequence[ShardIndex]) -> list[str]:
    named = {index.entries[0].shard for index in single}
    return [
        f"{path}: is not in the index; mix again"
        for path in sorted(folder.glob("*.tar"))
        if path.name not in named and _SHARD_NAME.fullmatch(path.name)
    ]


def _shard_facts(index: ShardIndex) -> _ShardFacts:
    """Ray task: verify one shard and read what its examples are made of."""
    try:
        damaged = verify(index)
        return _ShardFacts(damaged, [] if damaged else list(_names(index)))
    except (InputError, OSError) as error:
        return _ShardFacts([str(error)], [])


def _names(index: ShardIndex) -> Iterator[dict[str, list[str]]]:
    (entry,) = index.entries
    with (index.folder / entry.shard).open("rb") as file:
        for example in entry.examples:
            file.seek(example.json.offset)
            meta = json.loads(file.read(example.json.length))
            clips = {name for key in ("speech", "noise") if isinstance(name := meta.get(key), str)}
            clips.update(name for key in _SOURCES for name in _clips(meta.get(key)))
            yield {
                "example": [example.example_id],
                "speaker": [f"{entry.corpus}/{meta['speaker']}"] if meta.get("speaker") else [],
                "clip": sorted(clips),
            }


def _clips(value: Any) -> Iterator[str]:
    """Every clip id in nested values."""
    if isinstance(value, Mapping):
        if isinstance(value.get("clip"), str):
            yield value["clip"]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from _clips(one)


class _Seen:
    """Where each name was first seen, and which were seen in another split again."""

    def __init__(self, recordings: Mapping[str, tuple[str, str]]) -> None:
        self._recordings = recordings
        self._first: dict[tuple[str, str], tuple[str, str]] = {}
        self._told: set[tuple[str, str, str]] = set()
        self.leaks: list[str] = []
        self.nameless = 0

    def add(self, split: str, names: Mapping[str, list[str]]) -> None:
        (example,) = names["example"]
        self.nameless += not names["speaker"]
        units = dict(names)
        known = {self._recordings[clip] for clip in names["clip"] if clip in self._recordings}
        for kind, name in sorted(known):
            units.setdefault(f"{kind} recording", []).append(name)
        for unit, values in units.items():
            for value in values:
                first_split, first_example = self._first.setdefault((unit, value), (split, example))
                if first_split != split and (unit, value, split) not in self._told:
                    self._told.add((unit, value, split))
                    self.leaks.append(
                        f"{unit} {value} is in {first_split} ({first_example}) and in {split} ({example})"
                    )
