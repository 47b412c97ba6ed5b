"""Evaluation: scaling of scoring, load of the cores by enhancing and scoring, and the cost of a repetition.

python -m tests.benchmarks.bench_evaluation [--card datasets/libri_esc50.yaml] [--examples N] [--weights FILE]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import ray

from pipelines.core.ray_cluster import start_ray
from pipelines.core.storage import StorageConfig
from pipelines.evaluate import EvaluationSummary, evaluate
from rwsa.models import SIZES, build_model, save_model

CARD = Path("datasets/libri_esc50.yaml")
EXAMPLES, RUNS = 60, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--card", type=Path, default=CARD)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--weights", type=Path, help="default: untrained weights of size nano")
    parser.add_argument("--runs", type=int, default=RUNS, help="number of runs, of which the fastest counts")
    arguments = parser.parse_args()
    start_ray()
    with tempfile.TemporaryDirectory(prefix="rwsa-bench-") as folder:
        bench = _Bench(arguments, Path(folder))
        # Warm-up: Ray's workers start and import, and kernels compile.
        bench.evaluate(models=True, examples=4)
        _print_scaling(bench, arguments.runs)
        _print_sharing(bench, arguments.runs)
        _print_second(bench)


class _Bench:
    """Evaluations of one corpus, each with its own score cache and MLflow runs."""

    def __init__(self, arguments: argparse.Namespace, folder: Path) -> None:
        self.folder, self.card, self.examples = folder, arguments.card, arguments.examples
        self.weights = arguments.weights or folder / "nano.safetensors"
        if arguments.weights is None:
            save_model(self.weights, build_model(SIZES["nano"]))
        self._stores = 0

    def evaluate(
        self,
        *,
        models: bool,
        workers: int | None = None,
        examples: int | None = None,
        store: str | None = None,
        audio_clips: int = 0,
    ) -> EvaluationSummary:
        self._stores += 1
        root = self.folder / (store or f"store-{self._stores}")
        return evaluate(
            [self.weights] if models else [],
            [self.card],
            storage=StorageConfig(root=str(root), tracking_uri=f"sqlite:///{root}/mlflow.db"),
            examples=examples or self.examples,
            workers=workers,
            device="cpu",
            audio_clips=audio_clips,
            report=lambda text: None,
        )


def _print_scaling(bench: _Bench, runs: int) -> None:
    one, two = (
        min(bench.evaluate(models=False, workers=workers).seconds for _ in range(runs)) for workers in (1, 2)
    )
    print(f"scoring {bench.examples} clips: {one:.2f} s by 1 worker, {two:.2f} s by 2,", end=" ")
    print(f"{one / two:.2f} times as fast (best of {runs}; {_load()})", flush=True)


def _print_sharing(bench: _Bench, runs: int) -> None:
    cores = int(ray.cluster_resources()["CPU"])
    best = min((bench.evaluate(models=True) for _ in range(runs)), key=lambda summary: summary.seconds)
    enhancing, scoring = best.cpu_seconds["enhancing"], best.cpu_seconds["scoring"]
    share = best.seconds * cores / (enhancing + scoring)
    print(f"evaluating {bench.examples} clips: {best.seconds:.2f} s on {cores} cores,", end=" ")
    print(f"{share:.2f} times (enhancing {enhancing:.1f} + scoring {scoring:.1f} CPU s) / cores", end=" ")
    print(f"(best of {runs}; {_load()})", flush=True)


def _print_second(bench: _Bench) -> None:
    """Time of the complete call: corpus, scores, statistics, MLflow, figures and report."""
    seconds = []
    for _ in range(2):
        started = time.perf_counter()
        bench.evaluate(models=True, store="repeated", audio_clips=3)
        seconds.append(time.perf_counter() - started)
    first, second = seconds
    print(f"evaluating and logging: {first:.2f} s, repeated without changes {second:.2f} s,", end=" ")
    print(f"{second / first:.1%} ({_load()})", flush=True)


def _load() -> str:
    return f"load average {os.getloadavg()[0]:.2f}"


if __name__ == "__main__":
    main()
