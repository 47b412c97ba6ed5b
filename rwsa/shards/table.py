"""The table of an index: where in `index.json` the entry of each shard is, and its sizes.

`index.json` grows by 110 bytes an example, to a gigabyte for ten million. The table, `index.table`, takes 68
bytes a shard: a line with the format and the CRC-32 of what follows, a line of JSON with the splits, then one
row of `_ROW` per shard, by split and number. With it a reader knows every size at once, and reads the entry
of a shard when it needs its examples. The table is derived: without it, or with one that does not fit
`index.json`, it is made in memory from all entries.
"""

from __future__ import annotations

import hashlib
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, overload

import numpy as np

from rwsa.errors import InputError, UnreachableError
from rwsa.files import StoragePath
from rwsa.shards.entries import ShardEntry, parse_line
from rwsa.shards.storage import file_bytes, read_range

TABLE_NAME = "index.table"
_FORMAT = b"rwsa index table 1 crc32 "
_ROW = np.dtype(
    [
        ("offset", "<u8"),  # of the entry's line in index.json
        ("length", "<u4"),
        ("crc32", "<u4"),
        ("number", "<u4"),
        ("examples", "<u4"),
        ("planned", "<u4"),
        ("seconds", "<f8"),
        ("samples_sha256", "V32"),
    ]
)
# A shard of 64 examples has 7 kB.
LINE_BYTES = 1 << 28
# The shortest failure takes this in index.json, the shortest example more.
_PLANNED_BYTES = 16
_CHUNK_BYTES = 8 << 20
_CACHED_ENTRIES = 32

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SplitTable:
    """The rows of a split's shards, and the values that they share.

    Attributes:
        rows: of `_ROW`, by number.
        sample_rates_hz, corpora, recipe_hashes: sorted, each once.
    """

    rows: np.ndarray
    sample_rates_hz: tuple[int, ...]
    corpora: tuple[str, ...]
    recipe_hashes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class IndexTable:
    """The table of an index: its size and SHA-256, and its splits by name."""

    index_bytes: int
    index_sha256: str
    splits: Mapping[str, SplitTable]


class TableWriter:
    """Collects the rows of a table while an index is written or read line by line."""

    def __init__(self) -> None:
        self._rows: dict[str, list[tuple[Any, ...]]] = {}
        self._shared: dict[str, tuple[set[int], set[str], set[str]]] = {}
        self._digest, self._bytes = hashlib.sha256(), 0

    def add_text(self, text: bytes) -> None:
        """Count bytes of the index between its entries."""
        self._digest.update(text)
        self._bytes += len(text)

    def add_entry(self, line: bytes, entry: ShardEntry) -> None:
        """Add an entry with the bytes of its JSON in the index, without comma and line end."""
        self._rows.setdefault(entry.split, []).append(
            (
                self._bytes,
                len(line),
                zlib.crc32(line),
                entry.number,
                len(entry.examples),
                entry.planned,
                entry.seconds,
                bytes.fromhex(entry.samples_sha256),
            )
        )
        rates, corpora, recipes = self._shared.setdefault(entry.split, (set(), set(), set()))
        rates.add(entry.sample_rate_hz)
        corpora.add(entry.corpus)
        recipes.add(entry.recipe_hash)
        self.add_text(line)

    def table(self) -> IndexTable:
        """The table of the entries so far."""
        splits = {}
        for split, rows in self._rows.items():
            array = np.array(rows, dtype=_ROW)
            rates, corpora, recipes = self._shared[split]
            splits[split] = SplitTable(
                rows=array[np.argsort(array["number"], kind="stable")],
                sample_rates_hz=tuple(sorted(rates)),
                corpora=tuple(sorted(corpora)),
                recipe_hashes=tuple(sorted(recipes)),
            )
        return IndexTable(index_bytes=self._bytes, index_sha256=self._digest.hexdigest(), splits=splits)


def table_bytes(table: IndexTable) -> bytes:
    """The contents of `index.table`."""
    rows = b"".join(split.rows.tobytes() for split in table.splits.values())
    header = {
        "index_bytes": table.index_bytes,
        "index_sha256": table.index_sha256,
        "splits": [
            {
                "split": name,
                "shards": len(split.rows),
                "sample_rates_hz": split.sample_rates_hz,
                "corpora": split.corpora,
                "recipe_hashes": split.recipe_hashes,
            }
            for name, split in table.splits.items()
        ],
    }
    contents = json.dumps(header, sort_keys=True).encode() + b"\n" + rows
    return _FORMAT + b"%08x\n" % zlib.crc32(contents) + contents


def read_table(index: StoragePath) -> IndexTable | None:
    """The table beside `index`; None if there is none, or it is damaged or of another index.

    Raises:
        OSError: the index is missing.
        UnreachableError: the store refused or could not be reached.
    """
    path, index_bytes = index.with_name(TABLE_NAME), file_bytes(index)
    try:
        # A row is shorter than the entry that it describes.
        data = read_range(path, 0, min(file_bytes(path), index_bytes + (1 << 16)))
    except FileNotFoundError:
        return None
    except (OSError, UnreachableError) as error:  # some stores refuse what is missing
        _log.warning("%s: cannot be read (%s); reading all of %s", path, error, index.name)
        return None
    try:
        return _parse(data, index_bytes)
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        _log.warning("%s: is not the table of %s (%.200s); reading all of that", path, index.name, error)
        return None


def _parse(data: bytes, index_bytes: int) -> IndexTable:
    first, _, contents = data.partition(b"\n")
    header_line, _, rows = contents.partition(b"\n")
    if first != _FORMAT + b"%08x" % zlib.crc32(contents) or len(rows) % _ROW.itemsize:
        raise ValueError("it is damaged")
    header = json.loads(header_line)
    if header["index_bytes"] != index_bytes:
        raise ValueError("it belongs to another index")
    array, at, splits = np.frombuffer(rows, dtype=_ROW), 0, {}
    for values in header["splits"]:
        shards, name = values["shards"], str(values["split"])
        if not isinstance(shards, int) or not 0 < shards <= len(array) - at or name in splits:
            raise ValueError("its rows and splits differ")
        splits[name] = SplitTable(
            rows=array[at : at + shards],
            sample_rates_hz=tuple(sorted(map(int, values["sample_rates_hz"]))),
            corpora=tuple(sorted(map(str, values["corpora"]))),
            recipe_hashes=tuple(sorted(map(str, values["recipe_hashes"]))),
        )
        _check_rows(splits[name].rows, index_bytes)
        at += shards
    if at != len(array) or not splits:
        raise ValueError("its rows and splits differ")
    return IndexTable(index_bytes=index_bytes, index_sha256=str(header["index_sha256"])[:64], splits=splits)


def _check_rows(rows: np.ndarray, index_bytes: int) -> None:
    """Raise a ValueError unless the rows are of separate lines, long enough for their examples."""
    starts = np.minimum(rows["offset"], np.uint64(1 << 62)).astype(np.int64)
    ends = starts + rows["length"]
    fits = (
        ends[-1] <= index_bytes
        and np.all(starts[1:] > ends[:-1])
        and np.all(rows["length"] <= LINE_BYTES)
        and np.all(np.diff(rows["number"].astype(np.int64)) > 0)
        and np.all(rows["examples"] <= rows["planned"])
        and np.all(rows["planned"].astype(np.int64) * _PLANNED_BYTES <= rows["length"])
        and np.all(np.isfinite(rows["seconds"]) & (rows["seconds"] >= 0))
    )
    if not fits:
        raise ValueError("its rows are impossible")


class ShardEntries(Sequence[ShardEntry]):
    """The entries of a split, each read from `index.json` and checked when it is used.

    May be shared by threads, pickled and inherited by a fork. The last `cached` entries stay in memory.

    Attributes:
        numbers: the number of each shard.
        examples, planned: number of examples in each shard, without and with failures.
        seconds: total duration.
    """

    def __init__(
        self, index: StoragePath, split: str, rows: np.ndarray, *, cached: int = _CACHED_ENTRIES
    ) -> None:
        self._index, self._split, self._rows, self.cached = index, split, rows, cached
        self._entry = lru_cache(maxsize=cached)(self._read_entry)

    def caching(self, entries: int) -> ShardEntries:
        """The same entries, of which at least the last `entries` stay in memory."""
        return ShardEntries(self._index, self._split, self._rows, cached=max(self.cached, entries))

    @property
    def numbers(self) -> np.ndarray:
        return self._rows["number"]

    @property
    def examples(self) -> np.ndarray:
        return self._rows["examples"]

    @property
    def planned(self) -> np.ndarray:
        return self._rows["planned"]

    @property
    def seconds(self) -> float:
        return float(self._rows["seconds"].sum())

    def samples_sha256(self) -> tuple[str, ...]:
        """`ShardEntry.samples_sha256` of each shard."""
        return tuple(bytes(one).hex() for one in self._rows["samples_sha256"])

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, at: int) -> ShardEntry: ...
    @overload
    def __getitem__(self, at: slice) -> ShardEntries: ...
    def __getitem__(self, at: int | slice) -> ShardEntry | ShardEntries:
        """An entry, or the entries of a range.

        Raises:
            InputError: the entry is damaged or impossible, or the index cannot be read.
        """
        if isinstance(at, slice):
            return ShardEntries(self._index, self._split, self._rows[at], cached=self.cached)
        return self._entry(range(len(self))[at])

    def __iter__(self) -> Iterator[ShardEntry]:
        """All entries, from reads of several megabytes."""
        starts = self._rows["offset"].astype(np.int64)
        ends, at = starts + self._rows["length"], 0
        if np.any(starts[1:] < ends[:-1]):  # an index that was put together by hand
            yield from map(self._read_entry, range(len(self)))
            return
        while at < len(self):
            stop = max(at + 1, int(np.searchsorted(ends, starts[at] + _CHUNK_BYTES, side="right")))
            data = memoryview(self._read(int(starts[at]), int(ends[stop - 1]) - int(starts[at])))
            for row, start in zip(self._rows[at:stop], starts[at:stop] - starts[at], strict=True):
                yield self._parse(row, bytes(data[start : start + int(row["length"])]))
            at = stop

    def __reduce__(self) -> tuple[Any, ...]:
        return partial(ShardEntries, cached=self.cached), (self._index, self._split, self._rows)

    def _read_entry(self, at: int) -> ShardEntry:
        row = self._rows[at]
        return self._parse(row, self._read(int(row["offset"]), int(row["length"])))

    def _read(self, start: int, length: int) -> bytes:
        try:
            return read_range(self._index, start, length)
        except OSError as error:
            raise InputError(
                f"{self._index}: cannot be read any more ({error.strerror or error}); restore it or mix again"
            ) from error

    def _parse(self, row: np.void, line: bytes) -> ShardEntry:
        if zlib.crc32(line) != row["crc32"]:
            raise InputError(
                f"{self._index}: has changed, or {TABLE_NAME} beside it belongs to another index;"
                f" delete {TABLE_NAME} and start again"
            )
        entry = parse_line(line, self._index)
        same = (
            entry.split == self._split
            and entry.number == row["number"]
            and len(entry.examples) == row["examples"]
            and entry.planned == row["planned"]
            and entry.seconds == row["seconds"]
        )
        if not same:
            raise InputError(
                f"{self._index}: the entry of {entry.shard} is not as {TABLE_NAME} says;"
                f" delete {TABLE_NAME} and start again"
            )
        return entry
