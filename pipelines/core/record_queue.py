"""What somebody else is still to be told: written down first, sent by a thread, and kept until it is taken.

A record is one JSON line of `FOLDER/KEY.TOKEN.jsonl`. So neither a receiver that is away nor a process that
is killed loses anything: whoever opens the next journal of the same key sends what the others left.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import threading
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from rwsa.errors import InputError

Record = dict[str, Any]
# Sends the first of some records, or the first few at once, and returns how many.
Send = Callable[[list[Record]], int]

_SECONDS_BETWEEN_SENDS = 2.0
# As many as one call may want to look at.
_LOOKED_AT = 1000
# Of a record: the folder of its files, which goes when it is sent.
SPOOLED = "spooled"


class Journal:
    """The records of one process about one key, in their order.

    Attributes:
        path: where they are until they are sent.
        trouble: why the last attempt to send failed, None where it did not.
    """

    def __init__(self, folder: Path, key: str, send: Send, *, refusals: tuple[type[Exception], ...]) -> None:
        """Open a journal, and take over those of the same key whose processes are gone.

        Args:
            folder: on a local or shared disk; made if need be.
            key: names what the records are about; without dots.
            send: called by one thread at a time.
            refusals: what `send` raises where it is to be tried again.

        Raises:
            InputError: the folder cannot be written to.
        """
        self.trouble: Exception | None = None
        self._send, self._refusals = send, refusals
        self.path, self._file = _new(folder, key)
        self._waiting = deque[Record]()
        self._lock, self._closing = threading.Lock(), threading.Event()
        for abandoned, file in _abandoned(folder, key):
            self.add(*_records(file))
            abandoned.unlink()
        self._thread = threading.Thread(target=self._send_forever, name="rwsa-journal", daemon=True)
        self._thread.start()

    def add(self, *records: Record) -> None:
        """Write records down; returns at once.

        Raises:
            InputError: they cannot be written.
        """
        with self._lock:
            try:
                self._file.writelines(f"{json.dumps(record)}\n" for record in records)
                self._file.flush()
            except OSError as error:
                raise InputError(f"{self.path}: cannot be written ({error.strerror}); make room") from error
            self._waiting += records

    @contextmanager
    def spooled(self, record: Record) -> Iterator[Path]:
        """Yield a new folder for the files of a record, which is then added and names it under `SPOOLED`.

        Raises:
            InputError: they cannot be written.
        """
        folder = self.path.with_suffix(".files") / uuid.uuid4().hex[:8]
        try:
            folder.mkdir(parents=True)
            yield folder
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(f"{folder}: cannot be written ({error.strerror}); make room") from error
        self.add(record | {SPOOLED: str(folder)})

    def close(self) -> bool:
        """Send what is left; returns whether all of it was taken. What was not stays in `path`."""
        self._closing.set()
        self._thread.join()
        self._try()
        if not self._waiting:
            self.path.unlink(missing_ok=True)
        self._file.close()
        return not self._waiting

    def _send_forever(self) -> None:
        while not self._closing.wait(_SECONDS_BETWEEN_SENDS):
            self._try()

    def _try(self) -> None:
        try:
            while first := self._first():
                self._sent(first[: self._send(first)])
            self.trouble = None
        except self._refusals as error:
            self.trouble = error

    def _first(self) -> list[Record]:
        with self._lock:
            return list(islice(self._waiting, _LOOKED_AT))

    def _sent(self, records: Iterable[Record]) -> None:
        for record in records:
            if SPOOLED in record:
                shutil.rmtree(record[SPOOLED], ignore_errors=True)
                with suppress(OSError):  # others' files lie there still
                    Path(record[SPOOLED]).parent.rmdir()
        with self._lock:
            for _ in records:
                self._waiting.popleft()
            if not self._waiting:
                self._file.truncate(0)
                self._file.seek(0)


def _new(folder: Path, key: str) -> tuple[Path, TextIO]:
    """A new journal, open, and locked as long as this process lives."""
    while True:
        path = folder / f"{key}.{uuid.uuid4().hex[:8]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise InputError(
                f"{folder}: cannot be written to ({error.strerror}); make it writable"
            ) from error
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # else somebody took it for abandoned, between opening and locking
            return path, file
        file.close()


def waiting_keys(folder: Path) -> list[str]:
    """The keys of which records were left by processes that are gone."""
    return sorted({path.name.partition(".")[0] for path, _ in _abandoned(folder, "*")})


def _abandoned(folder: Path, key: str) -> Iterator[tuple[Path, TextIO]]:
    """Journals whose processes are gone, open and locked until the next is asked for."""
    for path in sorted(folder.glob(f"{key}.*.jsonl")):
        with suppress(FileNotFoundError), path.open("r+", encoding="utf-8") as file:
            try:  # an exclusive lock, for which NFS wants it open for writing
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if path.exists():  # else another took it over, between opening and locking
                yield path, file


def _records(file: TextIO) -> Iterator[Record]:
    for line in file:
        if line.endswith("\n"):  # else its process was killed while it wrote it
            yield json.loads(line)
