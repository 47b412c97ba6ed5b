"""A persistent cache of values computed from files, valid while a file's size and mtime are unchanged."""

from __future__ import annotations

import functools
import json
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import pydantic

from rwsa.errors import InputError
from rwsa.files import StoragePath, local_state_folder
from rwsa.names import local_path

T = TypeVar("T")
CACHE_NAME = "files.sqlite"
_SECONDS_TO_WAIT = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
  path TEXT, kind TEXT, size INTEGER, mtime_ns INTEGER, value TEXT, PRIMARY KEY (path, kind)
) WITHOUT ROWID
"""


def cache_folder(root: StoragePath) -> Path:
    """The cache's folder: `RWSA_CACHE` if set (for a `root` on a network file system), else in `root`."""
    return Path(os.environ.get("RWSA_CACHE") or local_state_folder(root) / "cache")


class FileStamp(NamedTuple):
    """A file's path, size and mtime; a cached value is valid only for an equal stamp."""

    path: str
    size: int
    mtime_ns: int


def stamp_or_none(path: str) -> FileStamp | None:
    """The stamp of a file, named as by `rwsa.names.stored_path`; None if it is missing or unreachable.

    Take the stamp *before* reading the file, so that a change in between invalidates the value.
    """
    try:
        status = local_path(path).stat()
    except OSError:
        return None
    return FileStamp(path, status.st_size, status.st_mtime_ns)


def cached_as(cls: type[T], value: Any) -> T | None:
    """A dataclass from its cached fields; None if they are not its own, so that it is made again."""
    try:
        made: T = _adapter(cast(Any, cls)).validate_python(value)
        return made
    except (pydantic.ValidationError, RecursionError):
        return None


@functools.cache
def _adapter(cls: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(cls)


class FileCache:
    """JSON values by (file, kind) in a SQLite file that several processes may use concurrently.

    Values survive a kill of the process once `put` returns. The folder must be on a local disk, since
    SQLite's locks are unreliable on network file systems.

    Args:
        folder: created if missing.

    Raises:
        InputError: from any method, if the folder is not writable or the file in it is not a cache.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CACHE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be created ({error.strerror}); choose another cache folder"
            ) from error
        with self._connected() as database:
            database.execute(_SCHEMA)

    def get(self, kind: str, stamps: Iterable[FileStamp]) -> dict[str, Any]:
        """Cached values of the files that have not changed, by path."""
        query = "SELECT value FROM facts WHERE path = ? AND kind = ? AND size = ? AND mtime_ns = ?"
        values: dict[str, Any] = {}
        with self._connected() as database:
            for path, size, mtime_ns in stamps:
                row = database.execute(query, (path, kind, size, mtime_ns)).fetchone()
                if row is not None:
                    # A damaged value counts as missing and is replaced.
                    with suppress(ValueError, TypeError, RecursionError):
                        values[path] = json.loads(row[0])
        return values

    def put(self, kind: str, values: Mapping[FileStamp, Any]) -> None:
        """Store values in one transaction, replacing those of the same file and kind."""
        rows = [
            (stamp.path, kind, stamp.size, stamp.mtime_ns, json.dumps(value))
            for stamp, value in values.items()
        ]
        with self._connected() as database:
            database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", rows)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection per call, so that the object can be shared with threads and processes and pickled."""
        try:
            with closing(sqlite3.connect(self.path, timeout=_SECONDS_TO_WAIT)) as database:
                # A kill loses nothing even without fsync. A power failure may damage the file, which SQLite
                # then reports; it is only a cache.
                database.execute("PRAGMA synchronous = OFF")
                with database:
                    yield database
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path}: cannot be used as a cache ({error}); delete it, or choose another folder"
            ) from error
