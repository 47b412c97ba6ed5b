"""Training throughput, shares of waiting time and the time left."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.training.adversary import Adversary
from rwsa.training.config import TrainConfig
from rwsa.training.data import SegmentBatch


class ThroughputMeter:
    """Times the steps since the last report, apart from validation, checkpoints and audio logging."""

    def __init__(self, config: TrainConfig, adversary: Adversary | None) -> None:
        self._config, self._adversary = config, adversary
        self._checkpoint_seconds = 0.0
        self._restart()

    def next_batch(self, batches: Iterator[SegmentBatch]) -> SegmentBatch:
        """The next batch; counts a step and the wait for its data."""
        start = time.perf_counter()
        batch = next(batches)
        self._data_wait += time.perf_counter() - start
        self._steps += 1
        return batch

    @contextmanager
    def exclude(self, name: str) -> Iterator[None]:
        """Count the time of the block under `name`, not as training steps."""
        start, pesq = time.perf_counter(), self._pesq_wait()
        yield
        self._excluded[name] = self._excluded.get(name, 0.0) + time.perf_counter() - start
        self._pesq_before += self._pesq_wait() - pesq

    def metrics(self, step: int) -> dict[str, float]:
        """Throughput, wait shares, ETA and seconds of the excluded blocks since the last call."""
        excluded = sum(self._excluded.values())
        elapsed = time.perf_counter() - self._since - excluded
        if self._excluded:
            self._checkpoint_seconds = excluded
        rate = self._steps * self._config.global_batch_size / elapsed
        left = self._config.max_steps - step
        values = {
            "samples_per_second": rate,
            "audio_seconds_per_second": rate * self._config.model.segment_samples / SAMPLE_RATE_HZ,
            "data_wait_share": self._data_wait / elapsed,
            "pesq_wait_share": (self._pesq_wait() - self._pesq_before) / elapsed,
            "eta_seconds": left * elapsed / self._steps
            + left / self._config.checkpoint_every_steps * self._checkpoint_seconds,
            **self._excluded,
        }
        self._restart()
        return values

    def _restart(self) -> None:
        self._since, self._data_wait, self._steps = time.perf_counter(), 0.0, 0
        self._excluded = dict[str, float]()
        self._pesq_before = self._pesq_wait()

    def _pesq_wait(self) -> float:
        return 0.0 if self._adversary is None else self._adversary.pesq_wait_seconds
