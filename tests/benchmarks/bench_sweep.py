"""Time of a sweep compared with the sum of its trials, run one at a time.

python -m tests.benchmarks.bench_sweep [--sweep tune/ablations/sharing.yaml]
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tune.sweep import sweep
from tune.sweep_config import read_sweep


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sweep", type=Path, default=Path("tune/ablations/sharing.yaml"))
    path = parser.parse_args(argv).sweep
    with tempfile.TemporaryDirectory(prefix="rwsa-bench-") as folder:
        storage = [f"storage.root={folder}", f"storage.tracking_uri=sqlite:///{folder}/mlflow.db"]
        summary = sweep(read_sweep(path, smoke=True), settings=storage)
    trials = sum(row.seconds + row.evaluation_seconds for row in summary.results)
    count = len(summary.results)
    print(
        f"{path.stem} --smoke: {count} trials in {summary.seconds:.0f} s,"
        f" {60 * count / summary.seconds:.2f} a minute (load {os.getloadavg()[0]:.1f})"
    )
    print(f"relative to the sum of its trials, {trials:.0f} s: {summary.seconds / trials - 1:+.1%}")


if __name__ == "__main__":
    main()
