"""Scoring a folder with one and two processes, and the time that a cached clean side saves.

python -m tests.benchmarks.bench_scoring [--pairs FOLDER]
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import soundfile
from threadpoolctl import threadpool_limits

from rwsa.audio import read_mono
from rwsa.audio_folders import find_audio
from rwsa.folder_scores import FOLDER_METRICS, score_folders
from rwsa.metrics import METRICS, Reference, score
from tests.benchmarks.timing import seconds

RATE_HZ, RUNS, CLIPS = 16_000, 3, 8
# As many clips as in VoiceBank's test set: with few, the start of processes dominates.
SCALING_CLIPS = 824
Pair = tuple[np.ndarray, np.ndarray]
FOUR = ("pesq", "ssnr", "estoi", "si_sdr")


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pairs", type=Path, help="folder with clean/ and noisy/; default: synthetic clips")
    pairs = parser.parse_args(argv).pairs
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pairs = pairs or _synthetic_pairs(folder / "pairs")
        _scaling(pairs, folder / "copies")
        with threadpool_limits(1):
            _clean_side(pairs)


def _synthetic_pairs(folder: Path) -> Path:
    """Clips of 4 s in which PESQ finds utterances."""
    for number in range(16):
        rng = np.random.default_rng(number)
        envelope = 0.02 + np.sin(2 * np.pi * 2 * np.arange(4 * RATE_HZ) / RATE_HZ) ** 2
        clean = 0.05 * rng.standard_normal(len(envelope)) * envelope
        for kind, wav in (("clean", clean), ("noisy", clean + 0.01 * rng.standard_normal(len(clean)))):
            (folder / kind).mkdir(parents=True, exist_ok=True)
            soundfile.write(folder / kind / f"{number}.flac", wav, RATE_HZ)
    return folder


def _scaling(pairs: Path, copies: Path) -> None:
    copied = round(SCALING_CLIPS / len(find_audio(pairs / "clean")))
    for number in range(copied):
        shutil.copytree(pairs / "clean", copies / "clean" / str(number))
        shutil.copytree(pairs / "noisy", copies / "noisy" / str(number))
    clips = len(find_audio(copies / "clean"))
    walls, cpus, load = {}, {}, os.getloadavg()[0]
    for workers in (1, 2):
        before = _cpu()
        walls[workers] = seconds(partial(_score, copies, FOUR, workers))
        cpus[workers] = _cpu() - before
    # CPU time shows the overhead of the second process even if other work uses the cores.
    most = 2 * cpus[1] / cpus[2]
    print(
        f"{len(FOUR)} metrics of {clips} clips: {clips / walls[1]:.1f} clips/s with one process,"
        f" {clips / walls[2]:.1f} with two, {walls[1] / walls[2]:.2f} times; by CPU time two free cores"
        f" allow {most:.2f} (load before {load:.1f})",
        flush=True,
    )


def _score(folder: Path, metrics: Sequence[str], workers: int) -> None:
    score_folders(folder / "clean", folder / "noisy", metrics=metrics, workers=workers)


def _clean_side(pairs: Path) -> None:
    clips = [
        (read_mono(clean, RATE_HZ), read_mono(noisy, RATE_HZ))
        for clean, noisy in zip(find_audio(pairs / "clean"), find_audio(pairs / "noisy"), strict=True)
    ][:CLIPS]
    audio_seconds = sum(len(clean) for clean, _ in clips) / RATE_HZ
    # Without DNSMOS, which takes minutes and uses no clean clip.
    each = [(name,) for name, metric in METRICS.items() if "dnsmos" not in metric.needs]
    for metrics in (FOUR, FOLDER_METRICS, *each):
        references = [Reference(clean) for clean, _ in clips]
        uncached = _cpu_seconds(partial(_uncached, clips, metrics))
        cached = _cpu_seconds(partial(_cached, references, clips, metrics))
        print(
            f"{'+'.join(metrics):<40} {1000 * uncached / audio_seconds:6.2f} ms a second of audio,"
            f" {1000 * cached / audio_seconds:6.2f} with the clean side cached"
            f" ({1 - cached / uncached:.0%} less)"
        )


def _uncached(clips: Sequence[Pair], metrics: Sequence[str]) -> None:
    for clean, noisy in clips:
        score(clean, noisy, metrics)


def _cached(references: Sequence[Reference], clips: Sequence[Pair], metrics: Sequence[str]) -> None:
    for reference, (_, noisy) in zip(references, clips, strict=True):
        reference.score(noisy, metrics)


def _cpu_seconds(work: Callable[[], object]) -> float:
    """Least CPU time over some runs, which other work on the machine does not affect."""
    found = []
    work()
    for _ in range(RUNS):
        before = _cpu()
        work()
        found.append(_cpu() - before)
    return min(found)


def _cpu() -> float:
    """CPU seconds of this process and of its finished children."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


if __name__ == "__main__":
    main()
