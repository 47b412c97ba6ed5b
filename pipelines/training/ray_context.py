"""The training loop's view of a Ray Train worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train.v2._internal.execution import context as ray_reports

from rwsa.training.checkpoints import Checkpoints
from rwsa.training.context import Listener

# It tells of every report on every rank, in a logger that Ray names by the file.
logging.getLogger(ray_reports.__file__).setLevel(logging.WARNING)


@ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)  # it may be on a node that is lost
class Notices:
    """What driver and workers tell each other: that the driver was asked to end (signals do not reach Ray's
    workers), and that a worker met what starting again does not mend.
    """

    def __init__(self) -> None:
        self._stop = asyncio.Event()
        self._reason: tuple[str, str] | None = None
        self._preempted, self._begun = False, False
        self._saved: list[tuple[int, dict[str, float]]] = []

    async def begin(self) -> None:
        """Note that a worker has begun."""
        self._begun = True

    async def has_begun(self) -> bool:
        """Whether any has."""
        return self._begun

    async def stop(self) -> None:
        """Let `stopped` return."""
        self._stop.set()

    async def stopped(self) -> None:
        """Return when told to stop."""
        await self._stop.wait()

    async def cut_short(self) -> None:
        """Note that the workers have saved and ended because they were told to stop."""
        self._preempted = True

    async def was_cut_short(self) -> bool:
        """Whether they did; where they were done anyway, they did not."""
        return self._preempted

    async def saved(self, step: int, values: dict[str, float]) -> None:
        """Note what rank 0 has saved."""
        self._saved.append((step, values))

    async def saved_after(self, step: int) -> list[tuple[int, dict[str, float]]]:
        """What was noted of later steps; by steps, since what was noted is lost when it starts again."""
        return [(saved, values) for saved, values in self._saved if saved > step]

    async def give_up(self, kind: str, message: str) -> None:
        """Note the first error that is final, by the name of its class."""
        self._reason = self._reason or (kind, message)

    async def gave_up(self) -> tuple[str, str] | None:
        """The error that was noted."""
        return self._reason


class RayContext:
    """A `rwsa.training.context.WorkerContext` over `ray.train`; `notices` is the driver's actor.

    Checkpoints and listener are for who has read the configuration to set.
    """

    checkpoints: Checkpoints

    def __init__(self, notices: Any) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self.listener: Listener | None = None
        self._notices, self._stopped = notices, notices.stopped.remote()

    def saved(self, step: int, values: Mapping[str, float]) -> None:
        """Let Ray know how far it is. The checkpoint itself is not handed over: it lies where every way of
        launching finds it.
        """
        if self.rank == 0:
            self._notices.saved.remote(step, dict(values))
        ray.train.report({**values, "step": step})

    def stopping(self) -> bool:
        told, _ = ray.wait([self._stopped], timeout=0)
        return bool(told)
