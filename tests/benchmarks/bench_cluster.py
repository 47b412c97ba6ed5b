"""Time mixing on two nodes, Ray Train against plain DDP, and the start of training on Ray.

    python -m tests.benchmarks.bench_cluster [--only mixing overhead start]

Each node has one core (network namespaces, `taskset`); the head and the driver share the first node's core.
Variants run in turns.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from mlflow import MlflowClient

from pipelines.core.tracking import TrackedRun, Tracker
from pipelines.mix_shards import main as mix
from pipelines.train import absolute, config_paths
from pipelines.training.config import TrainRunConfig
from pipelines.training.run_log import RunLog
from rwsa.config import as_mapping, build, read_config
from rwsa.training.context import LocalContext
from rwsa.training.loop import fit
from tests.node_network import why_not
from tests.ray_nodes import CHECKOUT, ray_nodes

EXAMPLES, SHARD_EXAMPLES, ROUNDS = 4000, 100, 2
STEPS = 30
RECIPE = ["--card", "datasets/libri_esc50.yaml", "--recipe", "datasets/recipes/demo.yaml"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--only", nargs="+", choices=_PARTS, default=list(_PARTS))
    parts = parser.parse_args().only
    with tempfile.TemporaryDirectory(prefix="rwsa-bench-") as name:
        for part in parts:
            print(f"{part} · load average {os.getloadavg()[0]:.1f}", flush=True)
            (Path(name) / part).mkdir()
            _PARTS[part](Path(name) / part)


def _mixing(folder: Path) -> None:
    """The rate of two nodes against one, from the first to the last shard of a long plan."""
    if (reason := why_not()) is not None:
        print(f"mixing on two nodes was not measured: {reason}")
        return
    rates: dict[int, list[float]] = {1: [], 2: []}
    for turn in range(ROUNDS):
        for count in rates:
            out = folder / f"{turn}-{count}"
            words = [*RECIPE, "--splits", "train", "--shard-examples", str(SHARD_EXAMPLES), "--out", str(out)]
            words += ["--cache", str(folder / "cache"), "--set", f"examples.train={EXAMPLES}"]
            cores = {"head": 0, "a": 0} | ({"b": 1} if count == 2 else {})
            with ray_nodes(folder / f"nodes-{turn}-{count}", cores=cores, servers=False) as nodes:
                output = nodes.drive("pipelines.mix_shards", *words, cwd=CHECKOUT).ends(seconds=500)
            rates[count].append(_rate(out))
            took = output.strip().splitlines()[-1].rpartition("; ")[2]
            print(f"{count} of the nodes: {rates[count][-1]:.2f} shards/s, {took} in total", flush=True)
    one, two = (statistics.median(rates[count]) for count in rates)
    print(f"mixing on two nodes: {two:.2f} shards/s, {two / one:.2f} times one node's {one:.2f}")


def _rate(folder: Path) -> float:
    """Shards per second, from the first to the last."""
    times = sorted(path.stat().st_mtime for path in folder.glob("*.tar"))
    return (len(times) - 1) / (times[-1] - times[0])


def _overhead(folder: Path) -> None:
    """The median step of gloo processes, started by Ray Train and directly, in turns.

    On two cores, one worker leaves a core to Ray's own processes; two workers do not.
    """
    config = _training(folder)
    for workers in (1, 2):
        step_seconds: dict[str, list[float]] = {"plain": [], "on Ray": []}
        for turn in range(ROUNDS):
            for how in step_seconds:
                name = f"{how.replace(' ', '-')}-{workers}-{turn}"
                if how == "on Ray":
                    _train(folder, name, workers)
                else:
                    with Tracker(config.storage).run(name) as run:
                        torch.multiprocessing.spawn(
                            _plain_worker, (workers, folder, name, run.run_id), nprocs=workers
                        )
                step_seconds[how] += _step_seconds(config, name)
        plain, ray = (statistics.median(step_seconds[how]) for how in step_seconds)
        print(
            f"a step of the demo, {workers} workers: {plain:.4f} s by plain DDP, {ray:.4f} s on Ray,"
            f" {ray / plain - 1:+.1%}",
            flush=True,
        )


def _training(folder: Path, name: str = "bench") -> TrainRunConfig:
    if not (folder / "shards").exists():
        shards = ["--out", str(folder / "shards"), "--splits", "train", "valid", "--shard-examples", "32"]
        assert (
            mix([*RECIPE, *shards, "--workers", "0", "--set", "examples.train=96", "examples.valid=2"]) == 0
        )
    return absolute(
        read_config(TrainRunConfig, config_paths(["base", "nano", "demo"]), _settings(folder, name))
    )


def _settings(folder: Path, name: str) -> list[str]:
    places = [f"data.shards={folder}/shards", f"storage.tracking_uri=sqlite:///{folder}/mlflow.db"]
    lengths = [f"max_steps={STEPS}", f"checkpoint_every_steps={STEPS}", "log_every_steps=1", "audio_clips=0"]
    return [f"name={name}", f"storage.root={folder}", *places, *lengths]


def _train(folder: Path, name: str, workers: int = 2) -> float:
    """Train as a command; returns the seconds from its start to its first step's line."""
    words = ["pipelines.train", "base", "nano", "demo", "--workers", str(workers)]
    words += ["--set", *_settings(folder, name)]
    began, first = time.monotonic(), 0.0
    with subprocess.Popen(
        [sys.executable, "-m", *words],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        output = []
        for line in process.stdout:
            output.append(line)
            if not first and re.search(r"step +1/", line):
                first = time.monotonic() - began
    assert process.returncode == 0, "".join(output[-20:])
    return first


def _plain_worker(rank: int, workers: int, folder: Path, name: str, run_id: str) -> None:
    """One DDP process without Ray, set up like a Ray worker."""
    torch.set_num_threads(1)
    meet = f"file://{folder}/meet-{name}"
    torch.distributed.init_process_group("gloo", init_method=meet, rank=rank, world_size=workers)
    config = build(TrainRunConfig, as_mapping(_training(folder, name)), where="bench")
    context = LocalContext(folder / "runs" / name)
    context.rank, context.world_size = rank, workers
    try:
        if rank:
            fit(config, context)
            return
        run = TrackedRun(config.storage, run_id)
        with RunLog(config, run, "bench") as log:
            context.logger = log
            fit(config, context)
        run.close(status=None)
    finally:
        torch.distributed.destroy_process_group()


def _step_seconds(config: TrainRunConfig, name: str) -> list[float]:
    client = MlflowClient(config.storage.tracking_uri)
    (run,) = client.search_runs(["1"], f"attributes.run_name = '{name}'")
    history = client.get_metric_history(run.info.run_id, "speed/samples_per_second")
    # The first steps compile and warm up.
    return [config.global_batch_size / one.value for one in sorted(history, key=lambda one: one.step)[5:-1]]


def _start(folder: Path) -> None:
    _training(folder)
    seconds = [_train(folder, f"start-{turn}") for turn in range(ROUNDS)]
    print(
        f"from the command to the first step of two workers, starting Ray: {min(seconds):.1f} s",
        flush=True,
    )


_PARTS = {"overhead": _overhead, "start": _start, "mixing": _mixing}

if __name__ == "__main__":
    main()
