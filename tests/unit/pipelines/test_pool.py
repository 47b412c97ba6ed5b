"""Work in flight of the pool, with stand-ins for Ray's tasks; tests/cluster/test_pool.py runs it on Ray."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.exceptions

from pipelines.core import pool
from pipelines.core.pool import _Flight
from rwsa.errors import InputError


@pytest.fixture(autouse=True)
def three_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 3.0})
    monkeypatch.setattr(ray, "get", lambda reference: "a result")


def flight(count: int, *, workers: int | None = None, gpus: int = 0) -> _Flight:
    def start_on_gpu(item: Any) -> tuple[object, object]:
        return object(), object()

    actors = [
        SimpleNamespace(run=SimpleNamespace(options=lambda **_: SimpleNamespace(remote=start_on_gpu)))
        for _ in range(gpus)
    ]
    found = _Flight(str, range(count), workers, actors)
    found._task = SimpleNamespace(remote=lambda *_: object())
    return found


@pytest.mark.parametrize(("workers", "window"), [(None, 6), (2, 2)])
def test_no_more_tasks_than_the_window_are_in_flight(workers: int | None, window: int) -> None:
    tasks, results = flight(20, workers=workers), []
    while tasks.fill():
        assert len(tasks.running) == min(window, 20 - len(results))
        results += tasks.finish(next(iter(tasks.running)))
    assert sorted(number for number, _ in results) == list(range(20))


def test_gpus_pause_while_their_results_wait_for_a_cpu() -> None:
    tasks = flight(100, workers=1, gpus=2)
    for _ in range(60):  # only GPUs finish
        tasks.fill()
        on_gpus = [reference for reference, one in tasks.running.items() if one.actor is not None]
        assert len(on_gpus) <= 2 * pool._IN_FLIGHT_PER_GPU
        assert len(tasks.running) - len(on_gpus) <= 1
        assert len(tasks._prepared) <= pool._PREPARED_PER_CPU + 2 * pool._IN_FLIGHT_PER_GPU
        for reference in on_gpus[:1]:
            assert list(tasks.finish(reference)) == []
    assert not [one for one in tasks.running.values() if one.actor is not None]


def test_an_item_that_loses_node_after_node_ends_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def node_lost(reference: object) -> None:
        raise ray.exceptions.NodeDiedError("gone")

    monkeypatch.setattr(ray, "get", node_lost)
    tasks = flight(1)
    for _ in range(pool._NODES_LOST_PER_ITEM):
        tasks.fill()
        assert list(tasks.finish(next(iter(tasks.running)))) == []
    tasks.fill()
    with pytest.raises(InputError, match="4 nodes were lost while they worked on 0"):
        list(tasks.finish(next(iter(tasks.running))))
