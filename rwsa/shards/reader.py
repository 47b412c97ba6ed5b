"""Reading single examples of shards by one contiguous, checked read each, locally or from a store."""

from __future__ import annotations

import dataclasses
import io
import os
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import soundfile

from rwsa.errors import InputError
from rwsa.files import StoragePath, is_remote, store_errors
from rwsa.shards.examples import Example, ExampleEntry, Member
from rwsa.shards.index import ShardIndex
from rwsa.shards.metadata import read_metadata
from rwsa.shards.storage import open_regular, pread, read_range


class DamagedShardError(InputError):
    """A shard is missing, truncated or changed since it was written; `path` is its tar."""

    def __init__(self, message: str, path: str) -> None:
        super().__init__(message)
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (str(self), self.path)


class ShardReader:
    """A reader of the examples of one split by their position in the index.

    The members of an example are adjacent in the tar, so an example is one read of a local file or one range
    request to a store. Files are opened on first use, at most `max_open` at a time, and read without
    moving a file position, so a reader may be shared by threads, pickled to another process, or inherited
    by a fork. Use it as a context manager, or call `close`.
    """

    def __init__(self, index: ShardIndex, *, max_open: int = 32) -> None:
        self.index = dataclasses.replace(index, entries=index.entries.caching(max_open))
        self._max_open = max_open
        self._start()

    def read(self, shard: int, index: int) -> Example:
        """Read example `index` of shard `shard` (both from 0, in the order of the index).

        Raises:
            DamagedShardError: a shard is missing, truncated or damaged; names the shard and the member.
            InputError: the store refused or cannot be reached, or the index is damaged.
        """
        entry = self.index.entries[shard].examples[index]
        span = _Span(entry)
        data = self._read(shard, span, f"{entry.example_id}.json")
        members = {}
        for name, member in (("json", entry.json), ("noisy.flac", entry.noisy), ("clean.flac", entry.clean)):
            part = data[member.offset - span.offset :][: member.length]
            self._check(shard, f"{entry.example_id}.{name}", part, member)
            members[name] = part
        return Example(
            example_id=entry.example_id,
            noisy=self._audio(shard, f"{entry.example_id}.noisy.flac", members["noisy.flac"], entry.samples),
            clean=self._audio(shard, f"{entry.example_id}.clean.flac", members["clean.flac"], entry.samples),
            sample_rate_hz=self.index.sample_rate_hz,
            meta=self._metadata(shard, entry, members["json"]),
        )

    def metadata(self, shard: int) -> Iterator[tuple[ExampleEntry, dict[str, Any]]]:
        """Every example of a shard with its JSON metadata, without its audio.

        Raises:
            DamagedShardError: the shard is missing, truncated or damaged; names the shard and the member.
            InputError: the store refused or cannot be reached, or the index is damaged.
        """
        examples, path, member = self.index.entries[shard].examples, self._path(shard), ""
        try:
            with store_errors(path), open_regular(path) as file:
                for entry in examples:
                    member = f"{entry.example_id}.json"
                    file.seek(entry.json.offset)
                    data = memoryview(file.read(entry.json.length))
                    self._check(shard, member, data, entry.json)
                    yield entry, self._metadata(shard, entry, data)
        except OSError as error:
            raise self._damaged(shard, member, _reason(error)) from error

    def close(self) -> None:
        """Close all files; a later `read` reopens them."""
        with self._lock:
            while self._files:
                self._files.popitem()[1].close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"index": self.index, "_max_open": self._max_open}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._start()

    def _start(self) -> None:
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()
        # A new lock: one that another thread held during a fork would stay locked in the child.
        self._lock, self._process = threading.Lock(), os.getpid()

    def _read(self, shard: int, span: _Span, member: str) -> memoryview:
        if self._process != os.getpid():
            inherited = self._files
            self._start()
            for file in inherited.values():
                file.close()
        path = self._path(shard)
        try:
            if is_remote(path):
                return memoryview(read_range(path, span.offset, span.length))
            with self._lock:  # so that no other thread closes the file during the read
                return memoryview(pread(self._file(shard, path), span.offset, span.length))
        except OSError as error:
            raise self._damaged(shard, member, _reason(error)) from error

    def _path(self, shard: int) -> StoragePath:
        return self.index.folder / self.index.entries[shard].shard

    def _file(self, shard: int, path: StoragePath) -> BinaryIO:
        if shard not in self._files:
            if len(self._files) >= self._max_open:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = open_regular(path)
        self._files.move_to_end(shard)
        return self._files[shard]

    def _check(self, shard: int, name: str, data: memoryview, member: Member) -> None:
        if len(data) != member.length:
            raise self._damaged(shard, name, f"ends after {len(data)} of {member.length} bytes")
        if zlib.crc32(data) != member.crc32:
            raise self._damaged(shard, name, "its checksum does not match the index")

    def _metadata(self, shard: int, entry: ExampleEntry, data: memoryview) -> dict[str, Any]:
        try:
            return read_metadata(bytes(data), entry.example_id)
        except ValueError as error:
            raise self._damaged(shard, f"{entry.example_id}.json", str(error)) from error

    def _audio(self, shard: int, name: str, data: memoryview, samples: int) -> np.ndarray:
        try:
            with soundfile.SoundFile(io.BytesIO(data)) as file:
                # Before reading, which reserves memory for as many samples as the header claims.
                found = file.format, file.channels, file.samplerate, file.frames
                if found != ("FLAC", 1, self.index.sample_rate_hz, samples):
                    raise self._damaged(shard, name, f"is not the signal in the index ({_about(found)})")
                wav = file.read(dtype="float32")
        except (soundfile.LibsndfileError, RuntimeError) as error:
            reason = getattr(error, "error_string", str(error)).rstrip(".")
            raise self._damaged(shard, name, reason) from error
        if len(wav) != samples:
            raise self._damaged(shard, name, f"has {len(wav)} of {samples} samples")
        return wav

    def _damaged(self, shard: int, name: str, reason: str) -> DamagedShardError:
        path, member = self._path(shard), f"member {name}: " if name else ""
        return DamagedShardError(f"{path}: {member}{reason}; delete the shard and mix again", path=str(path))


def _reason(error: OSError) -> str:
    return error.strerror or str(error) or "no such file"


def _about(found: tuple[str, int, int, int]) -> str:
    kind, channels, rate_hz, samples = found
    return f"{kind}, {channels} channels, {samples} samples at {rate_hz} Hz"


class _Span:
    """The bytes from an example's first member to its last."""

    def __init__(self, entry: ExampleEntry) -> None:
        members = (entry.noisy, entry.clean, entry.json)
        self.offset = min(member.offset for member in members)
        self.length = max(member.offset + member.length for member in members) - self.offset
