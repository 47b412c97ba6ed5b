"""How busy a machine is, recorded beside a run: processors, memory, disk, network and NVIDIA's GPUs.

Measured by MLflow's own monitors, whose names its interface shows under "System metrics"; recorded by ours,
which outlives a server that is away.
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
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

from rwsa.errors import InputError


class SystemMetrics:
    """Gives `log_to` figures of this machine every few seconds, from a thread. Use as a context manager.

    Their step is the whole seconds since 1970, so that a resumed run goes on where it was.
    """

    def __init__(
        self, log_to: Callable[[int, Mapping[str, float]], None], *, every_seconds: float = 10.0
    ) -> None:
        self._log_to, self._every = log_to, every_seconds
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="rwsa-system-metrics", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()

    def _watch(self) -> None:
        monitors: Sequence[BaseMetricsMonitor] = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        if torch.cuda.is_available():
            with suppress(ImportError, RuntimeError):  # of a driver without NVIDIA's management library
                monitors = [*monitors, GPUMonitor()]
        monitors[0].collect_metrics()  # processors are busy between two looks; the first has none before it
        monitors[0].clear_metrics()
        while not self._ending.wait(self._every):
            figures = dict[str, float]()
            for monitor in monitors:
                monitor.collect_metrics()
                figures |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            # Where nothing can be written down, the loop's own figures say so.
            with suppress(InputError):
                self._log_to(int(time.time()), {f"system/{name}": value for name, value in figures.items()})
