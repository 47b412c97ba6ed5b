"""The training loop's view of a Ray Train worker."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import ray.train.torch
from ray.train.v2._internal.execution import context as ray_reports

from rwsa.training.context import LogTo

# Of a checkpoint that was not validated.
_LOWEST_SCORE = -1e9
# It tells of every report on every rank, in a logger that Ray names by the file.
logging.getLogger(ray_reports.__file__).setLevel(logging.WARNING)


@ray.remote(num_cpus=0)
class StopNotice:
    """Tells all workers that the driver was asked to end; signals do not reach Ray's workers."""

    def __init__(self) -> None:
        self._told = asyncio.Event()

    async def tell(self) -> None:
        """Let `heard` return."""
        self._told.set()

    async def heard(self) -> None:
        """Return when told."""
        await self._told.wait()


class RayContext:
    """A `rwsa.training.context.WorkerContext` over `ray.train`; `notice` is the driver's `StopNotice`."""

    def __init__(self, notice: Any, log_to: LogTo | None = None) -> None:
        context = ray.train.get_context()
        self.rank, self.world_size = context.get_world_rank(), context.get_world_size()
        self.device = ray.train.torch.get_device()
        self._log_to, self._heard = log_to, notice.heard.remote()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._log_to is not None:
            self._log_to(step, values)

    def report(self, step: int, values: Mapping[str, float], checkpoint: Path, *, best: bool) -> None:
        """All ranks report; rank 0 attaches the folder, which Ray copies to the run's storage.

        Ray itself finds the best by the `score` among the values; it keeps them as JSON, which knows no
        infinity.
        """
        values = {**values, "score": max(values["score"], _LOWEST_SCORE)}
        folder = ray.train.Checkpoint.from_directory(checkpoint) if self.rank == 0 else None
        ray.train.report({**values, "step": step}, checkpoint=folder)

    def latest_checkpoint(self) -> Path | None:
        checkpoint = ray.train.get_checkpoint()
        return None if checkpoint is None else Path(checkpoint.to_directory())

    def stopping(self) -> bool:
        told, _ = ray.wait([self._heard], timeout=0)
        return bool(told)
