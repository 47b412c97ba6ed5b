"""PESQ in background processes: the discriminator's targets and validation's scores.

Legend: B segments of this rank.
"""

from __future__ import annotations

import math
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from rwsa.metrics.packages import import_package
from rwsa.metrics.pesq_process import PesqProcess
from rwsa.metrics.values import UndefinedError
from rwsa.models.discriminator import scaled_pesq


class PesqPool:
    """A pool of PESQ processes. Use as a context manager, or call `close`.

    Raises:
        InputError: the package pesq is not installed.
    """

    def __init__(self, processes: int) -> None:
        import_package("pesq")
        self._idle: queue.SimpleQueue[PesqProcess] = queue.SimpleQueue()
        for _ in range(processes):
            self._idle.put(PesqProcess())
        # Threads only wait for the processes' results.
        self._threads = ThreadPoolExecutor(processes, thread_name_prefix="rwsa-pesq")

    def submit(self, clean: Tensor, enhanced: Tensor) -> PesqTargets:
        """Start scoring `enhanced` against `clean`, `[B, samples]` each at 16 kHz; returns at once."""
        wait = _copy_to_host(torch.stack((clean, enhanced)))
        return PesqTargets([self._threads.submit(self._target, wait, at) for at in range(len(clean))])

    def measure(self, clean: np.ndarray, enhanced: np.ndarray) -> Future[float]:
        """Start scoring one pair, `[samples]` each at 16 kHz; the future may raise `UndefinedError`."""
        return self._threads.submit(self._score, clean.astype(np.float64), enhanced.astype(np.float64))

    def _target(self, wait: Callable[[], np.ndarray], at: int) -> float:
        clean, enhanced = wait()[:, at]
        try:
            return self._score(_full_scale(clean), _full_scale(enhanced))
        except UndefinedError:
            return math.nan

    def _score(self, clean: np.ndarray, enhanced: np.ndarray) -> float:
        for name, wav in (("clean", clean), ("enhanced", enhanced)):
            if not wav.any():
                raise UndefinedError(f"{name} is silent")
            if not np.isfinite(wav).all():
                raise UndefinedError(f"{name} holds NaN or infinite samples")
        process = self._idle.get()
        try:
            return process.score(clean, enhanced)
        finally:
            self._idle.put(process)

    def close(self) -> None:
        """End the processes and discard pending scores."""
        self._threads.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class PesqTargets:
    """Pending PESQ targets of the discriminator."""

    def __init__(self, futures: Sequence[Future[float]]) -> None:
        self._futures = futures

    def wait(self) -> Tensor:
        """Scaled PESQ `[B]`; NaN where PESQ fails on a segment."""
        return scaled_pesq(torch.tensor([future.result() for future in self._futures]))


def _copy_to_host(x: Tensor) -> Callable[[], np.ndarray]:
    """Start to copy; the result waits for the end of the copy, so that the caller need not."""
    if not x.is_cuda:
        array = x.numpy()
        return lambda: array
    copy = torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(x.device))

    def wait() -> np.ndarray:
        copied.synchronize()
        return copy.numpy()

    return wait


def _full_scale(wav: np.ndarray) -> np.ndarray:
    """PESQ aligns levels itself but clips beyond ±1, which RMS-normalised speech exceeds."""
    return wav.astype(np.float64) / max(float(np.abs(wav).max()), 1e-8)
