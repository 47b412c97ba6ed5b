"""What workers are given by the one place that starts Ray."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from pipelines.cluster import _runtime_env, start_ray

CHECKOUT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("ray_address")


@ray.remote
def _look() -> tuple[str, list[str], bool]:
    import os
    from pathlib import Path

    import pipelines.cluster

    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    checkout = pipelines.cluster.CHECKOUT
    return str(checkout), [os.environ[name] for name in names], Path(checkout, ".venv").exists()


def test_workers_have_the_checkout_in_place_and_one_thread_each() -> None:
    where, threads, _ = ray.get(_look.remote())
    assert where == str(CHECKOUT)
    assert threads == ["1"] * 4


def test_nodes_that_do_not_share_the_checkout_get_a_copy_of_its_code() -> None:
    where, threads, environment_carried = ray.get(
        _look.options(runtime_env=_runtime_env(shared=False)).remote()
    )
    assert "_ray_pkg_" in where
    assert threads == ["1"] * 4
    assert not environment_carried


def test_starting_twice_does_nothing() -> None:
    assert start_ray(1) < 0.1
