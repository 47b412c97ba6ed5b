"""Check of a folder of shards: intact, and no example, speaker, clip or recording in two splits."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipelines.core.pool import map_unordered
from pipelines.inspection.check_report import Counts, Finding, Section, Severity, counted
from rwsa.corpora.manifest import Manifest
from rwsa.errors import InputError
from rwsa.files import sha256_of
from rwsa.shards import ShardReader, verify
from rwsa.shards.index import INDEX_NAME, TABLE_NAME, ShardIndex, index_sha256, read_index, shard_name

_SHARD_NAME = re.compile(r"([a-z0-9_]+)-[0-9]{6}\.tar")
# Keys of an example's JSON with sources, nested to any depth, each with a clip id.
_SOURCES = ("more_speech", "noises", "room")


def check_shards(folder: Path, manifests: Sequence[Manifest] = (), *, workers: int | None = None) -> Section:
    """Recompute all checksums of a folder, and compare the sources of its splits.

    Args:
        folder: with `index.json`.
        manifests: of the corpora that the shards were mixed from, if known; they map clips to
            recordings.
        workers: see `pipelines.core.pool.map_unordered`.

    Raises:
        InputError: the folder holds no shards.
    """
    splits = sorted(
        {match[1] for path in folder.glob("*.tar") if (match := _SHARD_NAME.fullmatch(path.name))}
    )
    if not splits:
        raise InputError(f"{folder}: holds no shards (SPLIT-000000.tar); name a folder of shards")
    damaged: list[str] = []
    indexes: dict[str, ShardIndex] = {}
    for split in splits:
        try:
            indexes[split] = read_index(folder, split)
        except InputError as error:
            damaged.append(str(error))
    if indexes and sha256_of(folder / INDEX_NAME) != index_sha256(folder):
        damaged.append(f"{folder / TABLE_NAME}: belongs to another {INDEX_NAME}; delete it, or mix again")
    single = [
        dataclasses.replace(index, entries=index.entries[number : number + 1])
        for index in indexes.values()
        for number in range(len(index.entries))
    ]
    indexed = {
        shard_name(index.split, int(number)) for index in indexes.values() for number in index.entries.numbers
    }
    damaged += [
        f"{path}: is not in the index; mix again"
        for path in sorted(folder.glob("*.tar"))
        if path.name not in indexed and _SHARD_NAME.fullmatch(path.name)
    ]
    # Speech is split by speaker; the recording that a speech file names does not matter.
    recordings = {
        clip.clip_id: (clip.kind, f"{manifest.card}/{clip.recording}")
        for manifest in manifests
        for clip in manifest.clips
        if clip.recording and clip.kind != "speech"
    }
    sources = _SplitSources(recordings)
    results = dict(map_unordered(_verify_shard, single, workers=workers))
    for number, index in enumerate(single):
        shard_damage, examples = results[number]
        damaged += shard_damage
        for names in examples:
            sources.add(index.split, names)
    counts = tuple(
        Counts(split=split, kind="examples", files=sum(index.shard_sizes), hours=index.seconds / 3600)
        for split, index in indexes.items()
    )
    checksums = Finding(
        check="checksums",
        severity=Severity.ERROR if damaged else Severity.OK,
        summary=f"{len(damaged):,} damaged (checksums of bytes and samples)",
        details=tuple(damaged),
    )
    findings = (checksums, _splits(sources, splits=len(indexes), with_recordings=bool(manifests)))
    return Section(title=f"shards {folder}", counts=counts, findings=findings)


def _splits(sources: _SplitSources, *, splits: int, with_recordings: bool) -> Finding:
    unchecked = sources.without_speaker > 0 and splits > 1
    units = "example, speaker, clip or recording" if with_recordings else "example, speaker or clip"
    summary = f"{len(sources.leaks) or 'no'} {units} in two splits"
    if sources.without_speaker:
        summary += f"; {counted(sources.without_speaker, 'example')} without a speaker"
    if unchecked:
        summary += ", compared by clips only"
    return Finding(
        check="splits",
        severity=Severity.ERROR if sources.leaks else Severity.WARNING if unchecked else Severity.OK,
        summary=summary,
        details=tuple(sources.leaks),
    )


def _verify_shard(index: ShardIndex) -> tuple[list[str], list[dict[str, list[str]]]]:
    """Verify one shard in a Ray task: its damage, and the names of every example's sources."""
    try:
        damaged = verify(index)
        return damaged, [] if damaged else list(_source_names(index))
    except (InputError, OSError) as error:
        return [str(error)], []


def _source_names(index: ShardIndex) -> Iterator[dict[str, list[str]]]:
    (entry,) = index.entries
    with ShardReader(index, max_open=1) as reader:
        for example, meta in reader.metadata(0):
            clips = {name for key in ("speech", "noise") if isinstance(name := meta.get(key), str)}
            clips.update(name for key in _SOURCES for name in _clip_ids(meta.get(key)))
            yield {
                "example": [example.example_id],
                "speaker": [f"{entry.corpus}/{meta['speaker']}"] if meta.get("speaker") else [],
                "clip": sorted(clips),
            }


def _clip_ids(value: Any) -> Iterator[str]:
    """All clip ids in nested values."""
    if isinstance(value, Mapping):
        if isinstance(value.get("clip"), str):
            yield value["clip"]
        value = list(value.values())
    if isinstance(value, list):
        for inner in value:
            yield from _clip_ids(inner)


class _SplitSources:
    """Collects the sources of every split and finds those in two splits.

    Attributes:
        leaks: one line per example id, speaker, clip or recording in two splits.
        without_speaker: examples that have no speaker label, for which only clips are compared.
    """

    def __init__(self, recordings: Mapping[str, tuple[str, str]]) -> None:
        """`recordings` maps a clip id to the kind and name of its recording."""
        self._recordings = recordings
        self._first: dict[tuple[str, str], tuple[str, str]] = {}
        self._reported: set[tuple[str, str, str]] = set()
        self.leaks: list[str] = []
        self.without_speaker = 0

    def add(self, split: str, names: Mapping[str, list[str]]) -> None:
        (example,) = names["example"]
        self.without_speaker += not names["speaker"]
        units = dict(names)
        known = {self._recordings[clip] for clip in names["clip"] if clip in self._recordings}
        for kind, name in sorted(known):
            units.setdefault(f"{kind} recording", []).append(name)
        for unit, values in units.items():
            for value in values:
                first_split, first_example = self._first.setdefault((unit, value), (split, example))
                if first_split != split and (unit, value, split) not in self._reported:
                    self._reported.add((unit, value, split))
                    self.leaks.append(
                        f"{unit} {value} is in {first_split} ({first_example}) and in {split} ({example})"
                    )
