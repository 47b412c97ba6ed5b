"""What a worker on Ray asks of the run's coordinator."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import ray
import torch

from pipelines.training import ray_context
from pipelines.training.ray_context import RayContext


class Coordinator:
    """Counts the calls that wait."""

    def __init__(self) -> None:
        self.waiting = 0
        self.wait_for_stop = SimpleNamespace(remote=self._wait)

    def _wait(self) -> str:
        self.waiting += 1
        return f"request {self.waiting}"


def test_one_rank_of_all_waits_for_a_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    coordinator, contexts = Coordinator(), []
    monkeypatch.setattr(ray_context.ray.train.torch, "get_device", lambda: torch.device("cpu"))
    monkeypatch.setattr(ray, "wait", lambda requests, timeout: (requests, []))
    for rank in range(3):
        place = SimpleNamespace(get_world_rank=lambda rank=rank: rank, get_world_size=lambda: 3)
        monkeypatch.setattr(ray_context.ray.train, "get_context", lambda place=place: place)
        contexts.append(RayContext(coordinator))
    assert coordinator.waiting == 1
    assert [context.should_stop() for context in contexts] == [True, False, False]
