"""Scores of weights for their card, from files of `pipelines.evaluate --json`, and their speed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipelines.evaluation.clip_scores import NOISY
from pipelines.reports.workflow_scores import readable
from rwsa.audio import write_audio
from rwsa.constants import SAMPLE_RATE_HZ
from rwsa.enhancement.files import enhance_files
from rwsa.errors import InputError
from rwsa.files import read_json
from rwsa.metrics import METRICS
from rwsa.models import Network

_CLIP_SECONDS, _RUNS = 10, 5


def scores_of(weights_sha256: str, files: Sequence[Path]) -> dict[str, Any]:
    """Corpus -> number of clips, units of the intervals, and `[mean, low, high]` of noisy and enhanced.

    Without an interval, only the mean is there. The first corpus of the first file is the in-domain one.

    Raises:
        InputError: a file is not an evaluation's, or has no scores of these weights.
    """
    found: dict[str, Any] = {}
    for file in files:
        values = read_json(file)
        if not readable(values) or not isinstance(values.get("weights"), Mapping):
            raise InputError(
                f"{file}: holds no scores with intervals; write it with pipelines.evaluate --json"
            )
        systems = [name for name, sha256 in values["weights"].items() if sha256 == weights_sha256]
        if not systems:
            raise InputError(
                f"{file}: has no scores of these weights (SHA-256 {weights_sha256[:16]}…), only of"
                f" {', '.join(values['weights']) or 'none'}; evaluate them"
            )
        for corpus, rows in values["corpora"].items():
            intervals = values["intervals"][corpus]
            of_corpus: dict[str, Any] = {"clips": rows["clips"], "units": values["units"][corpus]}
            for kind, system in (("noisy", NOISY), ("enhanced", systems[0])):
                of_corpus[kind] = {
                    metric: [_rounded(mean), *map(_rounded, intervals[system].get(metric, ()))]
                    for metric, mean in rows[system].items()
                    if metric in METRICS and mean is not None
                }
            found[corpus] = of_corpus
    return found


def _rounded(value: float) -> float:
    return round(float(value), 4)


def real_time_factor(model: Network) -> float:
    """Processor seconds per second of audio, from file to file, on one thread: the least of several runs.

    They do not depend on what else runs, as seconds on the clock would (`tests.benchmarks.bench_enhance`).
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="rwsa-speed-") as folder:
            clip = Path(folder, "clip.wav")
            samples = _CLIP_SECONDS * SAMPLE_RATE_HZ
            noise = 0.1 * np.random.default_rng(0).standard_normal(samples, dtype=np.float32)
            write_audio(clip, noise, SAMPLE_RATE_HZ)
            times = []
            for _ in range(_RUNS + 1):  # the first one compiles
                started = time.process_time()
                enhance_files([clip], Path(folder, "out"), model, workers=1)
                times.append(time.process_time() - started)
    finally:
        torch.set_num_threads(threads)
    return round(min(times[1:]) / _CLIP_SECONDS, 4)
