"""System metrics during a run, under the names of MLflow's interface."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pipelines.training.system_metrics import SystemMetrics


def test_metrics_are_logged_at_intervals_until_the_end() -> None:
    logged: list[tuple[int, Mapping[str, float]]] = []
    start = int(time.time())
    with SystemMetrics(lambda step, values: logged.append((step, values)), every_seconds=0.05, network=True):
        deadline = time.monotonic() + 20
        while len(logged) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    count = len(logged)
    time.sleep(0.15)
    assert len(logged) == count
    step, values = logged[-1]
    assert start <= step <= time.time()
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert values["system/system_memory_usage_megabytes"] > 100
    assert "system/network_receive_megabytes" in values
    assert not any("disk" in name for name in values)
