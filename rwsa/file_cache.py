"""What is known of files, kept between runs: a value stays true while a file's size and time stay."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from rwsa.errors import InputError

CACHE_NAME = "files.sqlite"
_SECONDS_TO_WAIT = 60.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (
  path TEXT, kind TEXT, size INTEGER, mtime_ns INTEGER, value TEXT, PRIMARY KEY (path, kind)
) WITHOUT ROWID
"""


class Stamp(NamedTuple):
    """A file as it was when looked at; its value in the cache counts only under the same size and time."""

    path: str
    size: int
    mtime_ns: int


def stamp_or_none(path: str) -> Stamp | None:
    """Look at a file; None where it is gone or out of reach.

    Take the stamp *before* reading, so that a change in between shows the next time.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return Stamp(path, status.st_size, status.st_mtime_ns)


class FileCache:
    """JSON values by (file, kind) in one SQLite file, which any number of processes may use at once.

    What `put` was given survives a kill of the process as soon as it returns. Keep the folder on a
    local disk: the locks that SQLite needs are not dependable on network folders.

    Args:
        folder: made if missing.

    Raises:
        InputError: from any method: the folder cannot be written, or the file in it is no cache.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / CACHE_NAME
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder}: cannot be made ({error.strerror}); name another cache") from error
        with self._connected() as database:
            database.execute(_SCHEMA)

    def get(self, kind: str, stamps: Iterable[Stamp]) -> dict[str, Any]:
        """The values of those files that have not changed since, by path."""
        query = "SELECT value FROM facts WHERE path = ? AND kind = ? AND size = ? AND mtime_ns = ?"
        found: dict[str, Any] = {}
        with self._connected() as database:
            for path, size, mtime_ns in stamps:
                row = database.execute(query, (path, kind, size, mtime_ns)).fetchone()
                if row is not None:
                    found[path] = json.loads(row[0])
        return found

    def put(self, kind: str, values: Mapping[Stamp, Any]) -> None:
        """Store values in one transaction; an older one of the same file and kind gives way."""
        rows = [
            (stamp.path, kind, stamp.size, stamp.mtime_ns, json.dumps(value))
            for stamp, value in values.items()
        ]
        with self._connected() as database:
            database.executemany("INSERT OR REPLACE INTO facts VALUES (?, ?, ?, ?, ?)", rows)

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call, so that the object may cross threads, forks and pickles."""
        try:
            with closing(sqlite3.connect(self.path, timeout=_SECONDS_TO_WAIT)) as database:
                # Without waiting for the disk a kill still loses nothing. A power cut may damage the
                # file, which SQLite then says; it is a cache.
                database.execute("PRAGMA synchronous = OFF")
                with database:
                    yield database
        except sqlite3.Error as error:
            raise InputError(
                f"{self.path}: cannot be used as a cache ({error}); delete it, or name another folder"
            ) from error
