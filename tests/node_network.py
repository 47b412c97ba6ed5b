"""A network of simulated machines: one network namespace each, with its own address on a bridge.

Each has its own /dev/shm, /tmp/ray and home; recordings and code are visible to all, as in a shared folder.
Needs Linux, root and `ip`.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

# From the addresses reserved for benchmarking networks (RFC 2544).
_SUBNET = "198.18"
_INSIDE = 'mount --bind "$0" /dev/shm && mount --bind "$1" /tmp/ray && shift && exec "$@"'


class Node:
    """One simulated machine."""

    def __init__(self, namespace: str, address: str, folder: Path, shm: Path) -> None:
        self.namespace, self.address, self.folder, self._shm = namespace, address, folder, shm
        self._link = f"v{namespace}"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(
        self, command: Sequence[str], log: Path, cwd: Path | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """Start a command on it; its output is appended to `log`."""
        inside = ["sh", "-c", _INSIDE, str(self._shm), str(self.folder / "ray"), *map(str, command)]
        with log.open("ab") as log_file:
            started = subprocess.Popen(
                ["ip", "netns", "exec", self.namespace, *inside],
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=log_file,
                env={**os.environ, "HOME": str(self.folder), **environment},
            )
        self._started.append(started)
        return started

    @property
    def runs(self) -> bool:
        """Whether any process started on it still runs."""
        return any(process.poll() is None for process in self._started)

    def kill(self) -> None:
        """Kill all its processes with SIGKILL, as in a power failure."""
        for _ in range(20):
            pids = _ip("netns", "pids", self.namespace).split()
            if not pids:
                break
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
            time.sleep(0.1)
        for process in self._started:
            process.wait()

    def cut(self) -> None:
        """Disconnect it from the network."""
        _ip("link", "set", self._link, "down")

    def heal(self) -> None:
        """Reconnect it."""
        _ip("link", "set", self._link, "up")


class Network:
    """Simulated machines by name."""

    def __init__(self) -> None:
        self._id = f"{os.getpid() % 10_000:04d}"
        self._bridge, self._subnet = f"rwsa{self._id}", f"{_SUBNET}.{os.getpid() % 250}"
        self._shm = Path(tempfile.mkdtemp(prefix="rwsa-nodes-", dir="/dev/shm"))
        self.nodes: dict[str, Node] = {}

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def build(self, folder: Path, names: Sequence[str]) -> None:
        """Create the bridge and the machines."""
        Path("/tmp/ray").mkdir(exist_ok=True)
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self._subnet}.1/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")
        for number, name in enumerate(names, start=2):
            self._add(name, f"{self._subnet}.{number}", folder / name)

    def _add(self, name: str, address: str, folder: Path) -> None:
        node = self.nodes[name] = Node(f"{self._id}{name}"[:14], address, folder, self._shm / name)
        for one in (folder / "ray", self._shm / name):
            one.mkdir(parents=True)
        _ip("netns", "add", node.namespace)
        _ip("link", "add", node._link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace)
        _ip("link", "set", node._link, "master", self._bridge, "up")
        for words in (
            ("addr", "add", f"{address}/24", "dev", "eth0"),
            ("link", "set", "eth0", "up"),
            ("link", "set", "lo", "up"),
            ("route", "add", "default", "via", f"{self._subnet}.1"),
        ):
            _ip("-n", node.namespace, *words)

    def close(self) -> None:
        """Kill all processes and remove everything."""
        for node in self.nodes.values():
            with suppress(OSError):
                node.kill()
            with suppress(OSError):
                _ip("netns", "del", node.namespace)
        with suppress(OSError):
            _ip("link", "del", self._bridge)
        shutil.rmtree(self._shm, ignore_errors=True)


def why_not() -> str | None:
    """Why simulated machines are not possible here; None if they are."""
    missing = [tool for tool in ("ip", "unshare") if shutil.which(tool) is None]
    if missing:
        return f"no {' and no '.join(missing)}; on Debian: apt-get install iproute2 util-linux"
    name = f"rwsa-probe-{os.getpid()}"
    try:
        _ip("netns", "add", name)
        _ip("netns", "del", name)
    except OSError as error:
        return f"no network namespaces ({error}); they need Linux and root"
    return None


@contextmanager
def network(folder: Path, names: Sequence[str]) -> Iterator[Network]:
    """Machines of these short names, removed at the end of the block; see `why_not`."""
    made = Network()
    try:
        made.build(folder, names)
        yield made
    finally:
        made.close()


def wait_until(condition: Callable[[], object], why: Callable[[], str], seconds: float = 300) -> None:
    """Wait for a condition; after too long, fail with the text of `why`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, why()
        time.sleep(0.1)


def _ip(*words: str) -> str:
    """Run `ip`; raises OSError with its message on failure."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(done.stderr.strip() or f"ip {' '.join(words)} failed")
    return done.stdout
