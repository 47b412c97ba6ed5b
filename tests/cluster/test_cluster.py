"""What workers are given by the one place that starts Ray."""

from __future__ import annotations

import pytest
import ray

from pipelines.cluster import start_ray

pytestmark = pytest.mark.usefixtures("ray_address")


def test_workers_have_the_checkout_and_one_thread_each() -> None:
    @ray.remote
    def look() -> tuple[str, list[str], bool]:
        import os
        from pathlib import Path

        import pipelines.cluster

        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
        carried = pipelines.cluster.CHECKOUT
        return str(carried), [os.environ[name] for name in names], Path(carried, ".venv").exists()

    where, threads, environment_carried = ray.get(look.remote())
    assert "_ray_pkg_" in where
    assert threads == ["1"] * 4
    assert not environment_carried


def test_starting_twice_does_nothing() -> None:
    assert start_ray(1) < 0.1
