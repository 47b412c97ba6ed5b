"""Examples, and the positions of the examples of a shard in its tar."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

# Offset, length and CRC-32 are of the noisy, the clean and the JSON member.
_ENTRY_TYPE = np.dtype([("samples", "<u4"), ("offset", "<u8", 3), ("length", "<u4", 3), ("crc32", "<u4", 3)])


@dataclass(frozen=True, kw_only=True)
class Example:
    """A noisy and clean pair, float32 `[samples]` on the 16-bit grid, with JSON metadata."""

    example_id: str
    noisy: np.ndarray
    clean: np.ndarray
    sample_rate_hz: int
    meta: Mapping[str, Any]


class Member(NamedTuple):
    """The position and CRC-32 of the bytes of a tar member."""

    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, kw_only=True, slots=True)
class ExampleEntry:
    """The position of an example in its tar."""

    example_id: str
    samples: int
    noisy: Member
    clean: Member
    json: Member


class Examples(Sequence[ExampleEntry]):
    """The examples of a shard in tar order, stored as columns of under 100 bytes per example."""

    def __init__(self, entries: Iterable[ExampleEntry]) -> None:
        rows = [(e.example_id, e.samples, (e.noisy, e.clean, e.json)) for e in entries]
        self._ids = np.array([name.encode("ascii") for name, _, _ in rows], dtype=np.bytes_)
        self._rows = np.array(
            [(samples, *zip(*members, strict=True)) for _, samples, members in rows], dtype=_ENTRY_TYPE
        )

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Any]]) -> Examples:
        """From the rows of a shard entry: id, samples, then offset, length and CRC-32 of each member.

        Raises:
            ValueError, TypeError, OverflowError: a row is malformed.
        """
        made = cls(())
        if rows:
            made._ids = np.array([row[0].encode("ascii") for row in rows], dtype=np.bytes_)
            numbers = np.array([row[1:] for row in rows], dtype=np.int64)
            if numbers.shape != (len(rows), 10) or numbers.min() < 0:
                raise ValueError("an example's row must have an id and ten non-negative numbers")
            if np.delete(numbers, (1, 4, 7), axis=1).max() >= 1 << 32:
                raise ValueError("a length or checksum of an example does not fit 32 bits")
            made._rows = np.empty(len(rows), _ENTRY_TYPE)
            made._rows["samples"] = numbers[:, 0]
            for at, name in enumerate(("offset", "length", "crc32")):
                made._rows[name] = numbers[:, 1 + at :: 3]
        return made

    def rows(self) -> list[list[Any]]:
        """The inverse of `of_rows`."""
        return [[e.example_id, e.samples, *e.noisy, *e.clean, *e.json] for e in self]

    @property
    def samples(self) -> np.ndarray:
        """Length of every example, uint32."""
        return self._rows["samples"]

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> ExampleEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExampleEntry]: ...
    def __getitem__(self, index: int | slice) -> ExampleEntry | list[ExampleEntry]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        row = self._rows[index]
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
        return np.array_equal(self._ids, other._ids) and np.array_equal(self._rows, other._rows)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Examples({list(self)!r})"
