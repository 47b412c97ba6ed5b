"""What a training run would take, told from a few of its own steps, which leave nothing behind."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.core.progress import duration
from pipelines.training.config import TrainRunConfig
from pipelines.training.launch import checkpoints_of
from rwsa.config import config_hash
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.kernels import scan
from rwsa.shards.sampling import share_of
from rwsa.training.adversary import Adversary
from rwsa.training.context import LocalContext
from rwsa.training.data import Segments, TrainData
from rwsa.training.state import TrainState, learning_rate
from rwsa.training.step import TrainStep
from rwsa.training.validation import Validation

_TIMED_STEPS = 3
_HEARD_CLIPS = 2


@dataclass(frozen=True, kw_only=True)
class _Measured:
    step_seconds: float
    clip_seconds: float
    save_seconds: float
    checkpoint_bytes: int
    peak_bytes: int
    losses: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _Rehearsal:
    """What a run is made of, and what a few of its steps measured."""

    data: TrainData
    state: TrainState
    validation: Validation
    device: torch.device
    measured: _Measured


def training_seconds(config: TrainRunConfig, *, workers: int, threads: int) -> float:
    """How long a run would take; see `dry_run`.

    Raises:
        InputError: what training would raise at its start.
    """
    rehearsal = _rehearsed(config, workers=workers, threads=threads)
    return _whole_seconds(config, rehearsal, max(workers, 1))


def dry_run(config: TrainRunConfig, *, workers: int, threads: int) -> str:
    """The plan of a run in words: data, steps, memory, time.

    One worker's share of a step is taken here, in this process; how workers slow each other down is not seen.

    Raises:
        InputError: what training would raise at its start.
    """
    world = max(workers, 1)
    share = share_of(config.global_batch_size, rank=0, world_size=world)
    rehearsal = _rehearsed(config, workers=workers, threads=threads)
    data, state, validation = rehearsal.data, rehearsal.state, rehearsal.validation
    measured = rehearsal.measured
    lines = {
        "run": f"{config.name}, configuration {config_hash(config)}; {_beginning(config)}",
        "data": _data(config, data, validation),
        "model": f"{config.model.summary}, {_count(state.generator):,} parameters;"
        f" scan by {scan.resolve_backend(rehearsal.device)}",
        "losses": _losses(config, state, measured),
        "step": f"{config.global_batch_size} segments of"
        f" {config.model.segment_samples / SAMPLE_RATE_HZ:.2f} s over {world} worker{'s' * (world > 1)},"
        f" {share.stop} each, {config.accumulate} part{'s' * (config.accumulate > 1)}, {config.precision}",
        "length": _length(config, data),
        "memory": _memory(rehearsal.device, measured),
        "time": _time(config, rehearsal, world),
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _rehearsed(config: TrainRunConfig, *, workers: int, threads: int) -> _Rehearsal:
    torch.set_num_threads(threads)
    share = share_of(config.global_batch_size, rank=0, world_size=max(workers, 1))
    mine = dataclasses.replace(config, global_batch_size=share.stop)
    with tempfile.TemporaryDirectory(prefix="rwsa-dry-run-") as folder:
        context = LocalContext(Path(folder))
        data = TrainData(config.data, seed=config.seed, segment_samples=config.model.segment_samples)
        state, validation = TrainState(mine, context.device), Validation(mine, context)
        measured = _measure(mine, context, state, data, validation, Path(folder))
    return _Rehearsal(data=data, state=state, validation=validation, device=context.device, measured=measured)


def _measure(
    config: TrainRunConfig,
    context: LocalContext,
    state: TrainState,
    data: TrainData,
    validation: Validation,
    folder: Path,
) -> _Measured:
    segments = data.segments(state.cursor, global_batch_size=config.global_batch_size, rank=0, world_size=1)
    with ExitStack() as stack:
        stack.enter_context(closing(segments))
        adversary = None if state.discriminator is None else stack.enter_context(Adversary(state, context))
        step = TrainStep(state, context, adversary)
        first, _ = _timed(step, state, segments)  # compiles what is compiled at its first use
        rest = [_timed(step, state, segments) for _ in range(_TIMED_STEPS)]
        pending = {} if adversary is None else adversary.pending()
    began = time.perf_counter()
    state.save(folder, order_identity=data.identity(), pending=pending)
    saved = time.perf_counter()
    heard = validation.heard(state.published, _HEARD_CLIPS)
    return _Measured(
        step_seconds=statistics.median(seconds for _, seconds in rest),
        clip_seconds=(time.perf_counter() - saved) / max(len(heard), 1),
        save_seconds=saved - began,
        checkpoint_bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        peak_bytes=_peak_bytes(context.device),
        losses=(first, rest[-1][0]),
    )


def _timed(step: TrainStep, state: TrainState, segments: Iterator[Segments]) -> tuple[float, float]:
    """The total loss of a step, and its seconds, without those of waiting for data."""
    batch = next(segments)
    state.set_learning_rate()
    began = time.perf_counter()
    total = step(batch)["total"].item()  # waits for the device
    state.step, state.cursor = state.step + 1, batch.cursor_after
    return total, time.perf_counter() - began


def _beginning(config: TrainRunConfig) -> str:
    latest = checkpoints_of(config).latest()
    return "starts anew" if latest is None else f"would go on from {latest}"


def _data(config: TrainRunConfig, data: TrainData, validation: Validation) -> str:
    source = "mixed while training" if config.data.mix is not None else f"from {config.data.shards}"
    shards = len(data.order.shard_sizes)
    return (
        f"{data.order.samples:,} examples in {shards} shard{'s' * (shards > 1)}, {source}; validation by"
        f" {validation.clips} clips"
    )


def _losses(config: TrainRunConfig, state: TrainState, measured: _Measured) -> str:
    weights = dataclasses.asdict(config.loss_weights)
    used = ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight)
    discriminator = "no discriminator, no PESQ in training"
    if state.discriminator is not None:
        discriminator = f"discriminator with {config.pesq_processes} PESQ process(es) a worker"
    before, after = measured.losses
    return f"{used}; {discriminator}; total {before:.3f} at step 1, {after:.3f} at step {1 + _TIMED_STEPS}"


def _length(config: TrainRunConfig, data: TrainData) -> str:
    an_epoch = data.order.samples / config.global_batch_size
    epochs = config.max_steps / an_epoch
    last = learning_rate(
        config.optimiser, config.max_steps - 1, epoch=int(epochs), max_steps=config.max_steps
    )
    return (
        f"{config.max_steps:,} steps, {an_epoch:.1f} an epoch, {epochs:.1f} epochs; learning rate"
        f" {config.optimiser.learning_rate:g}, at the end {last:.2g}"
    )


def _memory(device: torch.device, measured: _Measured) -> str:
    where = "of the GPU" if device.type == "cuda" else "of this process"
    return (
        f"{measured.peak_bytes / 2**30:.2f} GiB {where} at the most, a worker;"
        f" {measured.checkpoint_bytes / 1e6:.1f} MB a checkpoint"
    )


def _validating_seconds(rehearsal: _Rehearsal, world: int) -> float:
    return rehearsal.measured.clip_seconds * rehearsal.validation.clips / world


def _whole_seconds(config: TrainRunConfig, rehearsal: _Rehearsal, world: int) -> float:
    rounds = config.max_steps / config.checkpoint_every_steps
    measured = rehearsal.measured
    each = _validating_seconds(rehearsal, world) + measured.save_seconds
    return config.max_steps * measured.step_seconds + rounds * each


def _time(config: TrainRunConfig, rehearsal: _Rehearsal, world: int) -> str:
    measured = rehearsal.measured
    validating, whole = _validating_seconds(rehearsal, world), _whole_seconds(config, rehearsal, world)
    rate = config.global_batch_size / measured.step_seconds
    return (
        f"{measured.step_seconds:.3f} s a step (median of {_TIMED_STEPS}), {rate:.1f} segments/s; every"
        f" {config.checkpoint_every_steps} steps {validating:.1f} s to validate, without its metrics, and"
        f" {measured.save_seconds:.2f} s to save; {duration(whole)} in all"
    )


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Kilobytes, but on macOS bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
