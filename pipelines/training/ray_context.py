"""Ray Train's `WorkerContext`, and the actor through which driver and workers coordinate."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch

from rwsa.training.checkpoints import Checkpoints
from rwsa.training.context import TrainLogger

_REPORT_SECONDS = 10.0


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)  # its node may be lost
class RunCoordinator:
    """Passes stop requests to the workers, and checkpoints and final errors to the driver.

    Signals reach the driver only, not Ray's workers.
    """

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._error: tuple[str, str] | None = None
        self._preempted, self._started = False, False
        self._checkpoints: list[tuple[int, dict[str, float]]] = []
        self._hangs: list[tuple[str, bool]] = []

    async def report_start(self) -> None:
        """Report that a worker has started."""
        self._started = True

    async def has_started(self) -> bool:
        """Whether any worker has started."""
        return self._started

    async def request_stop(self) -> None:
        """Request all workers to save and stop."""
        self._stop.set()

    async def wait_for_stop(self) -> None:
        """Return once a stop is requested."""
        await self._stop.wait()

    async def report_preempted(self) -> None:
        """Report that the workers saved and stopped on request."""
        self._preempted = True

    async def was_preempted(self) -> bool:
        """Whether the workers stopped on request before training was complete."""
        return self._preempted

    async def report_checkpoint(self, step: int, metrics: dict[str, float]) -> None:
        """Report a checkpoint of rank 0 and its validation metrics."""
        self._checkpoints.append((step, metrics))

    async def checkpoints_after(self, step: int) -> list[tuple[int, dict[str, float]]]:
        """Reported checkpoints of later steps; a restart of this actor loses earlier reports."""
        return [(saved, metrics) for saved, metrics in self._checkpoints if saved > step]

    async def report_hang(self, text: str, ends: bool) -> None:
        """Report that training hangs, and whether its workers end for that."""
        self._hangs.append((text, ends))

    async def take_hangs(self) -> list[tuple[str, bool]]:
        """Hangs reported since the last call."""
        hangs, self._hangs = self._hangs, []
        return hangs

    async def report_error(self, kind: str, message: str) -> None:
        """Report an error that a restart would not fix, by the name of its class; the first one counts."""
        self._error = self._error or (kind, message)

    async def final_error(self) -> tuple[str, str] | None:
        """The reported error."""
        return self._error


class RayContext:
    """A `rwsa.training.context.WorkerContext` on `ray.train`; `coordinator` is a `RunCoordinator`.

    The caller sets `checkpoints` and `logger` after reading the configuration.
    """

    checkpoints: Checkpoints

    def __init__(self, coordinator: Any) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.logger: TrainLogger | None = None
        self._coordinator = coordinator
        # A waiting call takes one of the actor's 1,000 places, also after its caller was killed. One rank is
        # enough, since the training loop tells the others.
        self._stop_request = coordinator.wait_for_stop.remote() if self.rank == 0 else None
        for handler in logging.getLogger().handlers:
            handler.addFilter(_is_not_ray_info)

    def report_checkpoint(self, step: int, metrics: Mapping[str, float]) -> None:
        """Report to the coordinator and Ray. The checkpoint stays where all launchers look for it."""
        if self.rank == 0:
            self._coordinator.report_checkpoint.remote(step, dict(metrics))
        ray.train.report({**metrics, "step": step})

    def should_stop(self) -> bool:
        if self._stop_request is None:
            return False
        requested, _ = ray.wait([self._stop_request], timeout=0)
        return bool(requested)

    def report_hang(self, text: str, ends: bool) -> None:
        ray.get(self._coordinator.report_hang.remote(text, ends), timeout=_REPORT_SECONDS)


def _is_not_ray_info(record: logging.LogRecord) -> bool:
    """Drops one line per checkpoint and rank from loggers that Ray names by their file, not `ray.train`."""
    return record.levelno >= logging.WARNING or not record.name.startswith(str(Path(ray.__file__).parent))
