"""Validation: the split enhanced and scored, each rank its part, PESQ beside the network's work.

Segments of one length, of several clips, fill the network's batches (rwsa.enhancement.recordings), so none is
padded for its longest clip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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
from rwsa.models.weights import Network
from rwsa.shards.examples import Example
from rwsa.training import ranks
from rwsa.training.config import TrainConfig
from rwsa.training.context import HeardClip, WorkerContext
from rwsa.training.data import ValidData
from rwsa.training.pesq_pool import PesqPool

# As `rwsa.enhance` has them.


class Validation:
    """Scores a network on the validation split, and lets some of its clips be heard."""

    def __init__(self, config: TrainConfig, context: WorkerContext) -> None:
        self._config, self._context = config, context
        self._data = ValidData(config.data)
        self._names = tuple(dict.fromkeys(("si_sdr", config.best_metric)))

    @property
    def clips(self) -> int:
        """How many clips it scores, over all ranks."""
        return self._data.clips

    def scores(self, model: Network) -> dict[str, float]:
        """Figures over all ranks; every rank calls it.

        Returns:
            `valid_METRIC` for SI-SDR and the metric that chooses the best checkpoint: means over the clips
            that have a value; `valid_METRIC_failed`, how many have none; `valid_clips`, how many clips there
            were; `valid_missing`, how many could not be had.

        Raises:
            InputError: no clip has a value by which to choose.
        """
        mine = self._data.examples(rank=self._context.rank, world_size=self._context.world_size)
        sums = torch.zeros(len(self._names) + 1, 2, dtype=torch.float64)
        reason = "there are no clips"
        for example_id, scores in self._scored(mine, model):
            for row, name in zip(sums, self._names, strict=False):
                value = scores[name]
                if isinstance(value, Failure):
                    reason = f"{example_id}: {value.reason}"
                else:
                    row += torch.tensor([value, 1.0], dtype=torch.float64)
            sums[-1] += torch.tensor([1.0, 0.0], dtype=torch.float64)
        sums[-1, 1] = self._data.missing
        return self._means(ranks.summed(sums, self._context.device), reason)

    def heard(self, model: Network, clips: int) -> list[HeardClip]:
        """The split's first clips, whole, whatever the world size."""
        first = self._data.examples(rank=0, world_size=1, limit=clips)
        return [
            HeardClip(
                example_id=example.example_id,
                sample_rate_hz=example.sample_rate_hz,
                noisy=example.noisy,
                enhanced=enhanced,
                clean=example.clean,
            )
            for example, enhanced in self._enhanced(first, model)
        ]

    def _scored(
        self, examples: Iterator[Example], model: Network
    ) -> Iterator[tuple[str, Mapping[str, float | Failure]]]:
        with ExitStack() as stack:
            pool = None
            if "pesq" in self._names:
                pool = stack.enter_context(PesqPool(self._config.pesq_processes))
            waiting = list[tuple[str, dict[str, float | Failure], Future[float] | None]]()
            for example, enhanced in self._enhanced(examples, model):
                names = [name for name in self._names if pool is None or name != "pesq"]
                pesq = None if pool is None else pool.measure(example.clean, enhanced)
                waiting.append((example.example_id, score(example.clean, enhanced, names), pesq))
            for example_id, scores, pesq in waiting:
                yield example_id, scores if pesq is None else scores | {"pesq": _value(pesq)}

    def _enhanced(self, examples: Iterator[Example], model: Network) -> Iterator[tuple[Example, np.ndarray]]:
        """Each example with what the network makes of it, in eval mode."""
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
                f"validation by {best_metric} gives no value ({reason}); choose best_metric anew"
            )
        return values


class _Clip:
    """An example's noisy signal as a recording, which knows its example."""

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
