"""Number of trials that run at once; the limit of a sweep is its key `concurrent_trials`."""

from __future__ import annotations

from collections.abc import Mapping

from tune.sweep_config import SweepConfig


def concurrent_trials(sweep: SweepConfig, resources: Mapping[str, float]) -> int:
    """Number of trials that run at once: as many as the cluster has room for, up to the sweep's limit.

    With `gpu`, the limit itself, since a cluster adds nodes only for trials that wait for them.

    Args:
        sweep: the sweep.
        resources: of the cluster, by Ray's names.
    """
    if sweep.gpu and sweep.concurrent_trials:
        return sweep.concurrent_trials
    workers = max(sweep.workers, 1)
    capacity = resources.get("CPU", 1) // (workers * sweep.cpus_per_worker)
    if gpus := resources.get("GPU", 0):
        capacity = min(capacity, gpus // workers)
    return max(1, min(int(capacity), sweep.concurrent_trials or int(capacity)))
