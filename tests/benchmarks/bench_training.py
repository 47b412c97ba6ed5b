"""Overheads of a training step (data, PESQ, logging, checkpoints) on the demo's shards.

    python -m tests.benchmarks.bench_training [--only waiting pesq workers]

Times are medians of one run; ratios compare alternating steps of that run.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from pathlib import Path

import numpy as np
import torch

from pipelines.core.tracking import Tracker
from pipelines.mix_shards import main as mix
from pipelines.train import config_paths
from pipelines.training.config import TrainRunConfig
from pipelines.training.run_log import RunLog
from rwsa.config import read_config
from rwsa.training.adversary import Adversary
from rwsa.training.context import AudioSample, LocalContext
from rwsa.training.data import TrainData
from rwsa.training.loop import fit
from rwsa.training.pesq_pool import PesqPool, PesqTargets
from rwsa.training.state import TrainState
from rwsa.training.step import TrainStep

STEPS, PESQ_STEPS = 24, 12
EXAMPLES = 96


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS))
    parts = parser.parse_args().only
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        recipe = ["--card", "datasets/libri_esc50.yaml", "--recipe", "datasets/recipes/demo.yaml"]
        settings = ["--set", f"examples.train={EXAMPLES}", "examples.valid=4"]
        out = ["--out", str(folder / "shards"), "--splits", "train", "valid", "--shard-examples", "32"]
        assert mix([*recipe, *out, "--workers", "0", *settings]) == 0
        for part in parts:
            print(f"{part} · load average {os.getloadavg()[0]:.1f}")
            _PARTS[part](folder)


def _config(folder: Path, *settings: str) -> TrainRunConfig:
    locations = [f"data.shards={folder}/shards", f"storage.root={folder}"]
    tracking = f"storage.tracking_uri=sqlite:///{folder}/mlflow.db"
    return read_config(
        TrainRunConfig,
        config_paths(["base", "nano", "demo"]),
        ["name=bench", *locations, tracking, "log_every_steps=1", f"max_steps={STEPS}", *settings],
    )


class _Timed:
    """Times another `TrainLogger` and records the metrics."""

    def __init__(self, other: RunLog) -> None:
        self._other, self.seconds = other, list[float]()
        self.values = list[Mapping[str, float]]()

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        start = time.perf_counter()
        self._other.log_metrics(step, values)
        self.seconds.append(time.perf_counter() - start)
        self.values.append(values)

    def log_audio(self, step: int, samples: Sequence[AudioSample]) -> None:
        self._other.log_audio(step, samples)


def _waiting(folder: Path) -> None:
    """Data wait, MLflow logging of every step, and a checkpoint, relative to a step."""
    torch.set_num_threads(os.cpu_count() or 1)
    config = _config(folder, "checkpoint_every_steps=8", "audio_clips=0", "data.valid_examples=2")
    with Tracker(config.storage).run("bench") as run, RunLog(config, run, "bench") as log:
        logger = _Timed(log)
        fit(config, LocalContext(folder / "run", logger))
    steps = [values for values in logger.values if "samples_per_second" in values][1:]  # the first compiles
    step = statistics.median(config.global_batch_size / values["samples_per_second"] for values in steps)
    share = statistics.mean(values["data_wait_share"] for values in steps)
    saving = statistics.median(
        values["checkpoint_seconds"] for values in steps if "checkpoint_seconds" in values
    )
    demo = _config(folder).checkpoint_every_steps
    print(f"step of 4 segments of nano {step:.3f} s, of which waiting for data {share:.2%}")
    print(f"logging every step takes {statistics.median(logger.seconds) / step:.2%} of it")
    print(f"a checkpoint takes {saving:.3f} s: {saving / (demo * step):.2%} of the demo's {demo} steps")


class _Free(PesqPool):
    """Constant targets, at no cost."""

    def submit(self, clean: torch.Tensor, enhanced: torch.Tensor) -> PesqTargets:
        futures = [Future[float]() for _ in clean]
        for number, future in enumerate(futures):
            future.set_result(1.5 + 0.1 * number)
        return PesqTargets(futures)


class _Inside(PesqPool):
    """Targets computed within the step."""

    def submit(self, clean: torch.Tensor, enhanced: torch.Tensor) -> PesqTargets:
        targets = super().submit(clean, enhanced)
        targets.wait()
        return targets


def _pesq(folder: Path) -> None:
    """Steps on one core with PESQ on another core, within the step, and at no cost, alternating."""
    torch.set_num_threads(1)
    config = _config(folder, "loss_weights.metric=0.05")
    context = LocalContext(folder / "pesq")
    data = TrainData(config.data, seed=0, segment_samples=config.model.segment_samples)
    state = TrainState(config, context.device)
    kinds: dict[str, PesqPool] = {"free": _Free(1), "beside": PesqPool(1), "inside": _Inside(1)}
    times: dict[str, list[float]] = {name: [] for name in kinds}
    segments = data.segments(state.cursor, global_batch_size=4, rank=0, world_size=1)
    with closing(segments), Adversary(state, context) as adversary:
        own, step = adversary._pool, TrainStep(state, context, adversary)
        for number in range(-1, PESQ_STEPS):
            for name, pool in kinds.items():
                # Two steps of each kind: the second uses the targets that the first started.
                for second in (False, True):
                    adversary._pool = pool
                    batch = next(segments)
                    start = time.perf_counter()
                    step(batch)
                    if second and number >= 0:
                        times[name].append(time.perf_counter() - start)
        adversary._pool = own
    for pool in kinds.values():
        pool.close()
    free, beside, inside = (statistics.median(times[name]) for name in ("free", "beside", "inside"))
    print(f"step without PESQ's cost {free:.3f} s, beside {beside:.3f} s, inside {inside:.3f} s")
    print(f"of {inside - free:.3f} s of PESQ per step {(inside - beside) / (inside - free):.0%} are hidden")


def _workers(folder: Path) -> None:
    """Samples per second of one process with one thread, and of two processes."""
    rates = {}
    for world in (1, 2):
        out = folder / f"world-{world}"
        out.mkdir()
        torch.multiprocessing.spawn(_rank, args=(world, folder, out), nprocs=world)
        rates[world] = float((out / "rate").read_text())
    print(f"one worker {rates[1]:.2f}, two {rates[2]:.2f} segments/s: {rates[2] / rates[1]:.2f} times")


class _Rates:
    def __init__(self) -> None:
        self.values = list[float]()

    def log_metrics(self, step: int, values: Mapping[str, float]) -> None:
        if "samples_per_second" in values:
            self.values.append(values["samples_per_second"])

    def log_audio(self, step: int, samples: Sequence[AudioSample]) -> None:
        """Not timed."""


def _rank(rank: int, world: int, folder: Path, out: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{out}/meet", rank=rank, world_size=world
    )
    rates = _Rates()
    context = LocalContext(out, rates)
    context.rank, context.world_size = rank, world
    fit(_config(folder, "audio_clips=0", "checkpoint_every_steps=1000", "data.valid_examples=2"), context)
    if rank == 0:
        (out / "rate").write_text(str(np.median(rates.values[2:])))
    torch.distributed.destroy_process_group()


_PARTS: dict[str, Callable[[Path], None]] = {"waiting": _waiting, "pesq": _pesq, "workers": _workers}

if __name__ == "__main__":
    main()
