"""What workers are given by the one place that starts Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import ray

from pipelines.core.ray_cluster import start_ray

CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("ray_address")


@ray.remote
def _look() -> tuple[str, list[str]]:
    import os

    from pipelines.core.runtime_env import CHECKOUT

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    return str(CHECKOUT), [os.environ[name] for name in names]


def test_workers_have_the_checkout_in_place_and_one_thread_each() -> None:
    where, threads = ray.get(_look.remote())
    assert where == str(CHECKOUT)
    assert threads == ["1"] * 4


DRIVER = """
import json, ray
from pipelines.core.ray_cluster import start_ray

@ray.remote
def look():
    from pipelines.core.runtime_env import CHECKOUT
    return str(CHECKOUT), CHECKOUT.joinpath(".venv").exists()

start_ray()
print(json.dumps(ray.get(look.remote())))
"""


def test_a_driver_that_joins_a_cluster_brings_a_copy_of_the_code(ray_address: str) -> None:
    environment = {**os.environ, "RAY_ADDRESS": ray_address}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER],
        cwd=CHECKOUT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    where, environment_carried = json.loads(done.stdout.splitlines()[-1])
    assert "_ray_pkg_" in where
    assert not environment_carried


def test_starting_twice_does_nothing() -> None:
    assert start_ray(1) < 0.1
