"""The holder of a lease: which process of which machine, and whether it still runs."""

from __future__ import annotations

import dataclasses
import getpass
import json
import math
import os
import socket
import sys
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from rwsa.messages import printable

LEASE_SECONDS = 120.0
_LONGEST_SECONDS = 600.0
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, kw_only=True)
class Holder:
    """The process that holds a lease.

    Attributes:
        token: of this lease; no two are equal.
        user, host, pid, command, since: whom to ask; `since` is UTC by the holder's clock.
        machine: which boot of which machine, and which of its process name spaces; empty if unknown.
        process_start: distinguishes processes that had the same pid; empty if unknown.
        lease_seconds: time without a renewal after which the lease has expired.
    """

    token: str
    user: str
    host: str
    pid: int
    command: str
    since: str
    machine: str
    process_start: str
    lease_seconds: float

    @classmethod
    def this_process(cls) -> Holder:
        """A new lease of this process."""
        return cls(
            token=uuid.uuid4().hex,
            user=_user(),
            host=socket.gethostname(),
            pid=os.getpid(),
            command=_command(),
            since=_now(),
            machine=_machine(),
            process_start=_process_start(os.getpid()) or "",
            lease_seconds=LEASE_SECONDS,
        )

    @classmethod
    def parse(cls, content: bytes) -> Holder | None:
        """The holder named in a lease file; None if it is damaged or half-written."""
        try:
            values = json.loads(content)
            holder = cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})
            seconds = float(holder.lease_seconds)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
            return None
        if not isinstance(holder.pid, int) or not math.isfinite(seconds):
            return None
        return dataclasses.replace(holder, lease_seconds=min(seconds, _LONGEST_SECONDS))

    def content(self) -> bytes:
        """Content of the lease file; it differs at every renewal."""
        values = {**dataclasses.asdict(self), "renewed": _now(), "renewal": uuid.uuid4().hex[:8]}
        return (json.dumps(values, indent=2) + "\n").encode()

    def __str__(self) -> str:
        user, host, command, since = (
            printable(str(text)[:_SHOWN_CHARACTERS])
            for text in (self.user, self.host, self.command, self.since)
        )
        return f"{user} on {host} (process {self.pid}, {command}) since {since} UTC"

    @property
    def state(self) -> Literal["running", "ended", "unknown"]:
        """Whether the holder runs; unknown for a process of another machine or container."""
        if not self.machine or self.machine != _machine():
            return "unknown"
        start = _process_start(self.pid)
        if start is None:
            return "ended"
        return "running" if start == self.process_start or not (start and self.process_start) else "ended"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a uid without an entry, as in containers
        return f"uid {os.getuid()}"


def _command() -> str:
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    return spec.name if spec is not None else Path(sys.argv[0] if sys.argv else "").name or "python"


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S")


def _machine() -> str:
    """This boot of this machine and the name space of its pids; empty where unknown (only Linux says)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_start(pid: int) -> str | None:
    """Start of a process of this machine, in the kernel's ticks; empty if hidden, None if it has ended."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except PermissionError:
        pass  # it runs
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except (OSError, ValueError):
        return ""
    return None if state in (b"Z", b"X") else fields[18].decode()
