"""The index of a folder of shards: one entry per tar, and `index.json`, their sorted merge.

Many writers cannot append to one file safely, so each shard has an entry of its own beside it.
`index.json` adds nothing to them but one file to open; it holds no times and no absolute paths.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import soundfile

from rwsa.errors import InputError
from rwsa.files import read_json, write_json, written_aside

SCHEMA_VERSION = 1
INDEX_NAME = "index.json"
_PACKAGES = ("rwsa", "numpy", "soundfile", "soxr", "audiomentations", "webdataset")
_ENTRY_NAME = re.compile(r"[a-z0-9_]+-\d{6}\.json")


class Member(NamedTuple):
    """Where the bytes of one tar member lie, and their CRC-32."""

    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleEntry:
    """An example's place in its tar."""

    example_id: str
    samples: int
    noisy: Member
    clean: Member
    json: Member


@dataclass(frozen=True, kw_only=True)
class Failure:
    """An example that was planned but could not be made, and why."""

    example_id: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """What `SPLIT-000123.json` says about the tar beside it.

    Attributes:
        shard: the tar's file name.
        sha256: of the tar's bytes.
        samples_sha256: of the ids and decoded 16-bit samples; survives a new FLAC encoder.
        seconds: duration of all examples.
        corpus: name of the corpus card that the sources came from; empty if there was none.
        recipe_hash: of the recipe that made it; empty if there was none.
        plan_hash: of the plan rows that it was rendered from; empty if there were none.
        made_with: package versions and CPU family; the bytes repeat only under the same.
        failures: examples that are missing from the tar.
    """

    schema_version: int
    shard: str
    split: str
    number: int
    bytes: int
    sha256: str
    samples_sha256: str
    sample_rate_hz: int
    seconds: float
    corpus: str
    recipe_hash: str
    plan_hash: str
    made_with: Mapping[str, str]
    examples: tuple[ExampleEntry, ...]
    failures: tuple[Failure, ...]


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The shards of one split, in the order of their numbers."""

    folder: Path
    split: str
    entries: tuple[ShardEntry, ...]

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Examples in each shard: what `rwsa.sampling.Order` takes."""
        return tuple(len(entry.examples) for entry in self.entries)

    @property
    def sample_rate_hz(self) -> int:
        return self.entries[0].sample_rate_hz

    @property
    def seconds(self) -> float:
        return sum(entry.seconds for entry in self.entries)


def shard_name(split: str, number: int) -> str:
    """`SPLIT-000123.tar`."""
    return f"{split}-{number:06d}.tar"


def entry_path(folder: Path, split: str, number: int) -> Path:
    """Path of a shard's entry, `SPLIT-000123.json`."""
    return (folder / shard_name(split, number)).with_suffix(".json")


def made_with() -> dict[str, str]:
    """Package versions and CPU family, under which the same plan gives the same bytes."""
    return dict(_versions())


@functools.cache
def _versions() -> dict[str, str]:
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {**versions, "libsndfile": soundfile.__libsndfile_version__, "cpu": _cpu_family()}


def _cpu_family() -> str:
    wanted = ("vendor_id", "cpu family", "model")
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().partition("\n\n")[0].splitlines() if cpuinfo.is_file() else []
    found = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    return " ".join([platform.machine(), *(found[key] for key in wanted if key in found)])


def write_entry(folder: Path, entry: ShardEntry) -> None:
    """Write a shard's entry, atomically.

    Raises:
        InputError: the folder is not writable or full.
    """
    write_json(entry_path(folder, entry.split, entry.number), _as_mapping(entry))


def read_entry(path: Path) -> ShardEntry:
    """Read one shard's entry.

    Raises:
        InputError: it is missing, damaged or of another schema version.
    """
    return _from_mapping(read_json(path), path)


def merge_index(folder: Path) -> Path:
    """Write `index.json`, the sorted merge of all entries in `folder`; returns its path.

    Raises:
        InputError: there are no entries, one is damaged, or the folder is not writable.
    """
    names = sorted(path for path in folder.glob("*.json") if _ENTRY_NAME.fullmatch(path.name))
    if not names:
        raise InputError(
            f"{folder}: holds no shards (SPLIT-000000.tar with SPLIT-000000.json); mix some first"
        )
    entries = [_as_mapping(read_entry(path)) for path in names]
    index = folder / INDEX_NAME
    with written_aside(index) as aside:
        text = json.dumps({"schema_version": SCHEMA_VERSION, "shards": entries}, sort_keys=True)
        aside.write_text(text + "\n", encoding="utf-8")
    return index


def read_index(folder: Path, split: str) -> ShardIndex:
    """Read the shards of one split from `index.json`.

    Raises:
        InputError: there is no index, it is damaged, or it has no such split.
    """
    path = folder / INDEX_NAME
    if not path.is_file():
        raise InputError(f"{path}: no such index; make it with python -m pipelines.mix_shards --out {folder}")
    values = read_json(path)
    if not isinstance(values, dict) or not isinstance(values.get("shards"), list):
        raise InputError(f"{path}: not an index of shards; delete it and mix again")
    every = [_from_mapping(shard, path) for shard in values["shards"]]
    entries = sorted((entry for entry in every if entry.split == split), key=lambda entry: entry.number)
    if not entries:
        raise InputError(f"{path}: has no split '{split}', only {sorted({entry.split for entry in every})}")
    rates = {entry.sample_rate_hz for entry in entries}
    if len(rates) > 1:
        raise InputError(
            f"{path}: split '{split}' mixes sample rates {sorted(rates)}; mix it again from one recipe"
        )
    return ShardIndex(folder=folder, split=split, entries=tuple(entries))


def _as_mapping(entry: ShardEntry) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    # One flat row an example: the index of a thousand hours stays near 100 bytes an example.
    values["examples"] = [[e.example_id, e.samples, *e.noisy, *e.clean, *e.json] for e in entry.examples]
    values["failures"] = [dataclasses.asdict(failure) for failure in entry.failures]
    return values


def _from_mapping(values: Any, where: Path) -> ShardEntry:
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(f"{where}: schema version {version}, this program reads {SCHEMA_VERSION}; mix again")
    try:
        examples = tuple(_example(row) for row in values["examples"])
        failures = tuple(Failure(**failure) for failure in values["failures"])
        return ShardEntry(**{**values, "examples": examples, "failures": failures})
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{where}: not a shard entry ({error!r}); delete it and mix again") from error


def _example(row: list[Any]) -> ExampleEntry:
    name, samples, *places = row
    noisy, clean, meta = (Member(*places[at : at + 3]) for at in (0, 3, 6))
    return ExampleEntry(example_id=name, samples=samples, noisy=noisy, clean=clean, json=meta)
