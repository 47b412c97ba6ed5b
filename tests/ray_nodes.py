"""A Ray cluster of simulated machines, with an object store and an MLflow server on two more."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import fsspec
import matplotlib
import pytest

from rwsa.files import location
from tests import object_store
from tests.mlflow_server import answers
from tests.node_network import Network, network, wait_until

CHECKOUT = Path(__file__).parents[1]
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "a-token-that-all-nodes-of-this-test-share"}
# Names of the machines, and the core that each is pinned to, if any.
CORES = {"head": None, "a": None, "b": None}
_STORE_PORT, _MLFLOW_PORT, _GCS_PORT = 9000, 5000, 6379


class RayNodes:
    """A head without CPUs, where drivers run, and two workers of one CPU each."""

    def __init__(self, folder: Path, net: Network, cores: Mapping[str, int | None]) -> None:
        self.folder, self.net, self._cores = folder, net, cores
        self.store = f"http://{net['store'].address}:{_STORE_PORT}"
        self.mlflow = f"http://{net['mlflow'].address}:{_MLFLOW_PORT}"
        self.address = f"{net['head'].address}:{_GCS_PORT}"
        self._drivers: list[Driver] = []
        self._environment = {
            **object_store.environment(self.store),
            **TOKEN,
            "PYTHONPATH": str(CHECKOUT),
            "RWSA_SHARED_CHECKOUT": "1",
            "RAY_ADDRESS": "",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            # Each node has a home of its own, where matplotlib would look for this machine's fonts again.
            "MPLCONFIGDIR": matplotlib.get_cachedir(),
            # A node with dead processes is declared dead after five seconds instead of fifteen; an
            # unreachable node still gets five checks of ten seconds each.
            "RAY_health_check_period_ms": "1000",
            # With it, a run went on 10 s after a cut of 20 s was healed, instead of 300 s. Supposed reason:
            # Ray's servers close connections without an answer for 20 s, and clients notice after 300 s.
            "RAY_grpc_keepalive_timeout_ms": "60000",
        }

    def start(self, *names: str) -> None:
        """Start `store`, `mlflow`, the head or workers at the same time, and wait until all are ready."""
        servers = {"store": self._start_store, "mlflow": self._start_mlflow}
        ready = {name: servers.get(name, partial(self._start_ray, name))() for name in names}
        for name, is_ready in ready.items():
            wait_until(is_ready, self._why(name))

    def _start_store(self) -> Callable[[], object]:
        words = [sys.executable, "-m", "tests.object_store", self.net["store"].address, str(_STORE_PORT)]
        self.net["store"].start(words, self.folder / "store.log", PYTHONPATH=str(CHECKOUT))
        return lambda: answers(self.store)

    def _start_mlflow(self) -> Callable[[], object]:
        words = [sys.executable, "-m", "mlflow", "server", "--host", self.net["mlflow"].address]
        words += ["--port", str(_MLFLOW_PORT), "--workers", "1", "--allowed-hosts", "*"]
        words += ["--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db"]
        words += ["--artifacts-destination", str(self.folder / "artifacts")]
        self.net["mlflow"].start(words, self.folder / "mlflow.log", None, **self._environment)
        return lambda: answers(f"{self.mlflow}/health")

    def _start_ray(self, name: str) -> Callable[[], object]:
        node = self.net[name]
        words = [sys.executable, "-m", "ray.scripts.scripts", "start", "--disable-usage-stats", "--block"]
        words += ["--node-ip-address", node.address, "--object-store-memory", str(80 * 2**20)]
        if name == "head":
            words += ["--head", "--port", str(_GCS_PORT), "--num-cpus", "0", "--include-dashboard=false"]
        else:
            words += ["--address", self.address, "--num-cpus", "1"]
        log = self.folder / f"{name}.log"
        before = log.read_text().count("Ray runtime started") if log.exists() else 0
        node.start(self._held(name, words), log, None, **self._environment)
        return lambda: log.read_text().count("Ray runtime started") > before

    def drive(self, module: str, *words: str, cwd: Path | None = None, **environment: str) -> Driver:
        """Start a verb on the head."""
        log = self.folder / f"driver-{len(self._drivers)}.log"
        command = self._held("head", [sys.executable, "-m", module, *words])
        environment = {**self._environment, "RAY_ADDRESS": self.address, **environment}
        driver = Driver(self.net["head"].start(command, log, cwd, **environment), log)
        self._drivers.append(driver)
        return driver

    def mend(self) -> None:
        """End verbs that are under way, and bring back what was taken away, for the next test."""
        for driver in self._drivers:
            driver.kill()
        for node in self.net.nodes.values():
            node.heal()
        object_store.set_faults(self.store)
        self.start(*(name for name in ("mlflow", *self._cores) if not self.net[name].runs))

    def _held(self, name: str, command: list[str]) -> list[str]:
        core = self._cores[name]
        return command if core is None else ["taskset", "--cpu-list", str(core), *command]

    def _why(self, name: str) -> Callable[[], str]:
        return lambda: (self.folder / f"{name}.log").read_text()[-3000:]


class Driver:
    """A running verb."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    @property
    def output(self) -> str:
        return self._log.read_text(errors="replace")

    @property
    def is_running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> None:
        """Send SIGKILL if it still runs."""
        self._process.kill()

    def wait_for_output(self, text: str, seconds: float = 120) -> None:
        """Wait until it has printed a text."""
        wait_until(
            lambda: text in self.output or self._process.poll() is not None, lambda: self.output, seconds
        )
        assert text in self.output, self.output[-3000:]

    def ends(self, status: int = 0, seconds: float = 600) -> str:
        """Wait for its end; returns its output."""
        try:
            wait_until(lambda: self._process.poll() is not None, lambda: self.output[-3000:], seconds)
        finally:
            self.kill()  # else it would hold what the next test needs
        assert self._process.returncode == status, self.output[-5000:]
        return self.output


@contextmanager
def ray_nodes(
    folder: Path, *, cores: Mapping[str, int | None] = CORES, servers: bool = True
) -> Iterator[RayNodes]:
    """Start the machines, and remove them at the end of the block.

    Args:
        cores: for each machine, `head` first, the core that it is pinned to, if any.
        servers: also start the object store and MLflow.
    """
    with network(folder, [*cores, "store", "mlflow"]) as net:
        nodes = RayNodes(folder, net, cores)
        head, *workers = cores
        nodes.start(*(("store", "mlflow") if servers else ()), head)
        nodes.start(*workers)
        yield nodes


@contextmanager
def reached_from_here(nodes: RayNodes, bucket: str) -> Iterator[None]:
    """Create a bucket, and let this process use the store."""
    store = fsspec.get_filesystem_class("s3")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in object_store.environment(nodes.store).items():
            patch.setenv(name, value)
        store.clear_instance_cache()
        location(f"s3://{bucket}").mkdir()
        yield
    store.clear_instance_cache()
