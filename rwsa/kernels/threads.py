"""Share compiled work among threads, in parts that do not depend on how many there are."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

# Sums over parts are taken in this many, whatever the number of threads: same bits always.
PARTS = 16


def in_parts(size: int, work: Callable[[int, int, int], None]) -> None:
    """Run `work(part, first, last)` over range(size) on torch's number of threads, this one included."""
    parts = min(PARTS, size)
    bounds = [size * part // parts for part in range(parts + 1)]
    threads = min(torch.get_num_threads(), parts)
    waiting = iter(range(parts))

    def share() -> None:
        for part in waiting:  # taken by whoever is free: other processes slow some threads down
            work(part, bounds[part], bounds[part + 1])

    pending = [_pool(os.getpid()).submit(share) for _ in range(1, threads)]
    share()
    for future in pending:
        future.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """Threads that sleep when idle, where OpenMP's would spin against torch's; made anew after a fork."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"rwsa-{process}")
