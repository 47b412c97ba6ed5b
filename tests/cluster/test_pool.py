"""The pool on a real Ray: two stages, bounded work in flight, and processes that die."""

from __future__ import annotations

import pytest

from pipelines.core import pool
from pipelines.core.pool import map_unordered
from rwsa.errors import InputError

pytestmark = pytest.mark.usefixtures("ray_address")


def die(item: int) -> int:
    """Stands for a decoder that crashes on one file."""
    import os
    import signal

    if item == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return item


def double(item: int) -> int:
    return 2 * item


def pair(item: int, prepared: int | None = None) -> tuple[int, int | None]:
    return item, prepared


def test_a_process_that_dies_repeatedly_is_reported_with_its_item() -> None:
    with pytest.raises(InputError, match="killed repeatedly while it worked on 3"):
        list(map_unordered(die, range(5), workers=1))


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two actors that stand for GPUs."""
    monkeypatch.setattr(pool, "_count_gpus", lambda: 2)
    monkeypatch.setattr(pool, "_GPU_OPTIONS", {**pool._GPU_OPTIONS, "num_gpus": 0})


@pytest.mark.usefixtures("gpus")
def test_results_of_the_gpu_stage_reach_the_cpu_stage() -> None:
    results = dict(map_unordered(pair, range(20), workers=1, gpu_work=double))
    assert results == {number: (number, 2 * number) for number in range(20)}


@pytest.mark.usefixtures("gpus")
def test_a_process_that_dies_repeatedly_on_a_gpu_is_reported_with_its_item() -> None:
    with pytest.raises(InputError, match="killed repeatedly while it worked on"):
        list(map_unordered(pair, [3], workers=1, gpu_work=die))


def test_a_gpu_stage_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="this Ray cluster has no GPU"):
        list(map_unordered(pair, range(3), workers=1, gpu_work=double))
