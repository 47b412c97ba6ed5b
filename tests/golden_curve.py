"""The losses of twenty steps of `nano`, as they were when they were stored, and must stay.

python -m tests.golden_curve     # stores them anew, where a change is meant to change them
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tests.training_runs import Log, nano_config, trained, write_nano_shards

STORED = Path(__file__).parent / "golden" / "nano_curve.json"
# Another order of sums (oneDNN off, two threads) moves them by up to a third of this. The discriminator's are
# squares of small differences that each step amplifies, so theirs is absolute.
_SPECTRAL = {"rel": 1e-2}
_OF_DISCRIMINATOR = {"rel": 1e-2, "abs": 1e-2}


def losses_of(steps: Mapping[int, Mapping[str, float]]) -> dict[str, list[float]]:
    """Each loss by step."""
    names = ("total", "magnitude", "phase", "complex", "time", "consistency", "metric")
    late = ("discriminator_clean", "discriminator_enhanced")  # one step behind
    return {name: [steps[step][name] for step in sorted(steps)] for name in names} | {
        name: [steps[step][name] for step in sorted(steps)[1:]] for name in late
    }


def assert_golden(steps: Mapping[int, Mapping[str, float]]) -> None:
    """Every loss of every step is the stored one."""
    stored = json.loads(STORED.read_text())
    found = losses_of(steps)
    assert found.keys() == stored.keys()
    for name, values in stored.items():
        near = _OF_DISCRIMINATOR if name.startswith(("metric", "discriminator")) else _SPECTRAL
        assert found[name] == pytest.approx(values, **near), name


def run(folder: Path) -> dict[int, dict[str, float]]:
    """Train in this process."""
    log = Log()
    trained(nano_config(write_nano_shards(folder / "shards")), folder / "run", log)
    return log.steps


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as place:
        STORED.write_text(json.dumps(losses_of(run(Path(place))), indent=1) + "\n")
