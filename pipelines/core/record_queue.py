"""Durable queue of MLflow records: written to disk first, sent by a thread, deleted once sent.

A record is one JSON line of `FOLDER/KEY.TOKEN.jsonl`. No record is lost if MLflow is unreachable or
the process is killed: the next queue of the same key sends what earlier ones left.
"""

from __future__ import annotations

import fcntl
import json
import re
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
# Sends the first record, or several from the front; returns how many.
Send = Callable[[list[Record]], int]

_SECONDS_BETWEEN_SENDS = 2.0
_SEND_WINDOW = 1000  # records offered to one call of `Send`
# Key of a record: the folder of its files, deleted once the record is sent.
SPOOLED = "spooled"


class RecordQueue:
    """Records of one process under one key, in order.

    Attributes:
        path: file with the records not sent yet.
        last_error: why the last attempt to send failed; None if it succeeded.
    """

    def __init__(self, folder: Path, key: str, send: Send, *, retry_on: tuple[type[Exception], ...]) -> None:
        """Open a queue, and take over the records that ended processes left under the same key.

        Args:
            folder: on a local or shared disk; created if missing.
            key: what the records are about, such as a run id; without dots.
            send: called by one thread at a time.
            retry_on: exceptions of `send` after which it is tried again later.

        Raises:
            InputError: the folder is not writable.
        """
        self.last_error: Exception | None = None
        self._send, self._retry_on = send, retry_on
        self.path, self._file = _create(folder, key)
        self._waiting = deque[Record]()
        self._lock, self._closing = threading.Lock(), threading.Event()
        for abandoned, file in _abandoned(folder, key):
            self.add(*_records(file, folder))
            abandoned.unlink()
        self._thread = threading.Thread(target=self._send_forever, name="rwsa-record-queue", daemon=True)
        self._thread.start()

    def add(self, *records: Record) -> None:
        """Write records to disk and return at once.

        Raises:
            InputError: the disk is full or not writable.
        """
        with self._lock:
            try:
                self._file.writelines(f"{json.dumps(record)}\n" for record in records)
                self._file.flush()
            except OSError as error:
                raise InputError(
                    f"{self.path}: cannot be written ({error.strerror}); free some disk space"
                ) from error
            self._waiting += records

    @contextmanager
    def spooled(self, record: Record) -> Iterator[Path]:
        """Yield a new folder for a record's files; on exit, add the record with the folder under `SPOOLED`.

        Raises:
            InputError: the files cannot be written.
        """
        folder = self.path.with_suffix(".files") / uuid.uuid4().hex[:8]
        try:
            folder.mkdir(parents=True)
            yield folder
        except OSError as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise InputError(
                f"{folder}: cannot be written ({error.strerror}); free some disk space"
            ) from error
        self.add(record | {SPOOLED: str(folder)})

    def close(self) -> bool:
        """Send the rest; returns whether all was sent. Unsent records stay in `path`."""
        self._closing.set()
        self._thread.join()
        self._send_waiting()
        if not self._waiting:
            self.path.unlink(missing_ok=True)
        self._file.close()
        return not self._waiting

    def _send_forever(self) -> None:
        while not self._closing.wait(_SECONDS_BETWEEN_SENDS):
            self._send_waiting()

    def _send_waiting(self) -> None:
        try:
            while first := self._first():
                self._remove(first[: self._send(first)])
            self.last_error = None
        except self._retry_on as error:
            self.last_error = error

    def _first(self) -> list[Record]:
        with self._lock:
            return list(islice(self._waiting, _SEND_WINDOW))

    def _remove(self, sent: Iterable[Record]) -> None:
        for record in sent:
            if SPOOLED in record:
                shutil.rmtree(record[SPOOLED], ignore_errors=True)
                with suppress(OSError):  # not empty: other records' files are in it
                    Path(record[SPOOLED]).parent.rmdir()
        with self._lock:
            for _ in sent:
                self._waiting.popleft()
            if not self._waiting:
                self._file.truncate(0)
                self._file.seek(0)


def _create(folder: Path, key: str) -> tuple[Path, TextIO]:
    """A new queue file, open, and locked while this process runs."""
    while True:
        path = folder / f"{key}.{uuid.uuid4().hex[:8]}.jsonl"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("w", encoding="utf-8")
        except OSError as error:
            raise InputError(f"{folder}: not writable ({error.strerror}); make it writable") from error
        fcntl.flock(file, fcntl.LOCK_EX)
        if path.exists():  # another process may have deleted it as abandoned before it was locked
            return path, file
        file.close()


def abandoned_keys(folder: Path) -> list[str]:
    """Keys under which ended processes left records."""
    return sorted({path.name.partition(".")[0] for path, _ in _abandoned(folder, "*")})


def _abandoned(folder: Path, key: str) -> Iterator[tuple[Path, TextIO]]:
    """Queue files of ended processes, each open and locked until the next is requested."""
    for path in sorted(folder.glob(f"{key}.*.jsonl")):
        with suppress(FileNotFoundError), path.open("r+", encoding="utf-8", errors="replace") as file:
            try:  # NFS grants an exclusive lock only on a file that is open for writing
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            if path.exists():  # another process may have taken it over before it was locked
                yield path, file


def _records(file: TextIO, folder: Path) -> Iterator[Record]:
    """The records of a queue file; lines that are none are reported and left out."""
    for number, line in enumerate(file, 1):
        if not line.endswith("\n"):  # cut short by a kill
            continue
        try:
            yield _checked(json.loads(line), folder)
        except (ValueError, RecursionError):
            print(f"{file.name}: line {number} is damaged and left out", flush=True)


def _checked(record: Any, folder: Path) -> Record:
    """A record from a file, with its spooled files looked for in this queue's folder and nowhere else."""
    if not isinstance(record, dict):
        raise ValueError("not a record")
    if SPOOLED not in record:
        return record
    spooled = re.search(r"([^/]+\.files)/([0-9a-f]{8})$", str(record[SPOOLED]))
    if spooled is None:
        raise ValueError("files outside the queue")
    return record | {SPOOLED: str(folder / spooled[1] / spooled[2])}
