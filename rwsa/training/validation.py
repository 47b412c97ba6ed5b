"""Validation: enhance and score the split, sharded over ranks, with PESQ in background processes.

Batches are of segments of one length from several clips (rwsa.enhancement.recordings): no padding to the
longest clip.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import ExitStack

import numpy as np
import torch

from rwsa.audio import AudioInfo
from rwsa.constants import DEFAULT_CROSSFADE
from rwsa.enhancement import ArrayRecording
from rwsa.enhancement.recordings import enhance_recordings
from rwsa.errors import InputError
from rwsa.metrics import Failure, score
from rwsa.metrics.values import UndefinedError
from rwsa.models.build import Network
from rwsa.shards.examples import Example
from rwsa.training import ranks
from rwsa.training.config import TrainConfig
from rwsa.training.context import AudioSample, WorkerContext
from rwsa.training.data import ValidData
from rwsa.training.pesq_pool import PesqPool


class Validation:
    """Metrics of a network on the validation split, and audio samples of its first clips."""

    def __init__(self, config: TrainConfig, context: WorkerContext) -> None:
        self._config, self._context = config, context
        self._data = ValidData(config.data)
        self._names = tuple(dict.fromkeys(("si_sdr", config.best_metric)))

    @property
    def clips(self) -> int:
        """Number of clips over all ranks."""
        return self._data.clips

    def metrics(self, model: Network, progress: Callable[[], object] = int) -> dict[str, float]:
        """Metrics over all ranks; every rank calls it.

        Args:
            model: the network.
            progress: called after each clip.

        Returns:
            For SI-SDR and `best_metric`: `valid_METRIC`, the mean over clips with a value, and
            `valid_METRIC_failed`, the number of clips without. Also `valid_clips`, the number of clips, and
            `valid_missing`, the number of missing examples.

        Raises:
            InputError: no clip has a value of `best_metric`.
        """
        examples = self._data.examples(rank=self._context.rank, world_size=self._context.world_size)
        sums = torch.zeros(len(self._names) + 1, 2, dtype=torch.float64)
        reason = "there are no clips"
        for example_id, scores in self._scored(examples, model, progress):
            for row, name in zip(sums, self._names, strict=False):
                value = scores[name]
                if isinstance(value, Failure):
                    reason = f"{example_id}: {value.reason}"
                else:
                    row += torch.tensor([value, 1.0], dtype=torch.float64)
            sums[-1] += torch.tensor([1.0, 0.0], dtype=torch.float64)
        sums[-1, 1] = self._data.missing
        return self._means(ranks.summed(sums, self._context.device), reason)

    def audio_samples(self, model: Network, clips: int) -> list[AudioSample]:
        """The split's first clips, enhanced; the same for any world size."""
        first = self._data.examples(rank=0, world_size=1, limit=clips)
        return [
            AudioSample(
                example_id=example.example_id,
                sample_rate_hz=example.sample_rate_hz,
                noisy=example.noisy,
                enhanced=enhanced,
                clean=example.clean,
            )
            for example, enhanced in self._enhanced(first, model)
        ]

    def _scored(
        self, examples: Iterator[Example], model: Network, progress: Callable[[], object]
    ) -> Iterator[tuple[str, Mapping[str, float | Failure]]]:
        with ExitStack() as stack:
            pool = None
            if "pesq" in self._names:
                pool = stack.enter_context(PesqPool(self._config.pesq_processes))
            pending = list[tuple[str, dict[str, float | Failure], Future[float] | None]]()
            for example, enhanced in self._enhanced(examples, model):
                names = [name for name in self._names if pool is None or name != "pesq"]
                pesq = None if pool is None else pool.measure(example.clean, enhanced)
                pending.append((example.example_id, score(example.clean, enhanced, names), pesq))
                progress()
            for example_id, scores, pesq in pending:
                yield example_id, scores if pesq is None else scores | {"pesq": _value(pesq)}
                progress()

    def _enhanced(self, examples: Iterator[Example], model: Network) -> Iterator[tuple[Example, np.ndarray]]:
        """Each example and its enhanced signal, with the network in eval mode."""
        was_training = model.training
        model.eval()
        try:
            pieces = list[np.ndarray]()
            for clip, piece in enhance_recordings(
                map(_Clip, examples),
                model,
                ("model",),
                crossfade=DEFAULT_CROSSFADE,
                batch_size=self._config.valid_batch_size,
            ):
                if isinstance(piece, InputError):
                    raise InputError(f"example {clip.example.example_id}: {piece}")
                pieces.append(piece.wav[0, 0])
                if piece.segments_done == piece.segments:
                    yield clip.example, np.concatenate(pieces)
                    pieces = []
        finally:
            model.train(was_training)

    def _means(self, sums: torch.Tensor, reason: str) -> dict[str, float]:
        clips, missing = sums[-1].tolist()
        values = {"valid_clips": clips, "valid_missing": missing}
        for name, (total, count) in zip(self._names, sums[:-1].tolist(), strict=True):
            values[f"valid_{name}_failed"] = clips - count
            if count:
                values[f"valid_{name}"] = total / count
        best_metric = self._config.best_metric
        if f"valid_{best_metric}" not in values:
            raise InputError(
                f"validation by {best_metric} gives no value ({reason}); choose another best_metric"
            )
        return values


class _Clip:
    """An example's noisy signal as a `Recording`."""

    def __init__(self, example: Example) -> None:
        self.example = example
        self._noisy = ArrayRecording(example.noisy, example.sample_rate_hz)

    @property
    def info(self) -> AudioInfo:
        return self._noisy.info

    def blocks(self) -> Iterator[np.ndarray]:
        return self._noisy.blocks()


def _value(pesq: Future[float]) -> float | Failure:
    try:
        return pesq.result()
    except UndefinedError as undefined:
        return Failure(str(undefined))
