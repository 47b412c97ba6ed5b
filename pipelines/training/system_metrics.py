"""System metrics of a run in MLflow: CPU, memory, disk, network and NVIDIA GPUs.

MLflow's own monitors measure them, under the names that its interface shows as "System metrics". They are
recorded through `TrackedRun`, which survives an unreachable server.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

import torch
from mlflow.system_metrics.metrics.base_metrics_monitor import BaseMetricsMonitor
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from rwsa.errors import InputError


class SystemMetrics:
    """Calls `log` with this machine's metrics every few seconds, from a thread. Use as a context manager.

    These are the load of CPUs, memory and GPUs, and the network's where data or results are in a store. Their
    step is the Unix time in seconds, so that a resumed run continues the series.
    """

    def __init__(
        self,
        log: Callable[[int, Mapping[str, float]], None],
        *,
        network: bool = False,
        every_seconds: float = 10.0,
    ) -> None:
        self._log, self._network, self._every = log, network, every_seconds
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rwsa-system-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        monitors: Sequence[BaseMetricsMonitor] = [CPUMonitor()]
        if self._network:
            monitors = [*monitors, NetworkMonitor()]
        if torch.cuda.is_available():
            with suppress(ImportError, RuntimeError):  # a driver without NVIDIA's management library
                monitors = [*monitors, GPUMonitor()]
        monitors[0].collect_metrics()  # CPU load is measured between two calls; discard the first
        monitors[0].clear_metrics()
        while not self._stop.wait(self._every):
            metrics = dict[str, float]()
            for monitor in monitors:
                monitor.collect_metrics()
                metrics |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            # An unwritable record queue is reported by the loop's own metrics.
            with suppress(InputError):
                self._log(int(time.time()), {f"system/{name}": value for name, value in metrics.items()})
