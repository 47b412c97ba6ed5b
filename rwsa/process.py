"""Process-wide settings that make networks faster on a CPU; for programs, not for library code."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import MutableMapping

# Numbers of threads that libraries read when they are first imported.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
# Keeps OpenMP's idle threads from spinning on the cores that the compiled operations' threads need, which
# took a third of xs's time on two cores.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_OWN_PAGES_FROM, _TRIMMED_FROM = 1 << 25, 1 << 30  # bytes; glibc allows at most 32 MiB for the first


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set up this process; call before importing torch, since OpenMP reads its settings once."""
    for name, value in _ENVIRONMENT.items():
        environment.setdefault(name, value)
    _keep_freed_memory()


def environment() -> dict[str, str]:
    """The same settings as environment variables, for processes to be started."""
    limits = {"MALLOC_MMAP_THRESHOLD_": _OWN_PAGES_FROM, "MALLOC_TRIM_THRESHOLD_": _TRIMMED_FROM}
    return _ENVIRONMENT | {name: str(value) for name, value in limits.items()}


def _keep_freed_memory() -> None:
    """Have glibc reuse freed blocks; otherwise it returns most of a network's memory to the system and gets
    it back page fault by page fault.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_FROM)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED_FROM)
