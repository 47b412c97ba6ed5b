"""Cost model of mixing, training and evaluating, from measurements and assumptions (infra/costs/*.yaml)."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rwsa.models import SIZES, build_model
from rwsa.models.cost import cost

FOLDER = Path(__file__).parents[2] / "infra" / "costs"
HOURS, TRAINED = 1000, ("xs", "s", "m")


class Model:
    """Seconds, bytes and dollars.

    Attributes:
        measured: values by name, as in measured.yaml.
        assumed: as in assumed.yaml.
    """

    def __init__(self, measured: Mapping[str, float], assumed: Mapping[str, Any]) -> None:
        self.measured, self.assumed, self.workload = measured, assumed, assumed["workload"]
        self.parameters = {size: _size(size)[0] for size in TRAINED}
        self.macs = {size: _size(size)[1] for size in TRAINED}

    @property
    def node_cores(self) -> float:
        return self.assumed["cpu_node"]["cores"] * self.assumed["core_per_vcpu"]

    @property
    def hours_per_core_second(self) -> float:
        return self.measured["mixing_hours_per_core_minute"] / 60

    @property
    def examples_per_hour(self) -> float:
        return 3600 / self.workload["example_seconds"]

    def mixing_seconds(self, nodes: int) -> tuple[float, float]:
        """For `HOURS` hours: seconds that one process scans and plans, and seconds that `nodes` then mix."""
        alone = HOURS * self.examples_per_hour * self.measured["planning_seconds_per_example"]
        alone += self.workload["source_files"] * self.measured["scanning_seconds_per_file"]
        return alone, HOURS / (self.hours_per_core_second * self.node_cores * nodes)

    def mixing_dollars(self, nodes: int) -> float:
        seconds = sum(self.mixing_seconds(nodes)) + self.assumed["node_start_seconds"]
        return nodes * seconds / 3600 * self.assumed["cpu_node"]["dollars_per_hour"]

    @property
    def puts(self) -> float:
        """Write requests for `HOURS` hours: a tar and an entry per shard."""
        return 2 * HOURS * self.examples_per_hour / self.workload["shard_examples"]

    @property
    def step_flops_per_mac(self) -> float:
        """A training step is so many forward passes, on a CPU; two operations each."""
        return 2 * self.measured["step_seconds_per_segment"] / self.measured["forward_seconds_per_segment"]

    def segment_seconds_on(self, size: str, gpu: Mapping[str, Any], part: str) -> float:
        """One segment of a training step on a GPU."""
        rate = gpu["teraflops"] * 1e12 * self.assumed["gpu_utilisation"][part]
        return self.macs[size] * self.step_flops_per_mac / rate

    def segment_seconds_on_cpu(self, size: str) -> float:
        """The same on the two measured cores; by multiply-adds where it is not xs."""
        return self.measured["step_seconds_per_segment"] * self.macs[size] / self.macs["xs"]

    def step_seconds(self, size: str, gpu: Mapping[str, Any], workers: int) -> float:
        """A step of the global batch, gradients sent around included."""
        share = math.ceil(self.workload["global_batch"] / workers)
        bits = 8 * 4 * self.parameters[size] * 2 * (workers - 1) / workers
        sending = (
            bits / (gpu["gigabits_per_second"] * 1e9) + 2 * (workers - 1) * self.assumed["message_seconds"]
        )
        return share * self.segment_seconds_on(size, gpu, "middle") + sending

    @property
    def example_bytes(self) -> float:
        return self.measured["shard_bytes_per_hour"] / self.examples_per_hour


@functools.cache
def _size(name: str) -> tuple[int, int]:
    """Parameters of a network, and multiply-adds of one segment."""
    network = build_model(SIZES[name])
    return sum(each.numel() for each in network.parameters()), cost(network).total


def read_model(folder: Path = FOLDER) -> Model:
    """Read the cost model of a folder."""
    measured = yaml.safe_load((folder / "measured.yaml").read_text())
    return Model(
        {name: each["value"] for name, each in measured.items()},
        yaml.safe_load((folder / "assumed.yaml").read_text()),
    )
