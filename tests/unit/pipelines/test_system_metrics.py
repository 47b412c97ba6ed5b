"""The machine is watched while a run lasts, under the names that MLflow's interface looks for."""

from __future__ import annotations

import time
from collections.abc import Mapping

from pipelines.training.system_metrics import SystemMetrics


def test_figures_come_every_so_often_until_it_ends() -> None:
    found: list[tuple[int, Mapping[str, float]]] = []
    began = int(time.time())
    with SystemMetrics(lambda step, values: found.append((step, values)), every_seconds=0.05):
        deadline = time.monotonic() + 20
        while len(found) < 3:
            assert time.monotonic() < deadline
            time.sleep(0.01)
    count = len(found)
    time.sleep(0.15)
    assert len(found) == count
    step, values = found[-1]
    assert began <= step <= time.time()
    assert 0 <= values["system/cpu_utilization_percentage"] <= 100
    assert values["system/system_memory_usage_megabytes"] > 100
    assert {"system/disk_available_megabytes", "system/network_receive_megabytes"} <= values.keys()
