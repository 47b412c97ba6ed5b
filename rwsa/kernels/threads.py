"""A thread pool for compiled loops; work is split into parts independently of the number of threads."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import torch

# Partial sums are formed over this many parts whatever the number of threads, so that bits are reproducible.
PARTS = 16


def run_in_parts(size: int, work: Callable[[int, int, int], None]) -> None:
    """Run `work(part, first, last)` over range(size) on torch's number of threads, this one included."""
    parts = min(PARTS, size)
    bounds = [size * part // parts for part in range(parts + 1)]
    threads = min(torch.get_num_threads(), parts)
    pending_parts = iter(range(parts))

    def take_parts() -> None:
        for part in pending_parts:  # dynamic, since other processes may slow some threads down
            work(part, bounds[part], bounds[part + 1])

    futures = [_pool(os.getpid()).submit(take_parts) for _ in range(1, threads)]
    take_parts()
    for future in futures:
        future.result()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """A pool per process (threads do not survive a fork); idle threads sleep, where OpenMP would spin."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"rwsa-{process}")
