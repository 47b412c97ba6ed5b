"""Times of a function: on the clock, and of the processor."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable


def seconds(work: Callable[[], object]) -> float:
    """Seconds of one run."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def warm_seconds(work: Callable[[], object], runs: int) -> list[float]:
    """Seconds of `runs` runs after a warm-up run."""
    work()
    return [seconds(work) for _ in range(runs)]


def median_seconds(work: Callable[[], object], runs: int) -> float:
    """The median of `warm_seconds`."""
    return statistics.median(warm_seconds(work, runs))


def cpu_seconds(work: Callable[[], object]) -> float:
    """CPU seconds of one run, which other programs on the machine lengthen less than those of the clock."""
    start = time.process_time()
    work()
    return time.process_time() - start
