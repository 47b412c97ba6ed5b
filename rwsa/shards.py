"""WebDataset shards of paired FLAC: write them whole, read them by offset, verify them.

`SPLIT-000123.tar` holds, for every example, `<id>.clean.flac`, `<id>.json` and `<id>.noisy.flac`.
It is written aside and renamed when whole, and its entry (`rwsa.shard_index`) is renamed after it,
so a tar without an entry is unfinished. The bytes depend on the examples and on the package
versions alone: no time, user or machine enters them.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import tarfile
import zlib
from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, cast

import numpy as np
import soundfile

from rwsa.errors import InputError
from rwsa.files import sha256_of, written_aside
from rwsa.shard_index import (
    SCHEMA_VERSION,
    ExampleEntry,
    Failure,
    Member,
    ShardEntry,
    ShardIndex,
    entry_path,
    made_with,
    read_entry,
    shard_name,
    write_entry,
)

_EXAMPLE_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


@dataclass(frozen=True, kw_only=True)
class Example:
    """One pair. `noisy` and `clean`: float32 `[samples]` on the 16-bit grid; `meta`: JSON values."""

    example_id: str
    noisy: np.ndarray
    clean: np.ndarray
    sample_rate_hz: int
    meta: Mapping[str, Any]


def write_shard(
    folder: Path,
    split: str,
    number: int,
    items: Iterable[Example | Failure],
    *,
    sample_rate_hz: int,
    corpus: str = "",
    recipe_hash: str = "",
    plan_hash: str = "",
) -> ShardEntry:
    """Write one shard and then its entry, holding one example in memory at a time.

    Args:
        folder: where to; made if missing.
        split: name of the split, lower case.
        number: of the shard within its split.
        items: the examples in the order to store them; a `Failure` is only noted in the entry.
        sample_rate_hz: that every example must have.
        corpus, recipe_hash, plan_hash: see `ShardEntry`.

    Raises:
        InputError: the folder is not writable or full, or an example is malformed. An earlier shard
            of this number is then left as it was.
    """
    path = folder / shard_name(split, number)
    with written_aside(path) as aside:
        with aside.open("wb") as file:
            hashed = _HashedFile(file)
            examples, failures, samples_sha256 = _write_tar(hashed, items, sample_rate_hz)
        size, sha256 = hashed.bytes, hashed.digest.hexdigest()
        # The old entry must not vouch for the new tar in the moment between the two renames; one of
        # the same bytes may, and stays: a worker that a lost node left behind must not take it away.
        if _entry_sha256(entry_path(folder, split, number)) != sha256:
            entry_path(folder, split, number).unlink(missing_ok=True)
    entry = ShardEntry(
        schema_version=SCHEMA_VERSION,
        shard=path.name,
        split=split,
        number=number,
        bytes=size,
        sha256=sha256,
        samples_sha256=samples_sha256,
        sample_rate_hz=sample_rate_hz,
        seconds=sum(example.samples for example in examples) / sample_rate_hz,
        corpus=corpus,
        recipe_hash=recipe_hash,
        plan_hash=plan_hash,
        made_with=made_with(),
        examples=examples,
        failures=failures,
    )
    write_entry(folder, entry)
    return entry


def _entry_sha256(path: Path) -> str | None:
    try:
        return read_entry(path).sha256
    except InputError:  # There is none, or it is damaged.
        return None


class _HashedFile:
    """What is written to a file, hashed and counted on its way: reading it back would take longer."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest, self.bytes = hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)


def _write_tar(
    file: _HashedFile, items: Iterable[Example | Failure], sample_rate_hz: int
) -> tuple[tuple[ExampleEntry, ...], tuple[Failure, ...], str]:
    decoded, failures = hashlib.sha256(), list[Failure]()
    examples: dict[str, ExampleEntry] = {}
    # As a stream, which leaves nothing to be sought in or corrected.
    with tarfile.open(fileobj=cast(BinaryIO, file), mode="w|") as tar:
        for item in items:
            if isinstance(item, Failure):
                failures.append(item)
                continue
            _check(item, sample_rate_hz, examples)
            noisy, clean = _to_int16(item, item.noisy), _to_int16(item, item.clean)
            examples[item.example_id] = _add_example(tar, item, noisy, clean)
            _hash_pair(decoded, item.example_id, noisy, clean)
    return tuple(examples.values()), tuple(failures), decoded.hexdigest()


def _add_example(
    tar: tarfile.TarFile, example: Example, noisy: np.ndarray, clean: np.ndarray
) -> ExampleEntry:
    name, rate = example.example_id, example.sample_rate_hz
    meta = json.dumps({**example.meta, "id": name}, sort_keys=True, separators=(",", ":"))
    # In the order of their names, as webdataset's writer has them.
    return ExampleEntry(
        example_id=name,
        samples=len(noisy),
        clean=_add(tar, f"{name}.clean.flac", _encode_flac(clean, rate)),
        json=_add(tar, f"{name}.json", meta.encode()),
        noisy=_add(tar, f"{name}.noisy.flac", _encode_flac(noisy, rate)),
    )


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> Member:
    info = tarfile.TarInfo(name)  # whose time, user and group are 0
    info.size, info.mode, info.uname, info.gname = len(data), 0o644, "rwsa", "rwsa"
    tar.addfile(info, io.BytesIO(data))
    filled_up = -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
    return Member(tar.offset - filled_up, len(data), zlib.crc32(data))


def _check(example: Example, sample_rate_hz: int, ids: Container[str]) -> None:
    name = example.example_id
    if not _EXAMPLE_ID.fullmatch(name):
        raise InputError(f"example id {name!r}: use up to 64 letters, digits, - and _ (a dot ends the id)")
    if name in ids:
        raise InputError(f"example id {name!r}: comes twice in one shard; give each example its own")
    if example.sample_rate_hz != sample_rate_hz:
        raise InputError(f"example {name}: at {example.sample_rate_hz} Hz in a shard of {sample_rate_hz} Hz")
    if example.noisy.ndim != 1 or example.noisy.shape != example.clean.shape or example.noisy.size == 0:
        raise InputError(
            f"example {name}: noisy {example.noisy.shape} and clean {example.clean.shape}"
            " must both be [samples], equally long and not empty"
        )


def _to_int16(example: Example, wav: np.ndarray) -> np.ndarray:
    """The integers behind a wave on the 16-bit grid; off the grid it would be stored changed."""
    scaled = wav * 32768.0  # exact in any float
    on_scale = scaled.min() >= -32768 and scaled.max() <= 32767  # and no NaN
    stored = scaled.astype(np.int16) if on_scale else None
    if stored is None or not np.array_equal(stored, scaled):
        raise InputError(
            f"example {example.example_id}: samples lie beyond full scale or between 16-bit steps;"
            " apply rwsa.audio.round_to_int16 first"
        )
    return stored


def _encode_flac(wav: np.ndarray, sample_rate_hz: int) -> bytes:
    # From int16: libsndfile would scale floats by 32767 and read them back by 32768.
    buffer = io.BytesIO()
    soundfile.write(buffer, wav, sample_rate_hz, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _hash_pair(digest: Any, example_id: str, noisy: np.ndarray, clean: np.ndarray) -> None:
    digest.update(example_id.encode() + b"\0")
    digest.update(noisy.astype("<i2").tobytes() + clean.astype("<i2").tobytes())


class ShardReader:
    """Reads examples of one split by their place in the index.

    Files are opened when first needed, at most `max_open` at a time, and read without moving a file
    position, so a reader may be pickled to another process or inherited by a fork. Use it as a
    context manager, or call `close`.
    """

    def __init__(self, index: ShardIndex, *, max_open: int = 32) -> None:
        self.index = index
        self._max_open = max_open
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    def read(self, shard: int, index: int) -> Example:
        """Read example `index` of shard `shard` (both count from 0, as `rwsa.sampling` gives them).

        Raises:
            InputError: naming shard and member: missing, cut short or damaged.
        """
        entry = self.index.entries[shard].examples[index]
        meta = json.loads(self._bytes(shard, f"{entry.example_id}.json", entry.json))
        return Example(
            example_id=entry.example_id,
            noisy=self._audio(shard, f"{entry.example_id}.noisy.flac", entry.noisy, entry.samples),
            clean=self._audio(shard, f"{entry.example_id}.clean.flac", entry.clean, entry.samples),
            sample_rate_hz=self.index.sample_rate_hz,
            meta=meta,
        )

    def close(self) -> None:
        """Close all files; a later `read` opens them again."""
        while self._files:
            self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_max_open": self._max_open, "_files": OrderedDict()}

    def _audio(self, shard: int, name: str, member: Member, samples: int) -> np.ndarray:
        data = self._bytes(shard, name, member)
        try:
            wav, rate = soundfile.read(io.BytesIO(data), dtype="float32")
        except soundfile.LibsndfileError as error:
            raise self._damaged(shard, name, error.error_string.rstrip(".")) from error
        if wav.shape != (samples,) or rate != self.index.sample_rate_hz:
            raise self._damaged(shard, name, f"holds {wav.shape} samples at {rate} Hz")
        return wav

    def _bytes(self, shard: int, name: str, member: Member) -> bytes:
        try:
            data = os.pread(self._file(shard).fileno(), member.length, member.offset)
        except OSError as error:
            raise self._damaged(shard, name, error.strerror or str(error)) from error
        if len(data) != member.length:
            raise self._damaged(shard, name, f"ends after {len(data)} of {member.length} bytes")
        if zlib.crc32(data) != member.crc32:
            raise self._damaged(shard, name, "its checksum does not match the index")
        return data

    def _file(self, shard: int) -> BinaryIO:
        if shard not in self._files:
            if len(self._files) >= self._max_open:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = (self.index.folder / self.index.entries[shard].shard).open("rb")
        self._files.move_to_end(shard)
        return self._files[shard]

    def _damaged(self, shard: int, name: str, reason: str) -> InputError:
        path = self.index.folder / self.index.entries[shard].shard
        return InputError(f"{path}: member {name}: {reason}; delete the shard and mix again")


def is_whole(folder: Path, entry: ShardEntry) -> bool:
    """Whether the tar that `entry` describes is there, with the bytes that it had when written."""
    path = folder / entry.shard
    return path.is_file() and path.stat().st_size == entry.bytes and sha256_of(path) == entry.sha256


def verify(index: ShardIndex) -> list[str]:
    """Recompute every checksum of a split: one line per damaged shard, none if all is well.

    Checks the bytes of each tar and, apart from them, the decoded samples.
    """
    problems = []
    with ShardReader(index, max_open=1) as reader:
        for number, entry in enumerate(index.entries):
            if not is_whole(index.folder, entry):
                problems.append(f"{index.folder / entry.shard}: its bytes do not match the index")
                continue
            digest = hashlib.sha256()
            for at in range(len(entry.examples)):
                example = reader.read(number, at)
                pair = _to_int16(example, example.noisy), _to_int16(example, example.clean)
                _hash_pair(digest, example.example_id, *pair)
            if digest.hexdigest() != entry.samples_sha256:
                problems.append(f"{index.folder / entry.shard}: its samples do not match the index")
    return problems
