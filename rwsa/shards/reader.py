"""Reading single examples of shards by one contiguous, checked read each, locally or from a store."""

from __future__ import annotations

import io
import json
import os
import threading
import zlib
from collections import OrderedDict
from types import TracebackType
from typing import Any, BinaryIO, Self

import fsspec
import numpy as np
import soundfile

from rwsa.errors import InputError
from rwsa.files import StoragePath, is_remote, store_errors
from rwsa.shards.examples import Example, ExampleEntry, Member
from rwsa.shards.index import ShardIndex


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
        self.index = index
        self._max_open = max_open
        self._start()

    def read(self, shard: int, index: int) -> Example:
        """Read example `index` of shard `shard` (both from 0, in the order of the index).

        Raises:
            DamagedShardError: a shard is missing, truncated or damaged; names the shard and the member.
            InputError: the store refused or cannot be reached.
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
            meta=json.loads(bytes(members["json"])),
        )

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
        self._store: Any = None
        # A new lock: one that another thread held during a fork would stay locked in the child.
        self._lock, self._process = threading.Lock(), os.getpid()

    def _read(self, shard: int, span: _Span, member: str) -> memoryview:
        if self._process != os.getpid():
            inherited = self._files
            self._start()
            for file in inherited.values():
                file.close()
        path = self.index.folder / self.index.entries[shard].shard
        try:
            if is_remote(path):
                return memoryview(self._range(path, span))
            with self._lock:  # so that no other thread closes the file during the read
                return memoryview(os.pread(self._file(shard, path).fileno(), span.length, span.offset))
        except OSError as error:
            reason = error.strerror or str(error) or "no such file"
            raise self._damaged(shard, member, reason) from error

    def _range(self, path: Any, span: _Span) -> bytes:
        with store_errors(path):
            if self._store is None:
                # Not `path.fs`: fsspec caches it per process, and a forked one must not be used.
                self._store = fsspec.filesystem(path.protocol, **path.storage_options)
            return self._store.cat_file(path.path, start=span.offset, end=span.offset + span.length)

    def _file(self, shard: int, path: StoragePath) -> BinaryIO:
        if shard not in self._files:
            if len(self._files) >= self._max_open:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = path.open("rb")
        self._files.move_to_end(shard)
        return self._files[shard]

    def _check(self, shard: int, name: str, data: memoryview, member: Member) -> None:
        if len(data) != member.length:
            raise self._damaged(shard, name, f"ends after {len(data)} of {member.length} bytes")
        if zlib.crc32(data) != member.crc32:
            raise self._damaged(shard, name, "its checksum does not match the index")

    def _audio(self, shard: int, name: str, data: memoryview, samples: int) -> np.ndarray:
        try:
            wav, rate = soundfile.read(io.BytesIO(data), dtype="float32")
        except soundfile.LibsndfileError as error:
            raise self._damaged(shard, name, error.error_string.rstrip(".")) from error
        if wav.shape != (samples,) or rate != self.index.sample_rate_hz:
            raise self._damaged(shard, name, f"has {wav.shape} samples at {rate} Hz")
        return wav

    def _damaged(self, shard: int, name: str, reason: str) -> DamagedShardError:
        path = self.index.folder / self.index.entries[shard].shard
        return DamagedShardError(
            f"{path}: member {name}: {reason}; delete the shard and mix again", path=str(path)
        )


class _Span:
    """The bytes from an example's first member to its last."""

    def __init__(self, entry: ExampleEntry) -> None:
        members = (entry.noisy, entry.clean, entry.json)
        self.offset = min(member.offset for member in members)
        self.length = max(member.offset + member.length for member in members) - self.offset
