"""An example of a shard, and where the examples of a shard lie in their tar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

# Offset, length and CRC-32 of the noisy, the clean and the JSON member.
_PLACES = np.dtype([("samples", "<u4"), ("offset", "<u8", 3), ("length", "<u4", 3), ("crc32", "<u4", 3)])


@dataclass(frozen=True, kw_only=True)
class Example:
    """One pair. `noisy` and `clean`: float32 `[samples]` on the 16-bit grid; `meta`: JSON values."""

    example_id: str
    noisy: np.ndarray
    clean: np.ndarray
    sample_rate_hz: int
    meta: Mapping[str, Any]


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


class Examples(Sequence[ExampleEntry]):
    """The examples of a shard in the order of the tar, kept as columns: under 100 bytes each."""

    def __init__(self, entries: Iterable[ExampleEntry]) -> None:
        rows = [(e.example_id, e.samples, (e.noisy, e.clean, e.json)) for e in entries]
        self._ids = np.array([name.encode("ascii") for name, _, _ in rows], dtype=np.bytes_)
        self._places = np.array(
            [(samples, *zip(*members, strict=True)) for _, samples, members in rows], dtype=_PLACES
        )

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Any]]) -> Examples:
        """From rows as an entry holds them: id, samples, then offset, length and CRC-32 of each member.

        Raises:
            ValueError, TypeError, OverflowError: a row is malformed.
        """
        made = cls(())
        if rows:
            made._ids = np.array([row[0].encode("ascii") for row in rows], dtype=np.bytes_)
            numbers = np.array([row[1:] for row in rows], dtype=np.int64)
            if numbers.shape != (len(rows), 10) or numbers.min() < 0:
                raise ValueError("an example's row must hold an id and ten numbers, none negative")
            if np.delete(numbers, (1, 4, 7), axis=1).max() >= 1 << 32:
                raise ValueError("a length or checksum of an example does not fit 32 bits")
            made._places = np.empty(len(rows), _PLACES)
            made._places["samples"] = numbers[:, 0]
            for at, name in enumerate(("offset", "length", "crc32")):
                made._places[name] = numbers[:, 1 + at :: 3]
        return made

    def rows(self) -> list[list[Any]]:
        """The inverse of `of_rows`."""
        return [[e.example_id, e.samples, *e.noisy, *e.clean, *e.json] for e in self]

    @property
    def samples(self) -> np.ndarray:
        """Length of every example, uint32."""
        return self._places["samples"]

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> ExampleEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExampleEntry]: ...
    def __getitem__(self, index: int | slice) -> ExampleEntry | list[ExampleEntry]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        row = self._places[index]
        columns = (row[name].tolist() for name in ("offset", "length", "crc32"))
        noisy, clean, meta = (Member(*member) for member in zip(*columns, strict=True))
        return ExampleEntry(
            example_id=self._ids[index].decode("ascii"),
            samples=int(row["samples"]),
            noisy=noisy,
            clean=clean,
            json=meta,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Examples):
            return NotImplemented
        return np.array_equal(self._ids, other._ids) and np.array_equal(self._places, other._places)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Examples({list(self)!r})"
