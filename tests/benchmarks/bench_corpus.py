"""Scanning many small files: CPU time per file with and without cache; audio facts against bare decoding.

python -m tests.benchmarks.bench_corpus
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import soundfile

from rwsa.audio import read_blocks
from rwsa.audio_facts import audio_facts
from rwsa.config import build
from rwsa.corpora import CorpusCard, scan
from rwsa.file_cache import FileCache
from tests.benchmarks.timing import cpu_seconds

FILES, RATE_HZ, SECONDS_OF_FACTS = 10_000, 16_000, 600


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        card, cache = _corpus(root / "corpus"), FileCache(root / "cache")
        for name, work in (
            (
                "opening and seeking alone",
                lambda: list(map(_open, (root / "corpus").rglob("*.flac"))),
            ),
            ("scan", lambda: scan(card)),
            ("scan, filling a cache", lambda: scan(card, cache=cache)),
            ("scan, from the cache", lambda: scan(card, cache=cache)),
        ):
            print(f"{name}: {1e6 * cpu_seconds(work) / FILES:.0f} µs of CPU per file")
        long = root / "long.flac"
        rng = np.random.default_rng(0)
        soundfile.write(long, rng.normal(scale=0.1, size=SECONDS_OF_FACTS * RATE_HZ), RATE_HZ)
        facts, floor = cpu_seconds(lambda: audio_facts(long)), cpu_seconds(lambda: list(read_blocks(long)))
        print(
            f"audio facts: {SECONDS_OF_FACTS / facts:.0f} times real time on one core, {facts / floor:.2f} of"
            " the time of decoding alone"
        )


def _corpus(root: Path) -> CorpusCard:
    wav = np.random.default_rng(0).uniform(-0.1, 0.1, RATE_HZ // 10)
    for number in range(FILES):
        path = root / f"train/s{number // 100}/{number}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        if number == 0:
            soundfile.write(path, wav, RATE_HZ)
            data = path.read_bytes()
        else:
            path.write_bytes(data)
    source = {"root": str(root), "pattern": r"(?P<split>\w+)/(?P<speaker>\w+)/.+"}
    plain = {"name": "bench", "description": "d", "sample_rate_hz": RATE_HZ, "licence": "CC0"}
    return build(CorpusCard, plain | {"speech": [source]}, where="bench")


def _open(path: Path) -> None:
    with soundfile.SoundFile(path) as file:
        file.seek(0)


if __name__ == "__main__":
    main()
