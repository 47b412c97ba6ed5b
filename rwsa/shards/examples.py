"""Examples, and the positions of the examples of a shard in its tar."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, overload

import numpy as np

from rwsa.shards.metadata import METADATA_BYTES

EXAMPLE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
# An hour at 48 kHz is 173 million; a signal of this length takes 1 GiB when decoded.
MOST_SAMPLES = 1 << 28
# An example's members are adjacent, each behind its tar header and padded to a block.
_TAR_BLOCK = 512
# FLAC of noise takes a little more than 2 bytes a sample, behind a header.
_FLAC_HEADER_BYTES = 1 << 16


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
    """The examples of a shard in tar order, stored as columns of about 100 bytes per example."""

    def __init__(self, entries: Iterable[ExampleEntry]) -> None:
        rows = [[e.example_id, e.samples, *e.noisy, *e.clean, *e.json] for e in entries]
        self._ids = [str(row[0]) for row in rows]
        # Samples, then offset, length and CRC-32 of the noisy, the clean and the JSON member.
        self._numbers = np.array([row[1:] for row in rows], dtype=np.int64).reshape(len(rows), 10)

    @classmethod
    def of_rows(cls, rows: Sequence[Sequence[Any]]) -> Examples:
        """From the rows of a shard entry: id, samples, then offset, length and CRC-32 of each member.

        Raises:
            ValueError, TypeError, OverflowError: a row is malformed.
        """
        made = cls(())
        if not isinstance(rows, list):
            raise ValueError("the examples are not a list")
        if rows:
            made._ids = _ids_of(rows)
            malformed = ValueError("an example's row must have an id and ten non-negative numbers")
            numbers = [row[1:] for row in rows]
            # NumPy would make every number as wide as the longest text among them.
            if {type(number) for row in numbers for number in row} != {int}:
                raise malformed
            made._numbers = np.array(numbers)
            shape, kind = made._numbers.shape, made._numbers.dtype.kind
            if kind != "i" or shape != (len(rows), 10) or made._numbers.min() < 0:
                raise malformed
            if made._numbers[:, (0, 2, 3, 5, 6, 8, 9)].max() >= 1 << 32:
                raise ValueError("a length or checksum of an example does not fit 32 bits")
        return made

    def check_positions(self, tar_bytes: int) -> None:
        """Check that every example has samples and that its members are adjacent, in a tar of this size.

        Raises:
            ValueError: an example is impossible; names it.
        """
        if not len(self):
            return
        samples = self.samples
        # Limited, so that the sums stay below 2^63.
        starts, lengths = np.minimum(self._numbers[:, 1::3], 1 << 62), self._numbers[:, 2::3]
        span = (starts + lengths).max(axis=1) - starts.min(axis=1)
        slack = span - lengths.sum(axis=1)
        wrong = {
            "has no samples, or too many": (samples == 0) | (samples > MOST_SAMPLES),
            "has more bytes than its samples can take": (
                lengths[:, :2].max(axis=1) > 4 * samples + _FLAC_HEADER_BYTES
            ),
            "has too long a JSON": lengths[:, 2] > METADATA_BYTES,
            "lies beyond the end of its tar": (starts + lengths).max(axis=1) > tar_bytes,
            "has members that overlap or are not adjacent": (slack < 0) | (slack > 4 * _TAR_BLOCK),
        }
        for what, bad in wrong.items():
            if bad.any():
                raise ValueError(f"example {self[int(bad.argmax())].example_id} {what}")

    def rows(self) -> list[list[Any]]:
        """The inverse of `of_rows`."""
        return [[name, *row] for name, row in zip(self._ids, self._numbers.tolist(), strict=True)]

    @property
    def samples(self) -> np.ndarray:
        """Length of every example, int64."""
        return self._numbers[:, 0]

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, index: int) -> ExampleEntry: ...
    @overload
    def __getitem__(self, index: slice) -> list[ExampleEntry]: ...
    def __getitem__(self, index: int | slice) -> ExampleEntry | list[ExampleEntry]:
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        samples, *numbers = self._numbers[index].tolist()
        return ExampleEntry(
            example_id=self._ids[index],
            samples=samples,
            noisy=Member(*numbers[:3]),
            clean=Member(*numbers[3:6]),
            json=Member(*numbers[6:]),
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Examples):
            return NotImplemented
        return self._ids == other._ids and np.array_equal(self._numbers, other._numbers)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Examples({list(self)!r})"


def _ids_of(rows: Sequence[Sequence[Any]]) -> list[str]:
    names = [row[0] for row in rows]
    for name in names:
        if not isinstance(name, str) or not EXAMPLE_ID.fullmatch(name):
            raise ValueError(f"{str(name)[:80]!r} is not an example id")
    if len(set(names)) < len(names):
        raise ValueError("an example id appears twice")
    return names
