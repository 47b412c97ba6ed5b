"""What the sections share: their arguments, the device, and what size to run on it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.benchmarks.lease.results import Results


@dataclass(frozen=True)
class Section:
    """A section's results, device and sizes: the paper's on a GPU, `nano` on a CPU, to test the script."""

    results: Results
    device: torch.device
    out: Path
    shards: Path | None

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def size(self) -> str:
        return "xs" if self.on_gpu else "nano"


def start(name: str) -> Section:
    """Read the arguments of a section's process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--shards", type=Path)
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    results = Results(arguments.out / f"{name}.json", arguments.seconds)
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else "no GPU"
    results.note("machine", f"{gpu}, torch {torch.__version__}")
    return Section(results, device, arguments.out, arguments.shards)
