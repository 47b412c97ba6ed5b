"""Locks of folders and stores: a lease file that names its holder, renewed while the holder runs.

The file is `.lease` in the folder, written on the condition that nobody else has (`rwsa.conditional_file`).
It expires if it is not renewed: whoever wants it watches it for the lease's time, so clocks need not agree.
The lease of a process of the same machine that has ended is taken over at once. A holder that was suspended
for so long that another took over is stopped before its next write.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from rwsa.conditional_file import conditional_file
from rwsa.errors import InputError, UnreachableError
from rwsa.files import (
    WRITE_REMEDY,
    StoragePath,
    absolute_location,
    before_write,
    error_reason,
    is_remote,
    location,
    store_errors,
)
from rwsa.lease_holder import LEASE_SECONDS, Holder

P = ParamSpec("P")
R = TypeVar("R")

RENEW_SECONDS = 20.0
_POLL_SECONDS = {False: 0.5, True: 2.0}  # in a folder, in a store
# A process that has just been killed ends a little later.
_SHORTEST_WAIT_SECONDS = 1.0
_ATTEMPTS = 20
_NAME = ".lease"
_LONGEST_NAME_BYTES = 200


class Lease:
    """A lease of this process, or (`renews=False`) of the process on whose behalf this one writes."""

    def __init__(self, target: StoragePath, path: StoragePath, holder: Holder, *, renews: bool) -> None:
        self.target, self.path, self.holder = target, path, holder
        self.file, self._renews = conditional_file(path), renews
        self._confirmed, self._lost = _clock(), ""
        self._mutex, self._released = threading.Lock(), threading.Event()

    def covers(self, path: StoragePath) -> bool:
        """Whether `path` is what the lease locks, or within."""
        root, other = str(self.target), str(path if is_remote(path) else path.absolute())
        return other == root or other.startswith(f"{root.rstrip('/')}/")

    def renew(self) -> None:
        """Write the lease anew, or notice that another process holds it.

        Raises:
            OSError, UnreachableError: the folder or store cannot be reached.
        """
        with self._mutex:
            for _ in range(_ATTEMPTS):
                content, version = self.file.read() or (b"", None)
                other = Holder.parse(content)
                if other is not None and other.token != self.holder.token:
                    self._lost = f"{self.target}: taken over by {other}, while this process did not respond"
                    return
                if not self._renews or self.file.write(self.holder.content(), version=version):
                    self._confirmed = _clock()
                    return

    def check(self) -> None:
        """Confirm the lease if its last renewal is too long ago.

        Raises:
            InputError: another process has taken it over, or the store cannot be reached.
        """
        if not self._lost and _clock() - self._confirmed > 2 * RENEW_SECONDS:
            with suppress(OSError):  # of a folder that is gone or full: the write itself reports it
                self.renew()
        if self._lost:
            raise InputError(f"{self._lost}; nothing more was written; start again when that has ended")

    def keep_renewed(self) -> None:
        """Renew the lease until it is released, in a thread of its own."""
        while not self._released.wait(RENEW_SECONDS):
            with suppress(OSError, UnreachableError):  # tried again; `check` decides before a write
                self.renew()

    def release(self) -> None:
        """Delete the lease file, if this process still holds it."""
        self._released.set()
        if os.getpid() != self.holder.pid:
            return  # a forked child
        with self._mutex, suppress(OSError, UnreachableError):
            found = self.file.read()
            other = None if found is None else Holder.parse(found[0])
            if other is not None and other.token == self.holder.token:
                self.file.delete()


_held: list[Lease] = []


def check_held(path: StoragePath) -> None:
    """Check the leases of this process that cover `path`; every atomic write does it.

    Raises:
        InputError: another process has taken a lease over.
    """
    for lease in tuple(_held):
        if lease.covers(path):
            lease.check()


before_write(check_held)


@contextmanager
def exclusive_lock(
    target: StoragePath, *, wait_seconds: float = 0.0, inside: bool = True, name: str = ""
) -> Iterator[None]:
    """Hold the lock of a folder or store, so that one process at a time writes there.

    Args:
        target: a folder, created if missing; with `inside=False` a file, or a folder yet to be made.
        wait_seconds: how long to wait for a process that holds the lock.
        inside: whether the lease file is in `target`; otherwise it is beside it.
        name: lock only the work of this name in the folder.

    Raises:
        InputError: another process holds the lock, or the lease cannot be written; also from a write in the
            block, if another process has taken the lock over.
    """
    target = location(absolute_location(str(target)))
    path = target / f".{name}{_NAME}" if name else target / _NAME if inside else _beside(target)
    with ExitStack() as stack:
        if not is_remote(path):
            stack.enter_context(_folder(path.parent, target))
        lease = Lease(target, path, Holder.this_process(), renews=True)
        _acquire(lease, wait_seconds)
        stack.callback(lease.release)
        stack.enter_context(_ended_by_sigterm())
        stack.enter_context(_registered(lease))
        threading.Thread(target=lease.keep_renewed, name="rwsa-lease", daemon=True).start()
        yield


def locked(argument: str, *, inside: bool = True) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Decorate a function that writes to the location in `argument`: it runs under `exclusive_lock`.

    If that argument is None, nothing is locked.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @functools.wraps(function)
        def with_lock(*args: P.args, **kwargs: P.kwargs) -> R:
            target = signature.bind(*args, **kwargs).arguments.get(argument)
            if target is None:
                return function(*args, **kwargs)
            with exclusive_lock(target, inside=inside):
                return function(*args, **kwargs)

        return with_lock

    return decorate


def holder_of(target: StoragePath) -> Holder | None:
    """The process that holds the lock of a folder, without waiting for it; None if its process has ended.

    Of a process of another machine it is not known whether it still runs.

    Raises:
        InputError: the lease cannot be read.
    """
    target = location(absolute_location(str(target)))
    with store_errors(target):
        found = conditional_file(target / _NAME).read()
    holder = None if found is None else Holder.parse(found[0])
    return None if holder is None or holder.state == "ended" else holder


def name_of(*values: object) -> str:
    """A name for `exclusive_lock` that stands for these values."""
    return hashlib.sha256(repr(values).encode(errors="surrogateescape")).hexdigest()[:12]


def lease_ticket(target: StoragePath) -> dict[str, Any] | None:
    """What `under_lease` needs in another process; None if this one holds no lease of `target`."""
    for lease in _held:
        if lease.covers(target):
            return {"target": str(lease.target), "path": str(lease.path), "holder": vars(lease.holder)}
    return None


@contextmanager
def under_lease(ticket: Mapping[str, Any] | None) -> Iterator[None]:
    """Write on behalf of the process that gave `lease_ticket`: once it has lost its lease, writes raise."""
    if ticket is None:
        yield
        return
    target, path = location(ticket["target"]), location(ticket["path"])
    with _registered(Lease(target, path, Holder(**ticket["holder"]), renews=False)):
        yield


@contextmanager
def _registered(lease: Lease) -> Iterator[None]:
    _held.append(lease)
    try:
        yield
    finally:
        _held.remove(lease)


def _beside(target: StoragePath) -> StoragePath:
    if not (name := target.name):
        return target / _NAME
    return target.with_name(
        f".{name if len(os.fsencode(name)) <= _LONGEST_NAME_BYTES else name_of(name)}{_NAME}"
    )


@contextmanager
def _folder(folder: Path, target: StoragePath) -> Iterator[None]:
    """Create a folder; if it is still empty at the end, remove it again."""
    with _write_errors(target):
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
    try:
        yield
    finally:
        with suppress(OSError):
            for path in missing:
                path.rmdir()


@contextmanager
def _write_errors(target: StoragePath) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if isinstance(error, FileExistsError) and target.is_file():
            raise InputError(f"{target}: is a file; choose a folder") from error
        missing = is_remote(target) and isinstance(error, FileNotFoundError)
        remedy = "create the bucket first" if missing else WRITE_REMEDY
        raise InputError(f"{target}: cannot be written ({error_reason(error)}); {remedy}") from error


def _acquire(lease: Lease, wait_seconds: float) -> None:
    started = watched_since = time.monotonic()
    wait_seconds = max(wait_seconds, _SHORTEST_WAIT_SECONDS)
    watched: bytes | None = None
    renewed, reported, attempts = False, False, 0
    while attempts < _ATTEMPTS:
        with _write_errors(lease.target):
            found = lease.file.read()
        content, version = found or (None, None)
        holder = None if content is None else Holder.parse(content)
        if holder is not None and holder.token == lease.holder.token:
            return  # the first answer to our request was lost, and it was repeated
        if content != watched:
            renewed = watched is not None and content is not None
            watched, watched_since = content, time.monotonic()
        state = "unknown" if holder is None else holder.state
        limit = LEASE_SECONDS if holder is None else holder.lease_seconds
        if content is None or state == "ended" or time.monotonic() - watched_since > limit:
            with _write_errors(lease.target):
                if not is_remote(lease.path):  # the last holder may have removed the folder, if empty
                    lease.path.parent.mkdir(parents=True, exist_ok=True)
                if lease.file.write(lease.holder.content(), version=version):
                    return
            attempts += 1
            continue
        if renewed or state == "running":
            if time.monotonic() - started >= wait_seconds:
                raise InputError(
                    f"{lease.target}: in use by {holder or 'another process'}; wait for its end, stop it, or"
                    " choose another name"
                )
        elif not reported:
            reported = True
            print(
                f"{lease.target}: in use by {holder or 'another process'}; waiting up to {limit:.0f} s to see"
                " whether that still runs",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(_POLL_SECONDS[is_remote(lease.path)])
    raise InputError(f"{lease.path}: changes too often; start again when nothing else writes there")


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Have SIGTERM raise where it would end the process without removing its temporary files and lease."""
    main = threading.current_thread() is threading.main_thread()
    if not main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def end(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGTERM) is end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _clock() -> float:
    """Seconds that pass while the machine is suspended, too."""
    return time.clock_gettime(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
