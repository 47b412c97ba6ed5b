"""The index of a folder of shards: one entry file per tar, and `index.json`, their sorted merge.

Many writers cannot safely append to one file, so each shard has its own entry file. `index.json` only
merges them; it contains no times and no absolute paths. Each line is one shard. The table beside it
(`rwsa.shards.table`) lets a reader find the line of a shard without reading the others.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import platform
from collections.abc import Container, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from rwsa.errors import InputError
from rwsa.files import StoragePath, atomic_write, is_remote, store_errors
from rwsa.shards.entries import (
    SCHEMA_VERSION,
    Failure,
    ShardEntry,
    entry_or_none,
    entry_path,
    entry_paths,
    entry_values,
    parse_line,
    read_entry,
    shard_name,
    write_entry,
)
from rwsa.shards.storage import open_regular
from rwsa.shards.table import (
    LINE_BYTES,
    TABLE_NAME,
    IndexTable,
    ShardEntries,
    TableWriter,
    read_table,
    table_bytes,
)

__all__ = [
    "INDEX_NAME",
    "SAME_BYTES",
    "SCHEMA_VERSION",
    "TABLE_NAME",
    "Failure",
    "ShardEntry",
    "ShardIndex",
    "entry_or_none",
    "entry_path",
    "entry_paths",
    "index_sha256",
    "index_splits",
    "made_alike",
    "made_with",
    "merge_index",
    "read_entry",
    "read_index",
    "shard_name",
    "write_entry",
]

INDEX_NAME = "index.json"
_PACKAGES = ("rwsa", "numpy", "soundfile", "soxr", "audiomentations", "webdataset")
# Versions of rwsa that mix the same plan into the same bytes as this one.
SAME_BYTES = ("0.1.0", "0.2.0")
# Threads hide the latency of a store.
_ENTRY_THREADS = 16
_END = b"]}\n"


@dataclass(frozen=True, kw_only=True)
class ShardIndex:
    """The shards of one split, in the order of their numbers.

    Attributes:
        corpora, recipe_hashes: of all shards, sorted, each once; empty strings for those without.
    """

    folder: StoragePath
    split: str
    sample_rate_hz: int
    corpora: tuple[str, ...]
    recipe_hashes: tuple[str, ...]
    entries: ShardEntries

    @property
    def shard_sizes(self) -> tuple[int, ...]:
        """Number of examples in each shard."""
        return tuple(self.entries.examples.tolist())

    @property
    def planned_sizes(self) -> tuple[int, ...]:
        """Number of examples planned for each shard, including failures; for `rwsa.shards.sampling.Order`.

        They depend only on the plan, so mixing it online gives the same order.
        """
        return tuple(self.entries.planned.tolist())

    def locate(self, number: int) -> tuple[int, int]:
        """Shard and index within it of an example numbered over all shards; for `ShardReader.read`."""
        sizes = self.entries.examples.astype(np.int64)
        ends = np.cumsum(sizes)
        shard = int(np.searchsorted(ends, number, side="right"))
        return shard, int(number - ends[shard] + sizes[shard])

    @property
    def seconds(self) -> float:
        return self.entries.seconds


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


def merge_index(folder: StoragePath, *, without: Container[str] = ()) -> StoragePath:
    """Write `index.json`, the sorted merge of the entries in `folder`, and its table; returns its path.

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
    return write_index(folder, _entries(paths))


def write_index(folder: StoragePath, entries: Iterator[ShardEntry]) -> StoragePath:
    """Write `index.json` and its table from entries that are sorted by name; returns its path.

    Raises:
        InputError: the folder is not writable.
    """
    index, table = folder / INDEX_NAME, TableWriter()
    # The index appears last: a table without it, or beside another one, is not used.
    with atomic_write(index) as temporary:
        with temporary.open("wb") as file:

            def write(text: bytes) -> None:
                table.add_text(text)
                file.write(text)

            write(f'{{"schema_version": {SCHEMA_VERSION}, "shards": ['.encode())
            for number, entry in enumerate(entries):
                write(b",\n" if number else b"\n")
                line = json.dumps(entry_values(entry), sort_keys=True).encode()
                table.add_entry(line, entry)
                file.write(line)
            write(b"\n" + _END)
        with atomic_write(folder / TABLE_NAME) as rows:
            rows.write_bytes(table_bytes(table.table()))
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
    """Find the shards of one split in `index.json`; their entries are read when they are used.

    Raises:
        InputError: there is no index, it is damaged, or it has no such split.
    """
    path, table = folder / INDEX_NAME, _table(folder)
    if split not in table.splits:
        raise InputError(f"{path}: has no split '{split}', only {sorted(table.splits)}")
    found = table.splits[split]
    if len(found.sample_rates_hz) != 1:
        raise InputError(
            f"{path}: split '{split}' mixes sample rates {list(found.sample_rates_hz)};"
            " mix it again from one recipe"
        )
    return ShardIndex(
        folder=folder,
        split=split,
        sample_rate_hz=found.sample_rates_hz[0],
        corpora=found.corpora,
        recipe_hashes=found.recipe_hashes,
        entries=ShardEntries(path, split, found.rows),
    )


def index_splits(folder: StoragePath) -> list[str]:
    """The names of the splits in the index of `folder`, sorted.

    Raises:
        InputError: there is no index, or it is damaged.
    """
    return sorted(_table(folder).splits)


def index_sha256(folder: StoragePath) -> str:
    """SHA-256 of the index of `folder`, which identifies its shards.

    Raises:
        InputError: there is no index, or it is damaged.
    """
    return _table(folder).index_sha256


def _table(folder: StoragePath) -> IndexTable:
    path = folder / INDEX_NAME
    try:
        with store_errors(path):
            return read_table(path) or _table_of(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such index; create it with python -m pipelines.mix_shards --out {folder}"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error


def _table_of(path: StoragePath) -> IndexTable:
    """The table of an index without one, from every entry."""
    table, last = TableWriter(), b""
    with open_regular(path) as file:
        first = file.readline(1024)
        if not first.endswith(b', "shards": [\n'):
            raise InputError(f"{path}: not an index of shards written by this program; mix again")
        table.add_text(first)
        while last != _END and (last := file.readline(LINE_BYTES)):
            if last == _END:
                table.add_text(last)
                continue
            line = last.removesuffix(b"\n").removesuffix(b",")
            table.add_entry(line, parse_line(line, path))
            table.add_text(last[len(line) :])
        if last != _END:
            raise InputError(f"{path}: is truncated; mix again")
        if file.read(1):
            raise InputError(f"{path}: goes on after its end; mix again")
    made = table.table()
    for split, found in made.splits.items():
        if np.any(np.diff(found.rows["number"].astype(np.int64)) == 0):
            raise InputError(f"{path}: lists a shard of split '{split}' twice; mix again")
    return made
