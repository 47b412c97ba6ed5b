"""The training loop. It runs alone, under Ray Train or under torchrun, and knows none of them."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch import distributed as dist

from rwsa.enhancement import enhance
from rwsa.metrics import Failure, score
from rwsa.spectral import SAMPLE_RATE_HZ
from rwsa.training.config import TrainConfig
from rwsa.training.context import WorkerContext
from rwsa.training.data import Segments, TrainData, ValidData
from rwsa.training.state import TrainState
from rwsa.training.step import TrainStep


class DivergedError(RuntimeError):
    """A loss is no longer finite; raised on all ranks at the same step."""


def fit(config: TrainConfig, context: WorkerContext) -> TrainState:
    """Train until `config.max_steps`, resuming from the context's latest checkpoint if there is one.

    Every rank calls this. Validation runs on all ranks and is reduced as sums and counts.

    Raises:
        InputError: the data or a checkpoint cannot be used.
        DivergedError: a loss became NaN or infinite.
    """
    data = TrainData(config.data, seed=config.seed, segment_samples=config.model.segment_samples)
    valid = ValidData(config.data)
    state = TrainState(config, context.device)
    checkpoint = context.latest_checkpoint()
    if checkpoint is not None:
        state.load(checkpoint, order_identity=data.identity())
    segments = data.segments(
        state.cursor,
        global_batch_size=config.global_batch_size,
        rank=context.rank,
        world_size=context.world_size,
    )
    with closing(segments):
        _train(config, context, state, segments, valid, data.identity())
    return state


def _train(
    config: TrainConfig,
    context: WorkerContext,
    state: TrainState,
    segments: Iterator[Segments],
    valid: ValidData,
    order_identity: str,
) -> None:
    train_step, pace = TrainStep(state, context.device), _Pace(config)
    replaced = 0
    while state.step < config.max_steps:
        batch = pace.waited_for(segments)
        rate = state.set_learning_rate()
        with _keyed_randomness(config.seed, state.step, context.rank):
            losses = train_step(batch)
        state.step, state.cursor = state.step + 1, batch.cursor_after
        replaced += batch.replaced
        _check_finite(losses, state.step, batch)
        if _due(state.step, config.log_every_steps, config):
            values = _mean_over_ranks(losses) | {"learning_rate": rate} | pace.since_last(state.step)
            every = _sum_over_ranks(torch.tensor([float(replaced)]), context.device)
            if context.rank == 0:
                context.log(state.step, values | {"replaced_samples": every.item()})
            replaced = 0
        if _due(state.step, config.checkpoint_every_steps, config):
            _validate_and_save(config, context, state, valid, order_identity)
            pace.restart()


def _due(step: int, every: int, config: TrainConfig) -> bool:
    return step % every == 0 or step == config.max_steps


def _validate_and_save(
    config: TrainConfig, context: WorkerContext, state: TrainState, valid: ValidData, order_identity: str
) -> None:
    values = validate(config, context, state, valid)
    score_now = values.get(f"valid_{config.best_metric}", -math.inf)
    best = score_now > state.best_score
    state.best_score = max(score_now, state.best_score)
    if context.rank == 0:
        context.log(state.step, values)
    folder = Path(tempfile.mkdtemp(prefix="rwsa-checkpoint-"))
    try:
        if context.rank == 0:
            state.save(folder, order_identity=order_identity)
        context.report(state.step, {**values, "score": score_now}, folder, best=best)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def validate(
    config: TrainConfig, context: WorkerContext, state: TrainState, valid: ValidData
) -> dict[str, float]:
    """Enhance and score the validation split, each rank its part.

    Returns:
        `valid_METRIC` for SI-SDR and the metric that chooses the best checkpoint: means over the clips
        that have a value, and `valid_clips`, how many clips there were.
    """
    names = tuple(dict.fromkeys(("si_sdr", config.best_metric)))
    sums = torch.zeros(len(names) + 1, 2, dtype=torch.float64)
    state.generator.eval()
    for example in valid.examples(rank=context.rank, world_size=context.world_size):
        enhanced = enhance(example.noisy, example.sample_rate_hz, state.generator)
        scores = score(example.clean, enhanced, names)
        for row, name in zip(sums, names, strict=False):
            value = scores[name]
            if not isinstance(value, Failure):
                row += torch.tensor([value, 1.0], dtype=torch.float64)
        sums[-1] += 1
    state.generator.train()
    sums = _sum_over_ranks(sums, context.device)
    means = {f"valid_{n}": (row[0] / row[1]).item() for n, row in zip(names, sums, strict=False) if row[1]}
    return means | {"valid_clips": sums[-1, 0].item()}


def _check_finite(losses: dict[str, Tensor], step: int, batch: Segments) -> None:
    bad = [name for name, value in losses.items() if not torch.isfinite(value)]
    flag = torch.tensor(float(bool(bad)))
    if dist.is_initialized():
        flag = flag.to(next(iter(losses.values())).device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
    if flag:
        clips = f"{', '.join(bad)} on this rank, clips {', '.join(batch.ids)}" if bad else "on another rank"
        raise DivergedError(f"step {step}: not finite: {clips}; resume with a lower learning rate")


def _mean_over_ranks(losses: dict[str, Tensor]) -> dict[str, float]:
    values = torch.stack([value.float() for value in losses.values()])
    if dist.is_initialized():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return dict(zip(losses, values.tolist(), strict=True))


def _sum_over_ranks(values: Tensor, device: torch.device) -> Tensor:
    if dist.is_initialized():
        values = values.to(device)
        dist.all_reduce(values)
    return values.cpu()


@contextmanager
def _keyed_randomness(seed: int, step: int, rank: int) -> Iterator[None]:
    """Seed torch's generators (dropout) by step and rank inside the block; restore them after it."""
    with torch.random.fork_rng():
        torch.manual_seed(hash((seed, step, rank)) & 0x7FFF_FFFF)
        yield


class _Pace:
    """How fast training goes, validation apart, and how much of that is waiting for data."""

    def __init__(self, config: TrainConfig) -> None:
        self._config = config
        self.restart()

    def restart(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def waited_for(self, segments: Iterator[Segments]) -> Segments:
        start = time.perf_counter()
        batch = next(segments)
        self._waited += time.perf_counter() - start
        self._steps += 1
        return batch

    def since_last(self, step: int) -> dict[str, float]:
        elapsed = time.perf_counter() - self._since
        rate = self._steps * self._config.global_batch_size / elapsed
        values = {
            "samples_per_second": rate,
            "audio_seconds_per_second": rate * self._config.model.segment_samples / SAMPLE_RATE_HZ,
            "data_wait_share": self._waited / elapsed,
            "eta_seconds": (self._config.max_steps - step) * elapsed / self._steps,
        }
        self.restart()
        return values
