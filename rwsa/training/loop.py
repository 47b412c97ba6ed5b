"""The training loop. It runs in one process or under any launcher that provides a `WorkerContext`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from functools import partial

import torch
from torch import Tensor

from rwsa.errors import DivergedError, InputError, PreemptedError
from rwsa.kernels.dispatch import float32_products
from rwsa.models.unet import RWSAMambaUNet
from rwsa.training import hang, ranks
from rwsa.training.adversary import Adversary
from rwsa.training.config import TrainConfig
from rwsa.training.context import WorkerContext
from rwsa.training.data import SegmentBatch, TrainData
from rwsa.training.hang import HangWatch
from rwsa.training.memory import explain_out_of_memory
from rwsa.training.resuming import resume
from rwsa.training.state import TrainState
from rwsa.training.step import TrainStep
from rwsa.training.throughput import ThroughputMeter
from rwsa.training.validation import Validation


def fit(config: TrainConfig, context: WorkerContext) -> TrainState:
    """Train until `config.max_steps`, resuming from the context's latest checkpoint if there is one.

    Every rank calls this. Validation runs on all ranks and is reduced as sums and counts.

    Raises:
        InputError: the data or a checkpoint cannot be used, a checkpoint cannot be saved, or memory ran
            out.
        DivergedError: a loss became NaN or infinite.
        PreemptedError: a stop was requested; the last step was saved.
    """
    with HangWatch(config.hang_timeout_s, context.report_hang, rank=context.rank) as watch:
        return _fit(config, context, watch)


def _fit(config: TrainConfig, context: WorkerContext, watch: HangWatch) -> TrainState:
    data = TrainData(config.data, seed=config.seed, segment_samples=config.model.segment_samples)
    if not ranks.same_everywhere(data.identity(), context.device):
        raise InputError("the ranks read different data; give all of them the same files, then start again")
    with explain_out_of_memory():
        state = TrainState(config, context.device)
        resume(state, context, data.identity())
    segments = data.segments(
        state.cursor,
        global_batch_size=config.global_batch_size,
        rank=context.rank,
        world_size=context.world_size,
    )
    with ExitStack() as stack:
        stack.enter_context(closing(segments))
        stack.enter_context(explain_out_of_memory())
        stack.enter_context(float32_products(context.device, tf32=config.precision != "float32"))
        adversary = None if state.discriminator is None else stack.enter_context(Adversary(state, context))
        _Run(config, context, watch, state, adversary, data.identity()).train(segments)
    return state


class _Run:
    """The steps of a run, with their logging, validation and checkpoints."""

    def __init__(
        self,
        config: TrainConfig,
        context: WorkerContext,
        watch: HangWatch,
        state: TrainState,
        adversary: Adversary | None,
        order_identity: str,
    ) -> None:
        self._config, self._context, self._watch, self._state = config, context, watch, state
        self._adversary, self._order_identity = adversary, order_identity
        self._throughput, self._replaced = ThroughputMeter(config, adversary), 0
        self._logger = context.logger if context.rank == 0 else None
        self._validation = Validation(config, context)
        self._step = TrainStep(state, context, adversary)

    def train(self, segments: Iterator[SegmentBatch]) -> None:
        """Run all remaining steps.

        Raises:
            InputError, DivergedError, PreemptedError: see `fit`.
        """
        config, state = self._config, self._state
        while not state.done:
            self._watch.enter(hang.LOADING, state.step + 1)
            batch = self._throughput.next_batch(segments)
            self._watch.enter(hang.COMPUTING, state.step + 1)
            rate = state.set_learning_rate()
            losses = self._step(batch)
            state.step, state.cursor = state.step + 1, batch.cursor_after
            self._replaced += batch.replaced
            stopping = self._check(losses, batch)
            if self._due(config.log_every_steps):
                self._log(losses, rate)
            self._watch.enter(hang.SAVING, state.step)
            due = self._due(config.checkpoint_every_steps)
            if due or stopping:
                self._checkpoint(validate=due)
            if config.audio_clips and self._due(config.audio_every_steps):
                self._log_audio()
            if stopping and not state.done:
                raise PreemptedError(
                    f"stopped on request at step {state.step}, which is saved; the same command resumes"
                )

    def _due(self, every: int) -> bool:
        return self._state.step % every == 0 or self._state.step == self._config.max_steps

    def _check(self, losses: Mapping[str, Tensor], batch: SegmentBatch) -> bool:
        """Raise if any rank's loss is not finite; returns whether a stop was requested on any rank."""
        # A float16 gradient may overflow: the scaler then skips the step and lowers its scale.
        may_overflow = {"gradient_norm"} if self._config.precision == "float16" else set()
        checked = {name: value.float() for name, value in losses.items() if name not in may_overflow}
        finite = torch.stack(list(checked.values())).isfinite()
        stop = finite.new_tensor(self._context.should_stop())
        diverged, stopping = ranks.any_of(~finite.all(), stop)  # the only wait for the device in a step
        if diverged:
            bad = [name for name, known in zip(checked, finite.tolist(), strict=True) if not known]
            local = f"{', '.join(bad)} of clips {', '.join(batch.ids)}" if bad else ""
            everywhere = "; ".join(text for text in ranks.gathered(local) if text)
            raise DivergedError(
                f"step {self._state.step}: not finite: {everywhere}; the same command resumes from the last"
                " checkpoint; set a lower optimiser.learning_rate, or optimiser.max_gradient_norm"
            )
        return stopping

    def _log(self, losses: Mapping[str, Tensor], learning_rate: float) -> None:
        missing = ranks.summed(torch.tensor(float(self._replaced)), self._context.device).item()
        self._replaced = 0
        values = ranks.means(losses) | {"learning_rate": learning_rate, "replaced_samples": missing}
        values |= self._throughput.metrics(self._state.step)
        if isinstance(self._state.generator, RWSAMambaUNet):
            shares = self._state.generator.shared_shares()
            values |= {f"shared_share_{level}": share.item() for level, share in shares.items()}
        self._log_values(values)

    def _checkpoint(self, *, validate: bool) -> None:
        """Validate if `validate`, and save; a checkpoint without a validation cannot be the best."""
        state, context = self._state, self._context
        values = dict[str, float]()
        state.score = None
        if validate:
            with self._throughput.exclude("validation_seconds"):
                self._watch.enter(hang.VALIDATING, state.step)
                values = self._validation.metrics(state.published, self._watch.progress)
            state.record_score(values[f"valid_{self._config.best_metric}"])
            self._log_values(values)
        self._watch.enter(hang.SAVING, state.step)
        with self._throughput.exclude("checkpoint_seconds"):
            pending = {} if self._adversary is None else self._adversary.pending()
            write = partial(state.save, order_identity=self._order_identity, pending=pending)
            if context.rank == 0:
                context.checkpoints.save(state.step, write, best_step=state.best_step)
        context.report_checkpoint(state.step, values)

    def _log_values(self, values: Mapping[str, float]) -> None:
        if self._logger is not None:
            self._logger.log_metrics(self._state.step, values)

    def _log_audio(self) -> None:
        if self._logger is not None:
            with self._throughput.exclude("audio_seconds"):
                model, clips = self._state.published, self._config.audio_clips
                self._logger.log_audio(self._state.step, self._validation.audio_samples(model, clips))
