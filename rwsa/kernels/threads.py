"""A thread pool for compiled loops; work is split into parts independently of the number of threads."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache

import numpy as np
import torch
from torch import Tensor

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


def buffer(size: int) -> np.ndarray:
    """`size` floats that belong to this thread until its next call, with any values, aligned for vectors."""
    held: Tensor | None = getattr(_of_thread, "buffer", None)
    if held is None or held.numel() < size:
        held = _of_thread.buffer = torch.empty(size)
    return held[:size].numpy()


_of_thread = threading.local()


@cache
def _pool(process: int) -> ThreadPoolExecutor:
    """A pool per process (threads do not survive a fork); idle threads sleep, where OpenMP would spin."""
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix=f"rwsa-{process}")
