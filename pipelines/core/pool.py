"""A function over many items on Ray: a bounded number in flight, results as they complete."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ray
import ray.exceptions

from pipelines.core.ray_cluster import start_ray
from rwsa.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
# A worker's next item is already queued when it finishes one.
_IN_FLIGHT_PER_CPU = 2
# An item that takes down the nodes it runs on must not take down all.
_NODES_LOST_PER_ITEM = 3
_IN_FLIGHT_PER_GPU = 2
# GPUs pause while so many of their results, which use memory, wait for a CPU.
_PREPARED_PER_CPU = 4
# The cluster may start with no CPU and add nodes for the tasks that wait.
_POLL_SECONDS = 1.0
_SECONDS_TO_END = 60.0
_SECONDS_BEFORE_WARNING = 60.0
# Otherwise, in a trial of Ray Tune, tasks would wait for room in the trial's own resources.
_SCHEDULING = {"scheduling_strategy": "DEFAULT"}
_GPU_OPTIONS: dict[str, Any] = {"num_gpus": 1, "num_cpus": 0, "max_restarts": 1, "max_task_retries": 1}
_KILLED = (
    ray.exceptions.WorkerCrashedError,
    ray.exceptions.OutOfMemoryError,
    ray.exceptions.RayActorError,
    ray.exceptions.ObjectLostError,
    ray.exceptions.LocalRayletDiedError,
)


def check_workers(workers: int | None) -> None:
    """Refuse a negative number of workers.

    Raises:
        InputError: it is negative.
    """
    if workers is not None and workers < 0:
        raise InputError(f"--workers {workers}: must be at least 0 (0 works in this process, without Ray)")


def map_unordered(
    work: Callable[..., Result],
    items: Sequence[Item],
    *,
    workers: int | None,
    gpu_work: Callable[[Item], Any] | None = None,
    report: Callable[[str], None] | None = None,
) -> Generator[tuple[int, Result]]:
    """Yield (number of the item, result of `work`) in the order of completion; items start in their order.

    Only as many items are in flight as keep the workers busy, so memory is bounded. Closing the generator
    starts no more and waits for those in flight. Items of a lost node are run again.

    Args:
        work: a module-level function of an item; it must return an item's error, not raise it.
        items: what to work on.
        workers: tasks of one CPU at a time; 0 works in this process, without Ray; None is as many as
            Ray has CPUs, now or later. Ray starts when there is something to do.
        gpu_work: a function of an item that runs first, on every GPU of Ray; its result goes to `work` as a
            second argument, and does not pass through this process.
        report: accepts a line when nothing completes for a minute.

    Raises:
        InputError: an item's process was killed repeatedly; or there is `gpu_work`, and no GPU.
    """
    if workers == 0 or not items:
        yield from enumerate(map(work, items))
        return
    start_ray()
    actors = [_gpu_actor(gpu_work) for _ in range(_count_gpus())] if gpu_work is not None else []
    flight = _Flight(work, items, workers, actors)
    last = time.monotonic()
    try:
        while flight.fill():
            done, _ = ray.wait(list(flight.running), num_returns=1, timeout=_POLL_SECONDS)
            for reference in done:
                yield from flight.finish(reference)
                last = time.monotonic()
            if report is not None and time.monotonic() - last > _SECONDS_BEFORE_WARNING:
                report("no task finished for a minute; other jobs may be using this cluster's CPUs")
                last = time.monotonic()
    finally:
        _wait_for_the_rest([reference for reference, one in flight.running.items() if one.actor is None])
        for actor in actors:
            ray.kill(actor)


@dataclass(frozen=True, kw_only=True)
class _Running:
    """A task; `actor` is the GPU that it runs on, and `prepared` a reference to its result there."""

    number: int
    actor: Any = None
    prepared: Any = None


class _Flight:
    """The tasks in flight, the items not started, and GPU results waiting for a CPU."""

    def __init__(
        self, work: Callable[..., Any], items: Sequence[Any], workers: int | None, actors: Sequence[Any]
    ) -> None:
        self.running: dict[ray.ObjectRef, _Running] = {}
        remote: Any = ray.remote
        self._task: Any = remote(num_cpus=1, **_SCHEDULING)(work)
        self._items, self._workers, self._actors = items, workers, actors
        self._waiting = deque(range(len(items)))
        self._prepared: deque[_Running] = deque()
        self._nodes_lost = Counter[int]()

    def fill(self) -> bool:
        """Start as many tasks as there is room for; whether any is in flight."""
        cpus = self._workers or max(1, int(ray.cluster_resources().get("CPU", 0)))
        window = self._workers or cpus * _IN_FLIGHT_PER_CPU
        while True:
            room = sum(one.actor is None for one in self.running.values()) < window
            if self._prepared and room:
                one = self._prepared.popleft()
                self._start(one.number, one.prepared)
            elif self._waiting and room and not self._actors:
                self._start(self._waiting.popleft())
            elif self._waiting and self._actors and len(self._prepared) < _PREPARED_PER_CPU * cpus:
                if not self._start_on_gpu():
                    break
            else:
                break
        return bool(self.running)

    def finish(self, reference: ray.ObjectRef) -> Generator[tuple[int, Any]]:
        """Yield a finished task's result.

        Nothing if the item has a CPU stage left or is retried after a lost node.
        """
        one = self.running.pop(reference)
        item = self._items[one.number]
        try:
            result = ray.get(reference)
        except ray.exceptions.NodeDiedError as error:
            self._nodes_lost[one.number] += 1
            if self._nodes_lost[one.number] > _NODES_LOST_PER_ITEM:
                raise InputError(
                    f"{_NODES_LOST_PER_ITEM + 1} nodes were lost while they worked on {str(item)[:300]};"
                    " it may need more memory than they have (move it away), or the nodes are unstable"
                ) from error
            self._waiting.append(one.number)
        except _KILLED as error:
            raise InputError(
                f"a process was killed repeatedly while it worked on {str(item)[:300]}; most likely"
                " memory ran out (use fewer --workers), or a file makes the decoder crash (move it away)"
            ) from error
        else:
            if one.actor is None:
                yield one.number, result
            else:
                self._prepared.append(one)

    def _start(self, number: int, *prepared: Any) -> None:
        self.running[self._task.remote(self._items[number], *prepared)] = _Running(number=number)

    def _start_on_gpu(self) -> bool:
        loads = [sum(one.actor is actor for one in self.running.values()) for actor in self._actors]
        if min(loads) >= _IN_FLIGHT_PER_GPU:
            return False
        actor, number = self._actors[loads.index(min(loads))], self._waiting.popleft()
        done, prepared = actor.run.options(num_returns=2).remote(self._items[number])
        self.running[done] = _Running(number=number, actor=actor, prepared=prepared)
        return True


class _GpuWorker:
    """An actor that holds a GPU."""

    def __init__(self, work: Callable[[Any], Any]) -> None:
        self._work = work

    def run(self, item: Any) -> tuple[None, Any]:
        """Return None (the completion signal) and the result, which stays in Ray's object store."""
        return None, self._work(item)


def _gpu_actor(work: Callable[[Any], Any]) -> Any:
    remote: Any = ray.remote
    return remote(**_GPU_OPTIONS, **_SCHEDULING)(_GpuWorker).remote(work)


def _count_gpus() -> int:
    count = int(ray.cluster_resources().get("GPU", 0))
    if not count:
        raise InputError(
            "--device cuda: this Ray cluster has no GPU; start it where there is one, or use --device cpu"
        )
    return count


def _wait_for_the_rest(tasks: Sequence[ray.ObjectRef]) -> None:
    """Wait for abandoned tasks to finish, so that none writes after the driver has exited.

    They are not cancelled: an interrupt is lost in the middle of a decoder, and force can kill the driver too
    (Ray 2.60 aborts it). Tasks that take longer than a minute are left to Ray.
    """
    if tasks and ray.is_initialized():
        ray.wait(list(tasks), num_returns=len(tasks), timeout=_SECONDS_TO_END)
