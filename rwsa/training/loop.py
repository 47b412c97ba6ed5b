"""The training loop. It runs alone, under Ray Train or under torchrun, and knows none of them."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path

import torch
from torch import Tensor

from rwsa.enhancement import enhance
from rwsa.errors import InputError
from rwsa.metrics import Failure, score
from rwsa.spectral import SAMPLE_RATE_HZ
from rwsa.training import ranks
from rwsa.training.adversary import Adversary
from rwsa.training.config import TrainConfig
from rwsa.training.context import WorkerContext
from rwsa.training.data import Segments, TrainData, ValidData
from rwsa.training.remix import Remix
from rwsa.training.state import TrainState
from rwsa.training.step import TrainStep


class DivergedError(RuntimeError):
    """A loss is no longer finite; raised on all ranks at the same step."""


class PreemptedError(RuntimeError):
    """Training was asked to end (SIGTERM), has saved and can be resumed; raised on all ranks alike."""


def fit(config: TrainConfig, context: WorkerContext) -> TrainState:
    """Train until `config.max_steps`, resuming from the context's latest checkpoint if there is one.

    Every rank calls this. Validation runs on all ranks and is reduced as sums and counts.

    Raises:
        InputError: the data or a checkpoint cannot be used.
        DivergedError: a loss became NaN or infinite.
        PreemptedError: the context is stopping; a checkpoint of the last step was handed over.
    """
    data = TrainData(config.data, seed=config.seed, segment_samples=config.model.segment_samples)
    valid = ValidData(config.data)
    if not ranks.same_everywhere(data.identity(), context.device):
        raise InputError("the ranks see other data: let all of them read the same files, then start again")
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
    with ExitStack() as stack:
        stack.enter_context(closing(segments))
        adversary = None if state.discriminator is None else stack.enter_context(Adversary(state, context))
        _train(config, context, state, segments, adversary, valid, data.identity())
    return state


def _train(
    config: TrainConfig,
    context: WorkerContext,
    state: TrainState,
    segments: Iterator[Segments],
    adversary: Adversary | None,
    valid: ValidData,
    order_identity: str,
) -> None:
    train_step = TrainStep(state, context.device, adversary, _remix(config, context))
    pace, replaced = _Pace(config, adversary), 0
    while not state.done:
        batch = pace.waited_for(segments)
        rate = state.set_learning_rate()
        losses = train_step(batch)
        state.step, state.cursor = state.step + 1, batch.cursor_after
        replaced += batch.replaced
        stopping = _checked(losses, state, batch, context)
        if _due(state.step, config.log_every_steps, config):
            values = ranks.means(losses) | {"learning_rate": rate} | pace.since_last(state.step)
            values["replaced_samples"] = ranks.summed(torch.tensor(float(replaced)), context.device).item()
            replaced = 0
            if context.rank == 0:
                context.log(state.step, values)
        due = _due(state.step, config.checkpoint_every_steps, config)
        if due or stopping:
            values = _validated(config, context, state, valid) if due else {}
            _save(context, state, order_identity, adversary, values)
            pace.restart()
        if stopping and not state.done:
            raise PreemptedError(
                f"asked to end at step {state.step}, which is saved; the same command goes on from there"
            )


def _remix(config: TrainConfig, context: WorkerContext) -> Remix | None:
    if config.remix is None:
        return None
    return Remix(config.remix, context, seed=config.seed, global_batch_size=config.global_batch_size)


def _due(step: int, every: int, config: TrainConfig) -> bool:
    return step % every == 0 or step == config.max_steps


def _validated(
    config: TrainConfig, context: WorkerContext, state: TrainState, valid: ValidData
) -> dict[str, float]:
    values = validate(config, context, state, valid)
    if context.rank == 0:
        context.log(state.step, values)
    return values


def _save(
    context: WorkerContext,
    state: TrainState,
    order_identity: str,
    adversary: Adversary | None,
    values: Mapping[str, float],
) -> None:
    """Hand over a checkpoint; without a score among `values` it is not the best."""
    score_now = values.get(f"valid_{state.config.best_metric}", -math.inf)
    best = state.scored(score_now) if values else False
    pending = {} if adversary is None else adversary.pending()
    folder = Path(tempfile.mkdtemp(prefix="rwsa-checkpoint-"))
    try:
        if context.rank == 0:
            state.save(folder, order_identity=order_identity, pending=pending)
        context.report(state.step, {**values, "score": score_now}, folder, best=best)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def validate(
    config: TrainConfig, context: WorkerContext, state: TrainState, valid: ValidData
) -> dict[str, float]:
    """Enhance and score the validation split, each rank its part.

    Returns:
        `valid_METRIC` for SI-SDR and the metric that chooses the best checkpoint: means over the clips
        that have a value; `valid_METRIC_failed`, how many have none; `valid_clips`, how many clips there
        were; `valid_missing`, how many could not be had.

    Raises:
        InputError: no clip has a value by which to choose.
    """
    names = tuple(dict.fromkeys(("si_sdr", config.best_metric)))
    sums = torch.zeros(len(names) + 1, 2, dtype=torch.float64)
    reason = "there are no clips"
    model = state.published.eval()
    for example in valid.examples(rank=context.rank, world_size=context.world_size):
        enhanced = enhance(example.noisy, example.sample_rate_hz, model)
        scores = score(example.clean, enhanced, names)
        for row, name in zip(sums, names, strict=False):
            value = scores[name]
            if isinstance(value, Failure):
                reason = f"{example.example_id}: {value.reason}"
            else:
                row += torch.tensor([value, 1.0], dtype=torch.float64)
        sums[-1] += torch.tensor([1.0, 0.0], dtype=torch.float64)
    sums[-1, 1] = valid.missing
    model.train()
    sums = ranks.summed(sums, context.device)
    clips, missing = sums[-1].tolist()
    values = {"valid_clips": clips, "valid_missing": missing}
    for name, (total, count) in zip(names, sums[:-1].tolist(), strict=True):
        values[f"valid_{name}_failed"] = clips - count
        if count:
            values[f"valid_{name}"] = total / count
    if f"valid_{config.best_metric}" not in values:
        raise InputError(
            f"validation by {config.best_metric} gives no value ({reason}); choose best_metric anew"
        )
    return values


def _checked(
    losses: Mapping[str, Tensor], state: TrainState, batch: Segments, context: WorkerContext
) -> bool:
    """Raise where some rank's loss is not finite; returns whether some rank has been asked to end."""
    # In float16 a gradient may overflow: the scaler then leaves the step out and tries a smaller scale.
    may_overflow = {"gradient_norm"} if state.config.precision == "float16" else set()
    bad = [name for name in losses if name not in may_overflow and not torch.isfinite(losses[name])]
    diverged, stopping = ranks.any_of(bool(bad), context.stopping(), device=context.device)
    if diverged:
        clips = f"{', '.join(bad)} on this rank, clips {', '.join(batch.ids)}" if bad else "on another rank"
        raise DivergedError(f"step {state.step}: not finite: {clips}; resume with a lower learning rate")
    return stopping


class _Pace:
    """How fast training goes, validation apart, and how much of that is waiting for data."""

    def __init__(self, config: TrainConfig, adversary: Adversary | None) -> None:
        self._config, self._adversary = config, adversary
        self.restart()

    def restart(self) -> None:
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0
        self._pesq_before = self._pesq_seconds()

    def _pesq_seconds(self) -> float:
        return 0.0 if self._adversary is None else self._adversary.waited_seconds

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
            "pesq_wait_share": (self._pesq_seconds() - self._pesq_before) / elapsed,
            "eta_seconds": (self._config.max_steps - step) * elapsed / self._steps,
        }
        self.restart()
        return values
