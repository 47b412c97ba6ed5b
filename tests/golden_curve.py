"""Golden losses of twenty steps of `nano`.

python -m tests.golden_curve     # stores new ones, after an intended change
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
# Another summation order (oneDNN off, two threads) changes losses by up to a third of this. The
# discriminator's are squares of small differences, which each step amplifies, and have an absolute tolerance.
_RELATIVE, _ABSOLUTE_OF_DISCRIMINATOR = 1e-2, 1e-2


def losses_of(steps: Mapping[int, Mapping[str, float]]) -> dict[str, list[float]]:
    """Each loss by step."""
    names = ("total", "magnitude", "phase", "complex", "time", "consistency", "metric")
    delayed = ("discriminator_clean", "discriminator_enhanced")  # by one step
    return {name: [steps[step][name] for step in sorted(steps)] for name in names} | {
        name: [steps[step][name] for step in sorted(steps)[1:]] for name in delayed
    }


def assert_golden(steps: Mapping[int, Mapping[str, float]]) -> None:
    """Compare every loss of every step with the stored one."""
    stored = json.loads(STORED.read_text())
    losses = losses_of(steps)
    assert losses.keys() == stored.keys()
    for name, values in stored.items():
        absolute = _ABSOLUTE_OF_DISCRIMINATOR if name.startswith(("metric", "discriminator")) else None
        assert losses[name] == pytest.approx(values, rel=_RELATIVE, abs=absolute), name


def run(folder: Path) -> dict[int, dict[str, float]]:
    """Train in this process."""
    log = Log()
    trained(nano_config(write_nano_shards(folder / "shards")), folder / "run", log)
    return log.steps


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        STORED.write_text(json.dumps(losses_of(run(Path(temporary))), indent=1) + "\n")
