"""Dry run: estimate time and memory of a training run from a few steps, without saving anything."""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import torch

from pipelines.core.progress import duration
from pipelines.training.config import TrainRunConfig
from pipelines.training.launch import checkpoints_of
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.kernels import scan
from rwsa.shards.sampling import share_of
from rwsa.training.adversary import Adversary
from rwsa.training.config import training_hash
from rwsa.training.context import LocalContext
from rwsa.training.data import SegmentBatch, TrainData
from rwsa.training.optimiser import learning_rate
from rwsa.training.state import TrainState
from rwsa.training.step import TrainStep
from rwsa.training.validation import Validation

_TIMED_STEPS = 3
_TIMED_CLIPS = 2
# `core_seconds_per_step` ends after so many steps or seconds, but not before _TIMED_STEPS.
_MOST_STEPS, _ENOUGH_SECONDS = 24, 8.0


@dataclass(frozen=True, kw_only=True)
class _Measured:
    """Measurements of the timed steps, clips and checkpoint."""

    step_seconds: float
    clip_seconds: float
    save_seconds: float
    checkpoint_bytes: int
    peak_bytes: int
    losses: tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class _DryRun:
    """Data, state and validation of a run, with the measurements of its dry run."""

    data: TrainData
    state: TrainState
    validation: Validation
    device: torch.device
    measured: _Measured


def training_seconds(config: TrainRunConfig, *, workers: int, threads: int) -> float:
    """Estimated duration of a run; see `dry_run`.

    Raises:
        InputError: what training would raise at its start.
    """
    return _total_seconds(config, _measure_run(config, workers=workers, threads=threads), max(workers, 1))


def core_seconds_per_step(config: TrainRunConfig, *, threads: int) -> float:
    """CPU time of a step in one process, with that of its threads and of its processes for mixing and PESQ.

    Raises:
        InputError: what training would raise at its start.
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(prefix="rwsa-dry-run-") as folder:
        context = LocalContext(Path(folder))
        data = TrainData(config.data, seed=config.seed, segment_samples=config.model.segment_samples)
        state = TrainState(config, context.device)
        with _steps(config, context, state, data) as (run_step, _):
            run_step()  # includes compilation
            before, started = _core_seconds(), time.perf_counter()
            for count in range(1, _MOST_STEPS + 1):
                run_step()
                if count >= _TIMED_STEPS and time.perf_counter() - started >= _ENOUGH_SECONDS:
                    break
            return (_core_seconds() - before) / count


def _core_seconds() -> float:
    """CPU time of this process and of its children that run."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


def dry_run(config: TrainRunConfig, *, workers: int, threads: int) -> str:
    """Report of a run before it starts: data, steps, memory, time.

    Measures one worker's share of a step in this process; contention between workers is not included.

    Raises:
        InputError: what training would raise at its start.
    """
    world = max(workers, 1)
    share = share_of(config.global_batch_size, rank=0, world_size=world)
    run = _measure_run(config, workers=workers, threads=threads)
    data, state, validation = run.data, run.state, run.validation
    measured = run.measured
    lines = {
        "run": f"{config.name}, configuration {training_hash(config)}; {_start(config)}",
        "data": _data(config, data, validation),
        "model": f"{config.model.summary}, {_count(state.generator):,} parameters;"
        f" scan by {scan.resolve_backend(run.device)}",
        "losses": _losses(config, state, measured),
        "step": f"{config.global_batch_size} segments of"
        f" {config.model.segment_samples / SAMPLE_RATE_HZ:.2f} s over {world} worker{'s' * (world > 1)},"
        f" {share.stop} each, {config.accumulate} part{'s' * (config.accumulate > 1)}, {config.precision}",
        "length": _length(config, data),
        "memory": _memory(run.device, measured),
        "time": _time(config, run, world),
    }
    width = max(map(len, lines))
    return "\n".join(f"{name:{width}}  {text}" for name, text in lines.items())


def _measure_run(config: TrainRunConfig, *, workers: int, threads: int) -> _DryRun:
    torch.set_num_threads(threads)
    share = share_of(config.global_batch_size, rank=0, world_size=max(workers, 1))
    one_worker = dataclasses.replace(config, global_batch_size=share.stop)
    with tempfile.TemporaryDirectory(prefix="rwsa-dry-run-") as folder:
        context = LocalContext(Path(folder))
        data = TrainData(config.data, seed=config.seed, segment_samples=config.model.segment_samples)
        state, validation = TrainState(one_worker, context.device), Validation(one_worker, context)
        measured = _measure(one_worker, context, state, data, validation, Path(folder))
    return _DryRun(data=data, state=state, validation=validation, device=context.device, measured=measured)


def _measure(
    config: TrainRunConfig,
    context: LocalContext,
    state: TrainState,
    data: TrainData,
    validation: Validation,
    folder: Path,
) -> _Measured:
    with _steps(config, context, state, data) as (run_step, pending_pair):
        first, _ = run_step()  # includes compilation
        rest = [run_step() for _ in range(_TIMED_STEPS)]
        pending = pending_pair()
    before_save = time.perf_counter()
    state.save(folder, order_identity=data.identity(), pending=pending)
    before_clips = time.perf_counter()
    clips = validation.audio_samples(state.published, _TIMED_CLIPS)
    return _Measured(
        step_seconds=statistics.median(seconds for _, seconds in rest),
        clip_seconds=(time.perf_counter() - before_clips) / max(len(clips), 1),
        save_seconds=before_clips - before_save,
        checkpoint_bytes=sum(path.stat().st_size for path in folder.iterdir() if path.is_file()),
        peak_bytes=_peak_bytes(context.device),
        losses=(first, rest[-1][0]),
    )


@contextmanager
def _steps(
    config: TrainRunConfig, context: LocalContext, state: TrainState, data: TrainData
) -> Iterator[tuple[Callable[[], tuple[float, float]], Callable[[], dict[str, torch.Tensor]]]]:
    """`_timed_step` of a run, and its discriminator's pending pair."""
    segments = data.segments(state.cursor, global_batch_size=config.global_batch_size, rank=0, world_size=1)
    with ExitStack() as stack:
        stack.enter_context(closing(segments))
        adversary = None if state.discriminator is None else stack.enter_context(Adversary(state, context))
        step = TrainStep(state, context, adversary)
        yield partial(_timed_step, step, state, segments), dict if adversary is None else adversary.pending


def _timed_step(step: TrainStep, state: TrainState, segments: Iterator[SegmentBatch]) -> tuple[float, float]:
    """Total loss of a step, and its duration in seconds without the wait for data."""
    batch = next(segments)
    state.set_learning_rate()
    start = time.perf_counter()
    total = step(batch)["total"].item()  # waits for the device
    state.step, state.cursor = state.step + 1, batch.cursor_after
    return total, time.perf_counter() - start


def _start(config: TrainRunConfig) -> str:
    latest = checkpoints_of(config).latest()
    return "new run" if latest is None else f"resumes from {latest}"


def _data(config: TrainRunConfig, data: TrainData, validation: Validation) -> str:
    source = "mixed online" if config.data.mix is not None else f"from {config.data.shards}"
    shards = len(data.order.shard_sizes)
    return (
        f"{data.order.samples:,} examples in {shards} shard{'s' * (shards > 1)}, {source}; validation on"
        f" {validation.clips} clips"
    )


def _losses(config: TrainRunConfig, state: TrainState, measured: _Measured) -> str:
    weights = dataclasses.asdict(config.loss_weights)
    used = ", ".join(f"{name} {weight:g}" for name, weight in weights.items() if weight)
    discriminator = "no discriminator, no PESQ in training"
    if state.discriminator is not None:
        discriminator = f"discriminator with {config.pesq_processes} PESQ process(es) per worker"
    before, after = measured.losses
    return f"{used}; {discriminator}; total {before:.3f} at step 1, {after:.3f} at step {1 + _TIMED_STEPS}"


def _length(config: TrainRunConfig, data: TrainData) -> str:
    steps_per_epoch = data.order.samples / config.global_batch_size
    epochs = config.max_steps / steps_per_epoch
    last = learning_rate(
        config.optimiser, config.max_steps - 1, epoch=int(epochs), max_steps=config.max_steps
    )
    return (
        f"{config.max_steps:,} steps, {steps_per_epoch:.1f} per epoch, {epochs:.1f} epochs; learning rate"
        f" {config.optimiser.learning_rate:g}, at the end {last:.2g}"
    )


def _memory(device: torch.device, measured: _Measured) -> str:
    where = "of the GPU" if device.type == "cuda" else "of this process"
    return (
        f"{measured.peak_bytes / 2**30:.2f} GiB {where} per worker at peak;"
        f" {measured.checkpoint_bytes / 1e6:.1f} MB per checkpoint"
    )


def _validation_seconds(run: _DryRun, world: int) -> float:
    return run.measured.clip_seconds * run.validation.clips / world


def _total_seconds(config: TrainRunConfig, run: _DryRun, world: int) -> float:
    rounds = config.max_steps / config.checkpoint_every_steps
    measured = run.measured
    each = _validation_seconds(run, world) + measured.save_seconds
    return config.max_steps * measured.step_seconds + rounds * each


def _time(config: TrainRunConfig, run: _DryRun, world: int) -> str:
    measured = run.measured
    validation, total = _validation_seconds(run, world), _total_seconds(config, run, world)
    rate = config.global_batch_size / measured.step_seconds
    return (
        f"{measured.step_seconds:.3f} s per step (median of {_TIMED_STEPS}), {rate:.1f} segments/s; every"
        f" {config.checkpoint_every_steps} steps {validation:.1f} s of validation, without metrics, and"
        f" {measured.save_seconds:.2f} s of saving; {duration(total)} in total"
    )


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # ru_maxrss is in kilobytes, on macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
