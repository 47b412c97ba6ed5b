"""A stand-in for a SLURM cluster: network namespaces as nodes, and replacements of `srun` and `scontrol`.

Each node has its own address, host name and disk, and shares processors and files with the others.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Nodes, named like their network namespaces.

    Attributes:
        names: names of the nodes; the first runs the batch script.
        disks: for each node, the folder that it sees at `local`.
        local: mount point of each node's own disk.
        folder: folder of the commands `srun` and `scontrol`.
    """

    names: tuple[str, ...]
    disks: tuple[str, ...]
    local: str
    folder: str

    def on(self, name: str, command: Sequence[str]) -> list[str]:
        """The command line that runs a command on a node."""
        there = 'hostname "$1" && mount --bind "$2" "$3" && shift 3 && exec "$@"'
        disk = self.disks[self.names.index(name)]
        own = ["unshare", "--uts", "--mount", "sh", "-c", there, "sh", name, disk, self.local]
        return ["ip", "netns", "exec", name, *own, *command]

    def processes(self) -> list[str]:
        """Process ids on all nodes."""
        listed = [_done("ip", "netns", "pids", name) for name in self.names]
        return [pid for pids in listed for pid in pids.split()]

    def leftovers(self) -> list[Path]:
        """Files on the nodes' disks."""
        return [path for disk in self.disks for path in Path(disk).iterdir()]

    @property
    def requeued(self) -> list[str]:
        """Jobs passed to `scontrol requeue`."""
        path = Path(self.folder) / "requeued"
        return path.read_text().split() if path.exists() else []


@contextmanager
def slurm_nodes() -> Iterator[Nodes]:
    """Two nodes connected by a virtual cable, removed at the end."""
    names = tuple(f"rwsa{os.getpid()}-{place}" for place in range(2))
    addresses = ("10.77.0.1", "10.77.0.2")
    hosts = "127.0.0.1 localhost\n" + "".join(
        f"{address} {name}\n" for address, name in zip(addresses, names, strict=True)
    )
    with ExitStack() as stack:
        # A short path, since Ray's sockets are below it.
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="rwsa-", dir="/tmp"))
        for name in names:
            _done("ip", "netns", "add", name)
            stack.callback(_remove, name)
            _done("ip", "-n", name, "link", "set", "lo", "up")
            etc = Path("/etc/netns", name)  # `ip netns exec` mounts its files over /etc
            etc.mkdir(parents=True)
            (etc / "hosts").write_text(hosts)
        _done(
            "ip", "-n", names[0], "link", "add", "cable", "type", "veth", "peer", "cable", "netns", names[1]
        )
        for name, address in zip(names, addresses, strict=True):
            _done("ip", "-n", name, "address", "add", f"{address}/24", "dev", "cable")
            _done("ip", "-n", name, "link", "set", "cable", "up")
        disks = tuple(f"{folder}/{place}" for place in range(len(names)))
        for made in (*disks, f"{folder}/d", f"{folder}/bin"):
            Path(made).mkdir()
        nodes = Nodes(names=names, disks=disks, local=f"{folder}/d", folder=f"{folder}/bin")
        _write_commands(nodes)
        yield nodes


def _write_commands(nodes: Nodes) -> None:
    folder = Path(nodes.folder)
    (folder / "nodes.json").write_text(json.dumps(asdict(nodes)))
    for command in ("srun", "scontrol"):
        path = folder / command
        path.write_text(f'#!/bin/sh\nexec {sys.executable} {__file__} {folder}/nodes.json {command} "$@"\n')
        path.chmod(0o755)


def _remove(name: str) -> None:
    """Remove a node: its processes, cable and namespace."""
    for pid in _done("ip", "netns", "pids", name).split():
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue  # ended meanwhile
    _done("ip", "netns", "del", name)
    shutil.rmtree(Path("/etc/netns", name))


def _done(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def srun(nodes: Nodes, words: Sequence[str]) -> int:
    """Run a command on each requested node, forward SIGTERM to all, and return the greatest exit status.

    Supports only the options of srun that our script uses.
    """
    parser = argparse.ArgumentParser(prog="srun", allow_abbrev=False)
    for option in ("--nodes", "--ntasks", "--ntasks-per-node", "--cpus-per-task"):
        parser.add_argument(option, type=int, required=True)
    parser.add_argument("--exclude", default="")
    parser.add_argument("--export", choices=["ALL"])
    parser.add_argument("--overlap", action="store_true")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    where = [name for name in nodes.names if name not in options.exclude.split(",")]
    assert len(where) == options.nodes == options.ntasks, (where, options)
    environment = {**os.environ, "SLURM_CPUS_ON_NODE": str(options.cpus_per_task)}
    tasks = [subprocess.Popen(nodes.on(name, options.command), env=environment) for name in where]

    def terminate(*_: object) -> None:
        for task in tasks:
            task.terminate()

    signal.signal(signal.SIGTERM, terminate)
    return max(abs(task.wait()) for task in tasks)


def scontrol(nodes: Nodes, words: Sequence[str]) -> int:
    """Expand the job's node list, or record which job is to be requeued."""
    if list(words[:2]) == ["show", "hostnames"]:
        assert words[2:] == ["rwsa[0-1]"], words
        print("\n".join(nodes.names))
        return 0
    verb, job = words
    assert verb == "requeue", words
    (Path(nodes.folder) / "requeued").write_text(job)
    return 0


if __name__ == "__main__":
    about, command, *rest = sys.argv[1:]
    stored = json.loads(Path(about).read_text())
    known = Nodes(**stored | {key: tuple(stored[key]) for key in ("names", "disks")})
    sys.exit({"srun": srun, "scontrol": scontrol}[command](known, rest))
