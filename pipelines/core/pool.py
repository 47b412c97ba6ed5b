"""One function over many items on Ray, a bounded number at a time, results as they come."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import ray
import ray.exceptions

from pipelines.core.ray_cluster import start_ray
from rwsa.errors import InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
# A worker has its next item at hand when it finishes one.
_IN_FLIGHT_A_CPU = 2
# A cluster may have no CPU yet, and grow by those that are asked for.
_SECONDS_BETWEEN_LOOKS = 1.0
_SECONDS_TO_END = 60.0


def check_workers(workers: int | None) -> None:
    """Refuse a number of workers that cannot be.

    Raises:
        InputError: it is negative.
    """
    if workers is not None and workers < 0:
        raise InputError(f"--workers {workers}: must be at least 0 (0 works in this process, without Ray)")


def unordered(
    work: Callable[[Item], Result], items: Sequence[Item], *, workers: int | None
) -> Iterator[tuple[int, Result]]:
    """Results of `work` with the number of their item, in the order of completion.

    Only as many items are under way as keep the workers busy, so results wait for their reader. Closing the
    iterator begins no more, and waits for those.

    Args:
        work: a function of a module; it must not raise for what is wrong with an item.
        workers: tasks of one CPU at a time; 0 works in this process, without Ray; None is as many as
            Ray has CPUs, now or later. Ray starts when there is something to do.

    Raises:
        InputError: an item's process was killed again and again.
    """
    if workers == 0 or not items:
        yield from enumerate(map(work, items))
        return
    start_ray()
    task = ray.remote(num_cpus=1)(work)
    waiting = deque(range(len(items)))
    running: dict[ray.ObjectRef, int] = {}
    try:
        while waiting or running:
            window = _window(workers)
            while waiting and len(running) < window:
                number = waiting.popleft()
                running[task.remote(items[number])] = number
            done, _ = ray.wait(list(running), num_returns=1, timeout=_SECONDS_BETWEEN_LOOKS)
            for reference in done:
                number = running.pop(reference)
                try:
                    result = _fetched(reference, items[number])
                except ray.exceptions.NodeDiedError:  # which is not the item's fault
                    waiting.append(number)
                    continue
                yield number, result
    finally:
        wait_for_the_rest(list(running))


def wait_for_the_rest(tasks: Sequence[ray.ObjectRef]) -> None:
    """Let tasks that nobody wants any longer end, so that none still writes when their driver has gone.

    They are not cancelled: an interrupt is lost in the middle of a decoder, and force can take the driver
    along (Ray 2.60 aborts it). What has not ended in a minute is left to Ray.
    """
    if tasks and ray.is_initialized():
        ray.wait(list(tasks), num_returns=len(tasks), timeout=_SECONDS_TO_END)


def _window(workers: int | None) -> int:
    """How many items may be under way."""
    if workers is not None:
        return workers
    return max(1, _IN_FLIGHT_A_CPU * int(ray.cluster_resources().get("CPU", 0)))


def _fetched(reference: ray.ObjectRef, item: object) -> Any:
    try:
        return ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError) as error:
        raise InputError(
            f"a process was killed again and again while it worked on {str(item)[:300]}; most likely memory"
            " ran out (use fewer --workers), or a file there makes the decoder crash (move it away)"
        ) from error
