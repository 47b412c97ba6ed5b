"""One small Ray for all cluster tests: two CPUs on this machine."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session")
def ray_address() -> Iterator[str]:
    """Address of a running Ray with two CPUs, which this process has joined."""
    # Imported here: collecting tests must not pay for it.
    import ray

    from pipelines.core.ray_cluster import start_ray

    start_ray(2, object_store_bytes=150 * 2**20)
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
