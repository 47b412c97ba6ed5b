"""Enhancement of files: speed, peak memory, and the cost of each crossfade in SI-SDR.

python -m tests.benchmarks.bench_enhance [--weights FILE | --size xs] [--pairs DIR] [--only PART ...]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from rwsa.audio import read_mono, write_blocks
from rwsa.audio_folders import find_audio
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.enhancement import enhance
from rwsa.enhancement.files import enhance_files
from rwsa.enhancement.overlap_add import segment_starts
from rwsa.metrics import Failure, score
from rwsa.models import SIZES, Network, build_model, load_model
from tests.benchmarks.timing import warm_seconds

CROSSFADES = (0.0, 0.05, 0.1, 0.25, 0.5)
CLIP_SECONDS, RUNS, MINUTES = 10, 5, (1, 10)
# In a separate process, started first: on Linux a child inherits its parent's peak memory.
PEAK = """
import resource, sys
from rwsa.cli import main
status = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
sys.exit(status)
"""


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(os.cpu_count() or 1)
    weights = arguments.weights or arguments.size
    print(f"{weights}: {'trained' if arguments.weights else 'untrained'} weights", end=", ")
    print(f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.2f}")
    with tempfile.TemporaryDirectory(prefix="rwsa-bench-") as folder:
        if "memory" in arguments.only:
            _memory(Path(folder), ["--weights" if arguments.weights else "--untrained", weights])
        model = load_model(weights) if arguments.weights else build_model(weights).eval()
        if "speed" in arguments.only:
            _speed(Path(folder), model)
    if "crossfade" in arguments.only:
        if arguments.pairs is None:
            print("crossfade: not measured; give --pairs")
        else:
            _crossfade(arguments.pairs, model)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--weights", help="trained weights")
    which.add_argument("--size", choices=SIZES, default="xs", help="untrained weights of this size")
    parser.add_argument("--pairs", type=Path, help="folder with noisy/ and clean/, mono at 16 kHz")
    parts = ("memory", "speed", "crossfade")
    parser.add_argument("--only", nargs="+", choices=parts, default=parts, metavar="PART")
    return parser.parse_args()


def _memory(folder: Path, model_options: list[str]) -> None:
    """Peak memory of `rwsa enhance`, with resampling."""
    peaks = []
    for minutes in MINUTES:
        write_blocks(folder / "long.wav", _seconds(60 * minutes, 48_000), 48_000)
        command = ["enhance", str(folder / "long.wav"), "--out", str(folder / "out"), *model_options]
        child = [sys.executable, "-c", PEAK, *command]
        done = subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True)
        peaks.append(int(done.stdout) / 1024)
    each = ", ".join(f"{minutes} min {peak:.0f} MiB" for minutes, peak in zip(MINUTES, peaks, strict=True))
    print(f"peak memory at 48 kHz: {each}, ratio {peaks[1] / peaks[0]:.3f}")


def _speed(folder: Path, model: Network) -> None:
    clip = folder / "clip.wav"
    write_blocks(clip, _seconds(CLIP_SECONDS, SAMPLE_RATE_HZ), SAMPLE_RATE_HZ)

    def run() -> None:
        enhance_files([clip], folder / "out", model, crossfade=0.05)

    factors = [seconds / CLIP_SECONDS for seconds in warm_seconds(run, RUNS)]
    median, load = statistics.median(factors), os.getloadavg()[0]
    print(f"real-time factor, {CLIP_SECONDS} s file to file, crossfade 5%: {median:.3f}", end=" ")
    print(f"(median of {RUNS}, {min(factors):.3f} to {max(factors):.3f}; load average {load:.2f})")


def _crossfade(pairs: Path, model: Network) -> None:
    """SI-SDR relative to the longest crossfade, over clips of more than one segment."""
    length = model.config.segment_samples
    si_sdr_db: dict[float, list[float]] = {crossfade: [] for crossfade in CROSSFADES}
    segments = dict.fromkeys(CROSSFADES, 0)
    for path in find_audio(pairs / "noisy"):
        noisy = read_mono(path, SAMPLE_RATE_HZ)
        if len(noisy) <= length:
            continue
        clean = read_mono(pairs / "clean" / path.relative_to(pairs / "noisy"), SAMPLE_RATE_HZ)
        for crossfade in CROSSFADES:
            enhanced = enhance(noisy, SAMPLE_RATE_HZ, model, crossfade=crossfade)
            value = score(clean, enhanced, ("si_sdr",))["si_sdr"]
            if isinstance(value, Failure):
                raise SystemExit(f"{path}: {value.reason}")
            si_sdr_db[crossfade].append(value)
            segments[crossfade] += len(segment_starts(len(noisy), length, int(length * crossfade)))
    if not any(segments.values()):
        raise SystemExit(f"{pairs}: no clip is longer than a segment of {length / SAMPLE_RATE_HZ:.2f} s")
    for crossfade, values in si_sdr_db.items():
        cost_db = np.array(si_sdr_db[CROSSFADES[-1]]) - values
        print(f"crossfade {crossfade:.0%}: SI-SDR {np.mean(values):.3f} dB", end=", ")
        print(f"costs {cost_db.mean():+.3f} dB, at worst {cost_db.max():+.3f} dB", end="; ")
        print(f"{len(values)} clips, {segments[crossfade]} segments")


def _seconds(count: int, sample_rate_hz: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield 0.1 * rng.standard_normal((1, sample_rate_hz), dtype=np.float32)


if __name__ == "__main__":
    main()
