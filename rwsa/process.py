"""What a program sets for its whole process, so that a network is faster on a CPU. A library does not."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import MutableMapping

# OpenMP's idle threads would spin on the cores that the compiled operations' own threads want.
# A third of xs's time on two cores.
_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_OWN_PAGES_FROM, _TRIMMED_FROM = 1 << 25, 1 << 30  # bytes; glibc takes no more than 32 MiB for the first


def prepare(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set this process up; before torch is imported, since OpenMP reads its settings once."""
    for name, value in _ENVIRONMENT.items():
        environment.setdefault(name, value)
    _keep_freed_memory()


def environment() -> dict[str, str]:
    """The same as environment variables, for processes yet to start."""
    limits = {"MALLOC_MMAP_THRESHOLD_": _OWN_PAGES_FROM, "MALLOC_TRIM_THRESHOLD_": _TRIMMED_FROM}
    return _ENVIRONMENT | {name: str(value) for name, value in limits.items()}


def _keep_freed_memory() -> None:
    """Keep blocks that are freed, where the C library is glibc: it hands most of a network's back to the
    system, and takes the next in pages that fault one by one.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:  # musl has none
        mallopt(_M_MMAP_THRESHOLD, _OWN_PAGES_FROM)
        mallopt(_M_TRIM_THRESHOLD, _TRIMMED_FROM)
