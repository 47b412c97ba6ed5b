"""Rendering against decoding and encoding alone, Ray against plain processes, and memory; one line per value.

python -m tests.benchmarks.bench_rendering [--card datasets/X.yaml] [--hours 4] [--only PART ...]

Without a card, the corpus consists of generated noise bursts in FLAC. The recipe sets the SNR by RMS and has
no transforms.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import soundfile

from pipelines.mix_shards import write_plans
from pipelines.mixing.plan_table import PlanTable, plan_path
from pipelines.mixing.shard_jobs import ShardJobs, make_shards
from rwsa.corpora import scan
from rwsa.corpora.cards import read_card
from rwsa.mixing import render_example
from rwsa.mixing.plans import MixPlan, SourceRange
from rwsa.mixing.recipes import Recipe
from rwsa.shards.tars import _encode_flac
from tests.benchmarks.timing import cpu_seconds, seconds

RATE_HZ, SECONDS, SHARD_EXAMPLES, RUNS = 16_000, 4.0, 64, 5
FLOOR_EXAMPLES, PLAN_ROWS, WORKERS, HOURS = 128, 20_000, 2, (1, 10)
CARD = """
name: bench
description: Noise bursts in place of speech.
sample_rate_hz: 16000
licence: CC0
speech: [{{root: {root}/speech, split: train, pattern: '(?P<speaker>\\w+)\\.flac'}}]
noise: [{{root: {root}/noise, split: train, pattern: '(?P<recording>\\w+)\\.flac'}}]
"""


def main() -> None:
    arguments = _arguments()
    print(f"examples of {SECONDS:g} s at {RATE_HZ} Hz, load average {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory(prefix="rwsa-bench-") as name:
        folder = Path(name)
        plan = functools.partial(_planned, arguments.card or _made_corpus(folder), folder)
        if "plan" in arguments.only:
            _planning(plan)
        if "memory" in arguments.only:
            _memory(plan)
        if "floor" in arguments.only:
            _against_floor(plan)
        if "ray" in arguments.only:
            _against_bare(plan, arguments.hours)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--card", type=Path, help="corpus with speech and noise in a split 'train'")
    parser.add_argument("--hours", type=float, default=4, help="hours of audio that Ray renders")
    parts = ("plan", "memory", "floor", "ray")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART")
    return parser.parse_args()


def _made_corpus(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for kind in ("speech", "noise"):
        (folder / kind).mkdir()
        for number in range(40):
            # Of varying level, so that FLAC can compress it.
            envelope = np.repeat(rng.uniform(0.001, 0.1, size=100), RATE_HZ // 10)
            wav = envelope * rng.normal(size=len(envelope))
            soundfile.write(folder / kind / f"{kind}{number}.flac", wav, RATE_HZ)
    card = folder / "card.yaml"
    card.write_text(CARD.format(root=folder))
    return card


def _planned(card: Path, folder: Path, name: str, examples: int) -> ShardJobs:
    """Plan `examples` into the folder `name`."""
    out = folder / name
    recipe = Recipe(
        name="bench", seconds=SECONDS, min_snr_db=-5.0, max_snr_db=15.0, examples={"train": examples}
    )
    plans = write_plans(scan(read_card(card)), recipe, out, splits=None, shard_examples=SHARD_EXAMPLES)
    splits = tuple((plan.split, plan.shards) for plan in plans)
    return ShardJobs(folder=str(out), run=name, splits=splits, strict=False)


def _examples(hours: float) -> int:
    return round(hours * 3600 / SECONDS)


def _planning(plan: Callable[[str, int], ShardJobs]) -> None:
    start = time.process_time()
    path = plan_path(Path(plan("plan", PLAN_ROWS).folder), "train")
    each = (time.process_time() - start) / PLAN_ROWS
    size = path.stat().st_size / PLAN_ROWS
    print(f"planning: {each * 1e6:.0f} µs and {size:.0f} bytes per row ({PLAN_ROWS} rows, CPU time)")


def _memory(plan: Callable[[str, int], ShardJobs]) -> None:
    """Peak memory of a process that renders one hour, and of one that renders ten."""
    peaks = []
    for hours in HOURS:
        jobs = plan(f"memory{hours}", _examples(hours))
        peaks.append(_in_new_processes(_peak_mib, [(jobs,)])[0])
    each = ", ".join(f"{hours} h {peak:.0f} MiB" for hours, peak in zip(HOURS, peaks, strict=True))
    print(f"peak memory of a worker: {each}, ratio {peaks[1] / peaks[0]:.3f}")


def _peak_mib(jobs: ShardJobs) -> float:
    for job in range(len(jobs)):
        _make(jobs, job)
        for path in Path(jobs.folder).glob("train-*.tar"):
            path.unlink()  # ten hours would fill the disk with a gigabyte
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _make(jobs: ShardJobs, job: int) -> None:
    outcome = jobs.make(job)
    if outcome.error is not None or outcome.reused:
        raise RuntimeError(f"{jobs.folder}: shard {job} was not rendered ({outcome})")


def _against_floor(plan: Callable[[str, int], ShardJobs]) -> None:
    """CPU time of one process, alternating with the floor: decoding both stretches, encoding two FLACs."""
    jobs = plan("floor", FLOOR_EXAMPLES)
    plans = list(PlanTable(plan_path(Path(jobs.folder), "train")))
    pairs = [
        [_int16(wav) for wav in (example.noisy, example.clean)] for example in map(render_example, plans)
    ]
    floor, rendering = [], []
    for _ in range(RUNS):
        for path in Path(jobs.folder).glob("train-*.*"):
            path.unlink()
        rendering.append(cpu_seconds(lambda: list(map(functools.partial(_make, jobs), range(len(jobs))))))
        floor.append(cpu_seconds(lambda: _decode_and_encode(plans, pairs)))
    # The minimum, since all else is other load of the machine.
    hours = FLOOR_EXAMPLES * SECONDS / 3600
    speeds = [hours / min(times) * 60 for times in (rendering, floor)]
    print(f"rendering in one process: {speeds[0]:.2f} h/min", end="; ")
    print(f"decoding and encoding alone {speeds[1]:.2f} h/min; ratio {speeds[0] / speeds[1]:.3f} (CPU time)")


def _int16(wav: np.ndarray) -> np.ndarray:
    return (wav * 32768).astype(np.int16)


def _decode_and_encode(plans: Sequence[MixPlan], pairs: Sequence[Sequence[np.ndarray]]) -> None:
    for plan, pair in zip(plans, pairs, strict=True):
        for source in plan.sources():
            _decode(source)
        for wav in pair:
            _encode_flac(wav, RATE_HZ)


def _decode(source: SourceRange) -> None:
    with soundfile.SoundFile(source.path) as file:
        if source.offset + source.samples <= source.clip_samples:
            file.seek(source.offset)
            file.read(source.samples, dtype="float32")
        else:
            file.read(dtype="float32")


def _against_bare(plan: Callable[[str, int], ShardJobs], hours: float) -> None:
    """Wall-clock time of two workers; the plain processes start together after their imports."""
    jobs = plan("bare", _examples(hours))
    shares = [(jobs, range(first, len(jobs), WORKERS)) for first in range(WORKERS)]
    times = _in_new_processes(_make_share, shares)
    bare = max(end for _, end in times) - min(start for start, _ in times)
    first = seconds(lambda: _on_ray(plan("first", WORKERS * SHARD_EXAMPLES)))
    jobs = plan("ray", _examples(hours))
    ray = seconds(lambda: _on_ray(jobs))
    print(f"{hours:g} h, two plain processes: {hours / bare * 60:.2f} h/min", end="; ")
    print(f"Ray with two workers {hours / ray * 60:.2f} h/min; ratio {bare / ray:.3f}", end="; ")
    print(f"Ray's start and first two shards took {first:.1f} s before that")


def _on_ray(jobs: ShardJobs) -> None:
    made = sum(not outcome.reused for outcome in make_shards(jobs, range(len(jobs)), WORKERS))
    if made != len(jobs):
        raise SystemExit(f"{jobs.folder}: only {made} of {len(jobs)} shards were rendered")


def _in_new_processes(work: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Call `work` simultaneously in one spawned process per tuple of arguments."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        ready = manager.Barrier(len(arguments))
        with context.Pool(len(arguments)) as pool:
            return pool.starmap(_when_all_are_ready, [(ready, work, each) for each in arguments], chunksize=1)


def _when_all_are_ready(ready: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    ready.wait()
    return work(*arguments)


def _make_share(jobs: ShardJobs, which: range) -> tuple[float, float]:
    start = time.monotonic()
    for job in which:
        _make(jobs, job)
    return start, time.monotonic()


if __name__ == "__main__":
    main()
