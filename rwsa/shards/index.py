"""The index of a folder of shards: one entry file per tar, and `index.json`, their sorted merge.

Many writers cannot safely append to one file, so each shard has its own entry file. `index.json` only
merges them; it contains no times and no absolute paths. Each line is one shard, so a reader of a million
examples needs little more memory than their columns.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import json
import platform
import re
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from rwsa.errors import InputError, UnreachableError
from rwsa.files import StoragePath, atomic_write, is_remote, list_folder, read_json, store_errors, write_json
from rwsa.shards.examples import Examples

SCHEMA_VERSION = 2
INDEX_NAME = "index.json"
_PACKAGES = ("rwsa", "numpy", "soundfile", "soxr", "audiomentations", "webdataset")
# Versions of rwsa that mix the same plan into the same bytes as this one.
SAME_BYTES = ("0.1.0", "0.2.0")
_ENTRY_NAME = re.compile(r"[a-z0-9_]+-\d{6}\.json")
# Threads hide the latency of a store.
_ENTRY_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A planned example that could not be made, and the reason.

    `slot` is its position among the examples planned for the shard, set by `rwsa.shards.write_shard`.
    """

    example_id: str
    reason: str
    slot: int | None = None


@dataclass(frozen=True, kw_only=True)
class ShardEntry:
    """The contents of `SPLIT-000123.json`: the description of one tar.

    Attributes:
        shard: file name of the tar.
        sha256: checksum of the tar.
        samples_sha256: checksum of the ids and decoded 16-bit samples, independent of the FLAC encoder.
        seconds: total duration of the examples.
        corpus: name of the corpus card; empty if there was none.
        recipe_hash: hash of the recipe; empty if there was none.
        plan_hash: hash of the rendered plan rows; empty if there were none.
        made_with: package versions and CPU family; only the same ones reproduce the bytes.
        failures: planned examples that are missing from the tar.
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
    examples: Examples
    failures: tuple[Failure, ...]

    @property
    def planned(self) -> int:
        """Number of examples planned for the shard, including failures."""
        return len(self.examples) + len(self.failures)

    def at_slot(self, slot: int) -> int | Failure:
        """The number in the tar of the example planned for `slot`, or its failure."""
        before = 0
        for failure in self.failures:
            if failure.slot == slot:
                return failure
            before += failure.slot is not None and failure.slot < slot
        return slot - before


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The shards of one split, in the order of their numbers."""

    folder: StoragePath
    split: str
    entries: tuple[ShardEntry, ...]

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Number of examples in each shard."""
        return tuple(len(entry.examples) for entry in self.entries)

    @property
    def planned_sizes(self) -> tuple[int, ...]:
        """Number of examples planned for each shard, including failures; for `rwsa.shards.sampling.Order`.

        They depend only on the plan, so mixing it online gives the same order.
        """
        return tuple(entry.planned for entry in self.entries)

    def locate(self, number: int) -> tuple[int, int]:
        """Shard and index within it of an example numbered over all shards; for `ShardReader.read`."""
        sizes = self.shard_sizes
        ends = np.cumsum(sizes)
        shard = int(np.searchsorted(ends, number, side="right"))
        return shard, number - int(ends[shard]) + sizes[shard]

    @property
    def sample_rate_hz(self) -> int:
        return self.entries[0].sample_rate_hz

    @property
    def seconds(self) -> float:
        return sum(entry.seconds for entry in self.entries)


def shard_name(split: str, number: int) -> str:
    """`SPLIT-000123.tar`."""
    return f"{split}-{number:06d}.tar"


def entry_path(folder: StoragePath, split: str, number: int) -> StoragePath:
    """Path of a shard's entry, `SPLIT-000123.json`."""
    return (folder / shard_name(split, number)).with_suffix(".json")


def made_with() -> dict[str, str]:
    """Package versions and CPU family; with the same ones, the same plan gives the same bytes."""
    return dict(_versions())


def made_alike(recorded: Mapping[str, str]) -> bool:
    """Whether `made_with` of a shard stands for the same bytes as ours; of rwsa see `SAME_BYTES`."""

    def deciding(versions: Mapping[str, str]) -> dict[str, str]:
        rwsa = SAME_BYTES[0] if versions.get("rwsa") in SAME_BYTES else versions.get("rwsa", "")
        return {**versions, "cpu": "", "rwsa": rwsa}

    return deciding(recorded) == deciding(made_with())


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


def write_entry(folder: StoragePath, entry: ShardEntry) -> None:
    """Write a shard's entry, atomically.

    Raises:
        InputError: the folder is not writable or full.
    """
    write_json(entry_path(folder, entry.split, entry.number), _as_mapping(entry))


def read_entry(path: StoragePath) -> ShardEntry:
    """Read one shard's entry.

    Raises:
        InputError: it is missing, damaged or of another schema version.
    """
    return _from_mapping(read_json(path), path)


def entry_or_none(path: StoragePath) -> ShardEntry | None:
    """Read one shard's entry; None if it is missing or damaged, so that the shard must be made again.

    Raises:
        UnreachableError: the store refused or is unreachable.
    """
    try:
        return read_entry(path)
    except UnreachableError:
        raise
    except InputError:
        return None


def entry_paths(folder: StoragePath) -> dict[str, list[StoragePath]]:
    """The paths of the entries in `folder`: split -> sorted by number.

    Raises:
        InputError: the store of the folder cannot be reached.
    """
    splits: dict[str, list[StoragePath]] = {}
    for path in list_folder(folder):
        if _ENTRY_NAME.fullmatch(path.name):
            splits.setdefault(path.name.rpartition("-")[0], []).append(path)
    return splits


def merge_index(folder: StoragePath, *, without: Container[str] = ()) -> StoragePath:
    """Write `index.json`, the sorted merge of the entries in `folder`; returns its path.

    Args:
        folder: folder of shards.
        without: splits to leave out, such as incomplete ones.

    Raises:
        InputError: there are no entries, one is damaged, or the folder is not writable.
    """
    splits = entry_paths(folder).items()
    paths = sorted(
        (path for split, paths in splits if split not in without for path in paths),
        key=lambda path: path.name,
    )
    if not paths:
        raise InputError(
            f"{folder}: holds no shards (SPLIT-000000.tar with SPLIT-000000.json); mix some first"
        )
    index = folder / INDEX_NAME
    with atomic_write(index) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(f'{{"schema_version": {SCHEMA_VERSION}, "shards": [')
        for number, entry in enumerate(_entries(paths)):
            file.write((",\n" if number else "\n") + json.dumps(_as_mapping(entry), sort_keys=True))
        file.write("\n]}\n")
    return index


def _entries(paths: Sequence[StoragePath]) -> Iterator[ShardEntry]:
    """Read entries, from a store several at a time with limited read-ahead."""
    if not is_remote(paths[0]):
        yield from map(read_entry, paths)
        return
    with ThreadPoolExecutor(_ENTRY_THREADS) as pool:
        for at in range(0, len(paths), 16 * _ENTRY_THREADS):
            yield from pool.map(read_entry, paths[at : at + 16 * _ENTRY_THREADS])


def read_index(folder: StoragePath, split: str) -> ShardIndex:
    """Read the shards of one split from `index.json`.

    Raises:
        InputError: there is no index, it is damaged, or it has no such split.
    """
    path = folder / INDEX_NAME
    try:
        with store_errors(path):
            splits, entries = _read_lines(path, split)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such index; create it with python -m pipelines.mix_shards --out {folder}"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not entries:
        raise InputError(f"{path}: has no split '{split}', only {sorted(splits)}")
    rates = {entry.sample_rate_hz for entry in entries}
    if len(rates) > 1:
        raise InputError(
            f"{path}: split '{split}' mixes sample rates {sorted(rates)}; mix it again from one recipe"
        )
    entries.sort(key=lambda entry: entry.number)
    return ShardIndex(folder=folder, split=split, entries=tuple(entries))


def _read_lines(path: StoragePath, split: str) -> tuple[set[str], list[ShardEntry]]:
    """The names of all splits of an index and the entries of one, read line by line."""
    splits, entries, last = set[str](), list[ShardEntry](), ""
    with path.open("r", encoding="utf-8") as file:
        try:
            first = file.readline()
            if not first.endswith(', "shards": [\n'):
                raise InputError(f"{path}: not an index of shards written by this program; mix again")
            for line in file:
                last = line
                if line == "]}\n":
                    break
                values = json.loads(line.removesuffix("\n").removesuffix(","))
                splits.add(str(values.get("split")))
                if values.get("split") == split or values.get("schema_version") != SCHEMA_VERSION:
                    entries.append(_from_mapping(values, path))
        except (AttributeError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise InputError(f"{path}: not a readable index ({error}); mix again") from error
    if last != "]}\n":
        raise InputError(f"{path}: is truncated; mix again")
    return splits, entries


def _as_mapping(entry: ShardEntry) -> dict[str, Any]:
    values = {field.name: getattr(entry, field.name) for field in dataclasses.fields(entry)}
    # One flat row per example, for an index of about 100 bytes per example.
    values["examples"] = entry.examples.rows()
    values["failures"] = [dataclasses.asdict(failure) for failure in entry.failures]
    return values


def _from_mapping(values: Any, where: StoragePath) -> ShardEntry:
    version = values.get("schema_version") if isinstance(values, dict) else None
    if version != SCHEMA_VERSION:
        raise InputError(
            f"{where}: schema version {version}, but this program reads {SCHEMA_VERSION}; mix again"
        )
    try:
        examples = Examples.of_rows(values["examples"])
        failures = tuple(Failure(**failure) for failure in values["failures"])
        return ShardEntry(**{**values, "examples": examples, "failures": failures})
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"{where}: not a shard entry ({error!r}); delete it and mix again") from error
