"""How fast training goes, and what it waits for."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.training.adversary import Adversary
from rwsa.training.config import TrainConfig
from rwsa.training.data import Segments


class ThroughputMeter:
    """Times of the steps since the last report; what is done aside of them (validating, saving) is apart."""

    def __init__(self, config: TrainConfig, adversary: Adversary | None) -> None:
        self._config, self._adversary = config, adversary
        self._checkpoint_seconds = 0.0
        self._restart()

    def waited_for(self, segments: Iterator[Segments]) -> Segments:
        """The next batch."""
        start = time.perf_counter()
        batch = next(segments)
        self._waited += time.perf_counter() - start
        self._steps += 1
        return batch

    @contextmanager
    def aside(self, name: str) -> Iterator[None]:
        """Count what is done here as `name`, and not to the steps."""
        start, pesq = time.perf_counter(), self._pesq_seconds()
        yield
        self._aside[name] = self._aside.get(name, 0.0) + time.perf_counter() - start
        self._pesq_before += self._pesq_seconds() - pesq

    def since_last(self, step: int) -> dict[str, float]:
        """Figures since the last call: speed, shares of waiting, time left, and seconds of what was aside."""
        aside = sum(self._aside.values())
        elapsed = time.perf_counter() - self._since - aside
        if self._aside:
            self._checkpoint_seconds = aside
        rate = self._steps * self._config.global_batch_size / elapsed
        left = self._config.max_steps - step
        values = {
            "samples_per_second": rate,
            "audio_seconds_per_second": rate * self._config.model.segment_samples / SAMPLE_RATE_HZ,
            "data_wait_share": self._waited / elapsed,
            "pesq_wait_share": (self._pesq_seconds() - self._pesq_before) / elapsed,
            "eta_seconds": left * elapsed / self._steps
            + left / self._config.checkpoint_every_steps * self._checkpoint_seconds,
            **self._aside,
        }
        self._restart()
        return values

    def _restart(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0
        self._aside = dict[str, float]()
        self._pesq_before = self._pesq_seconds()

    def _pesq_seconds(self) -> float:
        return 0.0 if self._adversary is None else self._adversary.waited_seconds
